from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from medvl.report.images import contact_sheet, encode_image


def test_png_keeps_every_grey_level():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(np.asarray(Image.open(BytesIO(encode_image(grey, "png")))), grey)


@pytest.mark.parametrize("image_format", ["webp", "jpeg"])
def test_lossy_pictures_stay_close_and_small(image_format):
    ramp = np.tile(np.arange(0, 256, dtype=np.uint8).repeat(2), (512, 1))
    content = encode_image(ramp, image_format)
    shown = np.asarray(Image.open(BytesIO(content)).convert("L")).astype(int)
    assert np.abs(shown - ramp).mean() < 3
    assert len(content) < 20_000


def test_coloured_pictures_keep_their_channels():
    colour = np.zeros((32, 32, 3), np.uint8)
    colour[..., 1] = 200
    assert np.array_equal(np.asarray(Image.open(BytesIO(encode_image(colour, "png")))), colour)


def test_a_contact_sheet_places_pictures_in_rows_above_their_labels():
    tones = [np.full((64, 64), tone, np.uint8) for tone in (50, 100, 150)]
    sheet = contact_sheet(tones, ["", "", ""], 2, tile_px=80)
    assert sheet.shape == (2 * 90, 2 * 80)  # a label takes an eighth of the tile
    assert (sheet[40, 40], sheet[40, 120], sheet[130, 40], sheet[130, 120]) == (50, 100, 150, 0)
    assert sheet[80:90].max() == 0


def test_labels_are_drawn_below_the_picture():
    tile = np.zeros((64, 64), np.uint8)
    sheet = contact_sheet([tile], ["42"], 6, tile_px=160)
    assert sheet.shape == (180, 160)
    assert sheet[:160].max() == 0
    assert sheet[160:].max() > 150


def test_a_coloured_sheet_stays_coloured():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    sheet = contact_sheet([red, red, red], ["1", "2", "3"], 2, tile_px=40)
    assert sheet.shape == (2 * 45, 80, 3)
    assert tuple(sheet[20, 20]) == (255, 0, 0)
