"""Reads studies from folder to report: the line itself. All it decides and does lies in the rooms below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvl.dicom.scan import scan
from medvl.dicom.select import wanted_studies
from medvl.dicom.shelves import HeaderCache
from medvl.errors import InputError, PrecisionError
from medvl.ledger import lock
from medvl.pipeline.job import Desk, StudyJob
from medvl.pipeline.model import choose_model, wanted_views
from medvl.pipeline.outcome import RunOutcome, StudyOutcome
from medvl.pipeline.reading import OpenReader
from medvl.pipeline.sources import LocalSource, ReaderSource, open_served_source
from medvl.pipeline.views import Wanted, plan_views
from medvl.pipeline.watch import Silence, Watcher
from medvl.planning.device import Device, find_device
from medvl.prompts import load_prompts
from medvl.reader.weights import locate_model
from medvl.records import Scan, Study
from medvl.report.html import PAGE_FILE, write_index
from medvl.settings import Settings


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
        self._prompts = load_prompts()

    def read(self, paths: Sequence[Path]) -> RunOutcome:
        """Read every study found under the paths and write its report.

        A study that fails does not stop the others. Raises InputError if nothing is readable, ModelError if the model
        is missing, OutputError, SettingsError; KeyboardInterrupt after a partial report is written.
        """
        found = scan(paths, progress=self._watcher.scanned, cache=self._cache)
        asked_for = wanted_studies(found, self._settings.series)
        source = self._source()
        try:
            wanted = wanted_views(self._settings, source.model.preferences)
            desk = Desk(self._settings, self._watcher, source)
            studies = tuple(self._read_or_report(study, wanted, desk) for study in asked_for)
        finally:
            source.close()
            self._write_index()  # an interrupted run lists what it has finished
        lost = sum(each.lost for each in found.unread)
        return RunOutcome(studies, self._settings.output / PAGE_FILE, found.file_count, _outside(found), lost)

    def _source(self) -> ReaderSource:
        settings, store = self._settings, self._store
        if settings.server is not None:
            return open_served_source(settings, settings.server, self._watcher)
        model, location = choose_model(settings, store), locate_model(settings.model, store)
        device = self._device or find_device()
        return LocalSource(settings, model, location, device, self._watcher, self._open_other)

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
                return StudyJob(desk, folder, planned).finish()
            except PrecisionError as error:  # the plan knew that bitsandbytes is installed, not that it is broken
                if not desk.source.go_on_without_8_bit(error.found):
                    raise
                self._watcher.note(f"{error.found}. Reading with bf16 weights instead")
                return StudyJob(desk, folder, planned).finish()

    def _write_index(self) -> None:
        folder = self._settings.output
        if folder.is_dir():
            with lock(folder):
                write_index(folder, deidentify=self._settings.deidentify)


def _outside(found: Scan) -> tuple[tuple[str, str], ...]:
    return tuple((each.source.name, each.reason) for each in found.unread)
