"""Decodes compressed frames in a process of its own: `python -m medvl.dicom.decode_worker`, started by `decode_pool`.

A request is a line of JSON and the compressed bytes; the reply a line of JSON and the decoded ones. The process ends
with its input, so that none outlives the program that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import IO, Any

from numpy.typing import NDArray

from medvl.dicom.decoders import MAX_FRAME_BYTES, DecodeError, decode_frame
from medvl.records import PixelLayout

MAX_MEMORY_BYTES = 3 * MAX_FRAME_BYTES  # OpenJPEG needs four bytes for each sample and the result besides


def main() -> None:
    """Answer requests on standard input until it ends."""
    serve(_decode, MAX_MEMORY_BYTES)


def serve(answer: Callable[[dict[str, Any], IO[bytes]], NDArray[Any]], max_memory_bytes: int) -> None:
    """Answer requests on standard input until it ends: what `answer` returns, or the DecodeError that it raises."""
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # decoders write their complaints to either; the one that started us drops the second
        _limit_memory(max_memory_bytes)
        while line := sys.stdin.buffer.readline():
            try:
                pixels = answer(json.loads(line), sys.stdin.buffer)
                reply, decoded = {"type": pixels.dtype.str, "shape": pixels.shape}, pixels.tobytes()
            except DecodeError as error:
                reply, decoded = {"found": error.found, "expected": error.expected}, b""
            replies.write(json.dumps(reply).encode() + b"\n" + decoded)
            replies.flush()


def _decode(request: dict[str, Any], requests: IO[bytes]) -> NDArray[Any]:
    content = requests.read(request["bytes"])
    layout = PixelLayout(**request["layout"])
    return decode_frame(content, layout, request["rows"], request["columns"], skip=request["skip"])


def _limit_memory(most_bytes: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows; a tighter limit may be set already
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main()
