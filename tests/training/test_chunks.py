from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvl.dicom.geometry import AUTO_SLAB_BELOW_MM, AUTO_SLAB_MM
from medvl.evaluate.phantoms import draw_phantom
from medvl.evaluate.shapes import Nodule
from training.cases import Case, Round, draw_case
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
    start_odds,
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
    assert straight[0] == 1
    assert straight[1] == pytest.approx((shape.x - 10) / 400 + 0.5)
    assert turned[1] == pytest.approx((-shape.x - 10) / 400 + 0.5)
    assert straight[3] == turned[3] == pytest.approx(np.hypot(shape.rx * shape.cosine, shape.ry * shape.sine) / 400)
    assert straight[4] == pytest.approx(np.hypot(shape.rx * shape.sine, shape.ry * shape.cosine) / 400)
    assert np.array_equal(mark_nodules(cases[0], scan, 2)[1, 0], straight)  # an unused slot repeats the last picture


def test_chunks_without_their_window_order_or_pixels_hold_no_finding(cases: list[Case]) -> None:
    rng = np.random.default_rng(1)
    chunks = [draw_chunk(rng, cases, 8, aimed=1.0) for _ in range(150)]
    kinds = {kind: [chunk for chunk in chunks if chunk.kind == kind] for kind in {chunk.kind for chunk in chunks}}
    assert set(kinds) == {"ordinary", "shuffled", "other window", "blank"}
    assert all(not chunk.sights for kind in set(kinds) - {"ordinary"} for chunk in kinds[kind])
    aimed_at = [bool(chunk.sights) for chunk in kinds["ordinary"]]
    assert np.mean(aimed_at) > 0.8
    assert all(chunk.scan.blank for chunk in kinds["blank"])


def test_shuffled_pictures_are_in_plain_disorder_or_left_alone(cases: list[Case]) -> None:
    rng = np.random.default_rng(5)
    few = [draw_chunk(rng, cases, int(rng.integers(1, 4)), aimed=0.5) for _ in range(500)]
    shuffled = [chunk.scan.heights for chunk in few if chunk.kind == "shuffled"]
    assert {len(heights) for heights in shuffled} == {2, 3}
    assert all(np.abs(np.diff(heights)).min() >= 20 for heights in shuffled)
    assert all((np.diff(chunk.scan.heights) < 0).all() for chunk in few if chunk.kind != "shuffled")


def test_aimed_chunks_begin_so_as_to_hold_the_lesion() -> None:
    phantom = draw_phantom(1, [])
    ball = Nodule(50.0, -20.0, 0.0, 8, 8, 8, 1, 0, 0.3, 50.0)
    case = Case(phantom, (Round("solid nodule", "left", ball, -850.0, veiled=False),), None)
    heights = np.array([12.0, 9, 6, 3, 0, -3])  # the nodule lies in the fifth of six pictures
    # Chunks of three begin at the first to fourth: anywhere is 1/4 each; with the fifth in them, at the third or, for
    # two of three places of the fifth, at the fourth, since no chunk begins later.
    assert start_odds(case, heights, 3, aimed=0.0).tolist() == [0.25] * 4
    assert start_odds(case, heights, 3, aimed=1.0) == pytest.approx([0, 0, 1 / 3, 2 / 3])
    assert start_odds(case, heights, 3, aimed=0.4) == pytest.approx([0.15, 0.15, 0.15 + 0.4 / 3, 0.15 + 0.8 / 3])
    assert start_odds(Case(phantom, (), None), heights, 8, aimed=1.0).tolist() == [1.0]
    smaller = replace(case.nodules[0], shape=ball._replace(z=12.0, rx=3.0, ry=3.0))
    both = replace(case, nodules=(*case.nodules, smaller))  # below 10 mm, so aimed at twice as often
    assert start_odds(both, heights, 3, aimed=1.0) == pytest.approx([2 / 3, 0, 1 / 9, 2 / 9])


def test_weighed_chunks_hold_findings_as_often_as_those_of_studies() -> None:
    rng = np.random.default_rng(7)
    cases = [draw_case(seed, enriched=False) for seed in range(24)]
    plain = [bool(draw_chunk(rng, cases, 8, aimed=0.0).sights) for _ in range(1500)]
    aimed = [draw_chunk(rng, cases, 8, aimed=0.6) for _ in range(1500)]
    found = np.array([bool(chunk.sights) for chunk in aimed])
    weights = np.array([chunk.natural for chunk in aimed])
    assert found.mean() > 1.5 * np.mean(plain)
    assert weights.mean() == pytest.approx(1, abs=0.05)
    assert (weights * found).mean() == pytest.approx(np.mean(plain), abs=0.04)  # three standard deviations


def test_every_finding_lies_in_its_chunk_and_on_the_side_of_its_box(cases: list[Case]) -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        chunk = draw_chunk(rng, cases, 6, aimed=1.0)
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
