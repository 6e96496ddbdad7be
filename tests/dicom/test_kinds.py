from __future__ import annotations

import numpy as np
import pytest
from pydicom.uid import (
    BasicTextSRStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    HangingProtocolStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    XRayAngiographicImageStorage,
)

from medvl.dicom.scan import scan
from tests.builders import add_frames, make_instance, uid, write_dataset, write_series
from tests.dicom.scanning import SMALL, all_unread, only_series, reasons, scan_instance

RGB = {
    **{"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0, "PixelData": bytes(48)},
    **{"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0},
}
CAPTURE = "secondary capture (a picture of a screen or a paper)"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, ""),
        ({"image_type": ("DERIVED", "PRIMARY", "AXIAL")}, ""),
        ({"image_type": ("DERIVED", "SECONDARY", "PROCESSED")}, ""),
        ({"description": "Low dose chest"}, ""),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "scout (localizer)"),
        ({"description": "Topogram 0.6 T20f"}, "scout (localizer)"),
        ({"description": "Survey", "modality": "MR"}, "scout (localizer)"),
        ({"description": "Low dose skeletal survey"}, ""),  # CT of the whole body for myeloma
        ({"description": "Abdomen scout", "modality": "DX"}, ""),  # the plain film before contrast
        ({"description": "Dose Report"}, "dose or protocol page"),
        ({"image_type": ("DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT")}, "dose or protocol page"),
        (
            {"image_type": ("DERIVED", "SECONDARY", "SCREEN SAVE")},
            "secondary capture (a picture of a screen or a paper)",
        ),
        ({"sop_class": SecondaryCaptureImageStorage}, CAPTURE),
        ({"sop_class": SecondaryCaptureImageStorage, "modality": "DX"}, ""),
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, "derived from other images (MPR)"),
        ({"image_type": ("DERIVED", "SECONDARY", "AXIAL", "MIP")}, "derived from other images (MIP)"),
        ({"extra": RGB}, "colour picture (RGB)"),
        ({"modality": "US"}, CAPTURE),
        ({"modality": "PT", "sop_class": PositronEmissionTomographyImageStorage}, ""),
        (
            {
                "modality": "PT",
                "sop_class": PositronEmissionTomographyImageStorage,
                "extra": {"CorrectedImage": ["NORM", "DECY"]},
            },
            "PET without attenuation correction",
        ),
        ({"modality": "NM", "sop_class": NuclearMedicineImageStorage}, "modality NM, read only when asked for"),
        ({"modality": "US", "sop_class": UltrasoundImageStorage}, ""),
        ({"modality": "MG", "sop_class": DigitalMammographyXRayImageStorageForPresentation}, ""),
        (
            {"modality": "MR", "image_type": ("ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC")},
            "mosaic: many slices tiled into one picture, in a vendor's own way",
        ),
    ],
)
def test_series_say_why_they_are_not_worth_reading(tmp_path, options, reason):
    assert only_series(scan_instance(tmp_path, **options)).not_read_because == reason


def test_objects_that_are_no_images_are_listed(tmp_path):
    report = make_instance(stored=SMALL, sop_class=BasicTextSRStorage, modality="SR", extra={"PixelData": None})
    write_dataset(tmp_path / "sr", report)
    segmentation = make_instance(stored=SMALL, sop_class="1.2.840.10008.5.1.4.1.1.66.4", sop_uid=uid("seg"))
    write_dataset(tmp_path / "seg", segmentation)
    found = scan([tmp_path])
    assert reasons(found) == ["not an image: Basic Text SR", "not an image: Segmentation"]
    assert found.studies[0].series == ()


def test_an_object_that_never_has_pixels_is_no_damaged_image(tmp_path):
    protocol = make_instance(stored=SMALL, sop_class=HangingProtocolStorage, modality="OT", extra={"PixelData": None})
    write_dataset(tmp_path / "hanging", protocol)
    image = make_instance(stored=SMALL, sop_uid=uid("image"), extra={"PixelData": None})
    write_dataset(tmp_path / "image", image)
    assert reasons(scan([tmp_path])) == ["no pixel data", "not an image: Hanging Protocol"]


@pytest.mark.parametrize(("count", "reason"), [(1, ""), (3, "cine run of 3 pictures")])
def test_a_run_of_an_angiography_is_read_only_when_asked_for(tmp_path, count, reason):
    run = make_instance(stored=SMALL, modality="XA", sop_class=XRayAngiographicImageStorage)
    write_dataset(tmp_path / "run", add_frames(run, np.stack([SMALL] * count)))
    assert only_series(scan([tmp_path])).not_read_because == reason


def test_a_scout_stored_among_axial_slices_is_left_out_alone(tmp_path):
    write_series(tmp_path, count=3)
    scout = make_instance(
        stored=SMALL, series_uid=uid("study", "series"), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")
    )
    write_dataset(tmp_path / "scout", scout)
    found = scan([tmp_path])
    assert (len(only_series(found).frames), only_series(found).not_read_because) == (3, "")
    (unread,) = all_unread(found)
    assert (unread.source.name, unread.reason, unread.series_uid) == (
        "scout",
        "scout (localizer)",
        uid("study", "series"),
    )


def test_the_same_instance_twice_is_read_once(tmp_path):
    (path,) = write_series(tmp_path / "a", count=1)
    copy = tmp_path / "b" / "copy"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    found = scan([tmp_path])
    assert len(only_series(found).frames) == 1
    assert reasons(found) == [f"duplicate of a/{path.name} (same SOP Instance UID)"]
