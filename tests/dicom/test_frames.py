from __future__ import annotations

import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medvl.dicom import frames
from medvl.dicom.frames import FrameError, load_stored, padding_range, pixel_digest
from medvl.dicom.instance import read_instance
from medvl.records import Frame, Source
from tests.builders import add_frames, make_instance, write_dataset

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
    JPEGLSLossless,
]
REAL_DATA = Path(__file__).parents[3] / "shared" / "data"


def noise(kind: type[np.integer] = np.int16, low: int = -1024, high: int = 3071, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (40, 64), endpoint=True).astype(kind)


def frames_of(path: Path) -> tuple[Frame, ...]:
    return read_instance(Source(path, path.name)).frames


def write_frame(folder: Path, stored: np.ndarray, syntax: str = ExplicitVRLittleEndian, **instance) -> Frame:
    path = write_dataset(folder / "slice", make_instance(stored=stored, **instance), syntax)
    return frames_of(path)[0]


def write_two_frames(folder: Path, syntax: str) -> tuple[Frame, ...]:
    stored = np.stack([noise(seed=1), noise(seed=2)])
    return frames_of(write_dataset(folder / "two", add_frames(make_instance(stored=stored[0]), stored), syntax))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_signed_values_come_back_from_every_transfer_syntax(tmp_path, syntax):
    loaded = load_stored(write_frame(tmp_path, noise(), syntax))
    assert loaded.dtype == np.int16
    assert (loaded == noise()).all()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_each_frame_of_a_multi_frame_file_is_its_own(tmp_path, syntax):
    first, second = write_two_frames(tmp_path, syntax)
    assert (load_stored(first) == noise(seed=1)).all()
    assert (load_stored(second) == noise(seed=2)).all()


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16])
def test_every_integer_type_comes_back_as_itself(tmp_path, kind):
    limits = np.iinfo(kind)
    stored = noise(kind, limits.min, limits.max)
    loaded = load_stored(write_frame(tmp_path, stored))
    assert loaded.dtype == kind
    assert (loaded == stored).all()


def test_overlay_bits_above_the_stored_ones_are_cleared(tmp_path):
    unsigned = write_frame(tmp_path, np.array([[0xF123, 0x0FFF]], np.uint16), bits_stored=12)
    assert load_stored(unsigned).tolist() == [[0x123, 0xFFF]]
    # 0x2800 has bit 11 set, the sign of twelve bits: 0x800 is −2048.
    signed = write_frame(tmp_path, np.array([[0x2800, 0x1005]], np.int16), bits_stored=12)
    assert load_stored(signed).tolist() == [[-2048, 5]]


def test_padding_outside_the_stored_bits_is_still_padding(tmp_path):
    frame = write_frame(tmp_path, np.array([[-32768, 100]], np.int16), bits_stored=12, padding=-32768)
    assert load_stored(frame).tolist() == [[-32768, 100]]


@pytest.mark.parametrize(
    ("value", "limit", "expected"), [(-2000, None, (-2000, -2000)), (-2000, -1500, (-2000, -1500)), (9, 5, (5, 9))]
)
def test_the_padding_range_lies_on_either_side_of_its_value(tmp_path, value, limit, expected):
    frame = write_frame(tmp_path, noise(), padding=value, padding_limit=limit)
    assert padding_range(frame) == expected


def test_negative_padding_of_unsigned_pixels_is_read_as_it_lies_in_the_file(tmp_path):
    stored = np.array([[63536, 1024]], np.uint16)
    header = make_instance(stored=stored)
    header.add_new("PixelPaddingValue", "SS", -2000)  # 65536 − 2000
    name = "a.dcm"
    (frame,) = read_instance(Source(write_dataset(tmp_path / name, header), name)).frames
    assert padding_range(frame) == (63536, 63536)


def test_frames_without_padding_have_no_padding_range(tmp_path):
    assert padding_range(write_frame(tmp_path, noise())) is None


def test_monochrome1_is_loaded_as_stored(tmp_path):
    assert (load_stored(write_frame(tmp_path, noise(), monochrome1=True)) == noise()).all()


def test_colour_is_turned_into_luminance(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [100, 100, 100]]], np.uint8)
    extra = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    frame = write_frame(tmp_path, colours[..., 0], extra={**extra, "PixelData": colours.tobytes()})
    # 0.299 × 255 = 76.2, 0.587 × 255 = 149.7, 0.114 × 255 = 29.1
    assert load_stored(frame).tolist() == [[76, 150, 29, 100]]


def test_palette_colours_are_looked_up_before_their_luminance(tmp_path):
    # Two entries of 16 bits from index 0 on: black, and red 65535, green 0, blue 32768.
    tables = {"Red": (0, 65535), "Green": (0, 0), "Blue": (0, 32768)}
    extra = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, entries in tables.items():
        extra[f"{colour}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        extra[f"{colour}PaletteColorLookupTableData"] = np.array(entries, "<u2").tobytes()
    frame = write_frame(tmp_path, np.array([[0, 1], [1, 0]], np.uint8), extra=extra)
    # 0.299 × 65535 + 0.114 × 32768 = 19595 + 3735.6
    assert load_stored(frame).tolist() == [[0, 23331], [23331, 0]]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_member_of_a_zip_is_read_in_place(tmp_path, syntax):
    frame = write_frame(tmp_path, noise(), syntax)
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(frame.source.path, "in/slice")
    zipped = replace(frame, source=Source(tmp_path / "study.zip", "study.zip/in/slice", "in/slice"))
    assert (load_stored(zipped) == noise()).all()


def test_twelve_bit_jpeg_is_decoded(tmp_path):
    path = real_file("JPEG-lossy.dcm", tmp_path)
    stored = load_stored(frames_of(path)[0])
    assert stored.shape == (1024, 256)
    assert (stored.min(), stored.max()) == (0, 264)


def test_pixels_cut_off_in_the_file_are_named_with_their_bytes(tmp_path):
    frame = write_frame(tmp_path, noise())
    content = frame.source.path.read_bytes()
    frame.source.path.write_bytes(content[: frame.layout.offset_bytes + 5000])
    for read in (load_stored, pixel_digest):
        with pytest.raises(FrameError, match=r"slice: its pixels end after 5000 bytes\. 40 × 64 pixels take 5120 b"):
            read(frame)


def test_pixels_beyond_their_element_are_not_read_as_the_next_element(tmp_path):
    frame = write_frame(tmp_path, noise())
    short = replace(frame, layout=replace(frame.layout, length_bytes=5118))
    with pytest.raises(FrameError, match="its pixels end after 5118 bytes"):
        load_stored(short)


def test_pixels_no_decoder_can_read_are_named_with_their_transfer_syntax(tmp_path):
    frame = write_frame(tmp_path, noise(), JPEGLSLossless)
    content = bytearray(frame.source.path.read_bytes())
    content[frame.layout.offset_bytes + 16 :] = bytes(len(content) - frame.layout.offset_bytes - 16)
    frame.source.path.write_bytes(content)
    with pytest.raises(FrameError, match=r"slice: no decoder can read its pixels \(JPEG-LS"):
        load_stored(frame)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_a_file_that_has_gone_is_named_without_its_folder(tmp_path, syntax):
    frame = write_frame(tmp_path, noise(), syntax)
    frame.source.path.unlink()
    with pytest.raises(FrameError, match=r"^slice: the file cannot be opened \(No such file") as caught:
        load_stored(frame)
    assert caught.value.frame is frame
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_digests_of_different_frames_differ(tmp_path, syntax):
    first, second = write_two_frames(tmp_path, syntax)
    assert pixel_digest(first) != pixel_digest(second)


def test_digests_do_not_depend_on_name_identity_or_header_windows(tmp_path):
    one = write_frame(tmp_path / "a", noise(), position=(0, 0, 5))
    other = write_frame(tmp_path / "b", noise(), position=(0, 0, 5), patient_name="Roe", number=7, windows=[(40, 80)])
    assert pixel_digest(one) == pixel_digest(other)


@pytest.mark.parametrize(
    "change",
    [
        {"slope": 2.0},
        {"intercept": 0.0},
        {"padding": -2000},
        {"monochrome1": True},
        {"bits_stored": 12},
        {"spacing_mm": (0.7, 0.8)},
        {"position": (0, 0, 6)},
    ],
)
def test_digests_change_with_what_gives_the_pixels_their_meaning(tmp_path, change):
    usual = {"position": (0, 0, 5), "iop": (1, 0, 0, 0, 1, 0)}
    assert pixel_digest(write_frame(tmp_path / "a", noise(), **usual)) != pixel_digest(
        write_frame(tmp_path / "b", noise(), **{**usual, **change})
    )


def test_digests_need_no_decoder(tmp_path, monkeypatch):
    frame = write_frame(tmp_path, noise(), JPEG2000Lossless)
    monkeypatch.setattr(frames, "decode_pool", None)
    assert len(pixel_digest(frame)) == 64


def real_file(name: str, folder: Path) -> Path:
    """Take one file out of the archive of odd files, if it is there."""
    archive = REAL_DATA / "edge.tar.xz"
    if not archive.exists():
        pytest.skip(f"no real data: {archive.name} is not beside the checkout")
    with tarfile.open(archive) as members:
        member = next(member for member in members if Path(member.name).name == name)
        stream = members.extractfile(member)
        assert stream is not None
        (folder / name).write_bytes(stream.read())
    assert pydicom.dcmread(folder / name, stop_before_pixels=True).Rows == 1024
    return folder / name
