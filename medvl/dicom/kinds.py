"""Says what kind of object an instance is, and why it is not worth reading: the rules of the study gate that a
header alone can answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydicom.uid import UID, MediaStorageDirectoryStorage, RTImageStorage

from medvl.dicom.geometry import PROJECTION_MODALITIES
from medvl.dicom.instance import Instance, SeriesFacts

# Modalities that medvl's prompts speak of. Others are read when asked for by UID.
READ_MODALITIES = frozenset({"CT", "MR", "CR", "DX", "DR", "RG"})

# Pixels that are not a picture of the patient, by the start of the SOP Class UID (PS3.4 B.5).
_NO_PICTURE = tuple(
    f"1.2.840.10008.5.1.4.1.1.{root}"
    for root in (
        "11.",  # presentation states
        "9.",  # waveforms
        "30",  # parametric map
        "66",  # registration, fiducials, segmentation
        "67",  # real world value mapping
        "68.",  # surface scan
        "77.1.5",  # ophthalmic measurements
        "77.1.6",  # whole slide
        "88.",  # structured reports
        "104.",  # encapsulated documents
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
        return Kind(no_image_because=f"not an image ({UID(instance.sop_class_uid).name})")
    if not instance.frames:
        return Kind(no_image_because=instance.unread_because)
    return Kind(not_read_because=_why_not_worth_reading(instance))


def _why_not_worth_reading(instance: Instance) -> str:
    series, words = instance.series, frozenset(instance.series.image_type)
    if words & _DOSE_WORDS or _DOSE.search(series.description):
        return "dose or protocol page"
    if words & _SCOUT_WORDS or _is_named_scout(series):
        return "scout (localizer)"
    if words & _CAPTURE_WORDS or (instance.sop_class_uid.startswith(_SECONDARY_CAPTURE) and not _has_place(instance)):
        return "secondary capture (a picture of a screen or a paper)"
    if found := sorted(words & _REFORMAT_WORDS):
        return f"derived from other images ({found[0]})"
    if not instance.photometric.startswith("MONOCHROME"):
        return f"colour picture ({instance.photometric or 'no photometric interpretation'})"
    if series.modality not in READ_MODALITIES:
        return f"modality {series.modality or 'unknown'}, read only when asked for"
    return ""


def _is_named_scout(series: SeriesFacts) -> bool:
    if series.modality in PROJECTION_MODALITIES:  # a plain film before contrast is called a scout, too
        return False
    names = [_SCOUT, _MR_SCOUT] if series.modality == "MR" else [_SCOUT]
    return any(name.search(series.description) for name in names)


def _has_place(instance: Instance) -> bool:
    """Tell converted slices and X-rays, which often call themselves secondary captures, from pictures of a screen."""
    return instance.series.modality in PROJECTION_MODALITIES or instance.frames[0].plane is not None
