"""Time turning CT slices into grey pictures, side by side with SimpleITK and a plain pydicom loop.

    python -m benchmarks.grey [--slices 400] [--compressed 60] [--rounds 5] [--save]

Uncompressed slices, then ones in JPEG 2000. Writes them itself, into a temporary folder. All contestants take turns in
every round and the medians are compared, so that a noisy machine disturbs them alike. Ours also resizes to 448²;
SimpleITK only reads and windows. Then the peak memory of rendering 100 and 1,000 slices is measured, each in a process
of its own (Linux only). --save keeps the figures in results/grey.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless

from medvl.dicom.geometry import slabs, stack_series
from medvl.dicom.grey import iter_pictures
from medvl.dicom.scan import scan
from medvl.dicom.window import PRESETS
from medvl.records import DisplayTurn, Picture, Rendering, Slab
from tests.builders import write_series

SIZE_PX = 448
WINDOW = PRESETS["lung"]
LOWEST, HIGHEST = WINDOW.center - WINDOW.width / 2, WINDOW.center + WINDOW.width / 2
WORKERS = 2
RESULTS = Path(__file__).parent / "results" / "grey.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--compressed", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.peak)
        return
    with TemporaryDirectory() as folder:
        times = compare_times(Path(folder), arguments.slices, ExplicitVRLittleEndian, arguments.rounds)
    with TemporaryDirectory() as folder:
        compressed = compare_times(Path(folder), arguments.compressed, JPEG2000Lossless, arguments.rounds)
    with TemporaryDirectory() as folder:
        peaks = compare_memory(Path(folder))
    if arguments.save:
        figures = {
            "command": "python -m benchmarks.grey --save",
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "rounds": arguments.rounds,
            f"{arguments.slices} uncompressed slices": times,
            f"{arguments.compressed} slices in JPEG 2000": compressed,
            "peak memory in MiB, by slices": peaks,
        }
        RESULTS.write_text(json.dumps(figures, indent=2) + "\n")


# --- contestants -------------------------------------------------------------------------------------------------


def ours_from_slabs(planned: Sequence[Slab], turn: DisplayTurn) -> int:
    pictures = iter_pictures(planned, Rendering((WINDOW,), SIZE_PX), turn, workers=WORKERS)
    return sum(isinstance(picture, Picture) for picture in pictures)


def ours_from_folder(folder: Path) -> int:
    return ours_from_slabs(*plan(folder))


def simpleitk_from_names(names: Sequence[str]) -> int:
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    volume = sitk.IntensityWindowing(reader.Execute(), LOWEST, HIGHEST, 0, 255)
    return len(sitk.GetArrayFromImage(sitk.Cast(volume, sitk.sitkUInt8)))


def simpleitk_from_folder(folder: Path) -> int:
    return simpleitk_from_names(series_names(folder))


def pydicom_from_paths(paths: Sequence[Path]) -> int:
    import pydicom
    from PIL import Image

    count = 0
    for path in paths:
        dataset = pydicom.dcmread(path)
        values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        grey = (np.clip((values - LOWEST) / WINDOW.width, 0, 1) * 255).astype(np.uint8)
        count += Image.fromarray(grey).resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS).width > 0
    return count


def plan(folder: Path) -> tuple[tuple[Slab, ...], DisplayTurn]:
    (study,) = scan([folder]).studies
    (stack,), _ = stack_series(study.series[0])
    return slabs(stack, None), stack.turn


def series_names(folder: Path) -> Sequence[str]:
    import SimpleITK as sitk

    names: Sequence[str] = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return names


# --- time --------------------------------------------------------------------------------------------------------


def compare_times(folder: Path, count: int, syntax: str, rounds: int) -> dict[str, dict[str, float]]:
    write_slices(folder, count, syntax)
    planned, turn = plan(folder)
    names = series_names(folder)
    contestants: dict[str, Callable[[], int]] = {
        "medvl, slices known": lambda: ours_from_slabs(planned, turn),
        "SimpleITK, names known": lambda: simpleitk_from_names(names),
        "pydicom + Pillow Lanczos": lambda: pydicom_from_paths([item.slices[0].frame.source.path for item in planned]),
        "medvl, from the folder": lambda: ours_from_folder(folder),
        "SimpleITK, from the folder": lambda: simpleitk_from_folder(folder),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):  # the first warms the page cache, the imports and the decoders' helpers
        for name, contestant in contestants.items():
            start = time.perf_counter()
            if contestant() != count:
                raise RuntimeError(f"{name} did not give {count} slices")
            seconds[name].append(time.perf_counter() - start)
    middle = {name: median(times[1:]) for name, times in seconds.items()}
    print(
        f"{count} slices of 512², {UID(syntax).name}, {rounds} rounds, medians; "
        f"medvl on {WORKERS} threads, to {SIZE_PX}²"
    )
    figures = {}
    for name, one in middle.items():
        against = middle["SimpleITK, from the folder" if name.endswith("folder") else "SimpleITK, names known"]
        print(f"  {name:28} {one:6.3f} s  {one / against:5.2f} × SimpleITK")
        figures[name] = {"seconds": round(one, 3), "of SimpleITK": round(one / against, 2)}
    return figures


def write_slices(folder: Path, count: int, syntax: str = ExplicitVRLittleEndian) -> None:
    """Write slices with smooth shapes and the noise of a CT, which JPEG 2000 spends its time on."""
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = np.where(x**2 + y**2 < 0.6, 1064, 24) + np.where((x - 0.3) ** 2 + y**2 < 0.08, -800, 0)
    noisy = np.random.default_rng(0).normal(body, 15).clip(0, 4095).astype(np.uint16)
    write_series(
        folder,
        count=count,
        pixels=lambda index: noisy + np.uint16(index),
        slice_step_mm=1.0,
        bits_stored=13,
        transfer_syntax=syntax,
    )


# --- memory ------------------------------------------------------------------------------------------------------


def compare_memory(folder: Path) -> dict[str, float]:
    peaks = {count: peak_mib(folder / str(count), count) for count in (100, 1000)}
    print("peak memory, scan to pictures")
    for count, peak in peaks.items():
        print(f"  {count:5} slices {peak:7.1f} MiB  {peak / peaks[100]:5.2f} × that of 100")
    return {str(count): round(peak, 1) for count, peak in peaks.items()}


def peak_mib(folder: Path, count: int) -> float:
    write_slices(folder, count)
    command = [sys.executable, "-m", "benchmarks.grey", "--peak", str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(folder: Path) -> None:
    """Render a folder and print the process's own peak in MiB (getrusage would report the parent's)."""
    ours_from_folder(folder)
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


if __name__ == "__main__":
    main()
