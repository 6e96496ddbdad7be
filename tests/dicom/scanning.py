"""What the tests of the scan share: ways to look at what it found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medvl.dicom.scan import scan
from medvl.records import Scan, Series, Unread
from tests.builders import make_instance, write_dataset

SMALL = np.arange(16, dtype=np.int16).reshape(4, 4)


def only_series(found: Scan) -> Series:
    (study,) = found.studies
    (series,) = study.series
    return series


def all_unread(found: Scan) -> list[Unread]:
    return [*found.unread, *(one for study in found.studies for one in study.unread)]


def reasons(found: Scan) -> list[str]:
    return sorted(one.reason for one in all_unread(found))


def scan_instance(folder: Path, **options) -> Scan:
    write_dataset(folder / "a", make_instance(stored=SMALL, **options))
    return scan([folder])
