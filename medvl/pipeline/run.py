"""Reads studies from folder to report: the line itself. All it decides and does lies in the rooms below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medvl.dicom.scan import scan
from medvl.dicom.select import wanted_studies
from medvl.dicom.shelves import HeaderCache
from medvl.errors import InputError, PrecisionError
from medvl.ledger import lock
from medvl.pipeline.job import Desk, StudyJob
from medvl.pipeline.model import ModelChoice, choose_model, wanted_views
from medvl.pipeline.outcome import RunOutcome, StudyOutcome
from medvl.pipeline.reading import OpenReader
from medvl.pipeline.views import Wanted, plan_views
from medvl.pipeline.watch import Silence, Watcher
from medvl.planning.device import Device, find_device
from medvl.planning.plan import Plan
from medvl.prompts import load_prompts
from medvl.reader.decoding import Limits
from medvl.reader.protocol import Reader
from medvl.reader.weights import ModelLocation, locate_model
from medvl.records import Scan, Study
from medvl.report.html import PAGE_FILE, write_index
from medvl.settings import Settings

if TYPE_CHECKING:
    from medvl.reader.qwen import QwenReader


class StudyRun:
    """One invocation of the main job."""

    def __init__(
        self,
        settings: Settings,
        store: Path,
        *,
        cache: HeaderCache | None = None,
        watcher: Watcher | None = None,
        open_reader: OpenReader | None = None,
        device: Device | None = None,
    ) -> None:
        """store: where medvl keeps its own copies of models. cache: where headers are kept between scans.

        open_reader: another reader than the local model.
        """
        self._settings = settings
        self._cache = cache
        self._store = store
        self._watcher: Watcher = watcher or Silence()
        self._open_other = open_reader
        self._device = device
        self._reader: Reader | None = None
        self._local: QwenReader | None = None  # the same, if it is the local model
        self._trouble = ""  # why 8-bit weights cannot be loaded here, once the reader has said so
        self._prompts = load_prompts()

    def read(self, paths: Sequence[Path]) -> RunOutcome:
        """Read every study found under the paths and write its report.

        A study that fails does not stop the others. Raises InputError if nothing is readable, ModelError if the model
        is missing, OutputError, SettingsError; KeyboardInterrupt after a partial report is written.
        """
        found = scan(paths, progress=self._watcher.scanned, cache=self._cache)
        asked_for = wanted_studies(found, self._settings.series)
        model = choose_model(self._settings, self._store)
        wanted = wanted_views(self._settings, model.preferences)
        desk = self._desk(model, locate_model(self._settings.model, self._store))
        try:
            studies = tuple(self._read_or_report(study, wanted, desk) for study in asked_for)
        finally:
            if self._reader is not None:
                self._reader.close()
            self._write_index()  # an interrupted run lists what it has finished
        lost = sum(each.lost for each in found.unread)
        return RunOutcome(studies, self._settings.output / PAGE_FILE, found.file_count, _outside(found), lost)

    def _desk(self, model: ModelChoice, location: ModelLocation) -> Desk:
        # The device is asked before anything is loaded: later the model itself would count as used.
        device = self._device or find_device()

        def open_reader(plan: Plan) -> Reader:
            if self._open_other:
                self._reader = self._reader or self._open_other()
                return self._reader
            if self._local is None or self._local.identity.precision != plan.precision:
                self._reader = self._local = self._load(location, model, plan)
            if plan.path == "engine":
                self._local.limit(Limits(plan.pixels_at_once, kept_on_device_bytes=plan.picture_cache_bytes))
            return self._local

        return Desk(self._settings, self._watcher, model, location, device, open_reader)

    def _load(self, location: ModelLocation, model: ModelChoice, plan: Plan) -> QwenReader:
        from medvl.reader.qwen import load_qwen_reader

        if self._reader is not None:
            self._reader.close()
        if not plan.fits:
            self._watcher.note(f"The plan does not fit into memory, trying all the same. {plan.advice}")
        decode = self._settings.decode
        if decode == "auto":
            decode = "engine" if plan.path == "engine" else "stock"
        return load_qwen_reader(
            location,
            plan.precision,
            decode=decode,
            sampling=model.sampling,
            progress=lambda share: self._watcher.model_loads(location.name, share),
        )

    def _read_or_report(self, study: Study, wanted: Wanted, desk: Desk) -> StudyOutcome:
        try:
            return self._read_study(study, wanted, desk)
        except InputError as error:  # of this study alone; any other would stop the next one, too
            self._watcher.note(f"Study {study.key} was not read: {error}")
            return StudyOutcome(study.key, study.patient.key, "failed", None, 0, 0, 0, 0, 0, 0.0, str(error))

    def _read_study(self, study: Study, wanted: Wanted, desk: Desk) -> StudyOutcome:
        folder = self._settings.output / study.patient.key / study.key
        planned = plan_views(study, wanted, self._prompts)
        with lock(folder, on_wait=lambda: self._watcher.note(f"Another run is reading study {study.key}; waiting")):
            try:
                return StudyJob(replace(desk, trouble=self._trouble), folder, planned).finish()
            except PrecisionError as error:  # the plan knew that bitsandbytes is installed, not that it is broken
                if self._settings.precision != "auto" or self._trouble:
                    raise
                self._trouble = error.found
                self._watcher.note(f"{error.found}. Reading with bf16 weights instead")
                return StudyJob(replace(desk, trouble=self._trouble), folder, planned).finish()

    def _write_index(self) -> None:
        folder = self._settings.output
        if folder.is_dir():
            with lock(folder):
                write_index(folder, deidentify=self._settings.deidentify)


def _outside(found: Scan) -> tuple[tuple[str, str], ...]:
    return tuple((each.source.name, each.reason) for each in found.unread)
