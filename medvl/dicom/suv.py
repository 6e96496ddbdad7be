"""Finds the factor that turns PET values into standardized uptake values by body weight (SUVbw, g/ml), from headers.

The facts used are those of PS3.3 C.8.9.1 and of the vendor-neutral recipe of QIBA's FDG-PET profile. Where one is
missing or cannot be trusted there is no factor: a wrong SUV looks like a right one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from medvl.dicom.elements import items, number, text, texts
from medvl.dicom.traits import private_number

SUV_UNIT = "SUVbw"
_KEYWORDS = (
    "Units SUVType CorrectedImage DecayCorrection PatientWeight RadiopharmaceuticalInformationSequence SeriesDate "
    "SeriesTime AcquisitionDate AcquisitionTime TimezoneOffsetFromUTC"
)
_PHILIPS = "Philips PET Private Group"
_PHILIPS_SUV, _PHILIPS_ACTIVITY = 0x70531000, 0x70531009  # factors from counts to SUVbw and to Bq/ml
SUV_TAGS = (
    *(tag_for_keyword(keyword) or 0 for keyword in _KEYWORDS.split()),
    *(0x70530010, _PHILIPS_SUV, _PHILIPS_ACTIVITY),
)
_G_PER_KG = 1000.0
_DAY_S = 86_400.0
_HEAVIEST_KG = 500.0
_SMALLEST_DOSE_BQ = 1e5  # less is a dose in MBq, which the standard does not allow
_LONGEST_HALF_LIVES = 10.0  # after which nothing is left to be seen: the times are wrong


class Uptake(NamedTuple):
    """How PET values become SUVbw: a factor of the rescaled value, or why there is none, as a code of the gate."""

    factor: float | None
    flaw: str = ""


class _MissingError(Exception):
    """A fact that the factor needs and the header does not give; the flaw's code."""


def uptake_of(dataset: Dataset) -> Uptake:
    """Find the factor from a PET image's rescaled values to SUVbw in g/ml.

    Flaws: suv_units, suv_corrections, suv_weight, suv_dose, suv_time.
    """
    try:
        return Uptake(_factor(dataset))
    except _MissingError as missing:
        return Uptake(None, str(missing))


def _factor(dataset: Dataset) -> float:
    units = text(dataset, "Units").upper()
    if units == "GML" and text(dataset, "SUVType").upper() in ("", "BW"):
        return 1.0
    _check_corrections(dataset)
    if units == "BQML":
        return _grams(dataset) / _dose_bq(dataset)
    if units != "CNTS":
        raise _MissingError("suv_units")
    if factor := private_number(dataset, _PHILIPS, _PHILIPS_SUV):
        return factor
    if activity := private_number(dataset, _PHILIPS, _PHILIPS_ACTIVITY):
        return activity * _grams(dataset) / _dose_bq(dataset)
    raise _MissingError("suv_units")


def _check_corrections(dataset: Dataset) -> None:
    corrections = {value.upper() for value in texts(dataset, "CorrectedImage")}
    if not {"ATTN", "DECY"} <= corrections or text(dataset, "DecayCorrection").upper() not in ("START", "ADMIN"):
        raise _MissingError("suv_corrections")


def _grams(dataset: Dataset) -> float:
    weight_kg = number(dataset, "PatientWeight") or 0.0
    if not 0 < weight_kg <= _HEAVIEST_KG:
        raise _MissingError("suv_weight")
    return weight_kg * _G_PER_KG


def _dose_bq(dataset: Dataset) -> float:
    """Compute the activity left at the time that the image's values are corrected to."""
    tracer = next(iter(items(dataset, "RadiopharmaceuticalInformationSequence")), Dataset())
    dose_bq = number(tracer, "RadionuclideTotalDose") or 0.0
    if dose_bq < _SMALLEST_DOSE_BQ:
        raise _MissingError("suv_dose")
    if text(dataset, "DecayCorrection").upper() == "ADMIN":
        return dose_bq
    half_life_s = number(tracer, "RadionuclideHalfLife") or 0.0
    if half_life_s <= 0:
        raise _MissingError("suv_dose")
    half_lives = _decay_s(dataset, tracer) / half_life_s
    if not 0 <= half_lives <= _LONGEST_HALF_LIVES:
        raise _MissingError("suv_time")
    return float(dose_bq * 2.0**-half_lives)


def _decay_s(dataset: Dataset, tracer: Dataset) -> float:
    """Measure the time from the injection to the start of the scan.

    A series that began after its own images was acquired is one that was made later; its time says nothing.
    """
    scan = _moment(text(dataset, "SeriesDate"), text(dataset, "SeriesTime"))
    acquired = _moment(text(dataset, "AcquisitionDate"), text(dataset, "AcquisitionTime"))
    if scan is None or acquired is None or scan > acquired:
        raise _MissingError("suv_time")
    if (start := _start_of(text(tracer, "RadiopharmaceuticalStartDateTime"), dataset)) is not None:
        return (scan - start).total_seconds()
    clock = _moment(text(dataset, "SeriesDate"), text(tracer, "RadiopharmaceuticalStartTime"))
    if clock is None:
        raise _MissingError("suv_time")
    return (scan - clock).total_seconds() % _DAY_S  # the day is not said; a scan may begin after midnight


def _start_of(stamp: str, dataset: Dataset) -> datetime | None:
    """Read a date with time; one of a time zone other than the header's is as good as none."""
    place = max(stamp.find("+"), stamp.find("-"))
    if place > 0 and stamp[place:] != text(dataset, "TimezoneOffsetFromUTC"):
        return None
    return _moment(stamp[:8], (stamp if place < 0 else stamp[:place])[8:])


def _moment(date: str, time: str) -> datetime | None:
    """Join a date (YYYYMMDD) and a time (HHMMSS.FFFFFF, cut off anywhere after the minutes; PS3.5 6.2)."""
    digits = time.replace(":", "")
    try:
        day = datetime.strptime(date.replace(".", ""), "%Y%m%d")
        return day + timedelta(hours=int(digits[:2]), minutes=int(digits[2:4]), seconds=float(digits[4:] or 0))
    except (ValueError, OverflowError):
        return None
