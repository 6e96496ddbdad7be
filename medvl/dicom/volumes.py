"""Makes frames of NIfTI, NRRD and MetaImage files: each file a patient, a study and a series of its own.

Such a file names no patient, modality or unit. Its slices are those along the third stored axis, in the place that the
file gives them. SimpleITK reads it in a helper process, which may crash over a hostile one.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import sys
from dataclasses import fields, replace
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian

from medvl.dicom.decode_pool import CrashError, DecodePool
from medvl.dicom.decoders import DecodeError
from medvl.dicom.instance import Instance, SeriesFacts, StudyFacts
from medvl.dicom.volume_facts import VolumeFacts
from medvl.errors import InputError
from medvl.records import Frame, PixelLayout, Plane, Source, Traits
from medvl.text import clean_text

NO_HEADER, GUESSED_CT = "no_dicom_header", "guessed_ct"  # codes of the gate
MAX_SECONDS = 120.0  # to open a file; a compressed one of 1 GiB takes ten
_GREY, _COLOUR, _VECTOR = "MONOCHROME2", "RGB", "VECTOR"  # photometric interpretations; the last is none of DICOM's
_LABELS = "LABELMAP"  # among the image types
_SUFFIX = re.compile(r"(\.nii)?(\.[^.]+)$", re.IGNORECASE)
_DESCRIPTION_CHARACTERS = 64


def read_volume(source: Source) -> Instance:
    """Read what a volume file says of itself, and look at some of its slices for what its values may be.

    Raises InputError, saying why in a few words, when it cannot be read.
    """
    if source.member is not None:
        raise InputError("a volume inside a zip archive", todo="Unpack the archive")
    try:
        told = _helper().ask(source, None).tobytes()
    except DecodeError as error:
        raise InputError(error.found, expected=error.expected) from error.__cause__
    return _instance_of(source, _facts_from(json.loads(told)))


def read_slice(frame: Frame) -> bytes:
    """Read the voxels of one slice, little endian and row by row. Raises DecodeError."""
    if frame.layout.photometric == _VECTOR:
        raise DecodeError("its voxels are vectors, which have no grey value")
    pixels = _helper().ask(frame.source, frame.index)
    return pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()


def why_not_read(instance: Instance) -> str:
    """Say why the slices of a volume are not worth reading; "" when they are."""
    if instance.photometric == _COLOUR:
        return f"colour picture ({_COLOUR})"
    if instance.photometric == _VECTOR:
        return "vectors, not grey values"
    if _LABELS in instance.series.image_type:
        return "a label map, as far as its values tell, read only when asked for"
    return ""


class _Helper:
    """One process for all volumes: it keeps the last, so that no more than one is in memory."""

    def __init__(self) -> None:
        self._pool = DecodePool((sys.executable, "-m", "medvl.dicom.volume_worker"))
        self._lock = Lock()

    def ask(self, source: Source, index: int | None) -> NDArray[Any]:
        """Ask for the facts (None) or a slice. Raises DecodeError."""
        request = json.dumps({"path": str(source.path.absolute()), "index": index}).encode() + b"\n"
        with self._lock:
            try:
                return self._pool.ask(request, MAX_SECONDS)
            except CrashError as error:
                raise DecodeError(f"SimpleITK crashed over it, or took more than {MAX_SECONDS:g} s") from error

    def close(self) -> None:
        """End the process."""
        self._pool.close()


def _helper() -> _Helper:
    return _helper_of(os.getpid())  # a forked process must not talk to its parent's


@lru_cache(maxsize=1)
def _helper_of(_process_id: int) -> _Helper:
    helper = _Helper()
    atexit.register(helper.close)
    return helper


def _facts_from(told: dict[str, Any]) -> VolumeFacts:
    return VolumeFacts(**{name: _as_tuples(value) for name, value in told.items()})


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


# --- facts → frames ----------------------------------------------------------------------------------------------


def _instance_of(source: Source, facts: VolumeFacts) -> Instance:
    layout, claimed = _layout_of(facts), facts.slices * facts.volumes
    base = _frame_base(source, facts, layout)
    return Instance(
        source=source,
        sop_instance_uid=base.sop_instance_uid,
        sop_class_uid="",
        study=_study_facts(facts),
        series=_series_facts(source, facts),
        photometric=layout.photometric,
        frames=tuple(_frame(base, facts, index) for index in range(facts.readable)),
        frame_count=claimed,
        unread_because=f"truncated: the pixels of {facts.readable} of {claimed} frames are there"
        if facts.readable < claimed
        else "",
    )


def _layout_of(facts: VolumeFacts) -> PixelLayout:
    """Describe slices as `read_slice` gives them: uncompressed, wherever and however they lie in the file."""
    kind = np.dtype(facts.sample_type)
    is_colour = kind == np.uint8 and facts.samples in (3, 4)
    return PixelLayout(
        transfer_syntax_uid=ExplicitVRLittleEndian,
        offset_bytes=0,
        length_bytes=facts.readable * facts.rows * facts.columns * facts.samples * kind.itemsize,
        bits_allocated=8 * kind.itemsize,
        bits_stored=8 * kind.itemsize,
        signed=kind.kind == "i",
        samples_per_pixel=facts.samples,
        photometric=_GREY if facts.samples == 1 else _COLOUR if is_colour else _VECTOR,
        frame_count=facts.slices * facts.volumes,
        floating=kind.kind == "f",
    )


def _frame_base(source: Source, facts: VolumeFacts, layout: PixelLayout) -> Frame:
    """Make a frame of what all slices share."""
    is_ct = facts.look == "HU"
    return Frame(
        source=source,
        index=0,
        sop_instance_uid=_uid(facts, "instance"),
        sop_class_uid="",
        rows=facts.rows,
        columns=facts.columns,
        layout=layout,
        pixel_spacing_mm=(facts.spacing_mm[1], facts.spacing_mm[0]) if facts.spacing_mm else None,
        rescale_unit="HU" if is_ct else "",
        frame_of_reference_uid=_uid(facts, "frame of reference"),
        flaws=(GUESSED_CT if is_ct else NO_HEADER,),
    )


def _frame(base: Frame, facts: VolumeFacts, index: int) -> Frame:
    return replace(
        base,
        index=index,
        instance_number=index + 1,
        plane=_plane(facts, index % facts.slices),
        traits=Traits(temporal_position=index // facts.slices + 1 if facts.volumes > 1 else None),
    )


def _plane(facts: VolumeFacts, number: int) -> Plane | None:
    if facts.axes is None or facts.spacing_mm is None or facts.origin_lps_mm is None:
        return None
    across, down, along = facts.axes
    x, y, z = (
        start + number * facts.spacing_mm[2] * step for start, step in zip(facts.origin_lps_mm, along, strict=True)
    )
    return Plane((x, y, z), across, down)


def _study_facts(facts: VolumeFacts) -> StudyFacts:
    nothing = dict.fromkeys((each.name for each in fields(StudyFacts)), "")
    return StudyFacts(**nothing | {"uid": _uid(facts, "study")})


def _series_facts(source: Source, facts: VolumeFacts) -> SeriesFacts:
    return SeriesFacts(
        uid=_uid(facts, "series"),
        number=None,
        modality="CT" if facts.look == "HU" else "",
        description=clean_text(_SUFFIX.sub("", source.path.name), _DESCRIPTION_CHARACTERS),
        body_part="",
        protocol="",
        kernel="",
        image_type=(_LABELS,) if facts.look == "labels" else (),
        manufacturer="",
        contrast="",
        burned_in_annotation=False,
    )


def _uid(facts: VolumeFacts, level: str) -> str:
    """Make a UID of a file's bytes: the same wherever the file lies (PS3.5 B.2, as a UUID's)."""
    return f"2.25.{int(hashlib.sha256(f'{level} {facts.digest}'.encode()).hexdigest()[:32], 16)}"
