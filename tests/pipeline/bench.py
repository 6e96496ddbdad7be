"""What the stories of the line share: a small body with a known lesion, a checkpoint without weights, and one run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.pipeline.outcome import RunOutcome
from medvl.pipeline.run import StudyRun
from medvl.planning.device import Device
from medvl.records import Request
from medvl.report.document import ReportDocument
from medvl.report.schema import read_document
from medvl.settings import Settings
from tests.builders import write_series
from tests.reader_fakes import ScriptedReader

SIDE_PX = 64
ROOMY = Device("cpu", "host memory", 64 * 2**30, 64 * 2**30)
LESION_SLICES = range(6, 9)  # by index in the order they are written, from the feet up

# The dimensions a plan needs. Nothing ever loads this checkpoint: a script reads in its place.
_CONFIG = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "text_config": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": 512,
    },
    "vision_config": {
        "hidden_size": 32,
        "depth": 2,
        "num_heads": 2,
        "intermediate_size": 64,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 64,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}


def write_checkpoint(folder: Path, weights: bytes = b"weights", **preferences: Any) -> Path:
    """Write the files of a checkpoint as far as a run looks at them before it loads one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    (folder / "vocab.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    wishes = {"size_px": SIDE_PX, "chunk": "4", "slab": "off", "windows": ["mediastinum"], **preferences}
    (folder / "medvl.json").write_text(json.dumps(wishes))
    return folder


def write_body(folder: Path, *, count: int = 12, **series: Any) -> list[Path]:
    """Write axial slices of a body, 5 mm a pixel and 3 mm apart, with a bright cuboid in three of them.

    The cuboid takes columns 44 to 47 and rows 30 to 33: 20 mm wide and high, its centre 67.5 mm to the left of the
    axis and 2.5 mm before it. Slice i lies at z = 3·i mm.
    """
    series = {"spacing_mm": (5.0, 5.0), "thickness_mm": 3.0, "slice_step_mm": 3.0, **series}
    series = {"position": (-160.0, -160.0, 0.0), "rescale_type": "HU", **series}
    return write_series(folder, count=count, rows=SIDE_PX, columns=SIDE_PX, pixels=series.pop("pixels", body), **series)


def body(index: int) -> NDArray[np.int16]:
    """Stored values of one slice: water in an ellipse, air around it, the lesion where it belongs."""
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX] - (SIDE_PX - 1) / 2
    stored = np.where((rows / 20) ** 2 + (columns / 26) ** 2 < 1, 1024, 0).astype(np.int16)
    stored[0, 0] = index  # no two slices are equal
    if index in LESION_SLICES:
        stored[30:34, 44:48] = 2024
    return stored


def report_bright(request: Request) -> str:
    """Reply as a perfect reader of `body` would: one finding where pictures hold white, and in which of them."""
    pictures = [part for part in request.parts if not isinstance(part, str)]
    if not pictures:
        return json.dumps({"impression": [{"text": "One dense mass in the left chest.", "findings": [1]}]})
    white = [number for number, picture in enumerate(pictures, 1) if (picture > 250).any()]
    if not white:
        return '{"findings": []}'
    rows, columns = np.nonzero(pictures[white[0] - 1] > 250)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    finding = {
        "slice": white[0],
        "bbox_2d": [float(edge) * 1000 / SIDE_PX for edge in box],
        "first_slice": white[0],
        "last_slice": white[-1],
        "observation": "dense mass",
        "site": "lung",
        "side": "left",
        "certainty": "definite",
        "description": "Homogeneous and sharply bounded.",
    }
    return json.dumps({"findings": [finding]})


def is_impression(request: Request) -> bool:
    return all(isinstance(part, str) for part in request.parts)


def chunk_calls(reader: ScriptedReader) -> int:
    """Count the chunks a reader was asked to read."""
    return sum(not is_impression(request) for request in reader.requests)


@dataclass
class Notes:
    """A watcher that keeps what it is told."""

    lines: list[str] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    on_note: Callable[[], None] = lambda: None

    def scanned(self, file_count: int) -> None: ...

    def study_begins(self, key: str, slice_count: int, chunk_count: int, chunks_known: int) -> None:
        self.known.append(chunks_known)

    def model_loads(self, model: str, fraction: float) -> None: ...

    def chunk_ends(self, slice_count: int, finding_count: int) -> None: ...

    def study_ends(self, key: str) -> None: ...

    def note(self, text: str) -> None:
        self.lines.append(text)
        self.on_note()

    def close(self) -> None: ...


@dataclass(frozen=True)
class Bench:
    """A folder with input, output and checkpoint, and runs over them."""

    root: Path

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def output(self) -> Path:
        return self.root / "reports"

    @property
    def checkpoint(self) -> Path:
        folder = self.root / "checkpoint"
        return folder if folder.exists() else write_checkpoint(folder)

    def settings(self, **changes: Any) -> Settings:
        asked = {"output": self.output, "model": str(self.checkpoint), "precision": "fp32", "batch": 1}
        asked |= {"second_look": "off"}  # its stories are told by themselves
        return Settings(**{**asked, **changes})

    def run(
        self,
        reader: ScriptedReader | None = None,
        *,
        watcher: Notes | None = None,
        device: Device = ROOMY,
        paths: tuple[Path, ...] = (),
        **changes: Any,
    ) -> RunOutcome:
        """Read what lies in the input folder. Without a reader, opening one fails the test."""
        run = StudyRun(
            self.settings(**changes),
            self.root / "store",
            watcher=watcher,
            open_reader=(lambda: reader) if reader else _no_reader,
            device=device,
        )
        return run.read(paths or (self.input,))

    def report(self) -> ReportDocument:
        """The only report there is."""
        [path] = self.output.glob("*/*/report.json")
        return read_document(path)

    def pages(self) -> dict[str, str]:
        """Every page's text by its path."""
        return {str(path.relative_to(self.output)): path.read_text() for path in self.output.rglob("*.html")}


def timeless(folder: Path) -> dict[str, Any]:
    """The content of every report.json under a folder, but for the times, by study folder."""
    reports = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/*/report.json")}
    return {key: {name: value for name, value in each.items() if name != "timing"} for key, each in reports.items()}


def fates(document: ReportDocument) -> list[tuple[str, int]]:
    """File and frame of everything the report accounts for, read or not."""
    placed = [(fate.file, fate.frame_index) for series in document.series for fate in series.slices]
    unread = [(file.file, index) for file in document.unread_files for index in range(file.frame_count)]
    return placed + unread


def _no_reader() -> ScriptedReader:
    raise AssertionError("the model was opened, though nothing was left to read")
