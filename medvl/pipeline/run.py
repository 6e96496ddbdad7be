"""Reads studies from folder to report: the line itself. All it decides and does lies in the rooms below."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Literal

from medvl import __version__
from medvl.dicom.scan import require_images, scan
from medvl.dicom.select import check_wanted
from medvl.errors import InputError, ModelError, ReadingError
from medvl.files import write_private
from medvl.ledger import Ledger, lock
from medvl.pipeline.compose import (
    conclude,
    count_findings,
    count_slices,
    gather_evidence,
    gather_views,
    report_series,
    unread_files,
    write_impression,
)
from medvl.pipeline.model import ModelChoice, choose_model, plan_study, wanted_views
from medvl.pipeline.reading import ChunkReading, OpenReader, StudyReader
from medvl.pipeline.views import PlannedStudy, Wanted, cut_chunks, plan_views
from medvl.pipeline.watch import Silence, Watcher
from medvl.planning.device import Device, find_device
from medvl.planning.plan import Plan
from medvl.prompts import load_prompt, load_prompts
from medvl.reader.identity import identify_reader
from medvl.reader.protocol import Reader
from medvl.reader.weights import locate_model
from medvl.records import ReaderIdentity, Scan, Study
from medvl.report.document import FORMAT, Provenance, ReportDocument, ReportStatus, SeriesReport, StudyFacts, Timing
from medvl.report.html import PAGE_FILE, write_index, write_patient_page
from medvl.report.identity import deidentified
from medvl.report.write import write_study
from medvl.settings import Settings

PLAN_FILE = "plan.json"
RUN_FILE = "run.json"
Status = ReportStatus | Literal["failed"]


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """What became of one study."""

    key: str
    patient_key: str
    status: Status
    page: Path | None
    slices_read: int
    slices_found: int
    finding_count: int
    chunks_read_now: int
    chunks_known: int
    seconds: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What became of a run."""

    studies: tuple[StudyOutcome, ...]
    index: Path
    file_count: int
    unread: tuple[tuple[str, str], ...]  # file and reason, of files that belong to no study
    lost_count: int = 0  # of those, how many may be images that should have been read

    @property
    def exit_status(self) -> int:
        """0: everything read; 3: nothing could be; 4: read in part, run again to resume."""
        statuses = {study.status for study in self.studies}
        if statuses <= {"nothing", "failed"}:
            return InputError.exit_status
        return ReadingError.exit_status if self.lost_count or statuses & {"partial", "failed"} else 0


class StudyRun:
    """One invocation of the main job."""

    def __init__(
        self,
        settings: Settings,
        store: Path,
        *,
        watcher: Watcher | None = None,
        open_reader: OpenReader | None = None,
        device: Device | None = None,
    ) -> None:
        """store: where medvl keeps its own copies of models. open_reader: another reader than the local model."""
        self._settings = settings
        self._store = store
        self._watcher: Watcher = watcher or Silence()
        self._open = open_reader
        self._reader: Reader | None = None
        self._device = device
        self._prompts = load_prompts()

    def read(self, paths: Sequence[Path]) -> RunOutcome:
        """Read every study found under the paths and write its report.

        A study that fails does not stop the others. Raises InputError if nothing is readable, ModelError if the model
        is missing, OutputError, SettingsError; KeyboardInterrupt after a partial report is written.
        """
        found = scan(paths, progress=self._watcher.scanned)
        check_wanted(found.studies, self._settings.series)
        if self._settings.series == ("auto",) or not any(study.series for study in found.studies):
            require_images(found)
        model = choose_model(self._settings, self._store)
        wanted = wanted_views(self._settings, model.preferences)
        locate_model(self._settings.model, self._store)  # without its weights not even a folder should be made
        try:
            studies = tuple(self._read_or_report(study, model, wanted) for study in found.studies)
        finally:
            if self._reader is not None:
                self._reader.close()
            self._write_index()  # an interrupted run lists what it has finished
        lost = sum(each.lost for each in found.unread)
        return RunOutcome(studies, self._settings.output / PAGE_FILE, found.file_count, _outside(found), lost)

    def _write_index(self) -> None:
        folder = self._settings.output
        if folder.is_dir():
            with lock(folder, on_wait=_say_nothing):
                write_index(folder, deidentify=self._settings.deidentify)

    def _read_or_report(self, study: Study, model: ModelChoice, wanted: Wanted) -> StudyOutcome:
        try:
            return self._read_study(study, model, wanted)
        except InputError as error:  # of this study alone; any other would stop the next one, too
            self._watcher.note(f"Study {study.key} was not read: {error}")
            return StudyOutcome(study.key, study.patient.key, "failed", None, 0, 0, 0, 0, 0, 0.0, str(error))

    def _read_study(self, study: Study, model: ModelChoice, wanted: Wanted) -> StudyOutcome:
        folder = self._settings.output / study.patient.key / study.key
        planned = plan_views(study, wanted, self._prompts)
        with lock(folder, on_wait=lambda: self._watcher.note(f"Another run is reading study {study.key}; waiting")):
            return _Reading(self, folder, planned, model).finish()

    def identity_of(self, model: ModelChoice, plan: Plan) -> ReaderIdentity:
        """Describe the reader before it is loaded. Raises ModelError if the weights are not on this machine."""
        location = model.location or locate_model(self._settings.model, self._store)
        return identify_reader(location, plan.precision, model.sampling)

    def open_reader(self, model: ModelChoice, plan: Plan) -> Reader:
        """Load the model, once for all studies."""
        if self._reader is None:
            self._reader = self._open() if self._open else self._load(model, plan)
        return self._reader

    def device(self) -> Device:
        """Ask once what memory there is: after loading, the model itself would count as used."""
        if self._device is None:
            self._device = find_device()
        return self._device

    def _load(self, model: ModelChoice, plan: Plan) -> Reader:
        from medvl.reader.qwen import load_qwen_reader

        if not plan.fits:
            self._watcher.note(f"The plan does not fit into memory, trying all the same. {plan.advice}")
        location = locate_model(self._settings.model, self._store)
        return load_qwen_reader(
            location,
            plan.precision,
            sampling=model.sampling,
            progress=lambda share: self._watcher.model_loads(location.name, share),
        )

    @property
    def settings(self) -> Settings:
        """As asked for."""
        return self._settings

    @property
    def watcher(self) -> Watcher:
        """Who is told."""
        return self._watcher


class _Reading:
    """One study's way from chunks to pages; holds its folder's lock."""

    def __init__(self, run: StudyRun, folder: Path, planned: PlannedStudy, model: ModelChoice) -> None:
        self._run, self._folder, self._model = run, folder, model
        self._settings, self._watcher = run.settings, run.watcher
        self._ledger = Ledger(folder / "ledger")
        self._started, self._clock = _now(), monotonic()
        if self._settings.force:
            self._ledger.clear()
            (folder / PLAN_FILE).unlink(missing_ok=True)
        device = _device_planned_for(folder / PLAN_FILE, run.device())
        self._plan = plan_study(planned, model, self._settings, device)
        self._planned = cut_chunks(planned, self._plan.chunk_length)
        self._identity = run.identity_of(model, self._plan)
        write_private(folder / PLAN_FILE, json.dumps({"device": asdict(device)}).encode())

    def finish(self) -> StudyOutcome:
        views = self._planned.views
        reader = StudyReader(
            views,
            self._ledger,
            self._identity,
            lambda: self._run.open_reader(self._model, self._plan),
            batch=self._plan.batch,
            max_new_tokens=self._model.max_new_tokens,
        )
        known = reader.known_count
        chunks = sum(len(view.view.chunks) for view in views)
        self._watcher.study_begins(self._planned.study.key, self._planned.slice_count, chunks, known)
        readings: list[ChunkReading] = []
        try:
            for reading in reader.read():
                readings.append(reading)
                self._watcher.chunk_ends(len(reading.chunk.slabs), count_findings(reading))
            outcome = self._write(readings, known, reader)
        except (KeyboardInterrupt, ModelError):
            if readings:
                self._watcher.note(f"The report so far: {self._write(readings, known, None).page}")
            raise
        self._watcher.study_ends(self._planned.study.key)
        return outcome

    def _write(self, readings: Sequence[ChunkReading], known: int, reader: StudyReader | None) -> StudyOutcome:
        document, files = self._compose(readings, reader)
        settings = self._settings
        stored = deidentified(document) if settings.deidentify else document
        write_study(self._folder, stored, files)
        read, found = count_slices(self._planned, document.series)
        with lock(self._folder.parent, on_wait=_say_nothing):  # runs on the patient's other studies write it, too
            page = write_patient_page(self._folder.parent, deidentify=settings.deidentify)
        outcome = StudyOutcome(
            key=document.study.key,
            patient_key=document.patient.key,
            status=document.status,
            page=page,
            slices_read=read,
            slices_found=found,
            finding_count=len(document.findings),
            chunks_read_now=sum(1 for each in readings if each.entry) - known,
            chunks_known=known,
            seconds=round(monotonic() - self._clock, 3),
        )
        write_private(self._folder / RUN_FILE, _run_json(outcome, settings, self._plan, document.timing))
        return outcome

    def _compose(
        self, readings: Sequence[ChunkReading], reader: StudyReader | None
    ) -> tuple[ReportDocument, dict[str, bytes]]:
        planned, settings = self._planned, self._settings
        views = gather_views(planned, readings)
        findings = conclude(views)
        evidence = gather_evidence(planned, findings)
        series = report_series(planned, views, evidence.sheets)
        counts = count_slices(planned, series)
        prompt = load_prompt("impression", settings.language)
        impression = write_impression(findings, reader, prompt, counts, settings.language)
        identity = _really_used(readings, self._identity)
        study = planned.study
        document = ReportDocument(
            format=FORMAT,
            language=settings.language,
            patient=study.patient,
            study=StudyFacts(study.uid, study.key, study.date, study.time, study.description, study.accession),
            status=_status(series, counts),
            warnings=(identity.warning,) if identity.warning else (),
            impression=impression,
            findings=findings,
            key_images=evidence.key_images,
            series=series,
            unread_files=unread_files(planned),
            provenance=Provenance(__version__, identity, _settings_shown(settings, self._plan)),
            timing=self._timing(readings),
        )
        return document, dict(evidence.files)

    def _timing(self, readings: Sequence[ChunkReading]) -> Timing:
        entries = [each.entry for each in readings if each.entry]
        return Timing(
            started=self._started,
            finished=_now(),
            seconds=round(monotonic() - self._clock, 3),
            reading_seconds=round(sum(entry.reading.seconds for entry in entries), 3),
            generated_token_count=sum(len(entry.reading.tokens) for entry in entries),
        )


def _really_used(readings: Sequence[ChunkReading], expected: ReaderIdentity) -> ReaderIdentity:
    """The reader that wrote the first reading; the expected one where nothing was read."""
    return next((each.entry.reader for each in readings if each.entry), expected)


def _status(series: Sequence[SeriesReport], counts: tuple[int, int]) -> ReportStatus:
    missing = any(view.chunks_read < view.chunk_count for each in series for view in each.views)
    if missing or counts[0] < counts[1]:
        return "partial"
    return "complete" if counts[0] else "nothing"


def _device_planned_for(path: Path, here: Device) -> Device:
    """The device with the memory that was free when an earlier run planned this study on it.

    Another amount would cut other chunks, which the ledger does not know.
    """
    try:
        earlier = Device(**json.loads(path.read_text())["device"])
        known = replace(here, free_bytes=int(earlier.free_bytes))
    except (OSError, ValueError, KeyError, TypeError):
        return here
    return known if known == earlier else here


def _settings_shown(settings: Settings, plan: Plan) -> tuple[tuple[str, str], ...]:
    """Settings as asked for, and what the plan made of them; folders are left out, since they may name a patient."""
    asked = {field.name: getattr(settings, field.name) for field in fields(settings)}
    shown = {name: value for name, value in asked.items() if name not in ("output", "force") and value is not None}
    shown |= {"prompt": Path(settings.prompt).name} if settings.prompt else {}
    shown |= {"model": Path(settings.model).name if Path(settings.model).exists() else settings.model}
    shown |= {"chunk_length": plan.chunk_length, "overlap": plan.overlap}
    return tuple((name, ", ".join(value) if isinstance(value, tuple) else str(value)) for name, value in shown.items())


def _run_json(outcome: StudyOutcome, settings: Settings, plan: Plan, timing: Timing) -> bytes:
    content = {
        "medvl_version": __version__,
        "outcome": asdict(replace(outcome, page=None)),
        "settings": dict(_settings_shown(settings, plan)),
        "plan": asdict(plan),
        "timing": asdict(timing),
    }
    return json.dumps(content, indent=1).encode()


def _outside(found: Scan) -> tuple[tuple[str, str], ...]:
    return tuple((each.source.name, each.reason) for each in found.unread)


def _say_nothing() -> None:
    pass


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
