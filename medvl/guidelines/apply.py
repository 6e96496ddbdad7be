"""Applies the guidelines that concern a study to what was measured and what the user states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from medvl.guidelines.fleischner import assess_fleischner
from medvl.guidelines.li_rads import assess_li_rads, is_liver_observation
from medvl.guidelines.lung_rads import assess_lung_rads
from medvl.guidelines.nodules import lung_nodules
from medvl.guidelines.values import Assessment, Category, Exam, Nodule, NotApplicable, Phrase
from medvl.settings import GuidelinesWish
from medvl.stated import Stated


def guidelines_allowed(wish: GuidelinesWish, *, evaluated: bool) -> bool:
    """Tell whether categories may be given: as asked, else only for a model whose accuracy was measured."""
    return wish == "on" or (wish == "auto" and evaluated)


def apply_guidelines(exam: Exam, stated: Stated, wish: GuidelinesWish) -> tuple[Assessment, ...]:
    """Apply Lung-RADS and Fleischner to chest CT, and LI-RADS to lesions of the liver in any CT.

    Each gives a category, or every reason why it cannot be applied; where something stated excludes it, that alone.
    Nothing at all where guidelines are not wished for, or are not allowed and nothing is stated that asks for them.
    """
    if wish == "off":
        return ()
    if not guidelines_allowed(wish, evaluated=exam.evaluated):
        reasons = (Phrase("not_evaluated"),)
        return tuple(NotApplicable(each.guideline, reasons) for each in _lung(exam, stated) if stated != Stated())
    answers = (*_lung(exam, stated), *_liver(exam, stated))
    if missing := _unknown_numbers(exam, stated):
        return tuple(NotApplicable(each.guideline, missing, each.finding) for each in answers)
    return tuple(_with_cautions(exam, each) for each in answers)


def _lung(exam: Exam, stated: Stated) -> Iterator[Assessment]:
    if not exam.chest_series:
        if (stated.age, stated.screening, stated.risk) != (None, None, None):
            yield NotApplicable("lung_rads", (Phrase("not_chest_ct"),))
            yield NotApplicable("fleischner", (Phrase("not_chest_ct"),))
        return
    nodules = lung_nodules(exam, stated)
    for answer in (assess_lung_rads(exam, nodules, stated), assess_fleischner(exam, nodules, stated)):
        yield _with_series_caution(exam, nodules, answer)


def _liver(exam: Exam, stated: Stated) -> Iterator[Assessment]:
    for finding in exam.findings:
        if finding.series_uid in exam.ct_series and is_liver_observation(finding):
            yield assess_li_rads(exam, finding, stated)


def _unknown_numbers(exam: Exam, stated: Stated) -> tuple[Phrase, ...]:
    """A statement about a finding that is not there was made of another list; none of them can be trusted then."""
    known = {finding.number for finding in exam.findings}
    named = [lesion.finding for lesion in stated.lesions if lesion.finding is not None]
    return tuple(Phrase("no_such_finding", (("number", number),)) for number in named if number not in known)


def _with_series_caution(exam: Exam, nodules: tuple[Nodule, ...], answer: Assessment) -> Assessment:
    series = {finding.number: finding.series_uid for finding in exam.findings}
    if isinstance(answer, NotApplicable) or len({series[nodule.finding] for nodule in nodules}) < 2:
        return answer
    return replace(answer, cautions=(*answer.cautions, Phrase("several_series")))


def _with_cautions(exam: Exam, answer: Assessment) -> Assessment:
    """Say what makes an answer doubtful, whatever the guideline: the model, or its own second look."""
    if not isinstance(answer, Category):
        return answer
    decisive = next((finding for finding in exam.findings if finding.number == answer.finding), None)
    look = decisive.second_look if decisive else None
    doubts = [] if exam.evaluated else [Phrase("model_not_evaluated")]
    if look is not None and look.verdict != "confirmed":
        doubts.append(Phrase("not_confirmed", (("number", answer.finding or 0), ("value", look.verdict))))
    return replace(answer, cautions=(*answer.cautions, *doubts))
