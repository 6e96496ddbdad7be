"""Writes the sample study that ships with medvl: `python -m medvl.evaluate.sample sample_data`."""

from __future__ import annotations

import sys
from pathlib import Path

from pydicom.uid import JPEGLSLossless

from medvl.evaluate.acquisition import ENCODINGS, Acquisition
from medvl.evaluate.phantoms import Phantom, Wish, draw_phantom
from medvl.evaluate.write import Truth, write_study, write_truth

_SEED = 5
_LESIONS = (Wish("solid nodule", 12.0, "right"), Wish("solid nodule", 9.0, "left"))
# Little noise and a circle of reconstruction around the body: the study packs to half the size of a usual one.
SAMPLE_ACQUISITION = Acquisition(
    pixel_spacing_mm=0.76,
    slice_thickness_mm=5.0,
    slice_spacing_mm=4.5,
    bottom_mm=-170.0,
    slice_count=64,
    noise_hu=6.0,
    encoding=ENCODINGS[1],
)


def sample_phantom() -> Phantom:
    """Return the phantom of the sample study."""
    return draw_phantom(_SEED, _LESIONS)


def write_sample(folder: Path) -> Truth:
    """Write `chest_ct/` and `chest_ct_truth.json` into `folder`, replacing the study that was there."""
    study = folder / "chest_ct"
    for old in study.glob("ct_*.dcm"):
        old.unlink()
    truth = write_study(sample_phantom(), study, SAMPLE_ACQUISITION, JPEGLSLossless)
    write_truth(truth, folder / "chest_ct_truth.json")
    return truth


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]))
