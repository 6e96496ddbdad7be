from __future__ import annotations

import io
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.filereader import dcmread
from pydicom.uid import (
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medvl.bundled import bundled_path
from medvl.dicom.codestream import read_coded_size
from medvl.dicom.decoders import (
    MAX_FRAME_BYTES,
    DecodeError,
    _decode_with_openjpeg,
    _decode_with_pydicom,
    decode_frame,
    decode_with,
    decoder_names,
)
from medvl.dicom.frames import _stored_bytes, load_stored
from medvl.dicom.instance import read_instance
from medvl.errors import InputError
from medvl.records import Frame, PixelLayout, Source
from tests.builders import make_instance, write_dataset
from tests.dicom.recoding import GDCM_SYNTAXES, recode

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"
LOSSLESS = {
    *(RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLossless, JPEGLosslessSV1),
    *(HTJ2KLossless, HTJ2KLosslessRPCL),
}
# What only one of the decoders reads: SimpleITK alone knows 12-bit JPEG, CharLS alone 7-bit JPEG-LS; of RLE colours
# beyond 8 bits SimpleITK mixes up the bytes.
READ_BY_ONE = {
    *("JPEG-lossy.dcm", "JPGExtended.dcm", "JLSL_08_07_0_1F.dcm"),
    *("SC_rgb_rle_16bit.dcm", "SC_rgb_rle_16bit_2frame.dcm", "SC_rgb_rle_32bit.dcm", "SC_rgb_rle_32bit_2frame.dcm"),
}
BROKEN = {"JPEG2000-embedded-sequence-delimiter.dcm"}  # a delimiter is written over its size


def layout_of(syntax: str, **changes) -> PixelLayout:
    usual = PixelLayout(syntax, 0, None, 8, 8, False, 1, "MONOCHROME2", 1)
    return replace(usual, **changes)


def only_frame(path: Path) -> Frame:
    return read_instance(Source(path, path.name)).frames[0]


def by_each_decoder(frame: Frame) -> dict[str, np.ndarray]:
    """Decode a frame with every decoder that can."""
    content, found = _stored_bytes(frame), {}
    for name in decoder_names(frame.layout.transfer_syntax_uid):
        try:
            found[name] = decode_with(name, content, frame.layout, frame.rows, frame.columns)
        except Exception:  # decoders raise what they like; what is left out here is counted by the test
            continue
    return found


def encoded(stored: np.ndarray, folder: Path, syntax: str, **instance) -> tuple[bytes, Frame]:
    frame = only_frame(write_dataset(folder / "slice", make_instance(stored=stored, **instance), syntax))
    return _stored_bytes(frame), frame


def jpeg(rows: int, columns: int, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (columns, rows), 100).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize("syntax", GDCM_SYNTAXES)
def test_a_sample_slice_comes_back_bit_for_bit_from_every_lossless_syntax(tmp_path, syntax):
    original = sorted((bundled_path("sample_data") / "chest_ct").rglob("*.dcm"))[3]
    stored = load_stored(only_frame(original))
    frame = only_frame(recode(original, tmp_path / "recoded", syntax))
    assert (load_stored(frame) == stored).all()
    if frame.layout.length_bytes is None:
        found = by_each_decoder(frame)
        assert len(found) >= 2
        assert all((pixels == stored).all() for pixels in found.values())


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.uint8])
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_every_decoder_of_a_lossless_syntax_gives_the_same_stored_values(tmp_path, syntax, kind):
    limits = np.iinfo(kind)
    stored = np.random.default_rng(0).integers(limits.min, limits.max, (40, 64), endpoint=True).astype(kind)
    content, frame = encoded(stored, tmp_path, syntax, slope=2.0, intercept=-1024.0, monochrome1=True)
    for name in decoder_names(syntax):
        assert (decode_with(name, content, frame.layout, 40, 64) == stored).all(), name


@pytest.mark.parametrize("stored_as", ["u1 8", "u2 8", "u2 12", "u2 16", "i2 8", "i2 12", "i2 16"])
def test_openjpeg_asked_without_pydicom_gives_what_it_gives_through_it(tmp_path, stored_as):
    kind, bits_stored = stored_as[:2], int(stored_as[3:])
    lowest = -(1 << (bits_stored - 1)) if kind == "i2" else 0
    stored = (np.arange(4096).reshape(64, 64) * ((1 << bits_stored) - 1) // 4095 + lowest).astype(kind)
    content, frame = encoded(stored, tmp_path, JPEG2000Lossless, bits_stored=bits_stored)
    direct = _decode_with_openjpeg(content, frame.layout)
    through = _decode_with_pydicom("pylibjpeg", content, frame.layout, 64, 64)
    assert direct is not None and direct.dtype == through.dtype
    np.testing.assert_array_equal(direct, through)
    np.testing.assert_array_equal(direct, stored)


def test_what_a_codestream_calls_signed_and_the_header_unsigned_is_left_to_pydicom(tmp_path):
    content, frame = encoded(np.full((64, 64), -5, np.int16), tmp_path, JPEG2000Lossless, bits_stored=16)
    unsigned = replace(frame.layout, signed=False)
    assert _decode_with_openjpeg(content, unsigned) is None
    assert decode_frame(content, unsigned, 64, 64).dtype == np.uint16


def test_near_lossless_jpeg_ls_stays_within_what_it_promises(tmp_path):
    stored = np.random.default_rng(0).integers(0, 4096, (40, 64)).astype(np.uint16)
    dataset = dcmread(write_dataset(tmp_path / "near", make_instance(stored=stored)))
    dataset.compress(JPEGLSNearLossless, jls_error=3, generate_instance_uid=False)
    dataset.save_as(tmp_path / "near", enforce_file_format=True)
    loaded = load_stored(only_frame(tmp_path / "near")).astype(int)
    assert 0 < np.abs(loaded - stored).max() <= 3


def test_decoders_agree_on_every_odd_file(tmp_path):
    archive = REAL_DATA / "edge.tar.xz"
    if not archive.exists():
        pytest.skip(f"no real data: {archive.name} is not beside the checkout")
    with tarfile.open(archive) as members:
        members.extractall(tmp_path, filter="data")
    compressed = 0
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        for frame in compressed_frames(path)[:1]:
            found = by_each_decoder(frame)
            if path.name in BROKEN:
                assert not found
                continue
            compressed += 1
            assert len(found) >= 1 + (path.name not in READ_BY_ONE), path.name
            first, *others = found.values()
            lossless = frame.layout.transfer_syntax_uid in LOSSLESS
            # Lossy decoders may round the last bit of a colour differently.
            assert all(np.abs(first.astype(int) - other).max() <= (0 if lossless else 1) for other in others), path.name
    assert compressed == 62


def compressed_frames(path: Path) -> tuple[Frame, ...]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the odd headers
            frames = read_instance(Source(path, path.name)).frames
    except InputError:
        return ()
    known = len(decoder_names(frames[0].layout.transfer_syntax_uid)) > 1 if frames else False
    return frames if known and frames[0].layout.length_bytes is None else ()


def test_the_next_decoder_is_asked_when_the_first_fails(tmp_path):
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    content, frame = encoded(stored, tmp_path, JPEG2000Lossless)
    assert decoder_names(JPEG2000Lossless) == ("pylibjpeg", "gdcm", "SimpleITK")
    for skip in range(3):
        assert (decode_frame(content, frame.layout, 64, 64, skip=skip) == stored).all()
    with pytest.raises(DecodeError, match="no decoder can read its pixels"):
        decode_frame(content, frame.layout, 64, 64, skip=3)


@pytest.mark.parametrize(
    ("content", "rows", "columns", "samples", "reason"),
    [
        (jpeg(16, 24), 16, 16, 1, "its compressed pixels are 16 × 24 of 1 samples"),
        (jpeg(16, 24), 24, 16, 1, "its compressed pixels are 16 × 24 of 1 samples"),
        (jpeg(16, 24, "RGB"), 16, 24, 1, "its compressed pixels are 16 × 24 of 3 samples"),
    ],
)
def test_pixels_of_another_size_than_the_header_says_are_an_error(content, rows, columns, samples, reason):
    layout = layout_of(JPEGBaseline8Bit, samples_per_pixel=samples)
    with pytest.raises(DecodeError, match=reason) as caught:
        decode_frame(content, layout, rows, columns)
    assert caught.value.expected == f"The header says {rows} × {columns} pixels of {samples} samples"


def test_pixels_of_more_bits_than_the_header_says_are_an_error(tmp_path):
    content, frame = encoded(np.full((64, 64), 4095, np.uint16), tmp_path, JPEG2000Lossless)
    with pytest.raises(DecodeError, match="its compressed pixels have 16 bits") as caught:
        decode_frame(content, replace(frame.layout, bits_allocated=8, bits_stored=8), 64, 64)
    assert caught.value.expected == "The header says 8 bits allocated"


def test_a_frame_that_claims_gigabytes_is_refused_before_it_is_decoded():
    with pytest.raises(DecodeError, match="it would take 2147483648 bytes once decoded") as caught:
        decode_frame(b"", layout_of(RLELossless, bits_allocated=16), 32768, 32768)
    assert caught.value.expected == f"At most {MAX_FRAME_BYTES} bytes are decoded"


def test_codestreams_tell_their_size_before_they_are_decoded(tmp_path):
    assert read_coded_size(jpeg(16, 24)) == (16, 24, 1, 8)
    stored = np.zeros((40, 64), np.uint16)
    for syntax in (JPEG2000Lossless, JPEGLSLossless):
        content, _ = encoded(stored, tmp_path, syntax)
        assert read_coded_size(content) == (40, 64, 1, 16)
    assert read_coded_size(b"\xff\xd8\xff") is None
    assert read_coded_size(b"RLE") is None


def test_a_codestream_that_breaks_off_is_an_error_not_half_a_picture(tmp_path):
    stored = np.random.default_rng(0).integers(-1000, 1000, (64, 64)).astype(np.int16)
    content, frame = encoded(stored, tmp_path, JPEG2000Lossless)
    broken = content[:200] + bytes(len(content) - 200)
    assert decode_with("pylibjpeg", broken, frame.layout, 64, 64).shape == (64, 64)  # why it is not asked
    with pytest.raises(DecodeError, match="its compressed pixels are damaged: zeros stand in place of data"):
        decode_frame(broken, frame.layout, 64, 64)


def test_codestreams_without_a_readable_size_are_left_to_the_decoders():
    with pytest.raises(DecodeError, match="no decoder can read its pixels"):
        decode_frame(b"\xff\xd8\xff\xd9", layout_of(JPEGExtended12Bit), 8, 8)
