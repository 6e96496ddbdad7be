"""Time a scan of 10,000 headers, the first and the second time, beside a plain pydicom loop; and its memory.

    python -m benchmarks.scan [--headers FOLDER] [--files 10000] [--rounds 5] [--output benchmarks/results/scan.json]

The headers are those of the sample study, or of another series, each with UIDs of its own, in folders of a hundred; the
pixels are small, for neither side reads them. All sides take turns in processes of their own over the same files in the
page cache, and their own clocks are compared, without the imports. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pydicom
from pydicom.encaps import encapsulate

from medvl.bundled import bundled_path
from medvl.dicom.scan import scan
from medvl.dicom.shelves import SETTLED_NS, HeaderCache
from medvl.pipeline.views import Wanted, plan_views
from medvl.prompts import load_prompts
from tests.builders import write_series

SIDES = ("pydicom", "medvl, first time", "medvl, second time")
FOLDER_FILES = 100
KEPT_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
MEMORY_SLICES = (100, 2000)


def write_headers(source: Path, folder: Path, count: int) -> None:
    """Write the headers of a folder again and again, with other UIDs of the same length."""
    templates = [_small(path) for path in sorted(source.iterdir())]
    for number in range(count):
        content, uids = templates[number % len(templates)]
        group = number // FOLDER_FILES
        for level, uid in enumerate(uids):
            index = number if level == len(uids) - 1 else group
            other = f"1.2.3.{level + 1}.1{index:0{len(uid) - 9}}"  # as long, so that no offset moves
            content = content.replace(uid.encode(), other.encode())
        path = folder / f"{group:04}" / f"{number:06}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _small(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """Return a file of the same header with 16 × 16 pixels, and the UIDs in it that are to change."""
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 16
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    dataset.PixelData = encapsulate([bytes(512)]) if compressed else bytes(512)
    buffer = BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue(), tuple(str(dataset[keyword].value) for keyword in KEPT_UIDS)


def read_with_pydicom(folder: Path) -> int:
    count = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            pydicom.dcmread(os.path.join(parent, name), stop_before_pixels=True)  # noqa: PTH118  # the faster way
            count += 1
    return count


def read_with_medvl(folder: Path, cache: Path) -> int:
    found = scan([folder], cache=HeaderCache(cache))
    return sum(len(series.frames) for study in found.studies for series in study.series)


def time_side(side: str, folder: Path, cache: Path) -> dict[str, float]:
    """Time one side here, and measure its memory."""
    work: Callable[[], int] = (
        (lambda: read_with_pydicom(folder)) if side == "pydicom" else (lambda: read_with_medvl(folder, cache))
    )
    begin, cpu_before = time.perf_counter(), cpu_seconds()
    count = work()
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu_before, "count": count}


def cpu_seconds() -> float:
    """Count the work of this process and of its helpers, which other work on the machine hardly changes."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def compare(folder: Path, files: int, rounds: int) -> dict[str, object]:
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    work: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        cache = folder.parent / f"cache{number}"
        for side in SIDES:
            measured = in_own_process("--side", side, str(folder), str(cache))
            assert measured["count"] == files, (side, measured)
            times[side].append(measured["seconds"])
            work[side].append(measured["cpu_seconds"])
    medians = {side: median(each) for side, each in times.items()}
    return {
        "seconds": {side: round(each, 3) for side, each in medians.items()},
        "processor seconds": {side: round(median(each), 3) for side, each in work.items()},
        "all": {side: [round(each, 3) for each in measured] for side, measured in times.items()},
        "of pydicom's": {side: round(medians[side] / medians["pydicom"], 3) for side in SIDES[1:]},
    }


def measure_memory(folder: Path) -> dict[str, float]:
    """Scan and plan a study here; tell what the process holds in the end and what it held at most, in MiB."""
    found = scan([folder])
    wanted = Wanted(series=("auto",), windows=("auto",))
    planned = [plan_views(study, wanted, load_prompts()) for study in found.studies]
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "slices": sum(each.slice_count for each in planned),
        "held_mib": round(pages * resource.getpagesize() / 2**20, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def in_own_process(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scan", *arguments]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(run.stdout)
    return measured


def measure(source: Path, files: int, rounds: int) -> dict[str, object]:
    before = os.getloadavg()[0]
    with TemporaryDirectory() as base:
        folder = Path(base) / "archive"
        write_headers(source, folder, files)
        time.sleep(SETTLED_NS / 1e9)  # younger files are not kept in the cache
        compared = compare(folder, files, rounds)
        memory = []
        for count in MEMORY_SLICES:
            write_series(Path(base) / str(count), count=count, slice_step_mm=0.5)
            memory.append(in_own_process("--memory", str(Path(base) / str(count))))
    return {
        "what": f"Seconds for the headers of {files} files, and memory of scan and views; medians of {rounds}",
        "measured": date.today().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": {"python": platform.python_version(), "pydicom": version("pydicom")},
        "load before and after": [
            round(before, 1),
            round(os.getloadavg()[0], 1),
        ],  # with other work: see processor seconds
        **compared,
        "memory": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--headers", type=Path, default=bundled_path("sample_data") / "chest_ct", help="a series")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side, folder, cache = arguments.side
        print(json.dumps(time_side(side, Path(folder), Path(cache))))
    elif arguments.memory:
        print(json.dumps(measure_memory(arguments.memory)))
    else:
        text = json.dumps(measure(arguments.headers, arguments.files, arguments.rounds), indent=2)
        if arguments.output:
            arguments.output.write_text(text + "\n")
        print(text)


if __name__ == "__main__":
    main()
