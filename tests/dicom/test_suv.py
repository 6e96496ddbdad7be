from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import PositronEmissionTomographyImageStorage

from medvl.dicom.scan import scan
from medvl.dicom.suv import uptake_of
from medvl.records import Window
from tests.builders import write_series
from tests.dicom.scanning import only_series


def pet(*, tracer=None, **attributes) -> Dataset:
    """70 kg, 350 MBq of F-18 one half-life before the scan; keywords replace, None removes."""
    item = Dataset()
    tracers = {
        "RadionuclideTotalDose": 350e6,
        "RadionuclideHalfLife": 6000.0,
        "RadiopharmaceuticalStartTime": "080000",
        **(tracer or {}),
    }
    dataset = Dataset()
    header = {
        "Units": "BQML",
        "CorrectedImage": ["DECY", "ATTN", "SCAT"],
        "DecayCorrection": "START",
        "PatientWeight": 70.0,
        "SeriesDate": "20240131",
        "SeriesTime": "094000",  # 6000 s after the injection
        "AcquisitionDate": "20240131",
        "AcquisitionTime": "094500",
        **attributes,
    }
    for target, values in ((item, tracers), (dataset, header)):
        for keyword, value in values.items():
            if value is not None:
                setattr(target, keyword, value)
    dataset.RadiopharmaceuticalInformationSequence = DicomSequence([item])
    return dataset


def test_the_dose_is_decayed_to_the_start_of_the_scan():
    # Half of 350 MBq is left: 70 000 g / 175 000 000 Bq = 0.0004 g/Bq.
    assert uptake_of(pet()) == (pytest.approx(4e-4), "")


def test_a_dose_corrected_to_the_injection_is_taken_as_it_is():
    assert uptake_of(pet(DecayCorrection="ADMIN")) == (pytest.approx(2e-4), "")


def test_the_injections_own_date_counts_where_it_is_given():
    # 8:00 of the day before: 25 h 40 min = 92 400 s = 15.4 half-lives, too many to see anything.
    assert uptake_of(pet(tracer={"RadiopharmaceuticalStartDateTime": "20240130080000"})) == (None, "suv_time")
    assert uptake_of(pet(tracer={"RadiopharmaceuticalStartDateTime": "20240131080000.00"})).factor == pytest.approx(
        4e-4
    )


def test_a_date_of_another_time_zone_is_not_trusted():
    stamp = {"RadiopharmaceuticalStartDateTime": "20240131060000+0000"}  # local time is not known: the clock counts
    assert uptake_of(pet(tracer=stamp)).factor == pytest.approx(4e-4)
    same = {"RadiopharmaceuticalStartDateTime": "20240131080000+0200", "RadiopharmaceuticalStartTime": None}
    assert uptake_of(pet(tracer=same, TimezoneOffsetFromUTC="+0200")).factor == pytest.approx(4e-4)


def test_a_scan_after_midnight_is_counted_from_the_evening_before():
    night = {"SeriesTime": "004000", "AcquisitionTime": "004500"}
    assert uptake_of(pet(tracer={"RadiopharmaceuticalStartTime": "230000"}, **night)).factor == pytest.approx(4e-4)


@pytest.mark.parametrize(
    ("header", "flaw"),
    [
        ({"PatientWeight": None}, "suv_weight"),
        ({"PatientWeight": 0.0}, "suv_weight"),
        ({"tracer": {"RadionuclideTotalDose": None}}, "suv_dose"),
        ({"tracer": {"RadionuclideTotalDose": 350.0}}, "suv_dose"),  # MBq
        ({"tracer": {"RadionuclideHalfLife": None}}, "suv_dose"),
        ({"tracer": {"RadiopharmaceuticalStartTime": None}}, "suv_time"),
        ({"SeriesTime": "100000"}, "suv_time"),  # made after its own images
        ({"CorrectedImage": ["DECY"]}, "suv_corrections"),
        ({"CorrectedImage": None}, "suv_corrections"),
        ({"DecayCorrection": "NONE"}, "suv_corrections"),
        ({"Units": "CNTS"}, "suv_units"),
        ({"Units": "GML", "SUVType": "LBM"}, "suv_units"),
        ({"Units": None}, "suv_units"),
    ],
)
def test_without_a_trustworthy_fact_there_is_no_suv(header, flaw):
    assert uptake_of(pet(**header)) == (None, flaw)


def test_values_that_are_suv_already_stay():
    assert uptake_of(pet(Units="GML", PatientWeight=None)) == (1.0, "")


def philips(element: int, value: float) -> Dataset:
    dataset = pet(Units="CNTS")
    dataset.private_block(0x7053, "Philips PET Private Group", create=True).add_new(element, "DS", value)
    return dataset


def test_counts_need_the_vendors_factor():
    assert uptake_of(philips(0x00, 0.0005)) == (pytest.approx(0.0005), "")
    # 2 Bq/ml for each count, and 0.0004 g/Bq.
    assert uptake_of(philips(0x09, 2.0)) == (pytest.approx(8e-4), "")


def write_pet(folder, **header):
    dataset = pet(**header)
    extra = {element.keyword: element.value for element in dataset}
    write_series(
        folder,
        modality="PT",
        sop_class=PositronEmissionTomographyImageStorage,
        slope=2.0,
        intercept=0.0,
        windows=[(5000, 10000)],
        pixels=np.full((4, 4), 1000, np.int16),
        extra=extra,
    )
    return only_series(scan([folder])).frames[0]


def test_rescaled_values_of_a_pet_are_suv(tmp_path):
    frame = write_pet(tmp_path)
    # 2 Bq/ml for each stored value, and 0.0004 g/Bq; the header's window follows.
    assert (frame.rescale_slope, frame.rescale_unit) == (pytest.approx(8e-4), "SUVbw")
    assert frame.windows == (Window(pytest.approx(2.0), pytest.approx(4.0), "", "LINEAR_EXACT"),)
    assert frame.flaws == ()


def test_a_pet_without_weight_keeps_its_values_and_says_why(tmp_path):
    frame = write_pet(tmp_path, PatientWeight=None)
    assert (frame.rescale_slope, frame.rescale_unit, frame.flaws) == (2.0, "BQML", ("suv_weight",))
