"""Time reading with stock transformers and with medvl's engine, beside what the card could do at best.

    python -m benchmarks.engine [--shape 8b] [--rows ours-int8,stock-int8] [--compile] [--out FOLDER] [--quick]
    python -m benchmarks.engine --caps 24,16,12,8 [--out FOLDER]
    python -m benchmarks.engine --peaks [--out FOLDER]

Weights are random and made on the device: nothing is downloaded. The work is 300 random grey slices in 30 chunks of 10,
256 new tokens each. A row that fails says so and leaves the others alone; what is there is written after every row.
--caps runs the 300 slices as the planner says under a limit of GiB; --peaks measures what its constants rest on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.engine.caps import run_caps
from benchmarks.engine.compare import DEFAULT_ROWS, ROWS, compare
from benchmarks.engine.machine import Machine
from benchmarks.engine.models import SHAPES
from benchmarks.engine.peaks import measure_peaks
from benchmarks.engine.table import render_markdown
from benchmarks.engine.work import FULL, QUICK

_START = time.perf_counter()


def main(words: list[str] | None = None) -> None:
    arguments = _parse(words)
    work, machine = QUICK if arguments.quick else FULL, Machine()
    if arguments.caps:
        caps = [float(cap) for cap in arguments.caps.split(",")]
        _collect(arguments.out, "caps", machine, run_caps(arguments.shape, caps, work, machine, say))
    elif arguments.peaks:
        peaks = measure_peaks(arguments.shape, work, machine, say, quick=arguments.quick)
        _collect(arguments.out, "peaks", machine, peaks)
    else:
        for report in compare(arguments.shape, _rows(arguments), work, machine, say):
            _write(arguments.out, "engine.json", json.dumps(report.to_json(), indent=1))
            _write(arguments.out, "engine.md", render_markdown(report))
        print(render_markdown(report), flush=True)


def _rows(arguments: argparse.Namespace) -> list[str]:
    if arguments.rows:
        return str(arguments.rows).split(",")
    return [*DEFAULT_ROWS, *(["stock-compiled-bf16"] if arguments.compile else [])]


def _collect(folder: Path | None, name: str, machine: Machine, results: Iterable[dict[str, Any]]) -> None:
    """Write results as they come, so that a run that is cut short leaves some."""
    done = []
    for result in results:
        done.append(result)
        _write(folder, f"{name}.json", json.dumps({"machine": machine.describe(), name: done}, indent=1))


def say(words: str) -> None:
    """Print progress, with the seconds since the start."""
    print(f"[{time.perf_counter() - _START:6.1f} s] {words}", file=sys.stderr, flush=True)


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="8b")
    parser.add_argument("--rows", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--compile", action="store_true", help="also stock-compiled-bf16, which takes a minute or more")
    parser.add_argument("--quick", action="store_true", help="a small part of the work, to see that everything runs")
    parser.add_argument("--caps", help="GiB, e.g. 24,16,12,8")
    parser.add_argument("--peaks", action="store_true")
    parser.add_argument("--out", type=Path, help="a folder for the results")
    arguments = parser.parse_args(words)
    if unknown := set((arguments.rows or "").split(",")) - {*ROWS, ""}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    return arguments


def _write(folder: Path | None, name: str, text: str) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
