"""Decodes compressed frames in a process of its own: `python -m medvl.dicom.decode_worker`, started by `decode_pool`.

A request is a line of JSON and the compressed bytes; the reply a line of JSON and the decoded ones. The process ends
with its input, so that none outlives the program that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import IO, Any

from medvl.dicom.decoders import MAX_FRAME_BYTES, DecodeError, decode_frame
from medvl.records import PixelLayout

MAX_MEMORY_BYTES = 3 * MAX_FRAME_BYTES  # OpenJPEG needs four bytes for each sample and the result besides


def main() -> None:
    """Answer requests on standard input until it ends."""
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # decoders write their complaints to either; the one that started us drops the second
        _limit_memory()
        while line := sys.stdin.buffer.readline():
            _answer(json.loads(line), sys.stdin.buffer, replies)


def _answer(request: dict[str, Any], requests: IO[bytes], replies: IO[bytes]) -> None:
    content = requests.read(request["bytes"])
    layout = PixelLayout(**request["layout"])
    try:
        pixels = decode_frame(content, layout, request["rows"], request["columns"], skip=request["skip"])
        reply, decoded = {"type": pixels.dtype.str, "shape": pixels.shape}, pixels.tobytes()
    except DecodeError as error:
        reply, decoded = {"found": error.found, "expected": error.expected}, b""
    replies.write(json.dumps(reply).encode() + b"\n" + decoded)
    replies.flush()


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows; a tighter limit may be set already
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main()
