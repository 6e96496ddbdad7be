"""Writes a picture of each finding as a Secondary Capture of its study: 8 bits, with box and window burned in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DS

from medvl.dicom.grey import render
from medvl.errors import InputError
from medvl.export.describe import draft_notice, finding_statements
from medvl.export.maker import creation, discreet, stamp
from medvl.export.source import Seen, SourceStudy, read_identity
from medvl.export.uids import export_uid, written_at
from medvl.findings.schema import BOX_UNITS
from medvl.records import Box, Frame, Picture, PlaneName, Rendering, Slab, Slice, Window
from medvl.report.document import ReportDocument
from medvl.report.review import JudgedFinding, ReviewedReport
from medvl.text import clean_text

SERIES_NUMBER = 9901
# Text must be legible on a small matrix; a film of 4000 px gains nothing in a key image.
SMALLEST_PX, LARGEST_PX, _STEP_PX = 512, 2048, 32
_LINES_PER_PICTURE = 32
_INK, _HALO = 255, 0
_NUMBER = r"[−-]?\d+(?:\.\d+)?(?:e[+−-]\d+)?"
_LABEL = re.compile(rf"(.*?) ?\bWL ({_NUMBER}) WW ({_NUMBER})")
# Where rows and columns of a picture turned for a reader point to (PS3.3 C.7.6.1.1.1).
_ORIENTATIONS: dict[PlaneName, tuple[str, str]] = {
    "axial": ("L", "P"),
    "coronal": ("L", "F"),
    "sagittal": ("P", "F"),
    "projection": ("L", "F"),
}
_SHORT_TEXT, _LONG_TEXT = 1024, 10240


def key_images(reviewed: ReviewedReport, source: SourceStudy) -> Iterator[tuple[str, Dataset]]:
    """Yield a file name and an object for each finding that stands, one at a time.

    Raises InputError if the source lacks its image, PixelError if the image cannot be decoded.
    """
    for number, judged in enumerate(reviewed.kept, start=1):
        yield f"finding-{judged.finding.number}.dcm", _key_image(judged, reviewed, source, number)


def window_of(label: str, frame: Frame) -> Window | None:
    """Find the window that a label such as "lung WL −600 WW 1500" names; of several, the first."""
    for window in frame.windows:
        if window.label == label:
            return window
    match = _LABEL.match(label)
    if match is None:
        return None
    center, width = (float(match[part].replace("−", "-")) for part in (2, 3))
    name = match[1].strip()
    return Window(center, width, name, "LINEAR" if width >= 1 else "LINEAR_EXACT") if width > 0 else None


def draw_box(grey: NDArray[np.uint8], box: Box, lines: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return a copy of a picture with a finding's box around it and lines of text below.

    grey: (size, size). box: in picture units 0–1000. lines: what is not ASCII becomes a question mark.
    """
    image = Image.fromarray(grey)
    draw = ImageDraw.Draw(image)
    unit, last = image.width / BOX_UNITS, image.width - 1
    left, top, right, bottom = (round(edge * unit) for edge in (box.x1, box.y1, box.x2, box.y2))
    # Outside the box, so that nothing of the finding is covered; at the picture's edge, as far as it goes.
    for grown, ink in ((1, _HALO), (3, _HALO), (2, _INK)):
        corners = left - grown, top - grown, right - 1 + grown, bottom - 1 + grown
        draw.rectangle([min(max(corner, 0), last) for corner in corners], outline=ink)
    _write_lines(draw, lines, image.width)
    return np.asarray(image)


def _write_lines(draw: ImageDraw.ImageDraw, lines: tuple[str, ...], size_px: int) -> None:
    height = size_px // _LINES_PER_PICTURE
    font = ImageFont.load_default(size=height * 3 // 4)
    for up, line in enumerate(reversed(lines), start=1):
        text = line.replace("−", "-").encode("ascii", "replace").decode("ascii")
        place = (height // 4, size_px - up * height)
        draw.text(place, text, _INK, font, stroke_width=2, stroke_fill=_HALO)


# --- one object --------------------------------------------------------------------------------------------------


@discreet()
def _key_image(judged: JudgedFinding, reviewed: ReviewedReport, source: SourceStudy, number: int) -> Dataset:
    document, seen = reviewed.document, source.seen(judged.finding)
    window = _window(judged, document, seen.frame)
    picture = _render(seen, window)
    identity = read_identity(seen.frame)
    image = SCImage.from_ref_dataset(
        identity,
        pixel_array=draw_box(picture.grey, judged.finding.box, _captions(judged, document, window)),
        photometric_interpretation="MONOCHROME2",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=_ORIENTATIONS.get(seen.plane, ("L", "P")),
        series_instance_uid=export_uid(reviewed, "key image series"),
        sop_instance_uid=export_uid(reviewed, f"key image {judged.finding.number}"),
        series_number=SERIES_NUMBER,
        instance_number=number,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **creation(document),
    )
    stamp(image, document, identity)
    _describe(image, judged, reviewed, window)
    _refer(image, identity, seen)
    if picture.geometry.mm_per_px is not None:
        image.PixelSpacing = [DS(picture.geometry.mm_per_px, auto_format=True)] * 2
    return image


def _render(seen: Seen, window: Window) -> Picture:
    longest = max(seen.frame.rows, seen.frame.columns, SMALLEST_PX)
    size_px = min(math.ceil(longest / _STEP_PX) * _STEP_PX, LARGEST_PX)
    slab = Slab(1, (Slice(1, seen.frame, 0.0),))
    return render(slab, Rendering((window,), size_px), seen.turn)


def _window(judged: JudgedFinding, document: ReportDocument, frame: Frame) -> Window:
    number = judged.finding.number
    for key in document.key_images:
        window = window_of(key.window, frame) if key.finding == number else None
        if window is not None:
            return window
    raise InputError(
        f"The report does not say through which window finding {number} was seen",
        expected="Its key image names a level and a width",
        todo="Run medvl study again on the same input to write it anew",
    )


def _captions(judged: JudgedFinding, document: ReportDocument, window: Window) -> tuple[str, ...]:
    version = clean_text(document.provenance.medvl_version, 20)
    return (
        f"Finding {judged.finding.number}   {clean_text(window.label, 60)}",
        f"medvl {version}: draft, research aid, not a diagnosis",
    )


def _describe(image: Dataset, judged: JudgedFinding, reviewed: ReviewedReport, window: Window) -> None:
    document = reviewed.document
    moment = written_at(document)
    image.DateOfSecondaryCapture = moment.strftime("%Y%m%d")
    image.TimeOfSecondaryCapture = moment.strftime("%H%M%S")
    derivation = f"{window.label}, 8 bits; box of finding {judged.finding.number} drawn on it"
    image.DerivationDescription = clean_text(derivation, _SHORT_TEXT)
    statements = (draft_notice(document), *finding_statements(judged, reviewed))
    image.ImageComments = clean_text(" | ".join(statements), _LONG_TEXT)


def _refer(image: Dataset, identity: Dataset, seen: Seen) -> None:
    """Name the image it was made from, and take over what is true of that image's pixels (PS3.3 C.7.6.1, C.12.4)."""
    source, purpose = Dataset(), Dataset()
    source.ReferencedSOPClassUID = seen.frame.sop_class_uid
    source.ReferencedSOPInstanceUID = seen.frame.sop_instance_uid
    if seen.frame.layout.frame_count > 1:
        source.ReferencedFrameNumber = seen.frame.index + 1
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = (
        code.value,
        code.scheme_designator,
        code.meaning,
    )
    source.PurposeOfReferenceCodeSequence = [purpose]
    image.SourceImageSequence = [source]
    image.Laterality = None  # which side the finding lies on is for the report to say
    image.BurnedInAnnotation = "YES" if identity.get("BurnedInAnnotation") == "YES" else "NO"
    if identity.get("LossyImageCompression") == "01":
        image.LossyImageCompression = "01"
    if seen.plane not in _ORIENTATIONS:
        image.PatientOrientation = None  # of no plane that has a left and a right for certain
