"""LI-RADS CT/MRI v2018, the diagnostic table of major features.

Source: American College of Radiology, CT/MRI LI-RADS v2018 core; the same grid in the AASLD practice guidance of 2023.
Transcribed from secondary sources that agree with each other, not from the originals.
"""

from __future__ import annotations

import re
from math import inf

from medvl.guidelines.nodules import as_nodule, describe_nodule
from medvl.guidelines.values import (
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
)
from medvl.records import Finding
from medvl.stated import Feature, Stated

_ADDITIONAL: tuple[Feature, ...] = ("washout", "capsule", "threshold-growth")
_FEATURES: tuple[Feature, ...] = ("aphe", *_ADDITIONAL)
_EXCLUDED: Feature = "other-categories-excluded"
_CAPSULE_OR = ("LR-4", "LR-5")  # of one additional feature: the capsule, or one of the other two
# (arterial phase hyperenhancement, size in mm): category by the number of additional major features, none, one, two
GRID: dict[tuple[bool, Band], tuple[str | tuple[str, str], ...]] = {
    (False, (0, 20)): ("LR-3", "LR-3", "LR-4"),
    (False, (20, inf)): ("LR-3", "LR-4", "LR-4"),
    (True, (0, 10)): ("LR-3", "LR-4", "LR-4"),
    (True, (10, 20)): ("LR-3", _CAPSULE_OR, "LR-5"),
    (True, (20, inf)): ("LR-4", "LR-5", "LR-5"),
}
_OBSERVATION = re.compile(r"\b(lesions?|nodules?|mass(es)?|tumou?rs?)\b|病灶|结节|肿块|占位|肿瘤", re.IGNORECASE)
_LIVER = re.compile(r"\b(liver|hepat(ic|ocellular)|caudate)\b|肝(?!门)", re.IGNORECASE)


def is_liver_observation(finding: Finding) -> bool:
    """Tell whether a finding's own words call it a lesion of the liver."""
    text = f"{finding.observation} {finding.site}"
    return bool(_OBSERVATION.search(finding.observation) and _LIVER.search(text))


def categorize(length: int, *, aphe: bool, washout: bool, capsule: bool, threshold_growth: bool) -> str:
    """Return the category of an observation.

    length: largest diameter in tenths of a millimetre. aphe: nonrim arterial phase hyperenhancement; washout:
    nonperipheral; threshold_growth: 50 % or more in 6 months or less.
    Source: CT/MRI LI-RADS v2018, diagnostic table. Without hyperenhancement there is no LR-5.
    """
    cell = GRID[aphe, _band(length, aphe)][min(washout + capsule + threshold_growth, 2)]
    return cell if isinstance(cell, str) else cell[0 if capsule else 1]


def assess_li_rads(exam: Exam, finding: Finding, stated: Stated) -> Assessment:
    """Return the category of a liver observation, or why there is none.

    Source: CT/MRI LI-RADS v2018: for patients at high risk alone, once LR-NC, LR-TIV, LR-1, LR-2 and LR-M are excluded.
    Enhancement is seen over several phases; one phase never gives a category, whatever is stated.
    """
    nodule = as_nodule(finding, stated)
    reasons = _why_not(exam, nodule, stated)
    if reasons or nodule.diameter is None:
        return NotApplicable("li_rads", reasons, finding.number)
    present = {feature for feature in _FEATURES if feature in nodule.stated.features}
    results: dict[str, Result] = {}
    for length in nodule.diameter.long:
        result = _result(length, present)
        results.setdefault(result.name, result)
    return Category(
        guideline="li_rads",
        finding=finding.number,
        results=tuple(results.values()),
        inputs=(Input(Phrase("hcc_risk")), Input(Phrase("multiphase")), *describe_nodule(nodule)),
        cautions=(Phrase("error_spans"),) if len(results) > 1 else (),
    )


def _result(length: int, present: set[Feature]) -> Result:
    aphe = "aphe" in present
    name = categorize(
        length,
        aphe=aphe,
        washout="washout" in present,
        capsule="capsule" in present,
        threshold_growth="threshold-growth" in present,
    )
    additional = [Phrase("feature", (("value", feature),)) for feature in _ADDITIONAL if feature in present]
    row = (
        Phrase("feature", (("value", "aphe" if aphe else "no-aphe"),)),
        say_band("size", _band(length, aphe)),
        *(additional or [Phrase("li_rads.none")]),
    )
    return Result(name, row, Phrase(f"li_rads.{name}"))


def _band(length: int, aphe: bool) -> Band:
    return next(band for enhancing, band in GRID if enhancing is aphe and holds(band, length))


def _why_not(exam: Exam, nodule: Nodule, stated: Stated) -> tuple[Phrase, ...]:
    said = nodule.stated.features
    unsaid = [feature for feature in _FEATURES if not {feature, f"no-{feature}"} & set(said)]
    reasons = (
        (Phrase("li_rads.single_phase"), exam.volume_count < 2 or "multiphase" not in stated.facts),
        (Phrase("li_rads.risk_unsaid"), "hcc-risk" not in stated.facts),
        (Phrase("li_rads.not_excluded"), _EXCLUDED not in said),
        *((Phrase("li_rads.feature_unsaid", (("value", feature),)), True) for feature in unsaid),
        (Phrase("no_millimetres", (("number", nodule.finding),)), nodule.diameter is None),
        (Phrase("incomplete"), not exam.complete),
    )
    return tuple(phrase for phrase, applies in reasons if applies)
