from __future__ import annotations

import numpy as np
import pytest

from medvl.evaluate.acquisition import Acquisition, slice_grid, slice_plane
from medvl.evaluate.field import LUNG_VESSELS, keep_vessels, noise_pattern, pack, paint_all, paint_near, render, unpack
from medvl.evaluate.phantoms import Lesion, Phantom, Wish, draw_phantom
from medvl.evaluate.shapes import Grid, Nodule, Vessel, edge, overlap

torch = pytest.importorskip("torch")

COARSE = Acquisition(pixel_spacing_mm=3.0, blur_mm=3.0, size_px=128, slice_count=60, noise_hu=0.0)


def points_grid(points: np.ndarray, slab_mm: float = 1.0) -> Grid:
    x, y, z = points.T
    return Grid(x, y, z, np.float64(0.8), np.float64(slab_mm))


def hu_at(phantom: Phantom, lps_mm: np.ndarray, slab_mm: float = 1.0) -> np.ndarray:
    return render(np, phantom.scene, points_grid(lps_mm - phantom.origin_lps_mm, slab_mm), paint_all)


def hu_in_air(shape: Nodule | Vessel, point: tuple[float, float, float], slab_mm: float) -> float:
    return float(shape.over(np, points_grid(np.array([point]), slab_mm), np.full(1, -1000.0))[0])


def test_the_same_seed_draws_the_same_phantom() -> None:
    one, again, other = draw_phantom(3), draw_phantom(3), draw_phantom(4)
    assert np.array_equal(one.values, again.values) and one.lesions == again.lesions
    assert not np.array_equal(one.values, other.values)


def test_at_least_a_third_of_drawn_phantoms_are_normal_and_the_rest_vary() -> None:
    drawn = [{lesion.kind for lesion in draw_phantom(seed).lesions} for seed in range(100)]
    assert 34 <= sum(not kinds for kinds in drawn) <= 54
    assert len(set().union(*drawn)) == 4


def test_wishes_are_granted_in_kind_size_and_side() -> None:
    wishes = [Wish("ground-glass nodule", 20, "left"), Wish("calcified nodule", 5, "right")]
    large, small = draw_phantom(11, wishes).lesions
    assert (large.kind, large.diameter_mm, large.side) == ("ground-glass nodule", 20, "left")
    assert (small.kind, small.diameter_mm, small.side) == ("calcified nodule", 5, "right")
    assert -700 <= large.hu <= -450 and 200 <= small.hu <= 900


def test_nodules_lie_in_lung_and_apart_from_each_other() -> None:
    for seed in range(6):
        lesions = draw_phantom(seed, [Wish("solid nodule", mm) for mm in (28, 18, 9, 5)]).lesions
        bare = draw_phantom(seed, [])
        for lesion in lesions:
            assert np.median(around(bare, lesion, 0.5 * lesion.diameter_mm)) < -700
        for i, one in enumerate(lesions):
            for other in lesions[:i]:
                gap = np.linalg.norm(np.subtract(one.center_lps_mm, other.center_lps_mm))
                assert gap > 0.5 * (one.diameter_mm + other.diameter_mm)


def around(phantom: Phantom, lesion: Lesion, radius_mm: float) -> np.ndarray:
    axes = np.vstack([np.eye(3), -np.eye(3)])
    return hu_at(phantom, np.array(lesion.center_lps_mm) + radius_mm * axes)


def test_a_nodule_has_its_density_inside_and_lung_outside() -> None:
    phantom = draw_phantom(5, [Wish("solid nodule", 16)])
    (nodule,) = phantom.lesions
    assert around(phantom, nodule, 5.0) == pytest.approx(nodule.hu, abs=1)
    assert np.median(around(phantom, nodule, 12.0)) < -700


def test_a_vessel_goes_on_through_the_slices_where_a_nodule_ends() -> None:
    phantom = draw_phantom(5, [Wish("solid nodule", 8)])
    (nodule,) = phantom.lesions
    upright = [v for v in phantom.scene.vessels if abs(v.z1 - v.z0) > 15 and min(v.r0, v.r1) > 1.5]
    assert len(upright) >= 4
    vessel = upright[-1]
    steps = np.linspace(0.1, 0.9, 9)[:, None]
    start, end = np.array([vessel.x0, vessel.y0, vessel.z0]), np.array([vessel.x1, vessel.y1, vessel.z1])
    assert hu_at(phantom, start + steps * (end - start) + phantom.origin_lps_mm).min() > -200
    at_nodule, past_it = hu_at(phantom, np.array(nodule.center_lps_mm) + np.array([[0, 0, 0], [0, 0, 8]]))
    assert at_nodule > -100 and past_it < -600


def test_an_effusion_lies_at_the_back_of_its_own_side() -> None:
    phantom = draw_phantom(8, [Wish("pleural effusion", 30, "right")])
    dry = draw_phantom(8, [])
    (effusion,) = phantom.lesions
    wet = [stack_slice(phantom, i) - stack_slice(dry, i) > 300 for i in range(COARSE.slice_count)]
    index, row, column = np.nonzero(wet)
    x, y, z = (np.array(lps_of(phantom, i)) for i in (0, 1, 2))
    center = x[column].mean(), y[row].mean(), z[index].mean()
    assert center == pytest.approx(effusion.center_lps_mm, abs=4)
    assert effusion.side == "right" and (x[column] < phantom.origin_lps_mm[0] + 5).all()
    assert y[row].mean() > phantom.origin_lps_mm[1] + 20
    assert effusion.extent_mm == pytest.approx((z[index].min(), z[index].max()), abs=10)


def stack_slice(phantom: Phantom, index: int) -> np.ndarray:
    grid = slice_grid(phantom, COARSE, slice_plane(phantom, COARSE, index))
    return render(np, phantom.scene, grid, paint_near)


def lps_of(phantom: Phantom, axis: int) -> list[float]:
    planes = [slice_plane(phantom, COARSE, i).position_lps_mm for i in range(COARSE.slice_count)]
    if axis == 2:
        return [plane[2] for plane in planes]
    return [planes[0][axis] + step * COARSE.pixel_spacing_mm for step in range(COARSE.size_px)]


def test_more_nodules_than_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="5 nodules where at most 4 fit"):
        draw_phantom(1, [Wish("solid nodule", 5)] * 5)


def test_a_nodule_larger_than_the_lung_is_refused() -> None:
    with pytest.raises(ValueError, match="no room in the lung for a solid nodule of 200 mm"):
        draw_phantom(1, [Wish("solid nodule", 200)])


# --- partial volume: shares worked out by hand -------------------------------------------------------------------


def test_a_border_is_half_filled_where_it_passes_through_the_middle() -> None:
    assert edge(np, np.array([-1.0, -0.25, 0.0, 0.25, 1.0]), 1.0).tolist() == [1, 0.75, 0.5, 0.25, 0]


def test_an_interval_is_filled_by_the_part_that_overlaps() -> None:
    assert overlap(np, np.array([0.0, 2.5, 4.0]), 1.0, 5.0).tolist() == [0.4, 0.2, 0.0]


def test_a_nodule_of_4_mm_fills_four_fifths_of_a_5_mm_slice() -> None:
    ball = Nodule(0, 0, 0, 2, 2, 2, 1, 0, 0, 0)
    assert hu_in_air(ball, (0, 0, 0), slab_mm=5) == pytest.approx(-200, abs=1)
    assert hu_in_air(ball, (0, 0, 3), slab_mm=5) == pytest.approx(-700, abs=1)  # from z = 0.5 to 5.5: 1.5 of 5 mm
    assert hu_in_air(ball, (0, 0, 0), slab_mm=1) == pytest.approx(0, abs=1)


def test_a_vessel_of_2_mm_is_faint_within_a_5_mm_slice_and_full_across_it() -> None:
    within = Vessel(-20, 0, 0, 20, 0, 0, 1, 1, 0)
    across = Vessel(0, 0, -20, 0, 0, 20, 1, 1, 0)
    assert hu_in_air(within, (0, 0, 0), slab_mm=5) == pytest.approx(-600, abs=1)
    assert hu_in_air(across, (0, 0, 0), slab_mm=5) == pytest.approx(0, abs=1)


def test_a_thick_slice_is_the_mean_of_thin_ones() -> None:
    phantom = draw_phantom(5, [Wish("solid nodule", 10)])
    (nodule,) = phantom.lesions
    x, y = np.meshgrid(np.linspace(-9, 9, 13), np.linspace(-9, 9, 13))
    column = np.array(nodule.center_lps_mm) + np.stack([x.ravel(), y.ravel(), np.full(x.size, 3.0)], axis=1)
    offsets = np.linspace(-2.25, 2.25, 10)
    thin = np.mean([hu_at(phantom, column + np.array([0, 0, dz]), slab_mm=0.5) for dz in offsets], axis=0)
    difference = hu_at(phantom, column, slab_mm=5.0) - thin
    assert abs(difference.mean()) < 15 and difference.std() < 60


# --- numpy and torch ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> list[Phantom]:
    return [draw_phantom(1, [Wish("solid nodule", 12), Wish("pleural effusion")]), draw_phantom(2, [])]


def batch_grid(heights: list[float], slab_mm: float) -> Grid:
    side = np.arange(-180, 180, 4, dtype=np.float32)
    x = torch.tensor(side)[None, None, None].repeat(2, 1, 1, 1)
    z = torch.tensor(heights)[None, :, None, None].repeat(2, 1, 1, 1)
    one = torch.ones(2, 1, 1, 1)
    return Grid(x, x.transpose(2, 3), z, 1.2 * one, slab_mm * one)


def batch_values(phantoms: list[Phantom]) -> object:
    return torch.tensor(np.stack([phantom.values for phantom in phantoms], axis=1))


def test_torch_renders_a_batch_as_numpy_renders_its_slices(pair: list[Phantom]) -> None:
    heights = [-90.0, -20.0, 60.0]
    grid = batch_grid(heights, slab_mm=3.0)
    batch = render(torch, unpack(batch_values(pair)[..., None, None, None]), grid, paint_all)
    assert batch.shape == (2, 3, 90, 90)
    for phantom, stack in zip(pair, batch, strict=True):
        for z, image in zip(heights, stack, strict=True):
            x = grid.x[0, 0].numpy()
            part = Grid(x, x.T, np.float32(z), np.float32(1.2), np.float32(3.0))
            alone = render(np, phantom.scene, part, paint_near)
            assert np.abs(alone - image.numpy()).max() < 1


def test_vessels_out_of_reach_of_a_stack_need_not_be_rendered(pair: list[Phantom]) -> None:
    grid, values = batch_grid([-20.0, -15.0], slab_mm=5.0), batch_values(pair)
    thinned = keep_vessels(values, torch.tensor([-24.0, -24.0]), torch.tensor([-11.0, -11.0]), 300)
    assert len(values) - len(thinned) == 9 * (LUNG_VESSELS - 300)
    full, less = (render(torch, unpack(v[..., None, None, None]), grid, paint_all) for v in (values, thinned))
    assert (full - less).abs().max() < 1


def test_a_packed_scene_unpacks_to_the_same_numbers() -> None:
    values = draw_phantom(6).values
    assert np.array_equal(pack(unpack(values)), values)


def test_noise_keeps_unit_variance_and_its_grain_joins_or_parts_neighbours() -> None:
    white = np.random.default_rng(0).standard_normal((402, 402), np.float32)
    for grain in (-0.12, 0.0, 0.3):
        noise = noise_pattern(white, grain)
        joined = float((noise[:, 1:] * noise[:, :-1]).mean())
        assert noise.std() == pytest.approx(1, abs=0.02)
        assert joined == pytest.approx(2 * grain / (1 + 4 * grain**2), abs=0.02)
