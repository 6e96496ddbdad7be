"""Breaks DICOM files in a hundred ways and sends them through scan, gate and decoders.

    python -m tests.dicom.fuzz 100000

Nothing but a MedvlError or a listed reason may come out, each frame once, within time and memory. Batches run in
processes of their own, since a decoder written in C may take its process along. What failed is kept in a folder.
"""

from __future__ import annotations

import argparse
import re
import secrets
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from medvl.errors import MedvlError
from tests.builders import NATIVE, make_enhanced_ct, make_instance, write_dataset, write_series
from tests.dicom.confined import limit_memory, read_all, watched

REAL = Path(__file__).parents[3] / "shared" / "data" / "edge.tar.xz"
LARGEST_SEED_BYTES = 20_000
Mutation = tuple[str, float, int]


# --- whole files ------------------------------------------------------------------------------------------------------


def whole_files(folder: Path) -> list[bytes]:
    """Make one file of each encoding; add the small real ones where they are at hand."""
    stored = np.arange(3 * 40 * 40, dtype=np.int16).reshape(3, 40, 40)
    paths = []
    for syntax in (*NATIVE, RLELossless, JPEG2000Lossless, JPEGLSLossless):
        places = [(0.0, 0.0, 5.0), (0.0, 0.0, 3.0), (0.0, 0.0, 1.0)]
        enhanced = make_enhanced_ct(stored, positions=places)
        paths.append(write_dataset(folder / f"enhanced{syntax}", enhanced, syntax))
        paths += write_series(folder / syntax, count=1, pixels=stored[0], transfer_syntax=syntax, windows=[(40, 80)])
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 1}
    rgb = make_instance(stored=np.zeros((8, 8), np.uint8), extra={**colour, "PixelData": bytes(range(192))})
    paths.append(write_dataset(folder / "rgb", rgb, DeflatedExplicitVRLittleEndian))
    return [path.read_bytes() for path in paths] + _real_files()


def _real_files() -> list[bytes]:
    if not REAL.exists():
        return []
    with tarfile.open(REAL) as archive:
        small = [member for member in archive if member.isfile() and member.size <= LARGEST_SEED_BYTES]
        streams = [archive.extractfile(member) for member in small]
        # Half of the archive is one series of files that differ in nothing but their UIDs.
        contents = {stream.read() for stream in streams if stream is not None}
    return sorted({(len(content), content[300:340]): content for content in contents}.values())


# --- breaking them ----------------------------------------------------------------------------------------------------

# Where an explicit element begins: group, element, value representation.
_ELEMENT = re.compile(rb"[\x02-\x7f]\x00..(?=AE|AS|CS|DA|DS|IS|LO|OB|OW|PN|SH|SQ|TM|UI|UL|UN|US|UT)", re.DOTALL)
_LENGTHS = (0, 1, 7, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
# Rows, columns, samples per pixel, bits allocated and stored, sign, planar configuration.
_NUMBERS = (b"(\0\x10\0", b"(\0\x11\0", b"(\0\x02\0", b"(\0\0\x01", b"(\0\x01\x01", b"(\0\x03\x01", b"(\0\x06\0")
_VALUES = (0, 1, 2, 3, 7, 8, 12, 16, 32, 64, 255, 4096, 32767, 65535)
_ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
_NASTY = (
    (b"\x08\x00\x11\x11SQ\0\0\xff\xff\xff\xff" + _ITEM) * 400,
    b"\x00\x52\x30\x92SQ\0\0\xff\xff\xff\xff" + _ITEM * 3,
    b"\x09\x00\x01\x10UN\0\0\xff\xff\xff\xff",
    b"\x10\x00\x10\x00PN\xff\xff" + b"A\\" * 200,
    b"\x08\x00\x05\x00CS\x10\x00ISO 2022 IR 1590",
    b"\x28\x00\x08\x00IS\x0a\x001000000000",
    b"\x28\x00\x50\x10DS\x04\x001e99\x28\x00\x51\x10DS\x04\x00nan ",
    b"\x20\x00\x32\x00DS\x0c\x001e308\\0\\1e308",
    b"\x20\x00\x37\x00DS\x0a\x00inf\\0\\0\\0",
    b"\x28\x00\x30\x00DS\x06\x00-1\\1e9",
    b"\x08\x00\x60\x00CS\x04\x00<b>\x1b",
)


def broken(content: bytes, mutations: list[Mutation]) -> bytes:
    """Apply mutations one after the other. Each is a kind, a place between 0 and 1, and a number."""
    for kind, place, number in mutations:
        content = _KINDS[kind](content, place, number)
    return content


def _flip(content: bytes, place: float, number: int) -> bytes:
    at = int(place * len(content))
    return content[:at] + bytes([number % 256]) + content[at + 1 :]


def _cut(content: bytes, place: float, _number: int) -> bytes:
    return content[: int(place * len(content))]


def _insert(content: bytes, place: float, number: int) -> bytes:
    at = _element_at(content, place)
    return content[:at] + _NASTY[number % len(_NASTY)] + content[at:]


def _repeat(content: bytes, place: float, number: int) -> bytes:
    at = _element_at(content, place)
    return content[: at + number % 500] + content[at:]


def _length(content: bytes, place: float, number: int) -> bytes:
    at, wide = _element_at(content, place) + 6 + 2 * (number % 2), 2 + 2 * (number % 2)
    value = _LENGTHS[number // 2 % len(_LENGTHS)]
    return content[:at] + (value & (256**wide - 1)).to_bytes(wide, "little") + content[at + wide :]


def _number(content: bytes, place: float, number: int) -> bytes:
    at = content.find(_NUMBERS[int(place * len(_NUMBERS))]) + 8
    return content[:at] + _VALUES[number % len(_VALUES)].to_bytes(2, "little") + content[at + 2 :]


def _element_at(content: bytes, place: float) -> int:
    starts = [found.start() for found in _ELEMENT.finditer(content)] or range(len(content) or 1)
    return starts[int(place * len(starts))]


_KINDS: dict[str, Callable[[bytes, float, int], bytes]] = {
    "flip": _flip,
    "length": _length,
    "number": _number,
    "insert": _insert,
    "repeat": _repeat,
    "cut": _cut,
}
MUTATIONS = st.lists(
    st.tuples(st.sampled_from(sorted(_KINDS)), st.floats(0, 1, exclude_max=True), st.integers(0, 65535)),
    min_size=1,
    max_size=6,
)


# --- reading what is left ---------------------------------------------------------------------------------------------


def run_batch(count: int, seed: int, folder: Path) -> None:
    """Break `count` files and read each. Leaves the last one in `folder` when it ends early."""
    files = whole_files(folder / "whole")
    broken_file = folder / "broken" / "file"
    broken_file.parent.mkdir()

    def read(content: bytes) -> None:
        broken_file.write_bytes(content)
        try:
            read_all(broken_file.parent)
        except MedvlError as error:
            assert error.found

    @hypothesis.seed(seed)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(files), MUTATIONS)
    def one(content: bytes, mutations: list[Mutation]) -> None:
        with watched():
            read(broken(content, mutations))

    limit_memory(lambda: [read(content) for content in files])
    one()


def main() -> int:
    """Run all batches, two at a time; keep what failed."""
    options = argparse.ArgumentParser(description="Break DICOM files and read them.")
    options.add_argument("count", type=int)
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--batch", type=int, default=2_000, help="files for one process")
    options.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    options.add_argument("--here", action="store_true", help="one batch in this process")
    asked = options.parse_args()
    seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
    if asked.here:
        warnings.simplefilter("ignore")
        with TemporaryDirectory() as folder:
            try:
                run_batch(asked.count, seed, Path(folder))
            except BaseException:
                keep(Path(folder) / "broken" / "file", asked.keep / f"seed-{seed}")
                raise
        return 0
    counts = [min(asked.batch, asked.count - start) for start in range(0, asked.count, asked.batch)]
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda each: _batch(*each, asked.keep), [(n, seed + i) for i, n in enumerate(counts)]))
    failed = sum(code != 0 for code in codes)
    print(f"{asked.count} files broken and read, seeds {seed} to {seed + len(counts) - 1}: {failed} batches failed")
    return int(failed > 0)


def keep(file: Path, place: Path) -> None:
    """Keep the file that a batch failed over."""
    if file.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())


def _batch(count: int, seed: int, place: Path) -> int:
    command = [
        sys.executable,
        "-m",
        "tests.dicom.fuzz",
        str(count),
        "--seed",
        str(seed),
        "--keep",
        str(place),
        "--here",
    ]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
