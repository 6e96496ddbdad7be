"""Measures an installation: studies with known truth through the whole pipeline, from DICOM to report.json.

The reports are ordinary reports in an ordinary output folder; only what they say is scored. An evaluation resumes as
any run does: studies already written and chunks already read are found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from medvl import __version__
from medvl.errors import InputError
from medvl.evaluate.cases import Case, Draw, Variant, case_seeds, draw_case, write_cases, write_counterfactuals
from medvl.evaluate.counterfactuals import ALTERATIONS, Alteration
from medvl.evaluate.match import match_findings
from medvl.evaluate.score import CaseReading, Score, case_reading, score_cases
from medvl.evaluate.write import Truth, read_truth
from medvl.pipeline.reading import OpenReader
from medvl.pipeline.run import RunOutcome, StudyRun
from medvl.pipeline.watch import Silence, Watcher
from medvl.planning.device import Device
from medvl.records import ReaderIdentity
from medvl.report.document import ReportDocument
from medvl.report.schema import read_document
from medvl.report.write import REPORT_FILE
from medvl.settings import Settings

COUNTERFACTUAL_CASES = 6


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be evaluated. jobs: processes that write studies."""

    case_count: int = 20
    seed: int = 1
    counterfactuals: bool = True
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class CaseSummary:
    """One study, so that what was missed can be looked at. Lesions count from 0 in the truth, findings as reported."""

    study_uid: str
    variant: Variant
    report: str  # file; "" if the study could not be read
    found: tuple[tuple[int, int], ...]  # lesion and finding
    missed: tuple[int, ...]
    false: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same studies as they are and altered."""

    how: Alteration
    before: Score
    after: Score


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything measured. seed: None where cases of the user's own were scored."""

    medvl_version: str
    reader: ReaderIdentity | None  # None if no study could be read
    seed: int | None
    score: Score
    counterfactuals: tuple[Comparison, ...]
    cases: tuple[CaseSummary, ...]
    exit_status: int = 0


@dataclass(frozen=True, slots=True)
class _Reported:
    """A report and where it lies."""

    path: Path
    document: ReportDocument


def evaluate_phantoms(
    wish: Wish,
    settings: Settings,
    store: Path,
    *,
    watcher: Watcher | None = None,
    open_reader: OpenReader | None = None,
    device: Device | None = None,
    draw: Draw = draw_case,
) -> Evaluation:
    """Write phantoms into `cases/` of the output folder, read them into `reports/` beside it, and score.

    The other arguments are `StudyRun`'s. Raises what its `read` raises; KeyboardInterrupt leaves all that is finished.
    """
    watcher = watcher or Silence()
    plain = _write(wish, settings.output / "cases", watcher, draw)
    altered = _alter(plain, watcher) if wish.counterfactuals else ()
    output = settings.output / "reports"
    run = StudyRun(
        replace(settings, output=output), store, watcher=watcher, open_reader=open_reader, device=device
    )
    outcome = run.read([case.study for case in (*plain, *altered)])
    reports = _read_reports(output, outcome)
    return Evaluation(
        medvl_version=__version__,
        reader=next((each.document.provenance.reader for each in reports.values()), None),
        seed=wish.seed,
        score=_score(plain, reports),
        counterfactuals=_compare(plain, altered, reports),
        cases=tuple(_summary(case, reports) for case in (*plain, *altered)),
        exit_status=outcome.exit_status,
    )
