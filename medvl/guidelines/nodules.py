"""Which findings are lung nodules, and what is known of each."""

from __future__ import annotations

import re

from medvl.guidelines.values import Diameter, Exam, Input, Nodule, Phrase
from medvl.records import Finding
from medvl.stated import Stated

# The words of our own prompts for a round opacity, and for where it lies. A ground-glass opacity may be no nodule.
_NODULE = re.compile(r"\b(nodules?|mass(es)?)\b|结节|肿块", re.IGNORECASE)
_LUNG = re.compile(
    r"\b(lungs?|lobes?|pulmonary|intrapulmonary|lingula\w*|RUL|RML|RLL|LUL|LLL)\b|肺|[上中下]叶|舌段", re.IGNORECASE
)
# Organs with lobes, or beside a lobe of the lung.
_ELSEWHERE = re.compile(
    r"\b(thyroid\w*|liver|hepat\w*|adrenal\w*|breasts?|kidneys?|renal|spleen|splenic|thym\w+|brain|frontal|temporal|"
    r"parietal|occipital|lymph|ribs?|chest wall|skin)\b|甲状腺|肝|肾|乳腺|脾|胸腺|淋巴|肋骨|胸壁|皮肤|皮下",
    re.IGNORECASE,
)
_NOT_A_NODULE = "not-a-nodule"


def is_lung_nodule(finding: Finding) -> bool:
    """Tell whether a finding's own words call it a nodule or a mass of the lung."""
    text = f"{finding.observation} {finding.site}"
    return bool(_NODULE.search(finding.observation) and _LUNG.search(text) and not _ELSEWHERE.search(text))


def lung_nodules(exam: Exam, stated: Stated) -> tuple[Nodule, ...]:
    """Return the lung nodules among the findings of chest CT.

    They are those whose words say so and those that the user gives a kind by number, less those called not a nodule.
    """
    named = {lesion.finding for lesion in stated.lesions if lesion.kind}
    return tuple(
        as_nodule(finding, stated)
        for finding in exam.findings
        if finding.series_uid in exam.chest_series
        and (finding.number in named or is_lung_nodule(finding))
        and _NOT_A_NODULE not in stated.about(finding.number).features
    )


def as_nodule(finding: Finding, stated: Stated) -> Nodule:
    """Put together what was measured of a finding and what is stated about it."""
    return Nodule(finding.number, finding.key_slice, _diameter(finding), stated.about(finding.number))


def _diameter(finding: Finding) -> Diameter | None:
    """A size without a stated error is no measurement."""
    if finding.long_axis_mm is None or finding.short_axis_mm is None or finding.axis_error_mm is None:
        return None
    return Diameter(finding.long_axis_mm, finding.short_axis_mm, finding.axis_error_mm)


def describe_nodule(nodule: Nodule) -> tuple[Input, ...]:
    """List what an answer about a nodule rests on."""
    diameter, stated = nodule.diameter, nodule.stated
    inputs = [Input(Phrase("finding", (("number", nodule.finding),)), measured=True)]
    if diameter is not None:
        sizes = (
            ("mm", diameter.mean.middle / 10),
            ("error", diameter.error_mm),
            ("long", diameter.long_mm),
            ("short", diameter.short_mm),
            ("slice", nodule.slice),
        )
        inputs.append(Input(Phrase("diameter", sizes), measured=True))
    facts: tuple[tuple[str, float | str | None], ...] = (
        ("kind", stated.kind),
        ("solid_part", stated.solid_part_mm),
        ("compared", stated.compared),
        ("earlier", stated.earlier_mm),
        ("months", stated.months),
        ("was", stated.earlier_category),
        *(("feature", feature) for feature in stated.features),
    )
    inputs += [Input(Phrase(code, (("value", value),))) for code, value in facts if value is not None]
    return tuple(inputs)
