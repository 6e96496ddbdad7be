"""Judges the gate's notes: what a report may be wrong or silent about, and what is merely worth knowing.

`--strict` refuses a stack over a caution alone. Each judgement comes with its reason, which `docs/gate.md` prints.
"""

from __future__ import annotations

from collections.abc import Iterable

from medvl.records import Note, Severity

_NO_SLICES = "these are no slices of the patient as the scanner made them"
_NO_SUV = "uptake cannot be compared with other patients or earlier studies"
_NO_HU = "a window in HU would show something else than it says"
_NO_MILLIMETRES = "no size can be measured in the plane"

_JUDGED: dict[Severity, dict[str, str]] = {
    "information": {
        "mixed_orientation": "each plane is whole in a stack of its own",
        "derived": "what reaches a reading room is often derived; maximum and other projections are notes of their own",
        "reformat": "the same values along another plane",
        "tilt": "the shift is exact and undone",
        "uneven_spacing": "every slice keeps its own place",
        "overlap": "overlapping reconstruction is ordinary and loses nothing",
        "uncalibrated": "few X-rays are calibrated, and none shows one scale throughout the body",
        "non_square_pixels": "resampling is exact",
        "rescale_varies": "every slice keeps its own values",
    },
    "caution": {
        "localizer": _NO_SLICES,
        "dose_page": _NO_SLICES,
        "reformat_or_projection": _NO_SLICES,
        "secondary_capture": _NO_SLICES,
        "colour": _NO_SLICES,
        "other_modality": _NO_SLICES,
        "mosaic": _NO_SLICES,
        "uncorrected_pet": _NO_SUV,
        "cine": _NO_SLICES,
        "other_kind": _NO_SLICES,
        "mixed_matrix": "slices of one body may be torn into stacks that each lack some",
        "mixed_spacing": "slices of one body may be torn into stacks that each lack some",
        "truncated": "images are missing",
        "burned_in_annotation": "the pictures may show who the patient is",
        "body_part": "the prompt may be for another part of the body",
        "no_position": "order, side and place along the body are a guess",
        "few_slices": "there is hardly a volume to judge",
        "shear": "neighbouring slices do not show the same field",
        "gap": "a part of the body is missing",
        "apart": "what lies between the slices was never imaged",
        "no_pixel_spacing": _NO_MILLIMETRES,
        "zero_pixel_spacing": _NO_MILLIMETRES,
        "zero_slope": _NO_HU,
        "unrescaled": _NO_HU,
        "unknown_unit": _NO_HU,
        "no_dicom_header": "the prompt may be for another kind of picture",
        "guessed_ct": "the guess may be wrong, and the windows with it",
        "suv_units": _NO_SUV,
        "suv_corrections": _NO_SUV,
        "suv_weight": _NO_SUV,
        "suv_dose": _NO_SUV,
        "suv_time": _NO_SUV,
        "duplicate_position": "what lies there a second time, perhaps another phase, is not read",
        "near_duplicate_position": "what lies there a second time, perhaps another phase, is not read",
    },
}


def severity(code: str) -> Severity:
    """Judge a note by its code; one that is not known is a caution."""
    return "information" if code in _JUDGED["information"] else "caution"


def reason_for(code: str) -> str:
    """Say why a note is judged so. Raises KeyError for a code without a judgement."""
    return _JUDGED[severity(code)][code]


def cautions(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Return the notes that `--strict` refuses a stack over."""
    return tuple(note for note in notes if severity(note.code) == "caution")
