"""What the stored CT values inside a finding's box are, and which kind of tissue they speak for.

Numbers in, numbers out: knows neither files nor pictures. A hint is a measured fact with a name, not a diagnosis.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvl.records import Density

Hint = Literal["air", "fat", "fluid", "soft tissue", "calcified", ""]

_LEAST_PIXELS = 5  # below, percentiles are single pixels
_NOISE_HU = 100.0  # 1.645 standard deviations of a thin slice's noise: so far the percentiles may leave a kind's range


class _Kind(NamedTuple):
    """The range of means that speaks for one kind of tissue. Between the ranges nothing is said."""

    hint: Hint
    least_hu: float
    most_hu: float


# air: below −950 HU nothing but air is left in emphysema (Gevenois et al., Am J Respir Crit Care Med 154, 1996).
# fat and calcium: −120 to −40 HU, and above 164 HU (Siegelman et al., Radiology 160, 1986).
# fluid: −9 to 20 HU (Silverman et al., Bosniak classification 2019, Radiology 292, 2019).
# soft tissue: above 30 HU fluid would have to be bloody or thick; from 130 HU on calcium is counted (Agatston et al.,
# J Am Coll Cardiol 15, 1990).
_KINDS = (
    _Kind("air", -np.inf, -950.0),
    _Kind("fat", -120.0, -40.0),
    _Kind("fluid", -9.0, 20.0),
    _Kind("soft tissue", 30.0, 130.0),
    _Kind("calcified", 164.0, np.inf),
)
_LIKE_CONTRAST: Hint = "calcified"  # a vessel full of contrast agent has the same values


def measure_density(
    values: NDArray[np.float32],
    padding: NDArray[np.bool_],
    corners_px: tuple[float, float, float, float],
    margin_px: tuple[float, float],
    *,
    enhanced: bool = False,
) -> Density | None:
    """Measure the values in the core of a box; None where it holds fewer than five pixels.

    values, padding: (rows, columns); HU, and where they mean nothing.
    corners_px: column and row of two opposite corners; whole numbers are the centres of pixels.
    margin_px: columns and rows by which the core keeps away from each edge.
    enhanced: a contrast agent was given.
    The core is the ellipse inscribed in the box, since the corners of a round lesion's box show what lies around it,
    less the margin: the box's own error, within which a pixel may belong to either.
    """
    hu = values[_core(values.shape, corners_px, margin_px) & ~padding]
    if hu.size < _LEAST_PIXELS:
        return None
    mean, (low, high) = float(hu.mean(dtype=np.float64)), np.percentile(hu, (5, 95))
    return Density(round(mean, 1), round(float(low), 1), round(float(high), 1), _hint(mean, low, high, enhanced))


def _core(
    shape: tuple[int, ...], corners_px: tuple[float, float, float, float], margin_px: tuple[float, float]
) -> NDArray[np.bool_]:
    one_column, one_row, other_column, other_row = corners_px
    half_width = abs(other_column - one_column) / 2 - margin_px[0]
    half_height = abs(other_row - one_row) / 2 - margin_px[1]
    if min(half_width, half_height) <= 0:
        return np.zeros(shape, np.bool_)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    across = (columns - (one_column + other_column) / 2) / half_width
    down = (rows - (one_row + other_row) / 2) / half_height
    return np.asarray(across**2 + down**2 <= 1)


def _hint(mean: float, low: float, high: float, enhanced: bool) -> Hint:
    """Name the kind whose range holds the mean, if all values agree with it but for noise."""
    for kind in _KINDS:
        if kind.least_hu <= mean <= kind.most_hu:
            agreed = kind.least_hu - _NOISE_HU <= low and high <= kind.most_hu + _NOISE_HU
            return kind.hint if agreed and not (enhanced and kind.hint == _LIKE_CONTRAST) else ""
    return ""
