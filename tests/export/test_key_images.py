"""Key images: the box where the finding is, in the study it is from, and no more identity than its headers have."""

import shutil
import subprocess
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="comes with medvl[export]")

from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from medvl.errors import InputError, PixelError
from medvl.export.key_images import draw_box, key_images, window_of
from medvl.records import Box, Window
from medvl.report.document import KeyImage
from medvl.report.review import Judgement
from tests.builders import CORONAL, uid
from tests.export.builders import a_block, a_review, exported
from tests.report.examples import HOSTILE, LUNG

DCIODVFY = shutil.which("dciodvfy")


def contents(case, review=None):
    written = {}
    for name, image in key_images(case.reviewed(review), case.source()):
        buffer = BytesIO()
        image.save_as(buffer, enforce_file_format=True)
        written[name] = buffer.getvalue()
    return written


def read_back(case, review=None):
    return {name: dcmread(BytesIO(content)) for name, content in contents(case, review).items()}


def frame_of(case):
    return case.source().seen(a_block()).frame


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("study"))


def test_the_box_is_drawn_around_the_finding_and_covers_nothing_of_it(case):
    (image,) = read_back(case).values()
    grey = image.pixel_array
    assert grey.shape == (512, 512)
    # 64 columns become 512: the block's columns 20 to 27 lie at 160 to 223; its rows 10 to 13, which the square moves
    # down by 8, at 144 to 175. The lines around it are black, white and black, the white one 2 px outside.
    outside = grey[142, 158:226], grey[177, 158:226], grey[142:178, 158], grey[142:178, 225]
    assert all((line == 255).all() for line in outside)
    # Inside all is bright: 40 HU in the lung window, (40 + 600.5) / 1499 + 0.5 = 0.927, is 236 in the block's middle.
    assert grey[160, 192] == 236 and grey[146:174, 162:222].min() > 128


def test_level_and_width_are_burned_in_below(case):
    (image,) = read_back(case).values()
    light = image.pixel_array > 200  # two lines of 16 px, on the black that makes the picture square
    assert light[480:496].sum() > 100 and light[496:].sum() > 100
    assert not light[450:478].any()


def test_it_belongs_to_the_study_and_says_what_it_was_made_from(case):
    (image,), source = read_back(case).values(), dcmread(case.files[1])
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate"):
        assert image[keyword].value == source[keyword].value
    assert image.SOPClassUID == SecondaryCaptureImageStorage
    assert list(image.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == uid("study", "series", 1)
    assert image.DerivationDescription == "lung WL −600 WW 1500, 8 bits; box of finding 1 drawn on it"
    assert image.ImageComments.startswith("Draft. Research aid, not a diagnosis")


def test_it_can_be_measured_on_and_says_how_the_patient_lies(case):
    (image,) = read_back(case).values()
    assert [float(mm) for mm in image.PixelSpacing] == [0.1, 0.1]  # 64 × 0.8 mm across 512 pixels
    assert list(image.PatientOrientation) == ["L", "P"]


def test_a_coronal_picture_has_the_feet_below(tmp_path):
    (image,) = read_back(exported(tmp_path, header={"iop": CORONAL})).values()
    assert list(image.PatientOrientation) == ["L", "F"]


def test_exporting_twice_gives_the_same_bytes(case):
    assert contents(case) == contents(case)


def test_each_finding_that_stands_has_one_of_its_own(tmp_path):
    case = exported(tmp_path, a_block(1), a_block(2), a_block(3))
    images = read_back(case, a_review(finding_2=Judgement("rejected")))
    assert list(images) == ["finding-1.dcm", "finding-3.dcm"]
    assert len({image.SOPInstanceUID for image in images.values()}) == 2
    assert len({image.SeriesInstanceUID for image in images.values()}) == 1
    assert [image.InstanceNumber for image in images.values()] == [1, 2]


def test_what_was_lossy_stays_lossy_and_burned_in_names_stay_declared(tmp_path):
    extra = {"LossyImageCompression": "01", "BurnedInAnnotation": "YES"}
    (image,) = read_back(exported(tmp_path, header={"extra": extra})).values()
    assert (image.LossyImageCompression, image.BurnedInAnnotation) == ("01", "YES")


def test_no_library_repeats_an_odd_name_in_a_warning(tmp_path, caplog):
    (image,) = read_back(exported(tmp_path, header={"patient_name": "Anon"})).values()
    assert image.PatientName == "Anon" and caplog.text == ""


def test_a_report_that_names_no_window_is_refused(case):
    other = replace(case, document=replace(case.document, key_images=(KeyImage(1, "", HOSTILE, 2, 0, (0, 0, 1, 1)),)))
    with pytest.raises(InputError, match="through which window finding 1 was seen"):
        contents(other)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    case = exported(tmp_path)
    broken = next(path for path in case.files if dcmread(path).SOPInstanceUID == uid("study", "series", 1))
    source = case.source()
    broken.write_bytes(broken.read_bytes()[:-1000])
    with pytest.raises(PixelError, match="its pixels end after"):
        list(key_images(case.reviewed(), source))


@pytest.mark.parametrize(
    ("label", "window"),
    [
        (LUNG, Window(-600, 1500, "lung")),
        ("WL 40 WW 400", Window(40, 400)),
        ("lung WL −600 WW 1500, mediastinum WL 50 WW 350", Window(-600, 1500, "lung")),
        ("suv WL 3.5 WW 7", Window(3.5, 7, "suv")),
        ("percentile WL 0.25 WW 0.5", Window(0.25, 0.5, "percentile", "LINEAR_EXACT")),
        ("percentile WL 1e+06 WW 2.5e+06", Window(1e6, 2.5e6, "percentile")),
        ("WL 40 WW 0", None),
        ("WL 40", None),
        (HOSTILE, None),
    ],
)
def test_a_label_is_read_as_the_window_it_was_made_from(case, label, window):
    assert window_of(label, frame_of(case)) == window


def test_a_window_of_the_header_keeps_its_curve(case):
    curved = Window(40, 400, "soft", "SIGMOID")
    assert window_of(curved.label, replace(frame_of(case), windows=(curved,))) == curved


def test_a_box_at_the_edge_is_drawn_along_it():
    drawn = draw_box(np.zeros((64, 64), np.uint8), Box(0, 0, 1000, 1000), ())
    assert drawn.shape == (64, 64)
    assert (drawn[[0, -1]] == 255).all() and (drawn[:, [0, -1]] == 255).all() and drawn[1:-1, 1:-1].max() == 0


def test_a_picture_handed_in_is_not_drawn_on():
    grey = np.zeros((64, 64), np.uint8)
    assert draw_box(grey, Box(300, 300, 600, 600), ("文",)).max() == 255
    assert grey.max() == 0


@pytest.mark.skipif(DCIODVFY is None, reason="needs dciodvfy, of Debian's dicom3tools")
def test_dciodvfy_finds_no_error(tmp_path, case):
    path = tmp_path / "image.dcm"
    path.write_bytes(next(iter(contents(case).values())))
    said = subprocess.run([DCIODVFY, path], capture_output=True, text=True, check=False, timeout=60).stderr
    assert "SCImage" in said
    assert [line for line in said.splitlines() if line.startswith("Error")] == []
