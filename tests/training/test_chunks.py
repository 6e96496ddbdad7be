from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvl.dicom.geometry import AUTO_SLAB_BELOW_MM, AUTO_SLAB_MM
from training.cases import Case, draw_case
from training.chunks import (
    SLAB_BELOW_MM,
    SLAB_MM,
    Scan,
    draw_chunk,
    draw_look,
    draw_series,
    mark_nodules,
    picture_box,
    slices_per_slab,
)

SCAN = Scan(np.array([0.0]), 0.8, (10.0, -5.0), 1.0, 3.0, 10.0, 0.1, circle=False, table_side=1.0, side_px=500)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [draw_case(seed, enriched=True) for seed in (3, 4)]


def test_slabs_are_those_of_the_pipeline() -> None:
    assert (SLAB_MM, SLAB_BELOW_MM) == (AUTO_SLAB_MM, AUTO_SLAB_BELOW_MM)
    assert [slices_per_slab(mm) for mm in (0.8, 1.0, 1.25, 1.6, 2.0, 5.0)] == [4, 3, 2, 2, 1, 1]


def test_pictures_run_from_the_head_downwards(cases: list[Case]) -> None:
    series = draw_series(np.random.default_rng(0), cases[0])
    assert (np.diff(series.scan.heights) < 0).all()
    assert np.diff(series.scan.heights) == pytest.approx(-series.step_mm)


def test_a_box_is_told_in_parts_of_the_picture() -> None:
    # The picture is 400 mm wide with its middle at (10, −5) mm.
    assert picture_box(SCAN, (10.0, -5.0, 50.0, 35.0)) == pytest.approx((0.5, 0.5, 0.6, 0.6))


def test_marks_follow_a_mirrored_patient(cases: list[Case]) -> None:
    shape = cases[0].nodules[0].shape
    scan = replace(SCAN, heights=np.array([shape.z]))
    straight, turned = (mark_nodules(cases[0], replace(scan, mirrored=m), 2)[0, 0] for m in (False, True))
    assert straight[1] == pytest.approx((shape.x - 10) / 400 + 0.5)
    assert turned[1] == pytest.approx((-shape.x - 10) / 400 + 0.5)
    assert straight[3] == pytest.approx((shape.rx + shape.ry) / 2 / 400, rel=0.1)
    assert not mark_nodules(cases[0], scan, 2)[1].any()


def test_chunks_without_their_window_order_or_pixels_hold_no_finding(cases: list[Case]) -> None:
    rng = np.random.default_rng(1)
    chunks = [draw_chunk(rng, cases, i % 2, 8, aimed=1.0) for i in range(150)]
    kinds = {kind: [chunk for chunk in chunks if chunk.kind == kind] for kind in {chunk.kind for chunk in chunks}}
    assert set(kinds) == {"ordinary", "shuffled", "other window", "blank"}
    assert all(not chunk.sights for kind in set(kinds) - {"ordinary"} for chunk in kinds[kind])
    aimed_at = [bool(chunk.sights) for chunk in kinds["ordinary"]]
    assert np.mean(aimed_at) > 0.8
    assert all(chunk.scan.blank for chunk in kinds["blank"])


def test_every_finding_lies_in_its_chunk_and_on_the_side_of_its_box(cases: list[Case]) -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        chunk = draw_chunk(rng, cases, 0, 6, aimed=1.0)
        for sight in chunk.sights:
            assert 0 <= sight.first <= sight.key <= sight.last < len(chunk.scan.heights)
            assert (sight.box[0] + sight.box[2] > 0) == (sight.side == "left")


def test_a_second_look_is_centred_on_what_it_asks_about(cases: list[Case]) -> None:
    rng = np.random.default_rng(3)
    looks = [draw_look(rng, cases, 0) for _ in range(80)]
    found = [nodule.shape for nodule in cases[0].nodules]
    assert 15 <= sum(look.present for look in looks) <= 50
    for look in looks:
        sign = -1 if look.scan.mirrored else 1
        x, y = sign * look.scan.middle_mm[0], look.scan.middle_mm[1]
        nearest = min(float(np.hypot(shape.x - x, shape.y - y)) for shape in found)
        assert look.scan.heights.shape == (3,)
        assert nearest < 6 if look.present else True
