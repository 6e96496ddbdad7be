"""Tells what becomes of every odd real file, alone and among all others, and writes the table of it.

    python -m tests.dicom.edge_table [--elsewhere PYTHON]

Reasons why a row is right are written by hand and kept; a new row comes without. --elsewhere asks an interpreter that
has pydicom with every plugin there is, and SimpleITK, which files these read: one plugin may not come with medvl.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from medvl.dicom.frames import FrameError, load_stored
from medvl.dicom.scan import scan
from medvl.records import Frame, Scan

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "edge.tar.xz"
TABLE = Path(__file__).with_name("edge_expectations.csv")
# Decoders may differ by a grey level: JPEG, JPEG-LS, JPEG 2000 and HTJ2K with loss.
LOSSY = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 203)}
_READERS = {
    "pydicom": "import sys, pydicom; pydicom.dcmread(sys.argv[1], force=True).pixel_array",
    "SimpleITK": "import sys, SimpleITK; SimpleITK.ReadImage(sys.argv[1], imageIO='GDCMImageIO')",
}


@dataclass(frozen=True)
class Row:
    """What is expected of one file. `frames` are those that decode; `listed` is empty where they are read."""

    file: str
    frames: int
    rows: int
    columns: int
    mean: str  # of the stored values
    digest: str  # of the stored values, where nothing was lost in compression
    listed: str
    listed_together: str
    readable_elsewhere: str
    why: str


def read_table() -> dict[str, Row]:
    """Read the table that is committed, by file."""
    if not TABLE.exists():
        return {}
    with TABLE.open(newline="") as lines:
        rows = csv.DictReader(lines)
        numbers = ("frames", "rows", "columns")
        return {row["file"]: Row(**{**row, **{name: int(row[name]) for name in numbers}}) for row in rows}


def unpack(folder: Path) -> Path:
    """Unpack the archive of odd files."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "edge"


def observe(root: Path, alone: Path) -> list[Row]:
    """Scan and decode every file under `root`; `alone` is an empty folder on the same disk."""
    together = listed(scan([root]))
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return [replace(_alone(root / name, name, alone), listed_together=together[name]) for name in names]


def listed(found: Scan) -> dict[str, str]:
    """Give the reason why each file is not read, by its name; where its frames differ, the first reason."""
    reasons = {
        frame.source.name: series.not_read_because
        for study in found.studies
        for series in study.series
        for frame in series.frames
    }
    unread = [*found.unread, *(one for study in found.studies for one in study.unread)]
    return {**{one.source.name: one.reason for one in unread}, **reasons}


def frames_of(found: Scan) -> list[Frame]:
    return [frame for study in found.studies for series in study.series for frame in series.frames]


def _alone(path: Path, name: str, folder: Path) -> Row:
    place = folder / hashlib.sha256(name.encode()).hexdigest()[:12]
    place.mkdir()
    os.link(path, place / path.name)
    found = scan([place])
    frames = frames_of(found)
    decoded = list(_decoded(frames))
    rows, columns = decoded[0].shape if decoded else (0, 0)
    is_exact = bool(decoded) and frames[0].layout.transfer_syntax_uid not in LOSSY
    return Row(
        file=name,
        frames=len(decoded),
        rows=rows,
        columns=columns,
        mean=f"{np.mean(decoded):.1f}" if decoded else "",
        digest=hashlib.sha256(b"".join(map(np.ndarray.tobytes, decoded))).hexdigest()[:16] if is_exact else "",
        listed=listed(found)[path.name],
        listed_together="",
        readable_elsewhere="",
        why="",
    )


def _decoded(frames: Iterable[Frame]) -> Iterable[np.ndarray]:
    for frame in frames:
        try:
            yield load_stored(frame)
        except FrameError:
            continue


def _elsewhere(python: str, path: Path) -> str:
    """Say which of the other readers gets pixels out of a file."""
    names = [
        name
        for name, code in _READERS.items()
        if subprocess.run([python, "-W", "ignore", "-c", code, str(path)], capture_output=True, check=False).returncode
        == 0
    ]
    return " and ".join(names)


def main() -> None:
    """Write the table."""
    options = argparse.ArgumentParser()
    options.add_argument("--elsewhere", metavar="PYTHON")
    python = options.parse_args().elsewhere
    known = read_table()
    with TemporaryDirectory() as folder, TABLE.with_suffix(".new").open("w", newline="") as lines:
        root = unpack(Path(folder))
        writer = csv.DictWriter(lines, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in observe(root, Path(folder)):
            old = known.get(row.file, row)
            elsewhere = _elsewhere(python, root / row.file) if python else old.readable_elsewhere
            writer.writerow(asdict(replace(row, readable_elsewhere=elsewhere, why=old.why)))
    TABLE.with_suffix(".new").replace(TABLE)


if __name__ == "__main__":
    main()
