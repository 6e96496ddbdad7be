"""Says what kind of object an instance is, and why it is not worth reading: the rules of the study gate that a
header alone can answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from pydicom.uid import UID, MediaStorageDirectoryStorage, RTImageStorage

from medvl.dicom.geometry import PROJECTION_MODALITIES
from medvl.dicom.instance import Instance, SeriesFacts
from medvl.dicom.layout import NO_PIXELS
from medvl.dicom.source import is_volume
from medvl.dicom.volumes import why_not_read

# Modalities that are read by default; others when asked for by UID.
READ_MODALITIES = frozenset({"CT", "MR", "PT", "CR", "DX", "DR", "RG", "MG", "XA", "RF", "US"})
# Of these, runs of pictures over time are no stack of slices.
_CINE_MODALITIES = frozenset({"XA", "RF", "US"})

# Pixels that are not a picture of the patient, by the start of the SOP Class UID (PS3.4 B.5).
_NO_PICTURE = tuple(
    f"1.2.840.10008.5.1.4.1.1.{root}"
    for root in (
        "11.",  # presentation states
        "9.",  # waveforms
        "30",  # parametric map
        "4.2",  # MR spectroscopy
        "66",  # registration, fiducials, segmentation
        "67",  # real world value mapping
        "68.",  # surface scan
        "77.1.5",  # ophthalmic measurements
        "77.1.6",  # whole slide
        "88.",  # structured reports
        "104.",  # encapsulated documents
        "90.",  # content assessment results
        "200.",  # protocols
        "481.",  # radiotherapy, but for its X-rays
    )
)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

_SCOUT_WORDS = frozenset({"LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"})
_REFORMAT_WORDS = frozenset(
    {
        *("MPR", "CSA MPR", "REFORMATTED", "CPR", "CURVED"),
        *("MIP", "CSA MIP", "MAX_IP", "MIP_SUB", "MINIP", "MNIP", "MIN_IP", "PROJECTION IMAGE"),
        *("CSA 3D", "RENDERED", "SSD", "VOLREN", "VOLUME RENDERING", "VRT"),
    }
)
_CAPTURE_WORDS = frozenset({"SCREEN SAVE", "SCREENSHOT", "SCREEN", "CAPTURE", "SECONDARY CAPTURE"})
_MOSAIC_WORDS = frozenset({"MOSAIC"})
_DOSE_WORDS = frozenset({"DOSE_INFO", "DOSE INFO", "CT_SOM5 PROT", "CT_SOM7 PROT", "PROT"})

_DOSE = re.compile(r"\bdose[ _-]?(report|info|page|record|summary|sheet)|\b(patient|exam) protocol\b", re.IGNORECASE)
_SCOUT = re.compile(r"\b(scout|topogram|surview|scanogram|locali[sz]er)\b", re.IGNORECASE)
_MR_SCOUT = re.compile(r"\b(survey|pilot)\b", re.IGNORECASE)  # elsewhere a bone survey, a pilot study


@dataclass(frozen=True, slots=True)
class Kind:
    """What an instance is: not an image at all, an image better left unread, or worth reading (both empty)."""

    no_image_because: str = ""
    not_read_because: str = ""


def kind_of(instance: Instance) -> Kind:
    """Say what an instance is."""
    if instance.sop_class_uid == MediaStorageDirectoryStorage:
        return Kind(no_image_because="DICOMDIR index")
    if instance.sop_class_uid.startswith(_NO_PICTURE) and instance.sop_class_uid != RTImageStorage:
        return Kind(no_image_because=_not_an_image(instance.sop_class_uid))
    if not instance.frames:
        if instance.unread_because == NO_PIXELS and _names_no_image(instance.sop_class_uid):
            return Kind(no_image_because=_not_an_image(instance.sop_class_uid))
        return Kind(no_image_because=instance.unread_because)
    if not instance.sop_class_uid and is_volume(instance.source):
        return Kind(not_read_because=why_not_read(instance))
    placed = instance.frames[0].plane is not None
    because = _why_not_worth_reading(
        instance.series, instance.sop_class_uid, instance.photometric, len(instance.frames), placed
    )
    return Kind(not_read_because=because)


def _not_an_image(sop_class_uid: str) -> str:
    return f"not an image: {UID(sop_class_uid).name.removesuffix(' Storage')}"


def _names_no_image(sop_class_uid: str) -> bool:
    """Tell objects that never have pixels, such as hanging protocols, from images whose pixels got lost."""
    name = UID(sop_class_uid).name
    return name != sop_class_uid and "Image" not in name


@lru_cache(maxsize=256)  # most files are like the one before
def _why_not_worth_reading(
    series: SeriesFacts, sop_class_uid: str, photometric: str, frame_count: int, placed: bool
) -> str:
    """placed: the first frame lies somewhere in the patient."""
    words = frozenset(series.image_type)
    if words & _DOSE_WORDS or _DOSE.search(series.description):
        return "dose or protocol page"
    if words & _SCOUT_WORDS or _is_named_scout(series):
        return "scout (localizer)"
    # Converted slices and X-rays often call themselves secondary captures.
    has_place = placed or series.modality in PROJECTION_MODALITIES
    if words & _CAPTURE_WORDS or (sop_class_uid.startswith(_SECONDARY_CAPTURE) and not has_place):
        return "secondary capture (a picture of a screen or a paper)"
    if found := sorted(words & _REFORMAT_WORDS):
        return f"derived from other images ({found[0]})"
    if not photometric.startswith("MONOCHROME"):
        return f"colour picture ({photometric or 'no photometric interpretation'})"
    if words & _MOSAIC_WORDS:
        return "mosaic: many slices tiled into one picture, in a vendor's own way"
    if series.modality == "PT" and series.corrections and "ATTN" not in series.corrections:
        return "PET without attenuation correction"
    if series.modality in _CINE_MODALITIES and frame_count > 1 and not placed:
        return f"cine run of {frame_count} pictures"
    if series.modality not in READ_MODALITIES:
        return f"modality {series.modality or 'unknown'}, read only when asked for"
    return ""


def _is_named_scout(series: SeriesFacts) -> bool:
    if series.modality in PROJECTION_MODALITIES:  # a plain film before contrast is called a scout, too
        return False
    names = [_SCOUT, _MR_SCOUT] if series.modality == "MR" else [_SCOUT]
    return any(name.search(series.description) for name in names)
