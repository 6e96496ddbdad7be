"""Find a window for a stack without a fixed scale: the one its header names, or one measured on a few slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvl.dicom.frames import FrameError, load_rescaled
from medvl.dicom.suv import SUV_UNIT
from medvl.dicom.window import percentile_window
from medvl.records import Frame, Stack, Window

SAMPLED_SLICES = 5
# SUVbw from 0 to 7, as is customary for FDG. High uptake is bright, unlike on film: pictures of all modalities are read
# with the same sense of grey.
SUV_WINDOW = Window(3.5, 7.0, "SUV", "LINEAR_EXACT")


def header_window(stack: Stack) -> Window | None:
    """Take the first window in the header of the stack's middle slice; None if there is none."""
    return next(iter(stack.slices[len(stack.slices) // 2].frame.windows), None)


def uptake_window(stack: Stack) -> Window | None:
    """Take the window for uptake; None where the stack's values are not all SUVbw."""
    return SUV_WINDOW if all(each.frame.rescale_unit == SUV_UNIT for each in stack.slices) else None


def measured_window(stack: Stack) -> Window:
    """Measure a window on evenly spaced slices: 1st to 99th percentile of the rescaled values, padding left out.

    The same stack always gives the same window. Slices that cannot be decoded are passed over.
    Raises FrameError if none of the slices looked at can be decoded.
    """
    count = len(stack.slices)
    samples = min(count, SAMPLED_SLICES)
    values: list[NDArray[np.float32]] = []
    errors: list[FrameError] = []
    for part in range(samples):
        try:
            values.append(_anatomy(stack.slices[(2 * part + 1) * count // (2 * samples)].frame))
        except FrameError as error:
            errors.append(error)
    if not values:
        raise errors[0]
    return percentile_window(np.concatenate(values))


def _anatomy(frame: Frame) -> NDArray[np.float32]:
    """Rescaled values of one frame in no particular order, without padding."""
    values, nothing = load_rescaled(frame)
    return np.asarray(values[~nothing])
