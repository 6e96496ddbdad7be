from __future__ import annotations

import numpy as np
import pytest

from medvl.dicom.window import (
    PRESETS,
    RGB,
    apply_window,
    grey_table,
    parse_window,
    parse_windows,
    percentile_window,
    rescale,
)
from medvl.errors import SettingsError, WindowError
from medvl.records import Window

BRAIN = Window(40, 80)
AS_IT_IS = Window(127.5, 255, function="LINEAR_EXACT")  # grey level = rescaled value


def greys(values: list[float], window: Window) -> list[int]:
    return apply_window(np.array(values, np.float32), window).tolist()


def by_the_standard(values: np.ndarray, window: Window) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1 and C.11.2.1.3, case by case, in double precision and not rounded."""
    x, c, w = values.astype(np.float64), window.center, window.width
    if window.function == "SIGMOID":
        return 255 / (1 + np.exp(np.minimum(-4 * (x - c) / w, 700)))
    if window.function == "LINEAR_EXACT":
        low, high, y = c - w / 2, c + w / 2, ((x - c) / w + 0.5) * 255
    else:
        low, high = c - 0.5 - (w - 1) / 2, c - 0.5 + (w - 1) / 2
        y = ((x - (c - 0.5)) / (w - 1) + 0.5) * 255
    return np.where(x <= low, 0, np.where(x > high, 255, y))


def test_linear_windows_use_center_minus_a_half_and_width_minus_one():
    # (20 − 39.5) / 79 + 0.5 = 0.2532, × 255 = 64.6; (40 − 39.5) / 79 + 0.5 = 0.5063, × 255 = 129.1
    assert greys([-1000, 0, 20, 40, 79, 80, 3000], BRAIN) == [0, 0, 65, 129, 255, 255, 255]


def test_exact_linear_windows_use_center_and_width_as_they_are():
    # 20 / 80 × 255 = 63.75; 40 / 80 × 255 = 127.5, rounded up
    assert greys([-1, 0, 20, 40, 80, 81], Window(40, 80, function="LINEAR_EXACT")) == [0, 0, 64, 128, 255, 255]


def test_sigmoid_windows_flatten_towards_both_ends():
    # 255 / (1 + e^2) = 30.4; 255 / 2 = 127.5; 255 / (1 + e^−2) = 224.6
    assert greys([-30000, 0, 40, 80, 30000], Window(40, 80, function="SIGMOID")) == [0, 30, 128, 225, 255]


def test_a_linear_window_of_width_one_is_a_threshold():
    assert greys([4, 4.5, 5, 6], Window(5, 1)) == [0, 0, 255, 255]


def test_windowing_leaves_its_values_untouched():
    values = np.array([0, 20, 40], np.float32)
    apply_window(values, BRAIN)
    assert values.tolist() == [0, 20, 40]


@pytest.mark.parametrize("window", [Window(40, 0.5), Window(40, 0), Window(40, -80), Window(float("nan"), 80)])
def test_windows_without_a_width_or_level_are_refused(window):
    with pytest.raises(WindowError, match=r"No picture can be made with window WL .* width of at least 1"):
        apply_window(np.zeros(1, np.float32), window)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (0.25, 10), (2.5, 0)])
@pytest.mark.parametrize("signed", [True, False])
def test_the_table_gives_every_stored_value_the_grey_the_standard_says(function, slope, intercept, signed):
    window = Window(50, 350, function=function)
    table = grey_table(slope, intercept, window, signed, None, False)
    stored = np.arange(65536, dtype=np.uint16).view(np.int16 if signed else np.uint16)
    expected = by_the_standard(stored.astype(np.float64) * slope + intercept, window)
    assert np.abs(table - expected).max() <= 0.5001
    assert (table == apply_window(rescale(stored, slope, intercept), window)).all()


def test_the_table_shows_padding_black_whichever_way_the_picture_goes():
    upright = grey_table(1, 0, AS_IT_IS, True, (100, 120), False)
    inverted = grey_table(1, 0, AS_IT_IS, True, (100, 120), True)
    assert upright[[99, 100, 120, 121]].tolist() == [99, 0, 0, 121]
    assert inverted[[99, 100, 120, 121]].tolist() == [156, 0, 0, 134]


def test_the_table_is_indexed_by_the_bits_of_negative_values():
    table = grey_table(1, 1024, AS_IT_IS, True, None, False)
    assert table[np.array([-1024, -924, -769], np.int16).view(np.uint16)].tolist() == [0, 100, 255]


def test_rescaling_unsigned_air_stays_below_zero():
    assert rescale(np.array([0, 24], np.uint16), 1, -1024).tolist() == [-1024, -1000]


def test_presets_are_known_by_name_in_any_case():
    assert (PRESETS["lung"].center, PRESETS["lung"].width) == (-600, 1500)
    assert parse_window(" Lung ") is PRESETS["lung"]
    assert parse_window("lung").label == "lung WL −600 WW 1500"


@pytest.mark.parametrize("text", ["-600/1500", "−600/1500", "-600 / 1500.0"])
def test_level_and_width_are_read_with_any_minus_sign(text):
    assert parse_window(text) == Window(-600, 1500)


@pytest.mark.parametrize("text", ["lungs", "40", "40/80/3", "", "rgb"])
def test_unknown_windows_are_refused_with_the_list_of_known_ones(text):
    with pytest.raises(SettingsError, match=r"is not a window.*brain, subdural, stroke, lung.*40/80"):
        parse_window(text)


def test_a_width_of_zero_is_refused_when_it_is_read():
    with pytest.raises(WindowError, match="window WL 40 WW 0"):
        parse_window("40/0")


def test_rgb_is_three_windows_in_one_picture_and_every_other_name_is_one():
    assert [window.name for window in parse_windows("RGB")] == ["lung", "mediastinum", "bone"]
    assert parse_windows("RGB") == RGB
    assert parse_windows("brain") == (PRESETS["brain"],)


def test_percentile_windows_leave_out_the_rarest_values():
    # 0 … 1000: the 1st percentile is 10, the 99th 990.
    window = percentile_window(np.arange(1001, dtype=np.float32))
    assert (window.center, window.width) == (500, 980)
    assert greys([10, 500, 990], window) == [0, 128, 255]


@pytest.mark.parametrize("values", [[], [7.0, 7.0]])
def test_percentile_windows_of_equal_or_no_values_can_still_be_used(values):
    assert percentile_window(np.array(values, np.float32)).width == 1
