"""Draws what a chunk of pictures shows and how it was scanned, as the pipeline would cut it from a whole study.

Also the places that a second look asks about. Numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medvl.dicom.window import PRESETS
from medvl.evaluate.acquisition import Acquisition, draw_acquisition
from medvl.evaluate.phantoms import NODULE_KINDS
from medvl.records import Window
from training.cases import Case, Heights, MmBox, Sight, list_sights, mirror, section_radii

SLAB_MM, SLAB_BELOW_MM = 3.0, 2.0  # as `medvl.dicom.geometry` makes slabs; that room needs a DICOM reader
STORED_PX = 512
LOOK_PX = 192
LOOK_PICTURES = 3
MAX_MARKS = 4  # nodules of a phantom
_LEAST_MARK_MM = 2.0  # diameter of the section of a nodule that is marked
_TRIES = 12
_SMALL_MM, _SMALL_ODDS = 10.0, 2.0  # nodules below this are aimed at that much more often
_OTHER_WINDOWS = ("mediastinum", "bone", "abdomen", "brain", "liver")
# Shares of chunks with nothing to be found in them, whatever the phantom has.
_SHUFFLED, _OTHER_WINDOW, _BLANK = 0.08, 0.03, 0.02
_SHUFFLED_SPAN_MM = (50.0, 250.0)  # of the part of the chest whose pictures are dealt out
_CHEST_MM = (-150.0, 100.0)
_TOLD_MM = 20.0  # a gap that few pictures need between any two neighbours, so that their disorder can be seen
_MIRRORED = 0.2

ChunkKind = Literal["ordinary", "shuffled", "other window", "blank"]


@dataclass(frozen=True, slots=True)
class Scan:
    """How a chunk's pictures are made. Everything but the heights is the same for all of them."""

    heights: Heights
    pixel_mm: float
    middle_mm: tuple[float, float]  # of the pictures, in the phantom's axes before it is mirrored
    blur_mm: float
    slab_mm: float
    noise_hu: float
    grain: float
    circle: bool  # black outside the circle of reconstruction
    table_side: float
    mirrored: bool = False
    window: Window = PRESETS["lung"]
    blank: bool = False
    side_px: int = STORED_PX  # of the stored slice, or of the part that is cut out


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of one phantom, with what the pipeline would say of it in words."""

    case_index: int
    kind: ChunkKind
    scan: Scan
    sights: tuple[Sight, ...]
    step_mm: float  # between pictures
    averaged_mm: float | None  # what the prompt says of slabs
    origin_z_mm: float  # added to a height, it is the position in the label
    natural: float = 1.0  # how often a study's chunks begin there over how often ours do


@dataclass(frozen=True, slots=True)
class Look:
    """A place cut out of three neighbouring pictures, and what is in its middle."""

    case_index: int
    scan: Scan
    observation: str
    present: bool
    origin_z_mm: float


@dataclass(frozen=True, slots=True)
class Series:
    """All pictures that the pipeline would make of a study."""

    scan: Scan
    step_mm: float
    averaged_mm: float | None


def draw_series(rng: np.random.Generator, case: Case) -> Series:
    """Draw how a phantom is scanned, and cut the slices into slabs as the pipeline does."""
    taken = draw_acquisition(int(rng.integers(2**31)), case.phantom)
    per_slab = slices_per_slab(taken.slice_spacing_mm)
    heights = taken.bottom_mm + taken.slice_spacing_mm * np.arange(taken.slice_count)[::-1]
    whole = heights[: len(heights) // per_slab * per_slab].reshape(-1, per_slab)
    return Series(
        scan_of(taken, whole.mean(axis=1), per_slab),
        taken.slice_spacing_mm * per_slab,
        SLAB_MM if taken.slice_spacing_mm < SLAB_BELOW_MM else None,
    )


def slices_per_slab(spacing_mm: float) -> int:
    """Return how many slices are averaged into one picture."""
    return max(1, math.floor(SLAB_MM / spacing_mm + 0.5)) if spacing_mm < SLAB_BELOW_MM else 1


def scan_of(taken: Acquisition, heights: Heights, per_slab: int) -> Scan:
    """Return how pictures of an acquisition are made: a mean of slices is one thicker slice with less noise."""
    return Scan(
        heights=heights,
        pixel_mm=taken.pixel_spacing_mm,
        middle_mm=taken.offset_mm,
        blur_mm=taken.blur_mm,
        slab_mm=taken.slice_thickness_mm + (per_slab - 1) * taken.slice_spacing_mm,
        noise_hu=taken.noise_hu / math.sqrt(per_slab),
        grain=taken.grain,
        circle=taken.encoding.padding is not None,
        table_side=-1.0 if taken.storage.patient_position.endswith("P") else 1.0,
        side_px=taken.size_px,
    )


def draw_chunk(rng: np.random.Generator, cases: Sequence[Case], length: int, aimed: float) -> Chunk:
    """Draw a chunk of at most `length` pictures from one of the phantoms.

    aimed: how often it shall cut through a lesion, if there is one.
    """
    for _ in range(_TRIES):
        index = int(rng.integers(len(cases)))  # anew in each try, lest a phantom in doubt count more than in a study
        chunk = _try_chunk(rng, cases[index], index, length, aimed)
        if chunk is not None:
            return _varied(rng, chunk)
    # Something is in doubt wherever one looks, so nothing is shown at all.
    return _blanked(_plain_chunk(rng, cases[index], index, length))


def _try_chunk(rng: np.random.Generator, case: Case, index: int, length: int, aimed: float) -> Chunk | None:
    """Draw a chunk; None if something in it is in doubt."""
    series = draw_series(rng, case)
    heights = series.scan.heights
    odds = start_odds(case, heights, length, aimed)
    first = int(rng.choice(len(odds), p=odds))
    shown = heights[first : first + length]
    sights = list_sights(case, shown, series.scan.slab_mm)
    if sights is None:
        return None
    natural = 1 / (len(odds) * float(odds[first]))
    return _chunk(case, index, series, shown, sights, natural)


def start_odds(case: Case, heights: Heights, length: int, aimed: float) -> NDArray[np.float64]:
    """Return how likely a chunk begins at each picture of a study.

    aimed: share of chunks that cut through a lesion, at any of their pictures; the others lie anywhere.
    """
    starts = max(1, len(heights) - length + 1)
    anywhere = np.full(starts, 1 / starts)
    targets, odds = _list_targets(case)
    if not len(targets):
        return anywhere
    nearest = np.abs(heights[:, None] - targets).argmin(axis=0)
    first = np.clip(nearest[:, None] - np.arange(length), 0, starts - 1)
    through = np.bincount(first.ravel(), np.repeat(odds / length, length), minlength=starts)
    return np.asarray(aimed * through + (1 - aimed) * anywhere)


def _list_targets(case: Case) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return heights at which there is a lesion, and how likely each is aimed at."""
    shapes = [nodule.shape for nodule in case.nodules if not nodule.veiled]
    heights = [np.array([shape.z for shape in shapes])]
    odds = [np.array([_SMALL_ODDS if shape.rx + shape.ry < _SMALL_MM else 1.0 for shape in shapes])]
    if case.fluid is not None:
        wet = case.fluid.heights[case.fluid.areas_mm2 > 0]
        heights.append(wet)
        odds.append(np.full(len(wet), 1 / max(1, len(wet))))
    together = np.concatenate(odds)
    return np.concatenate(heights), together / together.sum()


def _chunk(
    case: Case, index: int, series: Series, shown: Heights, sights: tuple[Sight, ...], natural: float = 1.0
) -> Chunk:
    scan, origin_z_mm = replace(series.scan, heights=shown), case.phantom.origin_lps_mm[2]
    return Chunk(index, "ordinary", scan, sights, series.step_mm, series.averaged_mm, origin_z_mm, natural)


def _plain_chunk(rng: np.random.Generator, case: Case, index: int, length: int) -> Chunk:
    series = draw_series(rng, case)
    return _chunk(case, index, series, series.scan.heights[:length], ())


def _varied(rng: np.random.Generator, chunk: Chunk) -> Chunk:
    """Mirror some chunks, and turn some into ones that hold no finding: shuffled, in another window, or blank."""
    chance = rng.random()
    if rng.random() < _MIRRORED:
        scan = replace(chunk.scan, mirrored=True)
        chunk = replace(chunk, scan=scan, sights=mirror(chunk.sights))
    if chance < _SHUFFLED:
        return _shuffled(rng, chunk)
    if chance < _SHUFFLED + _OTHER_WINDOW:
        window = PRESETS[_OTHER_WINDOWS[rng.integers(len(_OTHER_WINDOWS))]]
        return replace(chunk, kind="other window", scan=replace(chunk.scan, window=window), sights=())
    if chance < _SHUFFLED + _OTHER_WINDOW + _BLANK:
        return _blanked(chunk)
    return chunk


def _shuffled(rng: np.random.Generator, chunk: Chunk) -> Chunk:
    """Return pictures from around the chunk, or anywhere in the chest, under the labels of neighbours.

    The chunk stays as it is if it has too few pictures for anyone to tell.
    """
    count = len(chunk.scan.heights)
    for _ in range(_TRIES):
        dealt = rng.permutation(_around(rng, chunk))[:count]
        gaps = np.abs(np.diff(dealt))
        if count > 3 or (count > 1 and gaps.min() >= _TOLD_MM):
            return replace(chunk, kind="shuffled", scan=replace(chunk.scan, heights=dealt), sights=())
    return chunk


def _around(rng: np.random.Generator, chunk: Chunk) -> Heights:
    """Return the heights of all pictures in a part of the chest, at least twice as long as the chunk."""
    low, high = np.log(_SHUFFLED_SPAN_MM)
    span = max(float(np.exp(rng.uniform(low, high))), 2 * len(chunk.scan.heights) * chunk.step_mm)
    middle = np.clip(chunk.scan.heights.mean(), _CHEST_MM[0] + span / 2, _CHEST_MM[1] - span / 2)
    return np.asarray(middle + np.arange(-span / 2, span / 2, chunk.step_mm))


def _blanked(chunk: Chunk) -> Chunk:
    return replace(chunk, kind="blank", scan=replace(chunk.scan, blank=True), sights=())


def picture_box(scan: Scan, box: MmBox) -> tuple[float, float, float, float]:
    """Return a box in parts of the picture's sides, 0 … 1 unless it leaves the picture."""
    side_mm = scan.pixel_mm * scan.side_px
    left, upper, right, lower = box
    x, y = scan.middle_mm
    return (
        (left - x) / side_mm + 0.5,
        (upper - y) / side_mm + 0.5,
        (right - x) / side_mm + 0.5,
        (lower - y) / side_mm + 0.5,
    )


def mark_nodules(case: Case, scan: Scan, slots: int) -> np.ndarray:
    """Return the boxes of nodules in each picture: (slots, MAX_MARKS, 5). Unused slots repeat the last picture.

    They are there or not, x and y of the middle, half the width, half the height, in parts of the picture's side.
    """
    marks = np.zeros((slots, MAX_MARKS, 5), np.float32)
    side_mm = scan.pixel_mm * scan.side_px
    sign = -1 if scan.mirrored else 1
    for number, nodule in enumerate(case.nodules):
        width, height = section_radii(nodule.shape, scan.heights, scan.slab_mm)
        there = (width + height > _LEAST_MARK_MM) & (not nodule.veiled)
        x = (sign * nodule.shape.x - scan.middle_mm[0]) / side_mm + 0.5
        y = (nodule.shape.y - scan.middle_mm[1]) / side_mm + 0.5
        rows = np.stack([there, np.full(len(there), x), np.full(len(there), y), width / side_mm, height / side_mm], 1)
        marks[:, number] = np.pad(rows, ((0, slots - len(rows)), (0, 0)), mode="edge")
    return marks


# --- a second look ------------------------------------------------------------------------------------------------


def draw_look(rng: np.random.Generator, cases: Sequence[Case], index: int) -> Look:
    """Draw a place to look at again: a lesion, or what may be taken for one."""
    case = cases[index]
    series = draw_series(rng, case)
    found = [nodule for nodule in case.nodules if not nodule.veiled and nodule.shape.rx > 2]
    if found and rng.random() < 0.5:
        nodule = found[rng.integers(len(found))]
        place = np.array([nodule.shape.x, nodule.shape.y, nodule.shape.z]) + rng.normal(0, 1.0, 3)
        observation = str(rng.choice(["nodule", nodule.kind, nodule.kind, *NODULE_KINDS]))
        present = observation in ("nodule", nodule.kind)
    else:
        place = _likeness(rng, case)
        observation = str(rng.choice(["nodule", *NODULE_KINDS]))
        present = False
    return Look(index, _cut_out(rng, series, place), observation, present, case.phantom.origin_lps_mm[2])


def _likeness(rng: np.random.Generator, case: Case) -> np.ndarray:
    """Return a place away from all nodules: on a vessel mostly, on the heart's border, a rib or empty lung."""
    scene, shapes = case.phantom.scene, [nodule.shape for nodule in case.nodules]
    centers = np.array([[shape.x, shape.y, shape.z] for shape in shapes]).reshape(-1, 3)
    radii = np.array([max(shape.rx, shape.ry, shape.rz) for shape in shapes])
    place = np.zeros(3)
    for _ in range(_TRIES):
        vessel = np.array(scene.vessels[rng.integers(len(scene.vessels))])
        place = vessel[:3] + rng.random() * (vessel[3:6] - vessel[:3])
        chance = rng.random()
        if chance < 0.2:
            place = place + rng.normal(0, 8, 3)
        elif chance < 0.3:
            place = _on_border(rng, case)
        if (np.linalg.norm(centers - place, axis=1) > radii + 12).all():
            break
    return place


def _on_border(rng: np.random.Generator, case: Case) -> np.ndarray:
    """Return a place on the heart or on the chest wall."""
    thorax, heart = case.phantom.scene.thorax, case.phantom.scene.heart[0]
    angle = rng.uniform(0, 2 * np.pi)
    across = np.array([np.cos(angle), np.sin(angle)])
    if rng.random() < 0.5:
        place = np.array([heart.x, heart.y]) + across * (heart.rx, heart.ry)
        return np.array([*place, heart.z + rng.uniform(-30, 30)])
    return np.array([*(across * (thorax.cage_width, thorax.cage_depth)), rng.uniform(-60, 60)])


def _cut_out(rng: np.random.Generator, series: Series, place: np.ndarray) -> Scan:
    """Return the three pictures around a place, cut out at full resolution with the place in the middle."""
    scan = series.scan
    nearest = int(np.abs(scan.heights - place[2]).argmin())
    first = int(np.clip(nearest - 1, 0, len(scan.heights) - LOOK_PICTURES))
    mirrored = bool(rng.random() < _MIRRORED)
    x = -place[0] if mirrored else place[0]
    return replace(
        scan,
        heights=scan.heights[first : first + LOOK_PICTURES],
        middle_mm=(float(x), float(place[1])),
        circle=False,
        mirrored=mirrored,
        side_px=LOOK_PX,
    )
