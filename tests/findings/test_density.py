from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medvl.findings.density import measure_density
from medvl.records import Density

LUNG = -850.0
BOX = (10.0, 10.0, 30.0, 30.0)  # 20 px wide and high around pixel (20, 20)
NO_MARGIN = (0.0, 0.0)


def ball(hu: float, *, radius_px: float = 10.0) -> NDArray[np.float32]:
    """A round lesion in the middle of 41 × 41 px of lung."""
    rows, columns = np.mgrid[:41, :41] - 20
    return np.where(rows**2 + columns**2 <= radius_px**2, hu, LUNG).astype(np.float32)


def measure(values: NDArray[np.float32], margin_px: tuple[float, float] = NO_MARGIN, **how: bool) -> Density | None:
    return measure_density(values, np.zeros(values.shape, np.bool_), BOX, margin_px, **how)


def test_the_corners_of_the_box_do_not_count() -> None:
    # A fifth of the box's area is lung; the ellipse holds none of it.
    assert measure(ball(50.0)) == Density(50.0, 50.0, 50.0, "soft tissue")


def test_the_margin_keeps_the_rim_out() -> None:
    shrunk = ball(50.0, radius_px=8.0)
    assert measure(shrunk).low_hu == LUNG
    assert measure(shrunk, (2.0, 2.0)) == Density(50.0, 50.0, 50.0, "soft tissue")


def test_each_axis_has_its_own_margin() -> None:
    values = np.full((41, 41), 0.0, np.float32)
    values[:, :15] = values[:, 26:] = 1000.0  # beyond 5 px to either side
    assert measure(values, (2.0, 0.0)).high_hu == 1000.0
    assert measure(values, (5.5, 0.0)).high_hu == 0.0
    assert measure(values, (0.0, 5.5)).high_hu == 1000.0


def test_corners_may_come_in_any_order() -> None:
    values = ball(50.0)
    flipped = measure_density(values, np.zeros(values.shape, np.bool_), (30.0, 30.0, 10.0, 10.0), NO_MARGIN)
    assert flipped == measure(values)


def test_percentiles_and_mean_are_those_of_the_pixels() -> None:
    values = np.zeros((3, 7), np.float32)
    values[1] = [9, 0, 1, 2, 3, 4, 9]  # a box one pixel high holds the row's five middle ones
    found = measure_density(values, np.zeros(values.shape, np.bool_), (1.0, 0.5, 5.0, 1.5), NO_MARGIN)
    assert found == Density(2.0, 0.2, 3.8, "fluid")  # a twentieth of the four steps from either end


def test_padding_is_no_tissue() -> None:
    values = ball(50.0)
    padding = np.zeros(values.shape, np.bool_)
    values[:20], padding[:20] = -3024.0, True
    assert measure_density(values, padding, BOX, NO_MARGIN) == Density(50.0, 50.0, 50.0, "soft tissue")


@pytest.mark.parametrize("margin_px", [(9.5, 9.5), (10.0, 1.0), (12.0, 12.0)])
def test_too_few_pixels_are_not_measured(margin_px: tuple[float, float]) -> None:
    assert measure(ball(50.0), margin_px) is None


def test_a_box_beyond_the_slice_is_not_measured() -> None:
    values = ball(50.0)
    assert measure_density(values, np.zeros(values.shape, np.bool_), (50.0, 50.0, 70.0, 70.0), NO_MARGIN) is None


@pytest.mark.parametrize(
    ("hu", "hint"),
    [
        (-1000.0, "air"),
        (-940.0, ""),  # lung may be as thin
        (-600.0, ""),  # ground glass
        (-120.0, "fat"),
        (-80.0, "fat"),
        (-25.0, ""),
        (5.0, "fluid"),
        (25.0, ""),  # thick fluid or soft tissue
        (60.0, "soft tissue"),
        (150.0, ""),
        (165.0, "calcified"),
        (900.0, "calcified"),
    ],
)
def test_a_kind_is_named_only_within_its_range(hu: float, hint: str) -> None:
    assert measure(ball(hu)).hint == hint


def test_a_mean_made_of_two_tissues_names_none() -> None:
    mixed = ball(50.0)
    mixed[:14] = LUNG  # soft tissue and lung together can have the mean of fat
    found = measure(mixed)
    assert -170 < found.mean_hu < -40
    assert found.hint == ""


def test_noise_does_not_hide_the_kind() -> None:
    noise = np.random.default_rng(0).normal(0, 50, (41, 41)).astype(np.float32)
    assert measure(ball(60.0) + noise).hint == "soft tissue"


def test_contrast_agent_is_not_called_calcified() -> None:
    assert measure(ball(350.0), enhanced=True).hint == ""
    assert measure(ball(60.0), enhanced=True).hint == "soft tissue"
