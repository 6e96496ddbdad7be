"""Gives a report what guidelines say of it: from its own findings and headers, and from what the user states."""

from __future__ import annotations

from dataclasses import replace

from medvl.guidelines.apply import apply_guidelines
from medvl.guidelines.values import Exam
from medvl.prompts import Prompts, choose_prompt, load_prompts
from medvl.report.document import ReportDocument, SeriesReport
from medvl.report.guidelines import report_guideline
from medvl.settings import Settings
from medvl.stated import Stated

_CHEST = "chest_ct"  # the prompt whose region the lung's guidelines are about
_CT = "CT"


def with_guidelines(document: ReportDocument, settings: Settings, *, evaluated: bool) -> ReportDocument:
    """Return the report with what guidelines say of it. evaluated: the model's accuracy was measured and published."""
    answers = apply_guidelines(
        _exam(document, settings.prompt, evaluated=evaluated), settings.stated or Stated(), settings.guidelines
    )
    return replace(document, guidelines=tuple(map(report_guideline, answers)))


def _exam(document: ReportDocument, prompt: str | None, *, evaluated: bool) -> Exam:
    ct = [series for series in document.series if series.modality == _CT]
    prompts = load_prompts()
    chest = [series for series in ct if prompt == _CHEST or _names_the_chest(series, document, prompts)]
    return Exam(
        findings=document.findings,
        ct_series=frozenset(series.uid for series in ct),
        chest_series=frozenset(series.uid for series in chest if series.views),
        complete=document.status == "complete",
        volume_count=sum(series.slice_spacing_mm is not None for series in ct),
        evaluated=evaluated,
    )


def _names_the_chest(series: SeriesReport, document: ReportDocument, prompts: Prompts) -> bool:
    """Tell from headers; the prompt that was used may be the model's own choice, whatever the region."""
    descriptions = (series.description, document.study.description)
    prompt, _ = choose_prompt(prompts, series.modality, series.body_part, descriptions, document.language)
    return prompt.id == _CHEST
