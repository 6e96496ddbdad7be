"""Makes the batch of each step: phantoms, chunks and questions drawn from the seed and the number of the step alone.

Runs in background processes that know no GPU, so a resumed training sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from medvl.dicom.window import PRESETS
from training.cases import Case, draw_case, weigh_case
from training.chunks import LOOK_PICTURES, LOOK_PX, Chunk, Scan, draw_chunk, draw_look, mark_nodules
from training.rows import Layout, Row, RowWriter, stack_rows
from training.settings import TrainingSettings, between
from training.wording import Question, ask_impression, ask_look, ask_reading

Arrays = dict[str, NDArray[Any]]

_CASES = 4  # phantoms of one step
_CASE_SEEDS = 1 << 40  # training's phantoms; what is evaluated comes from small seeds
_LENGTHS: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "short": ((1, 2, 3, 4), (0.1, 0.15, 0.25, 0.5)),
    "usual": ((5, 6, 7, 8), (0.05, 0.1, 0.15, 0.7)),
    "long": ((9, 10, 12, 14, 16), (0.1, 0.1, 0.3, 0.2, 0.3)),
}
_SLOTS = {"short": 4, "usual": 8, "long": 16}
_LOOK_ROWS, _IMPRESSION_ROWS = 96, 32
# Tokens to be kept free: for a label with the picture's marks, a prompt's text, a reply of three findings.
_LABEL, _PROMPT, _REPLY = 18, 480, 288


@dataclass(frozen=True, slots=True)
class Batch:
    """The arrays of one step, of one shape for each kind: short, usual, long, look or impression.

    A batch with pictures also has the packed phantoms and how they are scanned.
    """

    kind: str
    layout: Layout
    arrays: Arrays


def plan_layouts(settings: TrainingSettings) -> dict[str, Layout]:
    """Return the size of the rows of every kind of question."""
    grid = settings.size_px // settings.shape.token_px
    layouts = {kind: Layout(slots, grid, _row_length(slots, grid), _REPLY) for kind, slots in _SLOTS.items()}
    layouts["look"] = Layout(LOOK_PICTURES, LOOK_PX // settings.shape.token_px, 320, 16)
    layouts["impression"] = Layout(0, 0, 768, 160)
    return layouts


def _row_length(slots: int, grid: int) -> int:
    """Return room for pictures with their labels, the longest prompt and a reply, in whole blocks of 64."""
    return -(-(slots * (grid**2 + _LABEL) + _PROMPT + _REPLY) // 64) * 64


class StepBatches(Dataset[Batch]):
    """The batches of a training by the number of the step."""

    def __init__(self, settings: TrainingSettings, tokenizer: Any) -> None:
        self._settings = settings
        self._writer = RowWriter(tokenizer)
        self._layouts = plan_layouts(settings)

    def __getitem__(self, step: int) -> Batch:
        """Draw the batch of a step."""
        rng = np.random.default_rng([self._settings.seed, step])
        kind = self._draw_kind(rng, step)
        return self.draw(rng, kind, self._settings.progress(step))

    def _draw_kind(self, rng: np.random.Generator, step: int) -> str:
        progress = self._settings.progress(step)
        shares = np.array([between(ends, progress) for ends in self._settings.questions.values()])
        return list(self._settings.questions)[rng.choice(len(shares), p=shares / shares.sum())]

    def draw(self, rng: np.random.Generator, kind: str, progress: float) -> Batch:
        """Draw a batch of one kind as it would be at some progress of the training."""
        layout = self._layouts[kind]
        if kind == "impression":
            rows = [self._row(layout, partial(ask_impression, rng)) for _ in range(_IMPRESSION_ROWS)]
            return Batch(kind, layout, _asked(rows))
        enriched = between(self._settings.enriched, progress)
        cases = [
            draw_case(int(rng.integers(_CASE_SEEDS)) + _CASE_SEEDS, rng.random() < enriched) for _ in range(_CASES)
        ]
        if kind == "look":
            return self._draw_looks(rng, cases, layout)
        return self._draw_readings(rng, kind, cases, layout, progress)

    def _draw_readings(
        self, rng: np.random.Generator, kind: str, cases: Sequence[Case], layout: Layout, progress: float
    ) -> Batch:
        aimed = between(self._settings.aimed, progress)
        drawn = [
            self._draw_reading(rng, kind, cases, layout, aimed) for _ in range(self._settings.pictures // layout.slots)
        ]
        rows, chunks = zip(*drawn, strict=True)
        scans, of_case = [chunk.scan for chunk in chunks], [chunk.case_index for chunk in chunks]
        marks = [mark_nodules(cases[chunk.case_index], chunk.scan, layout.slots) for chunk in chunks]
        shown = _shown(cases, scans, of_case, layout.slots)
        enriched = between(self._settings.enriched, progress)
        natural = [chunk.natural * weigh_case(cases[chunk.case_index], enriched) for chunk in chunks]
        truth = {
            "present": np.array([bool(chunk.sights) for chunk in chunks]),
            "marks": np.stack(marks) * shown["in_lung_window"][:, None, None, None],
            "used": np.array([np.arange(layout.slots) < len(scan.heights) for scan in scans]),
            "natural": np.array(natural, np.float32) ** self._calibration(progress),
        }
        return Batch(kind, layout, _asked(rows) | truth | shown)

    def _draw_reading(
        self, rng: np.random.Generator, kind: str, cases: Sequence[Case], layout: Layout, aimed: float
    ) -> tuple[Row, Chunk]:
        """Draw a chunk and write the question about it; what is too long is drawn again."""
        length = int(rng.choice(_LENGTHS[kind][0], p=_LENGTHS[kind][1]))
        row = None
        while row is None:
            chunk = draw_chunk(rng, cases, length, aimed)
            row = self._writer.write(ask_reading(rng, chunk), layout)
        return row, chunk

    def _calibration(self, progress: float) -> np.float32:
        """Return how far decisions follow what studies have: not at first, wholly once the learning rate falls."""
        return np.float32(min(1.0, progress / self._settings.decay_from))

    def _draw_looks(self, rng: np.random.Generator, cases: Sequence[Case], layout: Layout) -> Batch:
        rows, scans, of_case = [], [], []
        for number in range(_LOOK_ROWS):
            index = number % len(cases)
            look = draw_look(rng, cases, index)
            rows.append(self._row(layout, partial(ask_look, rng, look)))
            scans.append(look.scan)
            of_case.append(index)
        return Batch("look", layout, _asked(rows) | _shown(cases, scans, of_case, layout.slots))

    def _row(self, layout: Layout, ask: Callable[[], Question]) -> Row:
        """Write the first question that is not too long."""
        while (row := self._writer.write(ask(), layout)) is None:
            pass
        return row


def _asked(rows: Sequence[Row]) -> Arrays:
    """Return rows as arrays, each as often met as drawn."""
    return stack_rows(rows) | {"natural": np.ones(len(rows), np.float32)}


def _shown(cases: Sequence[Case], scans: Sequence[Scan], of_case: Sequence[int], slots: int) -> Arrays:
    return stack_scans(scans, of_case, slots) | {"phantoms": np.stack([case.phantom.values for case in cases])}


def stack_scans(scans: Sequence[Scan], of_case: Sequence[int], slots: int) -> Arrays:
    """Return scans as arrays of one batch; unused slots repeat the last picture."""
    names = ("pixel_mm", "blur_mm", "slab_mm", "noise_hu", "grain", "circle", "table_side", "mirrored", "blank")
    arrays: Arrays = {name: np.array([getattr(scan, name) for scan in scans], np.float32) for name in names}
    arrays["heights"] = np.stack([_padded(scan.heights, slots) for scan in scans])
    arrays["middle_mm"] = np.array([scan.middle_mm for scan in scans], np.float32)
    arrays["window"] = np.array([(scan.window.center, scan.window.width) for scan in scans], np.float32)
    arrays["in_lung_window"] = np.array([scan.window == PRESETS["lung"] and not scan.blank for scan in scans])
    arrays["phantom"] = np.array(of_case)
    return arrays


def _padded(heights: NDArray[np.float64], slots: int) -> NDArray[np.float32]:
    return np.pad(heights, (0, slots - len(heights)), mode="edge").astype(np.float32)


def load_batches(batches: StepBatches, steps: range, workers: int) -> Iterator[Batch]:
    """Yield the batches of some steps in order, drawn ahead by background processes."""
    loader: DataLoader[Batch] = DataLoader(
        batches,
        sampler=steps,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=6 if workers else None,
        collate_fn=_as_is,
    )
    return iter(loader)


def _as_is(batch: Any) -> Any:
    return batch
