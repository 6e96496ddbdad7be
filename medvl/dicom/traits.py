"""Reads what may tell a frame from another one at the same place: b-value, echo, phase, kernel and their like.

Enhanced objects keep these in functional groups, legacy converted ones also in unassigned attributes, and vendors some
in private elements. What differs between frames and what that means for the stacks is for `splitting`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from functools import lru_cache
from sys import intern
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from medvl.dicom.elements import integer, items, number, numbers, text, texts
from medvl.dicom.header import BROKEN
from medvl.records import Traits, Vector

Layers = tuple[Dataset, ...]  # where to look for an attribute, the nearest to the frame first

_KEYWORDS = (
    "ImageType ComplexImageComponent EchoTime InversionTime FlipAngle DiffusionBValue DiffusionGradientOrientation "
    "TemporalPositionIdentifier TriggerTime NominalPercentageOfCardiacPhase DimensionIndexSequence"
)
# Functional groups (PS3.3 C.7.6.16.2, C.8.13.5, C.8.15.3, C.8.22.5) and what a conversion found no group for.
_MACROS = (
    "FrameContentSequence",
    "CTImageFrameTypeSequence",
    "MRImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "CTReconstructionSequence",
    "MREchoSequence",
    "MRDiffusionSequence",
    "MRModifierSequence",
    "MRTimingAndRelatedParametersSequence",
    "TemporalPositionSequence",
    "CardiacSynchronizationSequence",
    "ContrastBolusUsageSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)
# b-values of vendors' private elements: creator, element.
_SIEMENS_B = ("SIEMENS MR HEADER", 0x0019100C)
_GE_B = ("GEMS_PARM_01", 0x00431039)
_PHILIPS_B = ("Philips Imaging DD 001", 0x20011003)
_GE_B_OFFSET = 100_000  # newer GE scanners add 10⁹, a multiple of this, to say that the value is exact
TRAIT_TAGS = tuple(tag_for_keyword(keyword) or 0 for keyword in _KEYWORDS.split()) + tuple(
    tag for _, element in (_SIEMENS_B, _GE_B, _PHILIPS_B) for tag in (element, element & 0xFFFF0000 | 0x10)
)
# Dimensions that say where a frame lies; what is left says which of several frames there it is (PS3.3 C.7.6.17).
_PLACES = frozenset(
    tag_for_keyword(keyword)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "InStackPositionNumber", "SliceLocation")
)
# "M", "M_FFE": magnitude; vendors write them among the later values of (0008,0008) Image Type.
_COMPONENT = re.compile(r"([MPRI])(_[A-Z0-9]+)?|(MAGNITUDE|PHASE|REAL|IMAGINARY)|(PHASE MAP|VELOCITY MAP)")
_COMPONENTS = {"M": "MAGNITUDE", "P": "PHASE", "R": "REAL", "I": "IMAGINARY"}
_DIRECTION_DIGITS = 2


def group_layers(groups: Sequence[Dataset]) -> Layers:
    """Return the items of functional groups that hold traits, those of the first group first."""
    return tuple(item for group in groups for macro in _MACROS if macro in group for item in items(group, macro)[:1])


def traits_of(layers: Layers, dataset: Dataset) -> Traits:
    """Read a frame's traits.

    layers: of its functional groups, none for a single-frame image. dataset: the top of the header.
    """
    modality = text(dataset, "Modality").upper()
    everywhere = (*layers, dataset)
    image_type = tuple(intern(value.upper()) for value in _first_texts(everywhere, "FrameType", "ImageType"))
    mr = _mr_traits(everywhere, dataset, image_type) if modality == "MR" else {}
    return _shared(
        Traits(
            image_type=image_type,
            kernel=intern(_first_text(everywhere, "ConvolutionKernel")),
            stack_id=intern(_first_text(layers, "StackID")),
            temporal_position=_temporal_position(layers, dataset),
            contrast_phase=intern(_first_text(layers, "ContrastBolusAgentPhase")),
            trigger_ms=_first_number(everywhere, "NominalCardiacTriggerDelayTime", "TriggerTime"),
            heart_percent=_first_number(everywhere, "NominalPercentageOfCardiacPhase"),
            dimensions=_dimensions(layers, dataset),
            **mr,
        )
    )


@lru_cache(maxsize=4096)
def _shared(traits: Traits) -> Traits:
    """Let equal frames share one value."""
    return traits


def _mr_traits(layers: Layers, dataset: Dataset, image_type: tuple[str, ...]) -> dict[str, Any]:
    b_value = _first_number(layers, "DiffusionBValue")
    return {
        "component": _component(_first_text(layers, "ComplexImageComponent"), image_type),
        "b_value": _private_b_value(dataset) if b_value is None else b_value,
        "b_direction": _direction(layers),
        "echo_ms": _first_number(layers, "EffectiveEchoTime", "EchoTime"),
        "inversion_ms": _first_number(layers, "InversionTimes", "InversionTime"),
        "flip_degrees": _first_number(layers, "FlipAngle"),
    }


def _component(named: str, image_type: tuple[str, ...]) -> str:
    """Name the component of complex values, from (0008,9208) or the vendor's words in the image type."""
    if named:
        return intern(named.upper())
    for value in image_type[2:]:
        if match := _COMPONENT.fullmatch(value):
            return _COMPONENTS.get(match[1] or "", match[3] or "PHASE")
    return ""


def _direction(layers: Layers) -> Vector | None:
    nested = tuple(item for layer in layers for item in items(layer, "DiffusionGradientDirectionSequence")[:1])
    for layer in (*nested, *layers):
        values = numbers(layer, "DiffusionGradientOrientation")
        if len(values) == 3:
            x, y, z = (round(value, _DIRECTION_DIGITS) + 0.0 for value in values)  # + 0.0: no negative zero
            return x, y, z
    return None


def _private_b_value(dataset: Dataset) -> float | None:
    for creator, element in (_SIEMENS_B, _PHILIPS_B):
        if (value := private_number(dataset, creator, element)) is not None:
            return value
    value = private_number(dataset, *_GE_B)
    return None if value is None else value % _GE_B_OFFSET


def private_number(dataset: Dataset, creator: str, element: int) -> float | None:
    """Read the first number of a private element of the block 10, None where another creator or nothing is there.

    Where the value representation got lost (UN), text is tried, then a float of 4 bytes or a double of 8.
    """
    owner = dataset.get(element & 0xFFFF0000 | 0x10)
    found = dataset.get(element)
    if found is None or owner is None or str(owner.value).strip() != creator:
        return None
    try:
        value = found.value
        if isinstance(value, bytes):
            value = _lost_number(value)
        elif hasattr(value, "__iter__") and not isinstance(value, str):
            value = next(iter(value))
        result = float(value)
    except (*BROKEN, StopIteration):
        return None
    return result if abs(result) < float("inf") else None


def _lost_number(value: bytes) -> float:
    words = value.split(b"\\")[0].strip(b" \0")
    try:
        return float(words)
    except ValueError:
        return float(struct.unpack({4: "<f", 8: "<d"}[len(value)], value)[0])


def _temporal_position(layers: Layers, dataset: Dataset) -> int | None:
    for layer in layers:
        if (index := integer(layer, "TemporalPositionIndex")) is not None:
            return index
    return integer(dataset, "TemporalPositionIdentifier")


def _dimensions(layers: Layers, dataset: Dataset) -> tuple[int, ...]:
    """Read the Dimension Index Values of a frame whose dimensions say more than its place (PS3.3 C.7.6.17)."""
    values = next((numbers(layer, "DimensionIndexValues") for layer in layers if "DimensionIndexValues" in layer), ())
    if not values:
        return ()
    pointers = [dimension.get("DimensionIndexPointer") for dimension in items(dataset, "DimensionIndexSequence")]
    if len(pointers) != len(values):
        return ()
    return tuple(int(value) for value, pointer in zip(values, pointers, strict=True) if pointer not in _PLACES)


def _first_texts(layers: Layers, *keywords: str) -> tuple[str, ...]:
    return next((found for layer in layers for keyword in keywords if (found := texts(layer, keyword))), ())


def _first_text(layers: Layers, keyword: str) -> str:
    return next(iter(_first_texts(layers, keyword)), "")


def _first_number(layers: Layers, *keywords: str) -> float | None:
    found = (number(layer, keyword) for layer in layers for keyword in keywords)
    return next((value for value in found if value is not None), None)
