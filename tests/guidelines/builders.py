"""Examinations and nodules with round numbers; what is stated is said as the user would say it."""

from __future__ import annotations

from typing import Any

from medvl.guidelines.apply import apply_guidelines
from medvl.guidelines.values import Assessment, Category, Diameter, Exam, Guideline, Nodule, NotApplicable
from medvl.records import Finding
from medvl.stated import Stated, parse_facts, parse_lesions
from tests.findings.builders import make_finding

EXACT = 0.0


def nodule(words: str, mm: float | None = None, *, error_mm: float = EXACT, finding: int = 1) -> Nodule:
    """A round nodule, and what is stated about it in the words of --lesion."""
    [stated] = parse_lesions([words])
    return Nodule(finding, 12, None if mm is None else Diameter(mm, mm, error_mm), stated)


def lung_finding(number: int = 1, mm: float | None = 7.0, *, error_mm: float = EXACT, **changes: Any) -> Finding:
    axes = {"long_axis_mm": mm, "short_axis_mm": mm, "axis_error_mm": None if mm is None else error_mm}
    return make_finding(**({"number": number} | axes | changes))


def exam(*findings: Finding, **changes: Any) -> Exam:
    """A chest CT of one series, read whole by an evaluated model."""
    series = frozenset({"1.9"})
    known: dict[str, Any] = {"ct_series": series, "chest_series": series, "complete": True}
    return Exam(findings, **(known | {"volume_count": 1, "evaluated": True} | changes))


def stated(*lesions: str, facts: tuple[str, ...] = (), **patient: Any) -> Stated:
    return Stated(lesions=parse_lesions(lesions), facts=parse_facts(facts), **patient)


def screened(*lesions: str, facts: tuple[str, ...] = (), **patient: Any) -> Stated:
    """All that Lung-RADS asks of the patient."""
    return stated(*lesions, facts=facts, **({"screening": True, "known_cancer": False} | patient))


def incidental(*lesions: str, **patient: Any) -> Stated:
    """All that Fleischner asks of the patient, but for the risk."""
    known = {"age": 64, "screening": False, "known_cancer": False, "immunosuppressed": False}
    return stated(*lesions, **(known | patient))


def answer(guideline: Guideline, examined: Exam, said: Stated) -> Assessment:
    [found] = [each for each in apply_guidelines(examined, said, "auto") if each.guideline == guideline]
    return found


def names(found: Assessment) -> list[str]:
    """Names of the categories, the one of the measured size first."""
    assert isinstance(found, Category), found
    return [result.name for result in found.results]


def advice(found: Assessment) -> list[str]:
    """Codes of what is recommended."""
    assert isinstance(found, Category), found
    return [result.management.code.partition(".")[2] for result in found.results if result.management]


def reasons(found: Assessment) -> set[str]:
    """Codes of why a guideline cannot be applied."""
    assert isinstance(found, NotApplicable), found
    return {reason.code for reason in found.reasons}


def cautions(found: Assessment) -> set[str]:
    assert isinstance(found, Category), found
    return {caution.code for caution in found.cautions}
