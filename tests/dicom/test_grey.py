from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from medvl.dicom.frames import FrameError
from medvl.dicom.grey import iter_pictures, picture_geometry, render
from medvl.dicom.instance import read_instance
from medvl.dicom.stack_window import header_window, measured_window
from medvl.dicom.window import PRESETS, RGB
from medvl.errors import WindowError
from medvl.records import DisplayTurn, Frame, Rendering, Series, Slab, Slice, Source, Stack, Window
from tests.builders import make_instance, write_dataset

AS_IT_IS = Window(127.5, 255, function="LINEAR_EXACT")  # grey level = rescaled value
UPRIGHT = DisplayTurn()
EVERY_TURN = [DisplayTurn(*flags) for flags in product((False, True), repeat=3)]
# Rows run to anterior and superior, columns to the right: perpendicular and along no axis.
OBLIQUE = (0.0, -0.6, 0.8, -1.0, 0.0, 0.0)
POSITION = (10.0, 20.0, 30.0)


def write_slice(folder: Path, stored: np.ndarray, name: str = "slice", **instance) -> Slice:
    instance = {"slope": 1.0, "intercept": 0.0, "position": POSITION, "iop": OBLIQUE, **instance}
    path = write_dataset(folder / name, make_instance(stored=stored, **instance))
    return Slice(1, read_instance(Source(path, name)).frames[0], 0.0)


def slab_of(*slices: Slice) -> Slab:
    return Slab(1, slices)


def grey_of(*slices: Slice, window: Window = AS_IT_IS, size_px: int = 32, turn: DisplayTurn = UPRIGHT) -> np.ndarray:
    return render(slab_of(*slices), Rendering((window,), size_px), turn).grey


def flat(value: int, shape: tuple[int, int] = (32, 32)) -> np.ndarray:
    return np.full(shape, value, np.int16)


def centre_of_brightness(grey: np.ndarray) -> tuple[float, float]:
    """Where the brightness lies in picture coordinates, 0 at the left and upper edge."""
    y, x = np.indices(grey.shape) + 0.5
    return float((x * grey).sum() / grey.sum()), float((y * grey).sum() / grey.sum())


def stored_at(geometry, x: float, y: float) -> tuple[float, float]:
    a, b, c, d, e, f = geometry.stored_from_px
    return a * x + b * y + c, d * x + e * y + f


# --- where things are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", EVERY_TURN)
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (0.5, 1.25), (2.0, 0.8)])
@pytest.mark.parametrize("size_px", [32, 64, 256])
def test_a_bright_dot_is_found_where_the_geometry_says(tmp_path, turn, spacing_mm, size_px):
    row, column = 12, 71  # of 60 × 90: in no mirror image of itself
    stored = flat(0, (60, 90))
    stored[row - 2 : row + 3, column - 2 : column + 3] = 200
    dot = write_slice(tmp_path, stored, spacing_mm=spacing_mm)
    picture = render(slab_of(dot), Rendering((AS_IT_IS,), size_px), turn)
    x, y = centre_of_brightness(picture.grey)

    found_column, found_row = stored_at(picture.geometry, x, y)
    half_px = np.abs(picture.geometry.stored_from_px).reshape(2, 3)[:, :2].sum(axis=1) / 2
    assert abs(found_column - column) < half_px[0]
    assert abs(found_row - row) < half_px[1]

    # Along each stored row the patient position changes by (0, −0.6, 0.8) × column spacing, down a column by −x.
    expected = np.array(POSITION) + column * spacing_mm[1] * np.array((0, -0.6, 0.8))
    expected += row * spacing_mm[0] * np.array((-1, 0, 0))
    found = np.array(picture.geometry.lps_from_px) @ (x, y, 1)
    assert np.linalg.norm(found - expected) < 0.71 * picture.geometry.mm_per_px * 1.05


def test_halving_a_square_slice_maps_picture_edges_to_pixel_edges(tmp_path):
    frame = write_slice(tmp_path, flat(0, (64, 64)), spacing_mm=(0.7, 0.7)).frame
    geometry = picture_geometry(UPRIGHT, frame, 32)
    assert geometry.stored_from_px == (2, 0, -0.5, 0, 2, -0.5)
    assert stored_at(geometry, 0, 32) == (-0.5, 63.5)
    assert geometry.mm_per_px == pytest.approx(1.4)


def test_a_transposed_and_flipped_slice_keeps_its_way_back(tmp_path):
    frame = write_slice(tmp_path, flat(0, (32, 64)), spacing_mm=(1, 1)).frame
    # Transposed it is 64 high and 32 wide: 16 black pixels on either side. Flipped columns are stored rows.
    geometry = picture_geometry(DisplayTurn(transpose=True, flip_columns=True), frame, 64)
    assert stored_at(geometry, 16.5, 0.5) == (0, 31)
    assert stored_at(geometry, 47.5, 63.5) == (63, 0)


def test_transpose_comes_before_the_flips(tmp_path):
    stored = flat(0)
    stored[0, 31] = 255  # upper right; transposed: lower left; rows flipped: upper left
    picture = grey_of(write_slice(tmp_path, stored), turn=DisplayTurn(transpose=True, flip_rows=True))
    assert np.argwhere(picture).tolist() == [[0, 0]]


def test_flat_pixels_are_stretched_to_true_proportions_and_centred_on_black(tmp_path):
    # 32 rows × 0.5 mm = 16 mm high, 32 columns × 1 mm = 32 mm wide: half the square, a quarter black above and below.
    picture = grey_of(write_slice(tmp_path, flat(200), spacing_mm=(0.5, 1.0)))
    assert picture.shape == (32, 32)
    assert (picture[8:24] == 200).all()
    assert not picture[:8].any()
    assert not picture[24:].any()


def test_slices_without_spacing_have_square_pixels_and_no_millimetres(tmp_path):
    frame = write_slice(tmp_path, flat(0, (16, 32)), spacing_mm=None).frame
    geometry = picture_geometry(UPRIGHT, frame, 32)
    assert geometry.stored_from_px == (1, 0, -0.5, 0, 1, -8.5)
    assert geometry.mm_per_px is None
    assert geometry.lps_from_px is None


def test_slices_without_a_place_keep_their_millimetres(tmp_path):
    geometry = picture_geometry(UPRIGHT, write_slice(tmp_path, flat(0), position=None).frame, 32)
    assert geometry.mm_per_px == pytest.approx(0.8)
    assert geometry.lps_from_px is None


def test_downsampling_does_not_alias(tmp_path):
    stripes = flat(0, (128, 128))
    stripes[:, ::2] = 255  # twice finer than 64 pixels can show; plain subsampling would give all black or all white
    picture = grey_of(write_slice(tmp_path, stripes), size_px=64)
    assert np.abs(picture[:, 4:-4].astype(int) - 127).max() <= 8


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_one_slice_is_windowed_by_table_as_by_arithmetic(tmp_path):
    stored = np.random.default_rng(0).integers(0, 2000, (32, 32)).astype(np.int16)
    one = write_slice(tmp_path, stored, intercept=-1024.0, padding=7)
    # A slab of the same slice twice takes the arithmetic path.
    for window in (PRESETS["lung"], replace(PRESETS["brain"], function="SIGMOID")):
        assert (grey_of(one, window=window) == grey_of(one, one, window=window)).all()


def test_32_bit_values_are_windowed_without_a_table(tmp_path):
    assert (grey_of(write_slice(tmp_path, np.full((32, 32), 70_100, np.int32), intercept=-70_000.0)) == 100).all()


def test_a_slab_shows_the_mean_of_its_rescaled_values(tmp_path):
    # 50 × 2 = 100 and 200 − 40 = 160: mean 130
    first = write_slice(tmp_path, flat(50), "a", slope=2.0)
    second = write_slice(tmp_path, flat(200), "b", intercept=-40.0)
    assert (grey_of(first, second) == 130).all()


def test_padding_in_a_slab_is_left_out_of_the_mean_and_black_where_nothing_else_is(tmp_path):
    stored = flat(100)
    stored[:16] = -2000
    padded = flat(-2000)
    picture = grey_of(
        write_slice(tmp_path, stored, "a", padding=-2000), write_slice(tmp_path, padded, "b", padding=-2000)
    )
    assert (picture[:16] == 0).all()
    assert (picture[16:] == 100).all()


@pytest.mark.parametrize("slice_count", [1, 2])
def test_monochrome1_is_inverted_and_its_padding_stays_black(tmp_path, slice_count):
    stored = flat(55)
    stored[:16] = 4000
    dark = write_slice(tmp_path, stored, monochrome1=True, padding=4000)
    picture = grey_of(*[dark] * slice_count)
    assert (picture[16:] == 200).all()
    assert (picture[:16] == 0).all()


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16])
def test_every_integer_type_is_shown(tmp_path, kind):
    assert (grey_of(write_slice(tmp_path, np.full((32, 32), 120, kind), intercept=3.0)) == 123).all()


def test_three_windows_are_red_green_and_blue(tmp_path):
    # 100 HU: (100 + 600.5) / 1499 + 0.5 = 0.967 → 247; (100 − 49.5) / 349 + 0.5 = 0.645 → 164;
    # (100 − 399.5) / 1799 + 0.5 = 0.334 → 85
    picture = render(slab_of(write_slice(tmp_path, flat(100))), Rendering(RGB, 32), UPRIGHT)
    assert picture.grey.shape == (32, 32, 3)
    assert picture.grey[16, 16].tolist() == [247, 164, 85]


# --- many at a time --------------------------------------------------------------------------------------------------


def test_pictures_come_in_order_and_equal_those_made_one_by_one(tmp_path):
    slabs = [slab_of(write_slice(tmp_path, flat(10 * value), str(value))) for value in range(12)]
    rendering = Rendering((AS_IT_IS,), 32)
    pictures = list(iter_pictures(slabs, rendering, UPRIGHT, workers=3))
    assert [picture.grey[0, 0] for picture in pictures] == [10 * value for value in range(12)]
    for picture, slab in zip(pictures, slabs, strict=True):
        assert (picture.grey == render(slab, rendering, UPRIGHT).grey).all()


def test_a_slab_that_cannot_be_read_gives_its_error_and_the_others_are_still_shown(tmp_path):
    slices = [write_slice(tmp_path, flat(value), str(value)) for value in (10, 20, 30)]
    cut = slices[1].frame.source.path
    cut.write_bytes(cut.read_bytes()[:-100])
    first, broken, last = iter_pictures([slab_of(one) for one in slices], Rendering((AS_IT_IS,), 32), UPRIGHT)
    assert (first.grey[0, 0], last.grey[0, 0]) == (10, 30)
    assert isinstance(broken, FrameError)
    assert broken.frame is slices[1].frame
    assert "20: its pixels end after 1948 bytes" in str(broken)


def test_only_a_few_slabs_are_taken_ahead_of_the_caller(tmp_path):
    slab = slab_of(write_slice(tmp_path, flat(1)))
    taken = 0

    def endless() -> Iterator[Slab]:
        nonlocal taken
        while True:
            taken += 1
            yield slab

    pictures = iter_pictures(endless(), Rendering((AS_IT_IS,), 32), UPRIGHT, workers=2)
    for _ in range(20):
        next(pictures)
    pictures.close()
    assert taken <= 20 + 2 * 2


def test_an_impossible_window_is_refused_instead_of_the_first_picture(tmp_path):
    slabs = [slab_of(write_slice(tmp_path, flat(1)))]
    with pytest.raises(WindowError, match="window WL 40 WW 0"):
        next(iter_pictures(slabs, Rendering((Window(40, 0),), 32), UPRIGHT))


# --- windows of a stack ----------------------------------------------------------------------------------------------


def stack_of(*slices: Slice) -> Stack:
    series = Series("1.2", 1, "MR", "", "", tuple(item.frame for item in slices))
    return Stack(series, slices, "axial", UPRIGHT, None)


def gone(item: Slice) -> Slice:
    frame: Frame = item.frame
    return replace(item, frame=replace(frame, source=replace(frame.source, path=frame.source.path / "gone")))


def test_the_header_window_is_the_first_of_the_middle_slice(tmp_path):
    plain = write_slice(tmp_path, flat(1), "a")
    two = write_slice(tmp_path, flat(1), "b", windows=[(300, 600), (40, 80)], window_names=["T1", "T2"])
    assert header_window(stack_of(plain, two, plain)) == Window(300, 600, "T1")
    assert header_window(stack_of(two, plain, two)) is None


def test_the_measured_window_looks_at_evenly_spaced_slices_and_leaves_padding_out(tmp_path):
    # Of 10 slices the 2nd, 4th, 6th, 8th and 10th are looked at: 10, 30, …, 90 after rescaling.
    slices = []
    for index in range(10):
        stored = flat(index * 10 if index % 2 else 5000)
        stored[0] = -3000
        slices.append(write_slice(tmp_path, stored, str(index), padding=-3000))
    window = measured_window(stack_of(*slices))
    assert (window.center, window.width) == (50, 80)


def test_the_measured_window_passes_over_slices_that_cannot_be_read(tmp_path):
    first = write_slice(tmp_path, flat(10), "a")
    last = write_slice(tmp_path, flat(20), "b")
    window = measured_window(stack_of(first, gone(first), last))
    assert (window.center, window.width) == (15, 10)


def test_a_stack_without_a_readable_slice_has_no_measured_window(tmp_path):
    broken = gone(write_slice(tmp_path, flat(10)))
    with pytest.raises(FrameError, match="slice: the file cannot be opened"):
        measured_window(stack_of(broken, broken))
