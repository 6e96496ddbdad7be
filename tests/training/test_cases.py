from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvl.evaluate.phantoms import Phantom, Wish, draw_phantom
from medvl.evaluate.shapes import Nodule
from training.cases import (
    ILL_SHARE,
    Case,
    FluidProfile,
    Round,
    Sight,
    draw_case,
    list_sights,
    mirror,
    see_fluid,
    see_nodule,
    veil,
    weigh_case,
)

BALL = Round("solid nodule", "left", Nodule(50.0, -20.0, 0.0, 5, 5, 5, 1, 0, 0.3, 50.0), -850.0, veiled=False)


def seen(nodule: Round, *heights: float, slab_mm: float = 3.0) -> Sight:
    sight = see_nodule(nodule, np.array(heights), slab_mm)
    assert isinstance(sight, Sight)
    return sight


def test_a_nodule_is_reported_on_the_picture_nearest_to_its_middle() -> None:
    sight = seen(BALL, 9.0, 6.0, 3.0, 0.5, -3.0, -6.0)
    # At 9 mm nothing, at ±6 mm half a millimetre of three: too little to be told.
    assert (sight.key, sight.first, sight.last) == (3, 2, 4)
    assert sight.box == (45.0, -25.0, 55.0, -15.0)
    assert sight.diameter_mm == 10.0


def test_a_chunk_that_ends_within_a_nodule_shows_its_last_section() -> None:
    sight = seen(BALL, 10.0, 7.0, 4.5, slab_mm=1.0)
    # The slice reaches down to 4 mm from the middle: √(5² − 4²) = 3 mm of radius.
    assert (sight.key, sight.first, sight.last) == (2, 2, 2)
    assert sight.box == pytest.approx((47.0, -23.0, 53.0, -17.0))


def test_a_turned_nodule_has_the_box_of_its_turned_section() -> None:
    turned = replace(BALL, shape=BALL.shape._replace(rx=8, ry=4, cosine=0.0, sine=1.0))
    assert seen(turned, 0.0).box == pytest.approx((46.0, -28.0, 54.0, -12.0))


def test_a_nodule_between_two_chunks_is_not_seen() -> None:
    assert see_nodule(BALL, np.array([20.0, 17.0]), 3.0) is None


@pytest.mark.parametrize(
    "nodule",
    [
        replace(BALL, veiled=True),
        replace(BALL, shape=BALL.shape._replace(hu=-810.0)),  # 40 HU over 10 mm
    ],
    ids=["inside a vessel", "hardly denser than lung"],
)
def test_what_nobody_can_tell_is_in_doubt(nodule: Round) -> None:
    assert see_nodule(nodule, np.array([0.0]), 3.0) == "in doubt"


def test_a_chunk_with_a_doubtful_lesion_has_no_truth() -> None:
    case = Case(draw_phantom(1, []), (replace(BALL, veiled=True),), None)
    assert list_sights(case, np.array([0.0]), 3.0) is None
    assert list_sights(case, np.array([60.0]), 3.0) == ()


def test_an_effusion_is_reported_where_its_section_is_largest() -> None:
    profile = FluidProfile(
        "right", np.array([-20.0, -10.0, 0.0]), np.array([900.0, 500.0, 0.0]), np.array([[-9.0, 1, -2, 8]] * 3)
    )
    sight = see_fluid(profile, np.array([10.0, 0.0, -10.0, -15.0]))
    assert isinstance(sight, Sight)
    assert (sight.side, sight.key, sight.first, sight.last) == ("right", 3, 2, 3)
    assert see_fluid(profile, np.array([10.0])) is None
    assert see_fluid(profile, np.array([-5.0])) == "in doubt"  # half way between 500 and 0 mm²


def test_an_enriched_phantom_is_the_next_one_with_a_lesion() -> None:
    plain = {seed: draw_case(seed, enriched=False) for seed in range(40)}
    ill = [seed for seed, case in plain.items() if case.phantom.lesions]
    assert len(ill) == pytest.approx(40 * ILL_SHARE, abs=10)  # three standard deviations
    for seed in range(6):
        case = draw_case(seed, enriched=True)
        assert case.phantom.lesions
        assert (case.phantom.seed == seed) == (seed in ill)


def test_a_phantom_whose_nodules_find_no_room_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    roomy, seeds = draw_phantom(1, [Wish("solid nodule", 9.0)]), []

    def draw(seed: int) -> Phantom:
        seeds.append(seed)
        if len(seeds) < 3:
            raise ValueError("no room in the lung")
        return roomy

    monkeypatch.setattr("training.cases.draw_phantom", draw)
    assert draw_case(5, enriched=False).phantom is roomy
    assert len(set(seeds)) == 3


def test_phantoms_weigh_as_much_more_as_they_are_drawn_too_seldom() -> None:
    healthy = Case(draw_phantom(1, []), (), None)
    ill = Case(draw_phantom(1, [Wish("solid nodule", 9.0)]), (), None)
    # Half are enriched: of 100, 50 + 28 are ill and 22 are not, where studies have 56 and 44.
    assert weigh_case(ill, 0.5) == pytest.approx(56 / 78)
    assert weigh_case(healthy, 0.5) == pytest.approx(44 / 22)
    assert weigh_case(ill, 0.0) == weigh_case(healthy, 0.0) == 1.0


def test_a_drawn_effusion_lies_on_its_side_and_behind() -> None:
    case = next(case for seed in range(50) if (case := draw_case(seed, enriched=True)).fluid)
    assert case.fluid is not None
    left, upper, right, lower = case.fluid.boxes[case.fluid.areas_mm2.argmax()]
    assert (left > -5) if case.fluid.side == "left" else (right < 5)
    assert lower > upper and lower > 30


def test_vessels_veil_what_lies_inside_them() -> None:
    phantom = draw_phantom(5, [Wish("solid nodule", 5.0)])
    scene = phantom.scene
    vessel = max(scene.vessels, key=lambda one: min(one.r0, one.r1))
    x, y, z = (vessel.x0 + vessel.x1) / 2, (vessel.y0 + vessel.y1) / 2, (vessel.z0 + vessel.z1) / 2
    assert veil(phantom, Nodule(x, y, z, 1.0, 1.0, 1.0, 1, 0, 0.3, 40)) == 1.0
    assert veil(phantom, Nodule(300.0, 0, 0, 1.0, 1.0, 1.0, 1, 0, 0.3, 40)) == 0.0


def test_the_mirrored_patient_has_the_other_side() -> None:
    (sight,) = mirror([seen(BALL, 0.0)])
    assert (sight.side, sight.box) == ("right", (-55.0, -25.0, -45.0, -15.0))
