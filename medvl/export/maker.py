"""What every DICOM object made by medvl says of its maker and its moment: those of the report, never of the export."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.dataset import Dataset

from medvl.export.uids import written_at
from medvl.report.document import ReportDocument
from medvl.report.words import words_of
from medvl.text import clean_text

UTF8 = "ISO_IR 192"  # Specific Character Set of all that is written
_LONG_STRING = 64


def creation(document: ReportDocument) -> dict[str, Any]:
    """Return what highdicom's constructors ask for beside UIDs and content."""
    moment = written_at(document)
    return {
        "manufacturer": "medvl",
        "manufacturer_model_name": _long_string(document.provenance.reader.model),
        "software_versions": _long_string(document.provenance.medvl_version),
        "device_serial_number": _long_string(document.provenance.reader.fingerprint),
        "series_description": words_of(document.language)("export.series"),
        "content_date": moment.strftime("%Y%m%d"),
        "content_time": moment.strftime("%H%M%S"),
        "specific_character_set": UTF8,
    }


def _long_string(text: str) -> str:
    """Write a value of type 1; a backslash, as in a Windows path, would make two of it (PS3.5 6.4)."""
    return clean_text(text, _LONG_STRING).replace("\\", "/") or "not stated"


def stamp(dataset: Dataset, document: ReportDocument, identity: Dataset) -> None:
    """Give an object the report's moment instead of now, and what the study's own objects say of de-identification."""
    moment = written_at(document)
    dataset.InstanceCreationDate = moment.strftime("%Y%m%d")
    dataset.InstanceCreationTime = moment.strftime("%H%M%S")
    dataset.SpecificCharacterSet = UTF8
    for equipment in dataset.get("ContributingEquipmentSequence", ()):
        equipment.pop("ContributionDateTime", None)  # highdicom notes that it was used, and when
    for keyword in ("IssuerOfPatientID", "StudyDescription", "PatientIdentityRemoved", "DeidentificationMethod"):
        if identity.get(keyword):
            setattr(dataset, keyword, identity.get(keyword))


@contextmanager
def discreet() -> Iterator[None]:
    """Keep highdicom and pydicom from repeating odd values of a header, such as the patient's name, in their warnings.

    As a decorator, for a function that reads, makes or writes an object.
    """
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
