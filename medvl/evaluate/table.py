"""Shows an evaluation as tables for people. Programs take the JSON."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from medvl.evaluate.curves import best_point
from medvl.evaluate.harness import Comparison, Evaluation
from medvl.evaluate.score import Proportion, Score, Spread

_FALSE_RATES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
_NOTHING = "–"


def print_evaluation(evaluation: Evaluation, console: Console, *, verbose: bool = False) -> None:
    """Print the score, the counterfactuals and the use of the confidence; verbose: what was missed, too."""
    reader, score = evaluation.reader, evaluation.score
    by = f"{reader.model}, {reader.precision}" if reader else "no study could be read"
    seed = "" if evaluation.seed is None else f", seed {evaluation.seed}"
    console.print(f"{score.study_count} studies{seed}; {by}", markup=False)
    tables = (_shares(score), _values(score), _thresholds(score), _reliability(score))
    for table in (*tables, _counterfactuals(evaluation.counterfactuals)):
        if table.row_count:
            console.print(table)
    for line in _misses(evaluation) if verbose else ():
        console.print(line, markup=False, soft_wrap=True)


def _shares(score: Score) -> Table:
    table = _table("Found", "", "hits", "of", "share", "95 % interval")
    rows = (
        ("effusions, nodules from 6 mm on", score.sensitivity),
        *((f"  nodules {group.name}", group.found) for group in score.by_size if group.found.total),
        *((f"  {group.name}", group.found) for group in score.by_kind if group.found.total),
        ("normal studies without a finding", score.normal_called_normal),
        ("side right, from geometry", score.side_right),
        ("side right, as the model said", score.side_said_right),
        ("named right", score.named_right),
        ("second findings of one lesion", score.duplicates),
        *([("contradicted findings that were false", score.contradicted)] if score.contradicted.total else []),
        ("diameter within its stated error", score.diameter_as_stated),
        ("studies read in full", score.complete),
        ("replies that needed repair", score.replies_mended),
    )
    for name, share in rows:
        table.add_row(name, str(share.hits), str(share.total), _percent(share.share), _interval(share))
    return table


def _values(score: Score) -> Table:
    table = _table("Measured", "", "mean", "median", "95th percentile")
    table.add_row("centre error of nodules, mm", _NOTHING, *_spread(score.center_error_mm))
    signed = _number(score.diameter_bias_mm, "+.2f")
    table.add_row("diameter error of nodules, mm", signed, *_spread(score.diameter_error_mm))
    table.add_row("model's time a study, s", _NOTHING, *_spread(score.reading_seconds))
    table.add_row("false findings a study", _number(score.false_per_study), _NOTHING, _NOTHING)
    return table


def _thresholds(score: Score) -> Table:
    table = _table("Confidence as a threshold", "false a study up to", "threshold", "sensitivity", "false a study")
    for rate in _FALSE_RATES if score.froc else ():
        point = best_point(score.froc, rate)
        cells = (point.threshold, point.sensitivity, point.false_per_study) if point else (None, None, None)
        table.add_row(f"{rate:g}", *map(_number, cells))
    return table


def _reliability(score: Score) -> Table:
    calibration = score.calibration
    title = f"Confidence against truth, expected calibration error {_number(calibration.expected_error)}"
    table = _table(title, "confidence", "findings", "mean", "true")
    for each in calibration.bins:
        span = f"{each.low:.1f} to {each.high:.1f}"
        table.add_row(span, str(each.count), _number(each.mean_confidence), _number(each.true_share))
    return table


def _counterfactuals(comparisons: tuple[Comparison, ...]) -> Table:
    title = f"Counterfactuals, {comparisons[0].before.study_count} studies" if comparisons else ""
    table = _table(title, "", "found before", "found", "side right", "as said", "false a study")
    for each in comparisons:
        after = each.after
        shares = (each.before.sensitivity, after.sensitivity, after.side_right, after.side_said_right)
        table.add_row(each.how, *map(_of, shares), _number(after.false_per_study))
    return table


def _misses(evaluation: Evaluation) -> Iterator[str]:
    """Name every study in which something was missed or invented, and where its report lies."""
    for case in evaluation.cases:
        if case.missed or case.false:
            false = ", ".join(map(str, case.false)) or "none"
            missed = ", ".join(map(str, case.missed)) or "none"
            yield f"{case.variant}: lesions missed {missed}; false findings {false}; {case.report or 'not read'}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right" if column and column != "confidence" else "left")
    return table


def _spread(spread: Spread) -> tuple[str, str]:
    return _number(spread.median), _number(spread.p95)


def _number(value: float | None, form: str = ".2f") -> str:
    return _NOTHING if value is None else format(value, form)


def _of(share: Proportion) -> str:
    return f"{share.hits} of {share.total}"


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.1f} %"


def _interval(share: Proportion) -> str:
    return _NOTHING if share.low is None else f"{_percent(share.low)} to {_percent(share.high)}"
