"""Sends compressed frames to helper processes: decoders hold Python's lock, and a hostile file may crash them.

One frame is with a helper at a time. A helper that crashes or takes too long costs no more than its frame.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from threading import Lock, Timer
from time import monotonic
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from medvl.dicom.decoders import DecodeError, decoder_names
from medvl.records import PixelLayout

MAX_SECONDS = 60.0  # for one frame; the largest mammogram takes two
_PIPE_BYTES = 1 << 20  # the most that Linux gives; a CT slice goes through in one piece


class CrashError(ChildProcessError):
    """A helper that ended before it answered, or was ended because it took too long."""


class DecodePool:
    """Helper processes, started as they are needed: as many as there are callers at the same time."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", "medvl.dicom.decode_worker")) -> None:
        """command: that starts one helper."""
        self._command = tuple(command)
        self._idle: list[subprocess.Popen[bytes]] = []
        self._lock = Lock()

    def decode(
        self, content: bytes, layout: PixelLayout, rows: int, columns: int, *, max_seconds: float = MAX_SECONDS
    ) -> NDArray[Any]:
        """Decode one frame in a helper; where a decoder crashes, the next one is asked in a new helper.

        Returns as `decode_frame` does. Raises DecodeError as it does, and if nothing comes back in time.
        """
        for skip in range(len(decoder_names(layout.transfer_syntax_uid))):
            request = {"bytes": len(content), "layout": asdict(layout), "rows": rows, "columns": columns, "skip": skip}
            start = monotonic()
            try:
                return self.ask(json.dumps(request).encode() + b"\n" + content, max_seconds)
            except CrashError:
                if monotonic() - start >= max_seconds:
                    raise DecodeError(f"decoding its pixels took more than {max_seconds:g} s") from None
        raise DecodeError("every decoder crashed over its pixels")

    def ask(self, request: bytes, max_seconds: float) -> NDArray[Any]:
        """Send a helper one request and return the array that it replies with.

        Raises DecodeError if that is what it replies, CrashError if it ends or takes too long; another takes its place.
        """
        helper = self._take()
        try:
            pixels = _ask(helper, request, max_seconds)
        except DecodeError:
            self._give_back(helper)
            raise
        except BaseException:
            _end(helper)
            raise
        self._give_back(helper)
        return pixels

    def close(self) -> None:
        """End the idle helpers."""
        with self._lock:
            idle, self._idle = self._idle, []
        for helper in idle:
            _end(helper)

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pipesize=_PIPE_BYTES,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # an interrupt is for the program, which decides what becomes of the frame
        )

    def _give_back(self, helper: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._idle.append(helper)


def decode_pool() -> DecodePool:
    """Give the helpers that this process shares; they end with it."""
    return _pool_of(os.getpid())  # a forked process must not talk to its parent's


@lru_cache(maxsize=1)
def _pool_of(_process_id: int) -> DecodePool:
    pool = DecodePool()
    atexit.register(pool.close)
    return pool


def _ask(helper: subprocess.Popen[bytes], request: bytes, max_seconds: float) -> NDArray[Any]:
    requests, replies = cast(IO[bytes], helper.stdin), cast(IO[bytes], helper.stdout)
    timer = Timer(max_seconds, helper.kill)
    timer.start()
    try:
        requests.write(request)
        requests.flush()
        reply = json.loads(replies.readline() or "null")
        if reply is None:
            raise CrashError
        if "found" in reply:
            raise DecodeError(reply["found"], reply["expected"])
        return _pixels(replies, reply["type"], reply["shape"])
    except (OSError, ValueError) as error:
        if isinstance(error, DecodeError | CrashError):
            raise
        raise CrashError from error
    finally:
        timer.cancel()


def _pixels(replies: IO[bytes], kind: str, shape: Sequence[int]) -> NDArray[Any]:
    pixels = np.empty(shape, kind)
    view = memoryview(cast(Any, pixels)).cast("B")
    place = 0
    while place < len(view):
        read = cast(Any, replies).readinto(view[place:])
        if not read:
            raise CrashError
        place += read
    return pixels


def _end(helper: subprocess.Popen[bytes]) -> None:
    helper.kill()
    helper.communicate()
