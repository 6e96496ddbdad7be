"""Words what the guidelines answer: codes and values become sentences, in any language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medvl.guidelines import fleischner, lung_rads
from medvl.guidelines.values import ANY, Assessment, Band, Input, NotApplicable, Phrase, Result, say_band
from medvl.report.document import GuidelineReport, GuidelineResult, InputReport, PhraseReport
from medvl.report.words import Words, words_of

# Values with words of their own, by the last part of the phrase's code.
_FIXED = {
    "kind": "lesion_kind",
    "compared": "comparison",
    "feature": "lesion_feature",
    "feature_unsaid": "lesion_feature",
    "risk": "risk",
    "not_confirmed": "second_look",
}


def report_guideline(answer: Assessment) -> GuidelineReport:
    """Turn a guideline's answer into what report.json holds: codes, values and English sentences."""
    if isinstance(answer, NotApplicable):
        return GuidelineReport(answer.guideline, answer.finding, (), (), (), (), _reported(answer.reasons))
    return GuidelineReport(
        code=answer.guideline,
        finding=answer.finding,
        results=tuple(map(_result, answer.results)),
        modifiers=answer.modifiers,
        inputs=tuple(map(_input, answer.inputs)),
        cautions=_reported(answer.cautions),
        reasons=(),
    )


def phrase_text(phrase: Phrase | PhraseReport, words: Words) -> str:
    """Say a phrase, without a full stop."""
    group = _FIXED.get(phrase.code.rpartition(".")[2], "")
    values = {
        name: words.of(group, value) if isinstance(value, str) else value for name, value in dict(phrase.values).items()
    }
    return words(f"guideline.{phrase.code}", **values)


def lung_rads_table() -> str:
    """Write every line of Lung-RADS as a Markdown table, for the documentation."""
    words = words_of("en")
    rows = (
        (
            row.category,
            words.of("lesion_kind", row.kind),
            " / ".join(words.of("comparison", each) for each in row.compared),
            _band_text("size", row.size),
            _band_text("solid_size", row.solid),
        )
        for row in lung_rads.ROWS
    )
    return _markdown(("category", "type", "compared", "mean diameter", "solid part"), rows)


def fleischner_table() -> str:
    """Write every cell of the Fleischner recommendations as a Markdown table, for the documentation."""
    words = words_of("en")
    results = (fleischner.describe_row(row) for row in fleischner.ROWS)
    rows = (
        (words("comma").join(phrase_text(each, words) for each in result.row), phrase_text(result.management, words))
        for result in results
        if result.management
    )
    return _markdown(("nodule", "recommendation"), rows)


def _band_text(what: str, band: Band) -> str:
    return "" if band == ANY else phrase_text(say_band(what, band), words_of("en"))


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _phrase(phrase: Phrase) -> PhraseReport:
    return PhraseReport(phrase.code, dict(phrase.values), phrase_text(phrase, words_of("en")))


def _reported(phrases: tuple[Phrase, ...]) -> tuple[PhraseReport, ...]:
    return tuple(map(_phrase, phrases))


def _result(result: Result) -> GuidelineResult:
    management = None if result.management is None else _phrase(result.management)
    return GuidelineResult(result.name, _reported(result.row), management)


def _input(given: Input) -> InputReport:
    return InputReport(_phrase(given.phrase), given.measured)
