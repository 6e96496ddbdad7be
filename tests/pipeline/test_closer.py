from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvl.dicom.frames import FrameError
from medvl.dicom.scan import scan
from medvl.pipeline.closer import Crop, cut_out, find_spot, plan_crop, with_densities
from medvl.pipeline.views import PlannedStudy, Wanted, plan_views
from medvl.prompts import load_prompts
from medvl.records import Box, Finding
from tests.builders import SAGITTAL, uid
from tests.findings.builders import make_finding
from tests.pipeline.bench import SIDE_PX, Bench, body, write_body

BRIGHT = Box(44000 / 64, 30000 / 64, 48000 / 64, 34000 / 64)  # columns 44 to 47, rows 30 to 33


def planned(
    bench: Bench, *, size_px: int = SIDE_PX, windows: tuple[str, ...] = ("mediastinum",), **how
) -> PlannedStudy:
    [study] = scan([bench.input]).studies
    return plan_views(study, Wanted(size_px=size_px, windows=windows, **{"slab": "off", **how}), load_prompts())


def bright(**changed) -> Finding:
    """The cuboid of `body` as a finding on slice 5, the middle one of its three."""
    stored = (43.5, 29.5, 47.5, 33.5)
    values = {"series_uid": uid("study", "series"), "view": "mediastinum", "key_slice": 5, "box": BRIGHT}
    return make_finding(**{**values, "box_stored_px": stored, "axis_error_mm": 1.0, "long_axis_mm": 20.0, **changed})


def crop_of(study: PlannedStudy, finding: Finding, shown_px: int) -> Crop:
    return plan_crop(find_spot(study, finding), finding, shown_px)


def test_the_density_is_that_of_the_stored_values(bench: Bench) -> None:
    write_body(bench.input)
    [finding] = with_densities(planned(bench), [bright()])
    # 2024 stored − 1024: the lesion of `body` has 1000 HU, however white the window made it.
    assert (finding.density.mean_hu, finding.density.low_hu, finding.density.hint) == (1000.0, 1000.0, "calcified")


def test_a_named_contrast_agent_leaves_the_kind_open(bench: Bench) -> None:
    write_body(bench.input, extra={"ContrastBolusAgent": "IODINE"})
    [finding] = with_densities(planned(bench), [bright()])
    assert (finding.density.mean_hu, finding.density.hint) == (1000.0, "")


def test_a_large_box_is_measured_but_no_kind_is_named_for_it(bench: Bench) -> None:
    write_body(bench.input)
    small, large = with_densities(planned(bench), [bright(), bright(long_axis_mm=60.1)])
    assert small.density.mean_hu == large.density.mean_hu
    assert (small.density.hint, large.density.hint) == ("calcified", "")


def test_values_that_are_no_hu_have_no_density(bench: Bench) -> None:
    write_body(bench.input, rescale_type="US")
    study = planned(bench)
    [finding] = with_densities(study, [bright(view=study.views[0].view.name)])
    assert finding.density is None


def test_a_box_without_millimetres_has_no_density(bench: Bench) -> None:
    write_body(bench.input)
    [finding] = with_densities(planned(bench), [bright(axis_error_mm=None)])
    assert finding.density is None


def test_a_key_slice_that_cannot_be_decoded_costs_only_its_own_density(bench: Bench) -> None:
    paths = write_body(bench.input)
    study = planned(bench)
    paths[12 - 5].write_bytes(paths[12 - 5].read_bytes()[:-100])  # written from the feet up, read from the head down
    findings = with_densities(study, [bright(), bright(key_slice=6)])
    assert [finding.density is None for finding in findings] == [True, False]


def test_each_key_slice_is_decoded_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import medvl.pipeline.closer as closer

    decoded = []
    load = closer.load_rescaled
    monkeypatch.setattr(closer, "load_rescaled", lambda frame: decoded.append(frame) or load(frame))
    write_body(bench.input)
    with_densities(planned(bench), [bright(), bright(key_slice=6), bright()])
    assert len(decoded) == 2


def test_a_crop_shows_stored_pixels_one_to_one(bench: Bench) -> None:
    write_body(bench.input)
    # Read at half the matrix's size; the crop is half of the matrix, 32 pixels around (46, 32).
    crop = crop_of(planned(bench, size_px=32), bright(), 32)
    assert (crop.whole_px, crop.side_px, crop.left, crop.top) == (64, 32, 30, 16)
    middle = cut_out(crop)[1]
    white = np.zeros((32, 32), bool)
    white[30 - 16 : 34 - 16, 44 - 30 : 48 - 30] = True
    assert (middle[white] == 255).all()
    assert (middle[~white] < 255).all()


def test_a_crop_is_enlarged_to_the_size_that_is_asked_for(bench: Bench) -> None:
    write_body(bench.input)
    pictures = cut_out(crop_of(planned(bench), bright(), 96))
    assert [picture.shape for picture in pictures] == [(96, 96)] * 3
    assert (pictures[1][45:51, 45:51] == 255).all()  # the lesion is in the middle, three times as large


def test_what_lies_beyond_the_picture_is_black(bench: Bench) -> None:
    write_body(bench.input, pixels=lambda index: np.full((SIDE_PX, SIDE_PX), 2024 + index, np.int16))
    crop = crop_of(planned(bench), bright(box=Box(0, 0, 62.5, 62.5)), 32)  # the corner's four pixels
    assert (crop.left, crop.top) == (-14, -14)
    for picture in cut_out(crop):
        assert (picture[:14] == 0).all()
        assert (picture[:, :14] == 0).all()
        assert (picture[14:, 14:] == 255).all()


def test_a_large_finding_is_shown_whole(bench: Bench) -> None:
    write_body(bench.input)
    crop = crop_of(planned(bench), bright(box=Box(250, 250, 750, 500)), 32)
    assert crop.side_px == 48  # one and a half times 32 of 64 pixels
    assert (crop.left, crop.top) == (8, 0)  # centre (32, 24)


@pytest.mark.parametrize(("key_slice", "shown"), [(1, [1, 2, 3]), (5, [4, 5, 6]), (12, [10, 11, 12])])
def test_a_crop_has_both_neighbours_or_three_at_the_end(bench: Bench, key_slice: int, shown: list[int]) -> None:
    write_body(bench.input)
    crop = crop_of(planned(bench), bright(key_slice=key_slice), 32)
    assert [slab.middle.number for slab in crop.slabs] == shown


def test_a_crop_averages_as_the_view_does(bench: Bench) -> None:
    write_body(bench.input)
    crop = crop_of(planned(bench, slab="6"), bright(), 32)
    assert [[part.number for part in slab.slices] for slab in crop.slabs] == [[3, 4], [5, 6], [7, 8]]


def test_a_stack_of_two_is_shown_as_two(bench: Bench) -> None:
    write_body(bench.input, count=2)
    assert len(crop_of(planned(bench), bright(key_slice=1), 32).slabs) == 2


def test_three_windows_make_a_crop_in_colour(bench: Bench) -> None:
    write_body(bench.input)
    [picture, *_] = cut_out(crop_of(planned(bench, windows=("rgb",)), bright(view="rgb"), 32))
    assert picture.shape == (32, 32, 3)


def test_a_crop_is_turned_as_its_view_is(bench: Bench) -> None:
    # The column index runs along y, the row index along −z: shown as stored, the head at the top.
    write_body(bench.input, iop=SAGITTAL, position=(0.0, -160.0, 160.0))
    study = planned(bench)
    [view] = study.views
    crop = crop_of(study, bright(), 32)
    index = crop.slabs[1].middle.frame.instance_number - 1
    assert view.view.stack.plane == "sagittal"
    assert np.array_equal(cut_out(crop)[1] == 255, body(index)[16:48, 30:62] == 2024)


def test_a_frame_that_cannot_be_read_spoils_its_crop(bench: Bench) -> None:
    paths = write_body(bench.input)
    study = planned(bench)
    paths[12 - 4].write_bytes(paths[12 - 4].read_bytes()[:-100])
    with pytest.raises(FrameError, match="its pixels end after"):
        cut_out(crop_of(study, bright(), 32))


def test_a_finding_is_found_in_its_own_window(bench: Bench) -> None:
    write_body(bench.input)
    study = planned(bench, windows=("mediastinum", "40/300"))
    spot = find_spot(study, replace(bright(), view=study.views[1].view.name))
    assert spot.planned is study.views[1]
    assert spot.slab.middle.number == 5
