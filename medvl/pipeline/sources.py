"""Where a study's reader comes from: weights on this machine, or a server that has some."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from medvl.address import WHAT_IS_SENT, ServerAddress
from medvl.files import write_private
from medvl.pipeline.model import LocalModel, ModelChoice, plan_study, served_model
from medvl.pipeline.reading import OpenReader
from medvl.pipeline.views import PlannedStudy
from medvl.pipeline.watch import Watcher
from medvl.planning.device import Device
from medvl.planning.plan import Plan
from medvl.planning.served import ServedPlan, plan_served
from medvl.reader.decoding import Limits
from medvl.reader.identity import identify_reader
from medvl.reader.protocol import Reader
from medvl.reader.weights import ModelLocation
from medvl.records import ReaderIdentity
from medvl.settings import Settings

if TYPE_CHECKING:
    from medvl.reader.qwen import QwenReader
    from medvl.reader.server import ServerReader

PLAN_FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """How one study will be read."""

    plan: Plan | ServedPlan
    identity: ReaderIdentity  # what reads, as far as is known before anything is loaded
    open_reader: OpenReader


class ReaderSource(Protocol):
    """Something that has a reader for every study of a run."""

    @property
    def model(self) -> ModelChoice:
        """What reads, and how it likes to be asked."""
        ...

    def prepare(self, planned: PlannedStudy, folder: Path) -> Prepared:
        """Plan one study. folder: the study's ledger, where what a resumed run has to know is kept."""
        ...

    def go_on_without_8_bit(self, trouble: str) -> bool:
        """Tell whether a study whose 8-bit weights cannot be loaded, and why, may be tried again with others."""
        ...

    def close(self) -> None:
        """Give back what was opened."""
        ...


class LocalSource:
    """Weights on this machine, loaded when something is left to read. Satisfies `ReaderSource`."""

    def __init__(
        self,
        settings: Settings,
        model: LocalModel,
        location: ModelLocation,
        device: Device,
        watcher: Watcher,
        open_other: OpenReader | None = None,
    ) -> None:
        """device: asked before anything is loaded; later the model itself would count as used.

        open_other: another reader than the local model.
        """
        self._settings, self._location, self._device = settings, location, device
        self._watcher, self._open_other = watcher, open_other
        self._model = model
        self._reader: Reader | None = None
        self._local: QwenReader | None = None  # the same, if it is the local model
        self._trouble = ""  # why 8-bit weights cannot be loaded here, once the reader has said so

    @property
    def model(self) -> LocalModel:
        """The model as asked for."""
        return self._model

    def prepare(self, planned: PlannedStudy, folder: Path) -> Prepared:
        """Plan one study for the memory that is free, or that was when an earlier run planned it."""
        plan_file = folder / PLAN_FILE
        device = _device_planned_for(plan_file, self._device)
        plan = plan_study(planned, self._model, self._settings, device, self._trouble)
        write_private(plan_file, json.dumps({"device": asdict(device)}).encode())
        identity = identify_reader(self._location, plan.precision, self._model.sampling)
        return Prepared(plan, identity, lambda: self._open(plan))

    def go_on_without_8_bit(self, trouble: str) -> bool:
        """Plan with bf16 from now on, unless the user wants 8 bits or nothing."""
        if self._settings.precision != "auto" or self._trouble:
            return False
        self._trouble = trouble
        return True

    def close(self) -> None:
        """Give back the model's memory."""
        if self._reader is not None:
            self._reader.close()

    def _open(self, plan: Plan) -> Reader:
        if self._open_other:
            self._reader = self._reader or self._open_other()
            return self._reader
        if self._local is None or self._local.identity.precision != plan.precision:
            self._reader = self._local = self._load(plan)
        if plan.path == "engine":
            self._local.limit(Limits(plan.pixels_at_once, kept_on_device_bytes=plan.picture_cache_bytes))
        return self._local

    def _load(self, plan: Plan) -> QwenReader:
        from medvl.reader.qwen import load_qwen_reader

        self.close()
        if not plan.fits:
            self._watcher.note(f"The plan does not fit into memory, trying all the same. {plan.advice}")
        decode = self._settings.decode
        if decode == "auto":
            decode = "engine" if plan.path == "engine" else "stock"
        return load_qwen_reader(
            self._location,
            plan.precision,
            decode=decode,
            sampling=self._model.sampling,
            progress=lambda share: self._watcher.model_loads(self._location.name, share),
        )


class ServedSource:
    """A server that reads. Satisfies `ReaderSource`."""

    def __init__(self, settings: Settings, model: ModelChoice, reader: ServerReader) -> None:
        self._settings, self._model, self._reader = settings, model, reader

    @property
    def model(self) -> ModelChoice:
        """What the server calls its model, with medvl's own preferences: it has none to tell."""
        return self._model

    def prepare(self, planned: PlannedStudy, folder: Path) -> Prepared:
        """Cut one study into chunks."""
        counts = [len(each.view.slabs) for each in planned.views]
        plan = plan_served(counts, self._model.chunk, self._settings.batch)
        return Prepared(plan, self._reader.identity, lambda: self._reader)

    def go_on_without_8_bit(self, trouble: str) -> bool:
        """Nothing is loaded here."""
        return False

    def close(self) -> None:
        """Hang up."""
        self._reader.close()


def open_served_source(settings: Settings, address: ServerAddress, watcher: Watcher) -> ServedSource:
    """Connect to a server, after a word on what leaves this machine. Raises ModelError, SettingsError."""
    from medvl.reader.server import open_server

    model = served_model(settings)
    if not address.is_here:
        open_line = "" if address.is_encrypted else ". The connection is not encrypted"
        watcher.note(f"The server {address.host} is sent {WHAT_IS_SENT}{open_line}")
    reader = open_server(address, settings.model, sampling=model.sampling)
    return ServedSource(settings, replace(model, name=reader.identity.model), reader)


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
