"""Lung-RADS v2022 for screening CT, as a table.

Source: American College of Radiology, Lung-RADS v2022 (November 2022); Christensen et al., CHEST 2024;165(3):738–753.
Transcribed from secondary sources that agree with each other, not from the originals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from medvl.guidelines.nodules import describe_nodule
from medvl.guidelines.values import (
    ANY,
    Assessment,
    Band,
    Category,
    Exam,
    Input,
    Nodule,
    NotApplicable,
    Phrase,
    Result,
    holds,
    say_band,
    tenths,
)
from medvl.stated import Comparison, LesionKind, Stated, StatedLesion

GROWTH_MM = 1.5  # more than this, in the mean diameter
GROWTH_MONTHS = 12.0  # within this time
ORDER = ("1", "2", "3", "4A", "4B", "4X")  # by suspicion; 0 is no degree of it
SUSPICIOUS = ("spiculated", "lymphadenopathy", "metastasis", "doubled-in-a-year")  # growth alone is not among them
INCOMPLETE = ("prior-awaited", "lungs-not-evaluable", "infection")
_MANY_NEW = 6  # more new nodules than this suggest an infection


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Bands are mean diameters in mm: of the whole nodule, and of its solid part."""

    category: str
    kind: LesionKind
    compared: tuple[Comparison, ...]
    size: Band = ANY
    solid: Band = ANY


_ANY_COMPARISON: tuple[Comparison, ...] = ("baseline", "new", "growing", "slowly-growing", "stable")
ROWS = (
    Row("1", "benign-calcification", _ANY_COMPARISON),
    Row("1", "fat", _ANY_COMPARISON),
    Row("2", "juxtapleural", ("baseline", "new"), (0, 10)),
    Row("2", "solid", ("baseline",), (0, 6)),
    Row("3", "solid", ("baseline",), (6, 8)),
    Row("4A", "solid", ("baseline",), (8, 15)),
    Row("4B", "solid", ("baseline",), (15, inf)),
    Row("2", "solid", ("new",), (0, 4)),
    Row("3", "solid", ("new",), (4, 6)),
    Row("4A", "solid", ("new",), (6, 8)),
    Row("4A", "solid", ("growing",), (0, 8)),
    Row("4B", "solid", ("new", "growing"), (8, inf)),
    Row("4B", "solid", ("slowly-growing",)),
    Row("2", "part-solid", ("baseline",), (0, 6)),
    Row("3", "part-solid", ("baseline",), (6, inf), (0, 6)),
    Row("4A", "part-solid", ("baseline",), (6, inf), (6, 8)),
    Row("4B", "part-solid", ("baseline",), (6, inf), (8, inf)),
    Row("4B", "part-solid", ("new", "growing"), ANY, (4, inf)),
    Row("3", "part-solid", ("new",), (0, 6), (0, 4)),
    Row("4A", "part-solid", ("new",), (6, inf), (0, 4)),
    Row("4A", "part-solid", ("growing",), ANY, (0, 4)),
    Row("4B", "part-solid", ("slowly-growing",)),
    Row("2", "ground-glass", _ANY_COMPARISON, (0, 30)),
    Row("3", "ground-glass", ("baseline", "new"), (30, inf)),
    Row("2", "ground-glass", ("stable", "slowly-growing"), (30, inf)),
    Row("2", "airway-subsegmental", ("baseline", "new", "stable")),
    Row("4A", "airway-segmental", ("baseline",)),  # one source adds new ones, the others do not
    Row("4B", "airway-segmental", ("stable", "growing")),
    Row("3", "thick-walled-cyst", ("growing-cavity",)),
    Row("4A", "thick-walled-cyst", ("baseline",)),
    Row("4B", "thick-walled-cyst", ("growing-wall",)),
    Row("4A", "multilocular-cyst", ("baseline", "new")),  # new: a cyst that has become multilocular
    Row("4B", "multilocular-cyst", ("growing", "denser")),
)
# A nodule that is stable or smaller steps down: from this category to that one, after at least so many months.
STEPS_DOWN = {"3": ("2", 6.0), "4A": ("3", 3.0)}
_STEPPING: tuple[LesionKind, ...] = ("solid", "part-solid", "juxtapleural")
_SIZED = {row.kind for row in ROWS if (row.size, row.solid) != (ANY, ANY)}


def judge_growth(earlier_mm: float, length: int, months: float) -> Comparison | None:
    """Tell whether a nodule has grown; None where more than a year leaves open when it did.

    length: mean diameter now, in tenths of a millimetre.
    Source: Lung-RADS v2022, an increase in mean diameter of more than 1.5 mm within 12 months.
    """
    if length - tenths(earlier_mm) <= tenths(GROWTH_MM):
        return "stable"
    return "growing" if months <= GROWTH_MONTHS else None


def find_row(kind: LesionKind, compared: Comparison, length: int, solid_part: int = 0) -> Row | None:
    """Find the line of the table for one nodule; None where the table has none.

    length, solid_part: mean diameters in tenths of a millimetre.
    Source: Lung-RADS v2022, assessment categories. A juxtapleural nodule that is too large for its own line is a solid
    nodule like any other.
    """
    rows = (
        row
        for row in ROWS
        if row.kind == kind and compared in row.compared and holds(row.size, length) and holds(row.solid, solid_part)
    )
    found = next(rows, None)
    return find_row("solid", compared, length) if found is None and kind == "juxtapleural" else found


def assess_nodule(nodule: Nodule) -> tuple[Result, ...]:
    """Return the lines of the table that a nodule may stand in, the one of its measured size first.

    nodule: nothing missing, see `missing_facts`. Empty where the table has no line for a size that it may have.
    """
    results: dict[str, Result] = {}
    for length in nodule.diameter.mean if nodule.diameter and _needs_size(nodule.stated) else (0,):
        result = _result(nodule.stated, length)
        if result is None:
            return ()
        results.setdefault(result.name, result)
    return tuple(results.values())


def missing_facts(nodule: Nodule) -> tuple[Phrase, ...]:
    """Say what is neither measured nor stated of a nodule and yet decides its category."""
    stated, number = nodule.stated, (("number", nodule.finding),)
    solid_part = 0 if stated.solid_part_mm is None else tenths(stated.solid_part_mm)
    followed = stated.earlier_mm is not None
    may_step = stated.kind in _STEPPING and (stated.compared == "stable" or followed)
    needs_months = followed or (may_step and stated.earlier_category in STEPS_DOWN)
    missing = (
        ("no_kind", stated.kind is None),
        ("thin_walled", stated.kind == "thin-walled-cyst"),
        ("no_millimetres", _needs_size(stated) and nodule.diameter is None),
        ("no_solid_part", stated.kind == "part-solid" and stated.solid_part_mm is None),
        ("solid_part_too_large", nodule.diameter is not None and solid_part > nodule.diameter.mean.most),
        ("no_comparison", stated.kind is not None and stated.compared is None and not followed),
        ("no_earlier_category", may_step and stated.earlier_category is None),
        ("no_months", needs_months and stated.months is None),
    )
    return tuple(Phrase(code, number) for code, is_missing in missing if is_missing)


def assess_lung_rads(exam: Exam, nodules: Sequence[Nodule], stated: Stated) -> Assessment:
    """Return the category of a screening examination: that of its most suspicious nodule.

    Source: Lung-RADS v2022. Category 0, the S modifier and what makes a nodule 4X come from the user alone. That a
    model reports no nodule shows no absence of one, so category 1 is given to nodules with benign features only.
    """
    if excluded := _excluded(stated):
        return NotApplicable("lung_rads", excluded)
    reasons = _unsaid(stated)
    awaited = [fact for fact in INCOMPLETE if fact in stated.facts]
    if not reasons and awaited:
        results = tuple(Result("0", (Phrase(f"lung_rads.{fact}"),), Phrase(f"lung_rads.0.{fact}")) for fact in awaited)
        return _answer(stated, None, results[:1], results[1:])
    reasons += [Phrase("incomplete")] if not exam.complete else []
    reasons += [Phrase("no_nodule")] if not nodules else []
    reasons += [phrase for nodule in nodules for phrase in missing_facts(nodule)]
    if reasons:
        return NotApplicable("lung_rads", tuple(reasons))
    judged = [(nodule, assess_nodule(nodule)) for nodule in nodules]
    if without := [nodule for nodule, results in judged if not results]:
        return NotApplicable("lung_rads", tuple(Phrase("no_row", (("number", one.finding),)) for one in without))
    decisive, results = max(judged, key=lambda each: (_rank(each[1][0]), max(map(_rank, each[1])), _length(each[0])))
    return _answer(stated, decisive, results[:1], _others([each for _, each in judged]), _hints(nodules, stated))


def _needs_size(stated: StatedLesion) -> bool:
    return stated.kind in _SIZED or stated.earlier_mm is not None


def _result(stated: StatedLesion, length: int) -> Result | None:
    kind, compared = stated.kind, stated.compared
    if stated.earlier_mm is not None and stated.months is not None:
        compared = judge_growth(stated.earlier_mm, length, stated.months)
    if kind is None or compared is None:
        return None
    solid_part = 0 if stated.solid_part_mm is None else tenths(stated.solid_part_mm)
    if "proven-benign" in stated.features and stated.earlier_category == "4B":
        return Result("2", (Phrase("lung_rads.proven_benign"),), Phrase("lung_rads.2"))
    if compared == "stable" and kind in _STEPPING:
        return _stable(stated, find_row(kind, "baseline", length, solid_part))
    row = find_row(kind, compared, length, solid_part)
    return None if row is None else _suspect(_row_result(row, compared), stated)


def _stable(stated: StatedLesion, by_size: Row | None) -> Result | None:
    """Step a nodule down that is stable or smaller, unless it has crossed a threshold of size.

    by_size: its line were it new to us.
    Source: Lung-RADS v2022, stepped management, and the note on size thresholds.
    """
    was = stated.earlier_category
    if by_size is None or was is None:
        return None
    if was == "2" or ORDER.index(by_size.category) > ORDER.index(was):
        return _suspect(_row_result(by_size, "stable"), stated)
    if was not in STEPS_DOWN or stated.months is None or stated.months < STEPS_DOWN[was][1]:
        return None
    category, months = STEPS_DOWN[was]
    row = (Phrase("lung_rads.step", (("was", was), ("months", months))),)
    return _suspect(Result(category, row, Phrase(f"lung_rads.{category}")), stated)


def _row_result(row: Row, compared: Comparison) -> Result:
    said = [Phrase("kind", (("value", row.kind),)), Phrase("compared", (("value", compared),))]
    said += [say_band("size", row.size)] if row.size != ANY else []
    said += [say_band("solid_size", row.solid)] if row.solid != ANY else []
    return Result(row.category, tuple(said), Phrase(f"lung_rads.{row.category}"))


def _suspect(result: Result, stated: StatedLesion) -> Result:
    """Source: Lung-RADS v2022, category 4X: a nodule of category 3 or 4 with features that raise suspicion."""
    if ORDER.index(result.name) < ORDER.index("3") or not set(stated.features) & set(SUSPICIOUS):
        return result
    row = (*result.row, Phrase("lung_rads.suspicious", (("was", result.name),)))
    return replace(result, name="4X", row=row, management=Phrase("lung_rads.4X"))


def _others(judged: Sequence[tuple[Result, ...]]) -> tuple[Result, ...]:
    """Return every line that may decide: the highest of all nodules is at least the highest of their lowest."""
    floor = max(min(map(_rank, results)) for results in judged)
    found = {result.name: result for results in judged for result in results if _rank(result) >= floor}
    return tuple(sorted(found.values(), key=_rank))


def _answer(
    stated: Stated,
    decisive: Nodule | None,
    first: tuple[Result, ...],
    others: Sequence[Result],
    hints: tuple[Phrase, ...] = (),
) -> Category:
    """Put an answer together. S is a modifier beside a category, never one of its own."""
    names = {result.name for result in first}
    results = (*first, *(result for result in others if decisive is None or result.name not in names))
    spans = (Phrase("error_spans"),) if decisive is not None and len(results) > 1 else ()
    unsaid = (
        () if {"significant-other", "no-significant-other"} & set(stated.facts) else (Phrase("lung_rads.s_unsaid"),)
    )
    return Category(
        guideline="lung_rads",
        finding=None if decisive is None else decisive.finding,
        results=results,
        inputs=(Input(Phrase("screening")), *(() if decisive is None else describe_nodule(decisive))),
        modifiers=("S",) if "significant-other" in stated.facts else (),
        cautions=(*spans, *hints, *unsaid),
    )


def _excluded(stated: Stated) -> tuple[Phrase, ...]:
    """Source: Lung-RADS v2022 classifies screening CT; known lung cancer is not classified."""
    reasons = (
        ("not_screening", stated.screening is False),
        ("lung_rads.cancer", stated.known_cancer is True),
    )
    return tuple(Phrase(code) for code, applies in reasons if applies)


def _unsaid(stated: Stated) -> list[Phrase]:
    reasons = (
        ("screening_unsaid", stated.screening is None),
        ("cancer_unsaid", stated.known_cancer is None),
    )
    return [Phrase(code) for code, applies in reasons if applies]


def _hints(nodules: Sequence[Nodule], stated: Stated) -> tuple[Phrase, ...]:
    """Remind of category 0 where new nodules may be an infection; whether they are is for a person to say.

    Source: Lung-RADS v2022, suspected infectious or inflammatory findings.
    """
    new = [nodule for nodule in nodules if nodule.stated.compared == "new"]
    large = any(each.stated.kind == "solid" and each.diameter and each.diameter.mean.most >= 80 for each in new)
    likely = len(new) > _MANY_NEW or large or (new and stated.immunosuppressed)
    return (Phrase("lung_rads.may_be_infection"),) if likely else ()


def _rank(result: Result) -> int:
    return ORDER.index(result.name)


def _length(nodule: Nodule) -> int:
    return nodule.diameter.mean.middle if nodule.diameter else 0
