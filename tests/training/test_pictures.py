from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from medvl.dicom.window import PRESETS, apply_window
from medvl.evaluate.field import paint_all, render
from medvl.evaluate.phantoms import Wish, draw_phantom
from medvl.evaluate.shapes import Grid
from training.batches import stack_scans
from training.chunks import Scan
from training.pictures import Painter, expose, resize, split_groups

PHANTOM = draw_phantom(1, [Wish("solid nodule", 20.0), Wish("pleural effusion", 30.0, "left")])
NODULE = PHANTOM.scene.nodules[0]
SCAN = Scan(
    np.array([float(NODULE.z), -60.0]), 3.0, (5.0, 0.0), 3.0, 4.0, 0.0, 0.1, circle=False, table_side=-1.0, side_px=128
)


def tensors(scan: Scan) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in stack_scans([scan], [0], 2).items()}


def values() -> torch.Tensor:
    return torch.from_numpy(PHANTOM.values)[None]


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_tiles_show_the_field_of_the_phantoms_on_disk(mirrored: bool) -> None:
    field, _, _ = Painter(eager=True).field(values(), tensors(replace(SCAN, mirrored=mirrored)), 128)
    steps = ((np.arange(128) - 63.5) * 3.0).astype(np.float32)
    x = (5 + steps) * (-1 if mirrored else 1)
    scene = PHANTOM.scene
    scene = scene._replace(thorax=scene.thorax._replace(table_side=np.float32(-1)))
    for z, ours in zip(SCAN.heights, field[0].numpy(), strict=True):
        grid = Grid(x[None], steps[:, None], np.float32(z), np.float32(3.0), np.float32(4.0))
        difference = np.abs(render(np, scene, grid, paint_all) - ours)
        # Around the hilum a tile may hold more vessels than it is painted with; the thinnest are left out there.
        assert (difference > 1).mean() < 0.002


def test_the_maps_show_where_the_lesions_are() -> None:
    shown = Painter(eager=True).show(values(), tensors(SCAN), torch.zeros(1, 2, 130, 130), 96)
    assert shown.grey.shape == (1, 2, 96, 96)
    rows, columns = np.nonzero(shown.lesion[0].numpy() > 0.5)  # cells of 4 pixels of 4 mm
    assert columns.mean() == pytest.approx((NODULE.x - 5) / 16 + 11.5, abs=0.6)
    assert rows.mean() == pytest.approx(NODULE.y / 16 + 11.5, abs=0.6)
    _, columns = np.nonzero(shown.fluid[1].numpy() > 0.5)  # cells of 8 pixels; the left of the patient is on the right
    assert columns.size and columns.min() >= 5


def test_exposure_windows_as_the_pipeline_does_and_blackens_padding() -> None:
    field = torch.linspace(-1500, 500, 64 * 64).view(1, 1, 64, 64)
    scan = {name: torch.tensor(0.0).view(1, 1, 1, 1) for name in ("noise_hu", "grain", "circle", "blank")}
    scan |= {"center": torch.full((1, 1, 1, 1), -600.0), "width": torch.full((1, 1, 1, 1), 1500.0)}
    white = torch.zeros(1, 1, 66, 66)
    hu = field.clamp(-1024, 3071).round().numpy()
    assert np.array_equal(expose(field, white, field, scan, 64).numpy(), apply_window(hu, PRESETS["lung"]))
    circle = expose(field, white, field, scan | {"circle": torch.ones(1, 1, 1, 1)}, 64)[0, 0]
    assert circle[0, 0] == 0 and circle[32, 32] > 0
    assert not expose(field, white, field, scan | {"blank": torch.ones(1, 1, 1, 1)}, 64).any()


def test_resizing_equals_that_of_the_pipeline() -> None:
    # Away from black and white, where Pillow cuts off between its two passes.
    grey = np.random.default_rng(0).integers(60, 190, (128, 128), dtype=np.uint8)
    ours = resize(torch.from_numpy(grey).float()[None, None], 112)[0, 0].numpy()
    theirs = np.asarray(Image.fromarray(grey).resize((112, 112), Image.Resampling.BICUBIC))
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_packed_phantoms_are_split_into_their_groups() -> None:
    groups = split_groups(values())
    assert groups["nodules"][0, 0].tolist() == [float(value) for value in NODULE]
    assert groups["vessels"].shape == (1, 764, 9)
