"""Turns grey arrays into image files and contact sheets. Knows nothing of findings or DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ImageFormat = Literal["webp", "png", "jpeg"]
_LABEL_BACKGROUND = 0
_LABEL_INK = 210  # light grey: readable on black without outshining the pictures


def encode_image(grey: NDArray[np.uint8], image_format: ImageFormat = "webp", *, quality: int = 85) -> bytes:
    """Encode a picture as a file's bytes; equal input gives equal bytes.

    grey: (rows, columns), or (rows, columns, 3) for red, green, blue; 0 is black. PNG is lossless and ignores quality.
    At quality 85 a 512² lung picture takes about 35 kB as WebP.
    """
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(grey).save(buffer, format=image_format.upper(), quality=quality)
    return buffer.getvalue()


def contact_sheet(
    pictures: Sequence[NDArray[np.uint8]], labels: Sequence[str], columns: int, *, tile_px: int = 160
) -> NDArray[np.uint8]:
    """Lay pictures out in rows, each above its label.

    pictures: one or more square ones, all grey (side, side) or all coloured (side, side, 3); labels: one for each.
    Returns (rows, columns) or (rows, columns, 3) uint8; unused places are black.
    """
    tiles = [_labelled(picture, label, tile_px) for picture, label in zip(pictures, labels, strict=True)]
    columns = min(columns, len(tiles))
    empty = np.full_like(tiles[0], _LABEL_BACKGROUND)
    tiles += [empty] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)])


def _labelled(picture: NDArray[np.uint8], label: str, tile_px: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=tile_px // 13)
    image = Image.fromarray(picture)
    tile = Image.new(image.mode, (tile_px, tile_px + tile_px // 8), _LABEL_BACKGROUND)
    tile.paste(image.resize((tile_px, tile_px), Image.Resampling.LANCZOS), (0, 0))
    ink = _LABEL_INK if image.mode == "L" else (_LABEL_INK,) * 3
    ImageDraw.Draw(tile).text((tile_px // 2, tile_px + tile_px // 16), label, ink, font, anchor="mm")
    return np.asarray(tile)
