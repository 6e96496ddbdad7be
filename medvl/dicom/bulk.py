"""Reads many headers: those that are remembered from the cache, the others in several processes once there are enough
to pay for them. What comes out, and in which order, depends on neither.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from pydicom.config import disable_value_validation

from medvl.dicom.attempt import Unreadable, try_instance
from medvl.dicom.coding import Table, decode_instances, encode_instances
from medvl.dicom.instance import Instance
from medvl.dicom.shelves import HeaderCache, Shelf, Stamp, stamp_of
from medvl.dicom.source import forget_archives, is_volume, leads_elsewhere
from medvl.records import Source, Unread

Found = Instance | Unreadable
_BATCH = 128  # files, some 30 ms of work
_AHEAD = 3  # batches for each process
_MOST_PROCESSES = 8  # more would wait for the disk, or for the one that gathers
# Files read alone before others help: a fork costs 30 ms, a fresh interpreter 400 ms, a header 0.25 ms.
ALONE_BEFORE_FORK, ALONE_BEFORE_SPAWN = 256, 3072
_OPEN_SHELVES = 64
_COLLECT_AFTER = 200_000  # new objects; ten thousand headers or more

_Told = tuple[str, str, str | None]  # a source, as processes tell each other
_Rows = tuple[list[Table], list[Unreadable | None]]  # None: the next instance of the tables


def read_headers(
    sources: Iterable[Source | Unread], cache: HeaderCache | None = None, processes: int | None = None
) -> Generator[tuple[Source, Found] | Unread, None, None]:
    """Read the headers of many files, in their order; what was not even found to be a file is passed on.

    cache: where headers are taken from and kept. processes: how many may help; None: as many as there are cores.
    """
    with ExitStack() as stack:
        stack.enter_context(quiet_pydicom())
        stack.enter_context(_settled_heap())
        helpers = stack.enter_context(_Helpers(processes))
        memory = stack.enter_context(_Memory(cache))
        yield from _read_in_line(iter(sources), helpers, memory)


@dataclass(slots=True)
class _File:
    """A file on its way through the line."""

    source: Source
    stamp: Stamp | None
    found: Found | None  # None: to be read

    @property
    def alone(self) -> bool:
        """Whether it is read here, after the one before: a volume may take as much memory as all headers together."""
        return is_volume(self.source)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Files that are read together."""

    files: list[_File | Unread]
    missing: list[_File]
    reading: Future[_Rows] | None  # None: they are read here


def _read_in_line(
    sources: Iterator[Source | Unread], helpers: _Helpers, memory: _Memory
) -> Iterator[tuple[Source, Found] | Unread]:
    """Hand out batches ahead of the one whose turn it is."""
    waiting: deque[_Batch] = deque()
    while True:
        while len(waiting) <= helpers.ahead and (some := list(islice(sources, _BATCH))):
            files = [each if isinstance(each, Unread) else memory.look_up(each) for each in some]
            missing = [file for file in files if isinstance(file, _File) and file.found is None and not file.alone]
            waiting.append(_Batch(files, missing, helpers.submit(missing)))
        if not waiting:
            return
        yield from _finish(waiting.popleft(), helpers, memory)


def _finish(batch: _Batch, helpers: _Helpers, memory: _Memory) -> Iterator[tuple[Source, Found] | Unread]:
    arriving = helpers.collect(batch)
    for file in batch.files:
        if isinstance(file, Unread):
            yield file
            continue
        found = file.found
        if found is None:
            found = try_instance(file.source) if file.alone else next(arriving)
            memory.keep(file, found)
        yield file.source, found


class _Memory:
    """The shelves in use."""

    def __init__(self, cache: HeaderCache | None) -> None:
        self._cache = cache
        self._shelves: dict[str, Shelf] = {}  # by folder or archive
        self._saved = False

    def __enter__(self) -> _Memory:
        return self

    def __exit__(self, *_: object) -> None:
        for place in list(self._shelves):  # after an interrupt, too
            self._put_away(place)
        if self._cache and self._saved:
            self._cache.tidy()

    def look_up(self, source: Source) -> _File:
        """Take a header from its shelf."""
        path = str(source.path)
        if self._cache is None or leads_elsewhere(path):  # to a file that may change when this one does not
            return _File(source, None, None)
        stamp = stamp_of(path)  # before the file is read: a later change shows the next time
        if stamp is None:
            return _File(source, None, None)
        place, key = _place_of(path, source.member)
        return _File(source, stamp, self._shelf_of(place, self._cache).find(key, source, stamp))

    def keep(self, file: _File, found: Found) -> None:
        """Put a header onto its shelf."""
        if self._cache is not None:
            place, key = _place_of(str(file.source.path), file.source.member)
            self._shelf_of(place, self._cache).keep(key, file.stamp, found)

    def _shelf_of(self, place: str, cache: HeaderCache) -> Shelf:
        if place not in self._shelves:
            while len(self._shelves) >= _OPEN_SHELVES:
                self._put_away(next(iter(self._shelves)))
            self._shelves[place] = cache.open(place)
        return self._shelves[place]

    def _put_away(self, place: str) -> None:
        self._saved |= self._shelves.pop(place).save(place)


def _place_of(path: str, member: str | None) -> tuple[str, str]:
    """Name a source's shelf, a folder or an archive, and its row there."""
    if member is not None:
        return path, member
    start = path.rfind(os.sep) + 1
    return path[:start], path[start:]


class _Helpers:
    """Other processes, once they pay; until then, and without them, this one."""

    def __init__(self, processes: int | None) -> None:
        self._processes = min(_core_count(), _MOST_PROCESSES) if processes is None else processes
        if multiprocessing.current_process().daemon:  # which may have no children
            self._processes = 1
        self._pool: ProcessPoolExecutor | None = None
        self._alone = 0  # files read here

    def __enter__(self) -> _Helpers:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def ahead(self) -> int:
        """How many batches to hand out before the first is needed."""
        return _AHEAD * self._processes if self._pool else 0

    def submit(self, files: Sequence[_File]) -> Future[_Rows] | None:
        """Let another process read some files, if there is one."""
        if not self._pool:
            self._begin()
        if not files or not self._pool:
            return None
        told = [(str(file.source.path), file.source.name, file.source.member) for file in files]
        try:
            return self._pool.submit(_read_rows, told)
        except (BrokenProcessPool, OSError):
            self._give_up()
            return None

    def collect(self, batch: _Batch) -> Iterator[Found]:
        """Yield what was read of the missing files of a batch."""
        rows = self._wait(batch.reading)
        if rows is None:
            for file in batch.missing:
                self._alone += 1
                yield try_instance(file.source)
            return
        instances, places = decode_instances(rows[0]), count()
        for file, refused in zip(batch.missing, rows[1], strict=True):
            yield refused or instances.take(next(places), file.source)

    def _wait(self, reading: Future[_Rows] | None) -> _Rows | None:
        try:
            return reading.result() if reading else None
        except BrokenProcessPool:  # the system ended one, for want of memory perhaps; alone there is more of it
            self._give_up()
            return None

    def _begin(self) -> None:
        method = _start_method()
        if self._processes > 1 and self._alone >= (ALONE_BEFORE_FORK if method == "fork" else ALONE_BEFORE_SPAWN):
            try:
                context = multiprocessing.get_context(method)
                self._pool = ProcessPoolExecutor(self._processes, context, _become_helper)
            except (ImportError, OSError):  # a machine without semaphores
                self._give_up()

    def _give_up(self) -> None:
        self._processes = 1
        self._end()

    def _end(self) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _core_count() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _start_method() -> str:
    """Choose fork only where nothing but this thread could hold a lock in its middle, and no GPU is in use."""
    is_alone = threading.active_count() == 1 and "torch" not in sys.modules
    return "fork" if sys.platform == "linux" and is_alone else "spawn"


def _become_helper() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked ends its helpers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    forget_archives()  # after a fork their places in the file would be shared
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def _read_rows(told: Sequence[_Told]) -> _Rows:
    """Read some files in a process of its own."""
    with quiet_pydicom():
        found = [try_instance(Source(Path(path), name, member)) for path, name, member in told]
    tables = encode_instances(each for each in found if isinstance(each, Instance))
    return tables, [each if isinstance(each, Unreadable) else None for each in found]


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep back pydicom's warnings, which quote header values: these may name the patient."""
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _settled_heap() -> Iterator[None]:
    """Let the garbage collector look seldom, and not at what was there before: next to nothing of it is garbage."""
    thresholds, was_frozen = gc.get_threshold(), gc.get_freeze_count() > 0
    gc.set_threshold(_COLLECT_AFTER, *thresholds[1:])
    if not was_frozen:
        gc.freeze()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if not was_frozen:
            gc.unfreeze()
