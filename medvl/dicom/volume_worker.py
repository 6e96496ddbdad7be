"""Reads NIfTI, NRRD and MetaImage files in a process of its own: `python -m medvl.dicom.volume_worker`, started by
`volumes`.

A request is a line of JSON: a path, and which slice; without one, the reply holds the facts as JSON. A volume that can
only be read whole is kept until another is asked for, so that there is one at a time.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medvl.dicom.decode_worker import serve
from medvl.dicom.volume_file import MAX_WHOLE_BYTES, Volume

MAX_MEMORY_BYTES = 3 * MAX_WHOLE_BYTES  # SimpleITK holds some twice while it reads them


class _Desk:
    """The volume that was asked for last."""

    def __init__(self) -> None:
        self._volume: Volume | None = None
        self._path = ""

    def answer(self, request: dict[str, Any], _: IO[bytes]) -> NDArray[Any]:
        """Answer one request."""
        if request["index"] is None or request["path"] != self._path or self._volume is None:
            self._volume = None  # before the next one takes its memory
            self._volume, self._path = Volume(Path(request["path"])), request["path"]
        if request["index"] is None:
            return np.frombuffer(json.dumps(asdict(self._volume.facts)).encode(), np.uint8)
        return self._volume.slice(request["index"])


if __name__ == "__main__":
    serve(_Desk().answer, MAX_MEMORY_BYTES)
