"""Fleischner Society recommendations of 2017 for incidental nodules, as a table.

Source: MacMahon et al., Radiology 2017;284:228–243; sizes as in Bankier et al., Radiology 2017;285:584–600.
Transcribed from secondary sources that agree with each other, not from the originals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

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
    Span,
    tenths,
)
from medvl.stated import LesionKind, Risk, Stated

MIN_AGE = 35
_MASS_MM = 30  # larger than this is a mass, no nodule
_COVERED: tuple[LesionKind, ...] = ("solid", "part-solid", "ground-glass")
_SUBSOLID: tuple[LesionKind, ...] = ("part-solid", "ground-glass")

Advice = Literal[
    "none",
    "optional_12",
    "ct_6_12_consider_18_24",
    "ct_6_12_then_18_24",
    "ct_3_pet_tissue",
    "ct_3_6_consider_18_24",
    "ct_3_6_then_18_24",
    "confirm_every_2_years",
    "yearly_5_years",
    "persistence_3_6",
    "ct_3_6_consider_2_4_years",
    "ct_3_6_most_suspicious",
]


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of the table. Bands are whole millimetres: "6 to 8 mm" is 6, 7 and 8."""

    kinds: tuple[LesionKind, ...]
    several: bool
    risk: Risk | None  # None: whatever the risk
    size: Band
    advice: Advice
    solid: Band = ANY


_SMALL: Band = (0, 6)
_MEDIUM: Band = (6, 9)
_LARGE: Band = (9, inf)
_SIX_UP: Band = (6, inf)
_SAID: dict[Band, Phrase] = {
    _SMALL: Phrase("size.below", (("high", 6),)),
    _MEDIUM: Phrase("size.to", (("low", 6), ("high", 8))),
    _LARGE: Phrase("size.above", (("low", 8),)),
    _SIX_UP: Phrase("size.from", (("low", 6),)),
}
_SOLID_SAID: dict[Band, Phrase] = {
    _SMALL: Phrase("solid_size.below", (("high", 6),)),
    _SIX_UP: Phrase("solid_size.from", (("low", 6),)),
}
ROWS = (
    Row(("solid",), False, "low", _SMALL, "none"),
    Row(("solid",), False, "low", _MEDIUM, "ct_6_12_consider_18_24"),
    Row(("solid",), False, "low", _LARGE, "ct_3_pet_tissue"),
    Row(("solid",), False, "high", _SMALL, "optional_12"),
    Row(("solid",), False, "high", _MEDIUM, "ct_6_12_then_18_24"),
    Row(("solid",), False, "high", _LARGE, "ct_3_pet_tissue"),
    Row(("solid",), True, "low", _SMALL, "none"),
    Row(("solid",), True, "low", _MEDIUM, "ct_3_6_consider_18_24"),
    Row(("solid",), True, "low", _LARGE, "ct_3_6_consider_18_24"),
    Row(("solid",), True, "high", _SMALL, "optional_12"),
    Row(("solid",), True, "high", _MEDIUM, "ct_3_6_then_18_24"),
    Row(("solid",), True, "high", _LARGE, "ct_3_6_then_18_24"),
    Row(("ground-glass",), False, None, _SMALL, "none"),
    Row(("ground-glass",), False, None, _SIX_UP, "confirm_every_2_years"),
    Row(("part-solid",), False, None, _SMALL, "none"),
    Row(("part-solid",), False, None, _SIX_UP, "yearly_5_years", _SMALL),
    Row(("part-solid",), False, None, _SIX_UP, "persistence_3_6", _SIX_UP),
    Row(_SUBSOLID, True, None, _SMALL, "ct_3_6_consider_2_4_years"),
    Row(_SUBSOLID, True, None, _SIX_UP, "ct_3_6_most_suspicious"),
)


def whole_mm(length: int) -> int:
    """Round a mean diameter in tenths of a millimetre to whole millimetres, halves up.

    Source: Bankier et al., Radiology 2017;285:584–600: the mean of long and short axis, to the nearest millimetre.
    """
    return (length + 5) // 10


def find_row(kind: LesionKind, several: bool, risk: Risk | None, size_mm: int, solid_mm: int = 0) -> Row | None:
    """Find the cell for one nodule, or for the one that guides the management of several.

    size_mm, solid_mm: rounded mean diameters. risk: needed for solid nodules alone.
    Source: MacMahon et al., Radiology 2017;284:228–243.
    """
    rows = (
        row
        for row in ROWS
        if kind in row.kinds and several == row.several and row.risk in (None, risk) and _in(row.size, size_mm)
    )
    return next((row for row in rows if several or _in(row.solid, solid_mm)), None)


def describe_row(row: Row) -> Result:
    """Say what a cell of the table asks for, and what it recommends."""
    kind = "subsolid" if len(row.kinds) > 1 else row.kinds[0]
    said = [Phrase("kind", (("value", kind),)), Phrase("several" if row.several else "single"), _SAID[row.size]]
    said += [Phrase("risk", (("value", row.risk),))] if row.risk else []
    said += [_SOLID_SAID[row.solid]] if row.solid != ANY else []
    return Result("", tuple(said), Phrase(f"fleischner.{row.advice}"))


def assess_fleischner(exam: Exam, nodules: Sequence[Nodule], stated: Stated) -> Assessment:
    """Return what is recommended for the incidental nodules of an examination.

    Source: MacMahon et al., Radiology 2017;284:228–243: for patients of 35 years or more, without a known cancer or
    immunosuppression, outside screening. Of several nodules the most suspicious one guides: the largest where all are
    solid or all are subsolid, otherwise the one that the user calls dominant.
    """
    if excluded := _excluded(stated):
        return NotApplicable("fleischner", excluded)
    guides = _guides(nodules)
    reasons = [*_unsaid(stated, guides), *([Phrase("incomplete")] if not exam.complete else [])]
    reasons += [Phrase("no_nodule")] if not nodules else []
    reasons += [phrase for nodule in nodules for phrase in _missing(nodule, several=len(nodules) > 1)]
    reasons += (
        [Phrase("fleischner.mixed")] if len({_class(nodule) for nodule in guides if nodule.stated.kind}) > 1 else []
    )
    if reasons:
        return NotApplicable("fleischner", tuple(reasons))
    decisive = max(guides, key=lambda nodule: _mean(nodule).middle)
    rows = _rows(decisive, guides, len(nodules) > 1, stated.risk)
    return Category(
        guideline="fleischner",
        finding=decisive.finding,
        results=tuple(describe_row(row) for row in rows),
        inputs=(*_patient(stated, decisive), _count(nodules), *describe_nodule(decisive)),
        cautions=(Phrase("error_spans"),) if len(rows) > 1 else (),
    )


def _rows(decisive: Nodule, guides: Sequence[Nodule], several: bool, risk: Risk | None) -> tuple[Row, ...]:
    kind, stated = decisive.stated.kind, decisive.stated
    solid_mm = whole_mm(tenths(stated.solid_part_mm)) if stated.solid_part_mm is not None else 0
    sizes = Span.largest([_mean(nodule) for nodule in guides])
    found = (find_row(kind, several, risk, whole_mm(size), solid_mm) for size in sizes) if kind else ()
    return tuple(dict.fromkeys(row for row in found if row is not None))


def _guides(nodules: Sequence[Nodule]) -> list[Nodule]:
    """Return the nodules whose size may decide: the dominant one where one is named, else all."""
    named = [nodule for nodule in nodules if "dominant" in nodule.stated.features]
    return named if len(named) == 1 else list(nodules)


def _class(nodule: Nodule) -> str:
    return "subsolid" if nodule.stated.kind in _SUBSOLID else "solid"


def _excluded(stated: Stated) -> tuple[Phrase, ...]:
    """Source: MacMahon et al., Radiology 2017;284:228–243, whom the recommendations are not for."""
    reasons = (
        ("fleischner.screening", stated.screening is True),
        ("fleischner.age", stated.age is not None and stated.age < MIN_AGE),
        ("fleischner.cancer", stated.known_cancer is True),
        ("fleischner.immunosuppressed", stated.immunosuppressed is True),
    )
    return tuple(Phrase(code) for code, applies in reasons if applies)


def _unsaid(stated: Stated, guides: Iterable[Nodule]) -> list[Phrase]:
    needs_risk = any(nodule.stated.kind == "solid" for nodule in guides)
    reasons = (
        ("screening_unsaid", stated.screening is None),
        ("age_unsaid", stated.age is None),
        ("cancer_unsaid", stated.known_cancer is None),
        ("immunosuppression_unsaid", stated.immunosuppressed is None),
        ("fleischner.risk_unsaid", needs_risk and stated.risk is None),
    )
    return [Phrase(code) for code, applies in reasons if applies]


def _missing(nodule: Nodule, *, several: bool) -> list[Phrase]:
    """Say what is missing of a nodule, and what the table does not speak of."""
    stated, number = nodule.stated, (("number", nodule.finding),)
    size = nodule.diameter.mean if nodule.diameter else None
    needs_solid = stated.kind == "part-solid" and not several and size is not None and whole_mm(size.most) >= 6
    solid_part = 0 if stated.solid_part_mm is None else tenths(stated.solid_part_mm)
    followed = stated.compared not in (None, "baseline") or stated.earlier_mm is not None
    missing = (
        ("no_kind", stated.kind is None),
        ("fleischner.kind", stated.kind is not None and stated.kind not in _COVERED),
        ("no_millimetres", size is None),
        ("fleischner.mass", size is not None and whole_mm(size.middle) > _MASS_MM),
        ("no_solid_part", needs_solid and stated.solid_part_mm is None),
        ("solid_part_too_large", size is not None and solid_part > size.most),
        ("fleischner.followed", followed),
    )
    return [Phrase(code, number) for code, applies in missing if applies]


def _patient(stated: Stated, decisive: Nodule) -> tuple[Input, ...]:
    facts = [Phrase("no_screening"), Phrase("age", (("value", stated.shown_age),))]
    facts += [Phrase("no_cancer"), Phrase("no_immunosuppression")]
    facts += [Phrase("risk", (("value", stated.risk),))] if stated.risk and decisive.stated.kind == "solid" else []
    return tuple(Input(fact) for fact in facts)


def _count(nodules: Sequence[Nodule]) -> Input:
    return Input(Phrase("nodule_count", (("n", len(nodules)),)), measured=True)


def _mean(nodule: Nodule) -> Span:
    return nodule.diameter.mean if nodule.diameter else Span(0, 0, 0)


def _in(band: Band, whole: int) -> bool:
    return band[0] <= whole < band[1]
