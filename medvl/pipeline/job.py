"""One study's way from its plan to its pages. Holds the study's folder alone while it lasts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from medvl import __version__
from medvl.errors import ModelError
from medvl.files import write_private
from medvl.ledger import Entry, Ledger, lock
from medvl.pipeline.closer import with_densities
from medvl.pipeline.compose import (
    conclude,
    count_findings,
    count_slices,
    gather_evidence,
    gather_views,
    report_series,
    study_warnings,
    unread_files,
    write_impression,
)
from medvl.pipeline.gallery import update_galleries
from medvl.pipeline.guidelines import with_guidelines
from medvl.pipeline.looking import LOOK_PROMPT, Looks, look_again
from medvl.pipeline.outcome import StudyOutcome
from medvl.pipeline.reading import ChunkReading, StudyReader
from medvl.pipeline.sources import PLAN_FILE, ReaderSource
from medvl.pipeline.views import PlannedStudy, cut_chunks
from medvl.pipeline.watch import Watcher
from medvl.planning.plan import Plan
from medvl.planning.served import ServedPlan
from medvl.prompts import load_prompt
from medvl.records import Finding, ReaderIdentity
from medvl.report.document import FORMAT, Provenance, ReportDocument, ReportStatus, SeriesReport, StudyFacts, Timing
from medvl.report.html import write_patient_page
from medvl.report.identity import deidentified
from medvl.report.write import write_study
from medvl.settings import Settings

LEDGER_FOLDER = "ledger"
RUN_FILE = "run.json"


@dataclass(frozen=True, slots=True)
class Desk:
    """What a run lends to each of its studies."""

    settings: Settings
    watcher: Watcher
    source: ReaderSource


class StudyJob:
    """One study, from chunks to pages."""

    def __init__(self, desk: Desk, folder: Path, planned: PlannedStudy) -> None:
        """folder: the study's own, under the output folder; the caller holds its lock."""
        self._desk, self._folder = desk, folder
        self._started, self._clock = _now(), monotonic()
        self._ledger = Ledger(folder / LEDGER_FOLDER)
        if desk.settings.force:
            self._ledger.clear()
            (folder / LEDGER_FOLDER / PLAN_FILE).unlink(missing_ok=True)
        self._prepared = desk.source.prepare(planned, folder / LEDGER_FOLDER)
        self._planned = cut_chunks(planned, self._prepared.plan.chunk_length)

    def finish(self) -> StudyOutcome:
        """Read what is missing and write the report.

        Raises ModelError or KeyboardInterrupt, after the report so far is written.
        """
        desk, views = self._desk, self._planned.views
        reader = StudyReader(
            views,
            self._ledger,
            self._prepared.identity,
            self._prepared.open_reader,
            batch=self._prepared.plan.batch,
            max_new_tokens=desk.source.model.max_new_tokens,
        )
        known = reader.known_count
        chunks = sum(len(view.view.chunks) for view in views)
        desk.watcher.study_begins(self._planned.study.key, self._planned.slice_count, chunks, known)
        update_galleries(self._folder, self._planned, reader.digests)
        readings: list[ChunkReading] = []
        try:
            with closing(reader.read()) as arriving:
                for reading in arriving:
                    readings.append(reading)
                    desk.watcher.chunk_ends(len(reading.chunk.slabs), count_findings(reading))
            outcome = self._write(readings, known, reader)
        except (KeyboardInterrupt, ModelError):
            if readings:
                desk.watcher.note(f"The report so far: {self._write(readings, known, None).page}")
            raise
        desk.watcher.study_ends(self._planned.study.key)
        return outcome

    def _write(self, readings: Sequence[ChunkReading], known: int, reader: StudyReader | None) -> StudyOutcome:
        document, files = self._compose(readings, reader)
        settings = self._desk.settings
        write_study(self._folder, deidentified(document) if settings.deidentify else document, files)
        read, found = count_slices(self._planned, document.series)
        with lock(self._folder.parent):  # runs on the patient's other studies write the page, too
            page = write_patient_page(self._folder.parent, deidentify=settings.deidentify)
        outcome = StudyOutcome(
            key=document.study.key,
            patient_key=document.patient.key,
            status=document.status,
            page=page,
            slices_read=read,
            slices_found=found,
            finding_count=len(document.findings),
            chunks_read_now=max(0, sum(1 for each in readings if each.entry) - known),  # an interrupt may come early
            chunks_known=known,
            seconds=round(monotonic() - self._clock, 3),
        )
        write_private(self._folder / RUN_FILE, _run_json(outcome, self._desk, self._prepared.plan, document.timing))
        return outcome

    def _compose(
        self, readings: Sequence[ChunkReading], reader: StudyReader | None
    ) -> tuple[ReportDocument, dict[str, bytes]]:
        planned, settings, study = self._planned, self._desk.settings, self._planned.study
        views = gather_views(planned, readings)
        looks = self._look_again(with_densities(planned, conclude(views)), reader)
        findings = looks.findings
        evidence = gather_evidence(planned, findings)
        series = report_series(planned, views, evidence.sheets)
        counts = count_slices(planned, series)
        prompt = load_prompt("impression", settings.language)
        identity = _really_used(readings, self._prepared.identity)
        document = ReportDocument(
            format=FORMAT,
            language=settings.language,
            patient=study.patient,
            study=StudyFacts(study.uid, study.key, study.date, study.time, study.description, study.accession),
            status=_status(series, counts),
            warnings=(*filter(None, [identity.warning]), *study_warnings(planned, views)),
            impression=write_impression(findings, reader, prompt, counts, settings.language),
            findings=findings,
            key_images=evidence.key_images,
            series=series,
            unread_files=unread_files(planned),
            provenance=Provenance(__version__, identity, _settings_shown(self._desk, self._prepared.plan)),
            timing=self._timing([*(each.entry for each in readings if each.entry), *looks.entries]),
        )
        document = with_guidelines(document, settings, evaluated=self._desk.source.model.preferences.evaluated)
        return document, dict(evidence.files)

    def _look_again(self, findings: tuple[Finding, ...], reader: StudyReader | None) -> Looks:
        """Take a second look, unless none is wanted or the model must not be asked."""
        manner = self._desk.source.model.look
        if reader is None or manner is None:
            return Looks(findings)
        prompt = load_prompt(LOOK_PROMPT, self._desk.settings.language)
        return look_again(self._planned, findings, reader, prompt, manner)

    def _timing(self, entries: Sequence[Entry]) -> Timing:
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
    chosen = [each for each in series if each.chosen]
    if chosen and not any(each.views for each in chosen):  # --strict left nothing to read, now or later
        return "nothing"
    missing = any(view.chunks_read < view.chunk_count for each in series for view in each.views)
    if missing or counts[0] < counts[1]:
        return "partial"
    return "complete" if counts[0] else "nothing"


def _settings_shown(desk: Desk, plan: Plan | ServedPlan) -> tuple[tuple[str, str], ...]:
    """Settings as asked for, and what the plan made of them; folders are left out, since they may name a patient."""
    settings = desk.settings
    asked = {field.name: getattr(settings, field.name) for field in fields(settings)}
    shown = {
        name: value for name, value in asked.items() if name not in ("output", "force", "cache") and value is not None
    }
    shown |= {"prompt": Path(settings.prompt).name} if settings.prompt else {}
    shown |= {"model": desk.source.model.name}
    shown |= {"second_look": "findings" if desk.source.model.look else "off"}
    shown |= {"chunk_length": plan.chunk_length, "overlap": plan.overlap}
    return tuple((name, ", ".join(value) if isinstance(value, tuple) else str(value)) for name, value in shown.items())


def _run_json(outcome: StudyOutcome, desk: Desk, plan: Plan | ServedPlan, timing: Timing) -> bytes:
    content = {
        "medvl_version": __version__,
        "outcome": asdict(replace(outcome, page=None)),
        "settings": dict(_settings_shown(desk, plan)),
        "plan": asdict(plan),
        "timing": asdict(timing),
    }
    return json.dumps(content, indent=1).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
