from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medvl.dicom.frames import FrameError, load_rescaled, load_stored, padding_range
from medvl.dicom.geometry import slabs, stack_series
from medvl.dicom.grey import render
from medvl.dicom.instance import read_instance
from medvl.dicom.scan import scan
from medvl.dicom.stack_window import header_window
from medvl.dicom.window import apply_window, look_up
from medvl.records import Frame, LookupTable, Rendering, Source, Window
from tests.builders import make_enhanced_ct, make_instance, write_dataset, write_series

RAMP = np.arange(16, dtype=np.uint16).reshape(4, 4)


def table(first: int, bits: int, values: list[int]) -> LookupTable:
    return LookupTable(first, bits, np.array(values, "<u2").tobytes())


def lut_item(first: int, bits: int, values: list[int], *, signed: bool = False, **more) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(values), first, bits])
    item.add_new("LUTData", "US", values)
    for keyword, value in more.items():
        setattr(item, keyword, value)
    return Sequence([item])


def frame_of(folder, stored: np.ndarray, syntax: str = ExplicitVRLittleEndian, **instance) -> Frame:
    path = write_dataset(folder / "slice", make_instance(stored=stored, **instance), syntax)
    return read_instance(Source(path, path.name)).frames[0]


def test_values_outside_a_table_take_its_first_and_last_entry():
    values = np.array([-5, 9, 10, 11, 12, 13, 40])
    assert look_up(table(10, 12, [100, 200, 300]), values).tolist() == [100, 100, 100, 200, 300, 300, 300]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_modality_table_comes_before_slope_and_intercept(tmp_path, syntax):
    luts = lut_item(2, 16, [50, 700, 60000], ModalityLUTType="OD")
    extra = {"ModalityLUTSequence": luts}
    frame = frame_of(tmp_path, RAMP, syntax, slope=None, intercept=None, modality="CR", extra=extra)
    assert frame.modality_table == table(2, 16, [50, 700, 60000])
    assert frame.rescale_unit == "OD"
    assert (load_stored(frame) == RAMP).all()
    values, nothing = load_rescaled(frame)
    assert values.ravel()[:6].tolist() == [50, 50, 50, 700, 60000, 60000]
    assert not nothing.any()


def test_a_modality_table_of_signed_pixels_may_start_below_zero(tmp_path):
    stored = np.array([[-3, -2], [-1, 0]], np.int16)
    extra = {"ModalityLUTSequence": lut_item(-2, 16, [7, 8, 9], signed=True)}
    values, _ = load_rescaled(frame_of(tmp_path, stored, extra=extra))
    assert values.tolist() == [[7 - 1024, 7 - 1024], [8 - 1024, 9 - 1024]]


def test_padding_is_told_by_the_stored_value_not_by_its_entry(tmp_path):
    extra = {"ModalityLUTSequence": lut_item(0, 16, [3, 3, 5])}
    frame = frame_of(tmp_path, np.array([[0, 1, 2]], np.uint16), padding=1, extra=extra)
    assert load_rescaled(frame)[1].tolist() == [[False, True, False]]


def test_entries_of_eight_bits_may_be_packed_two_in_a_word(tmp_path):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 0, 8])
    item.add_new("LUTData", "OW", bytes([10, 20, 30, 40]))
    frame = frame_of(tmp_path, RAMP, extra={"ModalityLUTSequence": Sequence([item])})
    assert frame.modality_table == table(0, 8, [10, 20, 30, 40])


@pytest.mark.parametrize("values", [[1, 2], []])
def test_a_table_shorter_than_its_descriptor_says_is_left_out(tmp_path, values):
    luts = lut_item(0, 16, values)
    luts[0].LUTDescriptor = [3, 0, 16]
    assert frame_of(tmp_path, RAMP, extra={"ModalityLUTSequence": luts}).modality_table is None


def test_a_voi_table_is_a_window_when_the_header_has_no_other(tmp_path):
    luts = {"VOILUTSequence": lut_item(100, 8, [0, 51, 255, 102])}
    (window,) = frame_of(tmp_path / "a", RAMP, extra=luts).windows
    assert window == Window(102, 4, "VOI LUT", "LINEAR_EXACT", table(100, 8, [0, 51, 255, 102]))
    assert apply_window(np.array([90, 100, 101.4, 102, 103, 500], np.float32), window).tolist() == [
        *(0, 0, 51, 255),
        *(102, 102),
    ]
    assert frame_of(tmp_path / "b", RAMP, windows=[(40, 400)], extra=luts).windows == (Window(40, 400),)


def test_entries_of_a_voi_table_spread_over_all_greys():
    # 12 bits: 4095 is white; 2048 / 4095 × 255 = 127.5
    window = Window(0, 3, table=table(0, 12, [0, 2048, 4095]))
    assert apply_window(np.array([0, 1, 2], np.float32), window).tolist() == [0, 128, 255]


def test_both_tables_make_the_picture(tmp_path):
    # Stored 0 … 15 → modality 15 … 0 → VOI entry × 17; the picture shows 255 down to 0.
    extra = {
        "ModalityLUTSequence": lut_item(0, 16, list(range(15, -1, -1))),
        "VOILUTSequence": lut_item(0, 8, [17 * value for value in range(16)]),
    }
    write_series(tmp_path, count=1, pixels=RAMP, slope=None, intercept=None, spacing_mm=(1, 1), extra=extra)
    (stack,), _ = stack_series(scan([tmp_path]).studies[0].series[0])
    window = header_window(stack)
    assert window is not None
    picture = render(slabs(stack, None)[0], Rendering((window,), 4), stack.turn)
    assert (picture.grey == 255 - 17 * RAMP).all()


# --- palettes ---------------------------------------------------------------------------------------------------------


def palette(red: bytes, green: bytes, blue: bytes, descriptor: list[int], prefix: str = "") -> dict[str, object]:
    extra: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, data in {"Red": red, "Green": green, "Blue": blue}.items():
        extra[f"{colour}PaletteColorLookupTableDescriptor"] = descriptor
        extra[f"{prefix}{colour}PaletteColorLookupTableData"] = data
    return extra


def words(*values: int, order: str = "<") -> bytes:
    return np.array(values, f"{order}u2").tobytes()


@pytest.mark.parametrize(("syntax", "order"), [(ExplicitVRLittleEndian, "<"), (ExplicitVRBigEndian, ">")])
def test_palettes_are_read_in_the_byte_order_of_their_file(tmp_path, syntax, order):
    entries = words(0, 1000, 50000, order=order)
    extra = palette(entries, entries, entries, [3, 0, 16])
    frame = frame_of(tmp_path, np.array([[0, 1, 2, 3]], np.uint16), syntax, extra=extra)
    assert load_stored(frame).tolist() == [[0, 1000, 50000, 50000]]


def test_segmented_palettes_are_expanded(tmp_path):
    # Discrete 10, 20; linear to 50 in three steps; then the linear one again, which stays at 50.
    data = words(*(0, 2, 10, 20), *(1, 3, 50), *(2, 1, 8, 0))
    frame = frame_of(tmp_path, RAMP, extra=palette(data, data, data, [8, 0, 16], "Segmented"))
    assert load_stored(frame).ravel()[:9].tolist() == [10, 20, 30, 40, 50, 50, 50, 50, 50]


@pytest.mark.parametrize(
    "data",
    [
        words(1, 3, 50),  # linear from nothing
        words(0, 2, 10),  # fewer values than it says
        words(2, 1, 0, 0),  # itself, for ever
        words(7, 1, 1, 1),  # unknown
        words(0, 0),  # nothing
    ],
)
def test_broken_segments_are_a_reason_not_a_picture(tmp_path, data):
    extra = palette(data, data, data, [8, 0, 16], "Segmented")
    path = write_dataset(tmp_path / "a", make_instance(stored=RAMP, extra=extra))
    with pytest.raises(FrameError, match=r"a: no usable palette \(0028,1101\) Red Palette Color Lookup Table"):
        load_stored(read_instance(Source(path, "a")).frames[0])


# --- pixels of every kind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "keyword"), [("f4", "FloatPixelData"), ("f8", "DoubleFloatPixelData")])
def test_floating_point_pixels_are_read_and_what_is_no_number_is_padding(tmp_path, kind, keyword):
    values = np.array([[0.5, np.nan], [np.inf, -1.25]], kind)
    extra = {"PixelData": None, keyword: values.tobytes(), "BitsAllocated": 8 * values.itemsize}
    padding = {"FloatPixelPaddingValue" if kind == "f4" else "DoubleFloatPixelPaddingValue": -9.0}
    unpadded = frame_of(tmp_path / "a", np.zeros((2, 2), np.uint16), extra=extra)
    assert load_stored(unpadded).tolist() == [[0.5, -1.25], [-1.25, -1.25]]
    padded = frame_of(tmp_path / "b", np.zeros((2, 2), np.uint16), extra=extra | padding)
    assert padding_range(padded) == (-9.0, -9.0)
    assert load_rescaled(padded)[1].tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_single_bits_are_unpacked_wherever_their_frame_begins(tmp_path, syntax, vr):
    # 2 frames of 3 × 3 bits, the lowest of a byte first: 1 0 1 0 1 0 1 0 1, then 0 0 0 1 1 1 0 0 0.
    bits = np.array([1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0], np.uint8)
    content = np.packbits(bits, bitorder="little").tobytes() + b"\0"
    if syntax == ExplicitVRBigEndian and vr == "OW":
        content = np.frombuffer(content, "<u2").astype(">u2").tobytes()
    dataset = make_instance(stored=np.zeros((3, 3), np.uint8), extra={"NumberOfFrames": 2})
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    dataset.add_new("PixelData", vr, content)
    path = write_dataset(tmp_path / "bits", dataset, syntax)
    first, second = read_instance(Source(path, "bits")).frames
    assert load_stored(first).ravel().tolist() == bits[:9].tolist()
    assert load_stored(second).ravel().tolist() == bits[9:].tolist()


@pytest.mark.parametrize("kind", [np.int32, np.uint32])
def test_integers_of_32_bits_come_back_whole(tmp_path, kind):
    limits = np.iinfo(kind)
    stored = np.array([[limits.min, limits.max], [1, 70000]], kind)
    assert (load_stored(frame_of(tmp_path, stored)) == stored).all()


def test_planes_of_colour_are_put_together(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    extra = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 1}
    content = np.moveaxis(colours, -1, 0).tobytes()
    frame = frame_of(tmp_path, colours[..., 0], extra={**extra, "PixelData": content})
    assert load_stored(frame).tolist() == [[76, 150]]


@pytest.mark.parametrize(("photometric", "content"), [("YBR_FULL", [9, 1, 2, 7, 3, 4]), ("YBR_FULL_422", [9, 7, 1, 2])])
def test_of_luminance_and_chroma_the_luminance_is_kept(tmp_path, photometric, content):
    extra = {"SamplesPerPixel": 3, "PhotometricInterpretation": photometric, "PlanarConfiguration": 0}
    frame = frame_of(tmp_path, np.zeros((1, 2), np.uint8), extra={**extra, "PixelData": bytes(content)})
    assert load_stored(frame).tolist() == [[9, 7]]


def test_overlays_below_the_stored_bits_are_left_out(tmp_path):
    # Twelve bits from bit 4 on: 0x1234 holds 0x123; signed 0xFFF8 holds −1.
    unsigned = frame_of(tmp_path / "a", np.array([[0x1234]], np.uint16), bits_stored=12, extra={"HighBit": 15})
    assert load_stored(unsigned).tolist() == [[0x123]]
    signed = frame_of(tmp_path / "b", np.array([[-8]], np.int16), bits_stored=12, extra={"HighBit": 15})
    assert load_stored(signed).tolist() == [[-1]]


def test_real_world_values_are_not_mistaken_for_hounsfield_units(tmp_path):
    stored = np.zeros((1, 4, 4), np.int16)
    dataset = make_enhanced_ct(stored, positions=[(0, 0, 0)])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    del shared.PixelValueTransformationSequence
    mapping = Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 3.0, 4.0
    shared.RealWorldValueMappingSequence = Sequence([mapping])
    path = write_dataset(tmp_path / "a", dataset)
    (frame,) = read_instance(Source(path, "a")).frames
    assert (frame.rescale_slope, frame.rescale_intercept, frame.rescale_unit) == (1.0, 0.0, "")
