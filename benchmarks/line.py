"""Time what a user waits for before and after the model, and the memory of a long study.

    python -m benchmarks.line [--rounds 7]

Commands run as a user runs them, in processes of their own, in turns with a bare interpreter; medians are printed. The
reader is a stand-in that answers at once, so that only medvl's own work is counted. Linux only.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from medvl.pipeline.run import StudyRun
from medvl.planning.device import Device
from medvl.records import ReaderIdentity, Reading, Request
from medvl.settings import Settings
from tests.builders import write_series

REPLY = (
    '{"findings": [{"slice": 1, "bbox_2d": [400, 400, 450, 450], "first_slice": 1, "last_slice": 1, '
    '"observation": "nodule", "site": "lung", "side": "left", "certainty": "possible", "description": "small"}]}'
)


class InstantReader:
    """Answers every question at once."""

    identity = ReaderIdentity("instant", "0", "int8", "none", "greedy")
    independent = True

    def read(self, requests: Iterable[Request], rows: int) -> Iterator[tuple[int, Reading]]:
        for number, _ in enumerate(requests):
            yield number, Reading(REPLY, (), True, 0, 0.0)

    def close(self) -> None:
        pass


def read_study(folder: Path, output: Path) -> None:
    settings = Settings(output=output, model="demo")
    device = Device("cpu", "host", 16 << 30, 16 << 30)
    StudyRun(settings, output / "models", open_reader=InstantReader, device=device).read([folder])


def seconds(arguments: Sequence[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begin


def compare_times(rounds: int) -> None:
    with TemporaryDirectory() as base:
        folder, output = Path(base) / "study", Path(base) / "reports"
        write_series(folder, count=100, rows=512, columns=512)
        read_study(folder, output)
        again = ["-m", "benchmarks.line", "--again", str(folder), str(output)]
        commands = {
            "interpreter": ["-c", "pass"],
            "interpreter + medvl's imports": ["-c", "import medvl.pipeline.run"],
            "medvl --help": ["-m", "medvl", "--help"],
            "medvl inspect, 100 slices": ["-m", "medvl", "inspect", str(folder)],
            "finished study of 100 slices again": again,
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, arguments in commands.items():
                times[name].append(seconds(arguments))
    bare = median(times["interpreter"])
    print(f"median of {rounds}, seconds                 whole   beyond the interpreter")
    for name, measured in times.items():
        print(f"{name:40} {median(measured):6.2f}   {median(measured) - bare:6.2f}")


def compare_memory() -> None:
    peaks = {}
    for count in (100, 1000):
        with TemporaryDirectory() as base:
            folder, output = Path(base) / "study", Path(base) / "reports"
            write_series(folder, count=count, rows=512, columns=512)
            arguments = ["-m", "benchmarks.line", "--again", str(folder), str(output)]
            run = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
            peaks[count] = int(run.stdout)
    ratio = peaks[1000] / peaks[100]
    print(
        f"peak memory: 100 slices {peaks[100] / 1024:.0f} MiB, 1,000 slices {peaks[1000] / 1024:.0f} MiB ({ratio:.2f}×)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--again", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.again:
        read_study(*arguments.again)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    compare_times(arguments.rounds)
    compare_memory()


if __name__ == "__main__":
    main()
