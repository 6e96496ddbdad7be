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
from medvl.pipeline.outcome import RunOutcome
from medvl.pipeline.reading import OpenReader
from medvl.pipeline.run import StudyRun
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
    contradicted: tuple[int, ...] = ()  # findings that do not count


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
    """A report and where it lies: from the output folder on, or as the user named it."""

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
    run = StudyRun(replace(settings, output=output), store, watcher=watcher, open_reader=open_reader, device=device)
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


def evaluate_reports(truths: Sequence[Path], reports: Sequence[Path]) -> Evaluation:
    """Score reports that exist already against truth files, paired by Study Instance UID.

    truths: JSON as docs/evaluate.md describes. reports: report.json files or the folders that hold them.
    Raises InputError if a file cannot be used, or a report or a truth stands alone.
    """
    cases = [Case("plain", path, _checked_truth(path)) for path in truths]
    files = [path / REPORT_FILE if path.is_dir() else path for path in reports]
    found = [_Reported(path, read_document(path)) for path in files]
    by_study = {each.document.study.uid: each for each in found}
    _require_pairs([case.truth.study_uid for case in cases], [each.document.study.uid for each in found])
    return Evaluation(
        medvl_version=__version__,
        reader=found[0].document.provenance.reader,
        seed=None,
        score=_score(cases, by_study),
        counterfactuals=(),
        cases=tuple(_summary(case, by_study) for case in cases),
    )


# --- the studies ---------------------------------------------------------------------------------------------------


def _write(wish: Wish, folder: Path, watcher: Watcher, draw: Draw) -> tuple[Case, ...]:
    def told(count: int) -> None:
        if count == wish.case_count or count % 10 == 0:
            watcher.note(f"{count} of {wish.case_count} phantom studies are written")

    return write_cases(folder, case_seeds(wish.seed, wish.case_count), draw=draw, jobs=wish.jobs, told=told)


def _alter(plain: Sequence[Case], watcher: Watcher) -> tuple[Case, ...]:
    """Write altered copies of the first few studies with lesions."""
    chosen = [case for case in plain if case.truth.lesions][:COUNTERFACTUAL_CASES]
    altered = tuple(copy for case in chosen for copy in write_counterfactuals(case))
    watcher.note(f"{len(altered)} altered copies of {len(chosen)} of them are written")
    return altered


def _read_reports(output: Path, outcome: RunOutcome) -> dict[str, _Reported]:
    """Read the reports of this run by Study Instance UID."""
    paths = [
        output / study.patient_key / study.key / REPORT_FILE for study in outcome.studies if study.status != "failed"
    ]
    found = [_Reported(path.relative_to(output.parent), read_document(path)) for path in paths]
    return {each.document.study.uid: each for each in found}


def _checked_truth(path: Path) -> Truth:
    """Read a truth that a person may have written: every value must be of its kind."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Truth).validate_python(asdict(read_truth(path)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InputError(
            f"{path.name} cannot be used as truth: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            expected="The fields and kinds that docs/evaluate.md lists",
            todo="Correct the file",
        ) from error


def _require_pairs(truths: Sequence[str], reports: Sequence[str]) -> None:
    """Raise InputError unless each study has one truth and one report."""
    alone = sorted(set(truths) ^ set(reports)) or [uid for uid in truths if truths.count(uid) > 1]
    alone = alone or [uid for uid in reports if reports.count(uid) > 1]
    if alone or not truths:
        raise InputError(
            f"{len(truths)} truths and {len(reports)} reports do not make pairs"
            + (f"; the first study without exactly one of each is {alone[0]}" if alone else ""),
            expected="One truth and one report.json for every study",
            todo="Give --truth once for each report, of the same studies",
        )


# --- the figures ---------------------------------------------------------------------------------------------------


def _score(cases: Sequence[Case], reports: dict[str, _Reported]) -> Score:
    return score_cases([_reading(case, reports) for case in cases])


def _reading(case: Case, reports: dict[str, _Reported]) -> CaseReading:
    reported = reports.get(case.truth.study_uid)
    return case_reading(case.truth, reported.document if reported else None)


def _compare(plain: Sequence[Case], altered: Sequence[Case], reports: dict[str, _Reported]) -> tuple[Comparison, ...]:
    folders = {case.study.parent for case in altered}
    if not folders:
        return ()
    before = _score([case for case in plain if case.study.parent in folders], reports)
    after = {how: _score([case for case in altered if case.variant == how], reports) for how in ALTERATIONS}
    return tuple(Comparison(how, before, score) for how, score in after.items())


def _summary(case: Case, reports: dict[str, _Reported]) -> CaseSummary:
    lesions, reported = case.truth.lesions, reports.get(case.truth.study_uid)
    reading = _reading(case, reports)
    matching = match_findings(reading.findings, lesions)
    return CaseSummary(
        study_uid=case.truth.study_uid,
        variant=case.variant,
        report=str(reported.path) if reported else "",
        found=tuple(sorted((lesions.index(match.lesion), match.finding.number) for match in matching.matches)),
        missed=tuple(lesions.index(lesion) for lesion in matching.missed),
        false=tuple(sorted(finding.number for finding in matching.false)),
        contradicted=tuple(finding.number for finding in reading.contradicted),
    )
