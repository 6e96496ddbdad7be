"""Reads folders as a run would, with little memory and time: what hostile files must not get more of.

    python -m tests.dicom.confined FOLDER

Prints what became of each folder in FOLDER as one JSON object a line.
"""

from __future__ import annotations

import faulthandler
import json
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from medvl.dicom.frames import load_stored, pixel_digest
from medvl.dicom.grey import render
from medvl.dicom.scan import scan
from medvl.errors import MedvlError, PixelError
from medvl.pipeline.views import PlannedStudy, Wanted, plan_views
from medvl.prompts import load_prompts
from medvl.records import Scan

SECONDS_EACH = 60  # of one file on a busy machine; a minute is what nobody would wait for
MEMORY_BYTES = 1 << 30  # above what every library takes once it is loaded
FRAMES_EACH = 3  # decoded per stack
WANTED = Wanted(series=("all",), size_px=64)


def read_all(path: Path) -> tuple[Scan, list[str]]:
    """Scan, plan and decode what is under `path` as a run would. Returns also why frames could not be decoded.

    Raises MedvlError, or AssertionError when a frame got lost.
    """
    found = scan([path])
    failures: list[str] = []
    for study in found.studies:
        planned = plan_views(study, WANTED, load_prompts())
        check_planned(planned)
        for view in planned.views:
            for slab in view.view.slabs[:FRAMES_EACH]:
                frame = slab.middle.frame
                for read in (
                    lambda frame=frame: load_stored(frame),
                    lambda frame=frame: pixel_digest(frame),
                    lambda slab=slab, view=view.view: render(slab, view.rendering, view.stack.turn),
                ):
                    failures += try_to(read)
    if path.is_dir():
        check_accounted(found, path)
    return found, failures


def check_accounted(found: Scan, folder: Path) -> None:
    """Assert that every file is in a series or listed."""
    unread = [*found.unread, *(one for study in found.studies for one in study.unread)]
    frames = [frame for study in found.studies for series in study.series for frame in series.frames]
    names = {one.source.name for one in [*unread, *frames]}
    missing = {path.name for path in folder.iterdir() if not any(path.name in name for name in names)}
    assert not missing, f"neither read nor listed: {missing}"


def check_planned(planned: PlannedStudy) -> None:
    """Assert that every frame that is to be read has one place, or one reason to have none."""
    chosen = [frame for choice in planned.choices if choice.read for frame in choice.series.frames]
    placed = [each.frame for stack in planned.stacks for each in stack.slices]
    accounted = [(frame.source.name, frame.index) for frame in placed]
    accounted += [(unread.source.name, unread.frame_index) for unread in planned.unread]
    assert sorted(accounted) == sorted((frame.source.name, frame.index) for frame in chosen)


def try_to(read: Callable[[], object]) -> list[str]:
    """Return why a frame cannot be read, if so."""
    try:
        read()
    except PixelError as error:
        return [error.found]
    return []


@contextmanager
def watched() -> Iterator[None]:
    """End the process, saying where it was, if what is inside takes too long; decoders hear of no exception."""
    faulthandler.dump_traceback_later(SECONDS_EACH, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def limit_memory(warm_up: Callable[[], object]) -> None:
    """Let this process have `MEMORY_BYTES` more than it has after `warm_up`, which loads what is loaded late."""
    import SimpleITK  # noqa: F401  # loaded by the last decoder

    warm_up()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def report(path: Path) -> dict[str, object]:
    """Read one folder or file; say what became of it."""
    start = monotonic()
    reasons: list[str] = []
    frames = 0
    try:
        found, failures = read_all(path)
        unread = [*found.unread, *(one for study in found.studies for one in study.unread)]
        reasons = [one.reason for one in unread] + failures
        frames = sum(len(series.frames) for study in found.studies for series in study.series)
    except MedvlError as error:
        reasons.append(error.found)
    return {"name": path.parent.name, "frames": frames, "reasons": reasons, "seconds": monotonic() - start}


def main(root: Path, whole: Path) -> None:
    """Read `input` in each folder under `root`, with the memory that `whole` leaves."""
    warnings.simplefilter("ignore")
    limit_memory(lambda: read_all(whole))
    for folder in sorted(root.iterdir()):
        with watched():
            print(json.dumps(report(next(folder.iterdir()))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
