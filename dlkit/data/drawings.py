"""Drawings from a pad, made as the pictures of digits are that models learn from.

MNIST's recipe (LeCun, Cortes & Burges, http://yann.lecun.com/exdb/mnist/): white on black, fitted into a box of 20
pixels without changing its shape, its centre of mass in the middle of 28 × 28.
"""

import base64
import binascii
import io

import numpy as np
from PIL import Image

from dlkit.data.images import read_image
from dlkit.errors import ImageError

SIDE, BOX = 28, 20  # px
PREFIX = "data:image/png;base64,"
LARGEST = 2_000_000  # characters that a pad may send; 280 × 280 px have some thousands
INK = 16  # of 255: what is darker is no stroke


def read_drawing(text: str) -> bytes:
    """Return the drawing that a pad sent as a data address of a PNG: a grey PNG of 28 × 28.

    Raises ImageError where it is none, or nothing was drawn.
    """
    if len(text) > LARGEST or not text.startswith(PREFIX):
        raise ImageError("This is no drawing. Draw it again.", "is no drawing")
    try:
        data = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("This is no drawing. Draw it again.", "is no drawing") from error
    found = io.BytesIO()
    centred(read_image(data, name="the drawing").convert("L")).save(found, "PNG")
    return found.getvalue()


def centred(strokes: Image.Image) -> Image.Image:
    """Return white strokes on black, any size, mode "L", as MNIST's pictures are; ImageError where there are none."""
    box = strokes.point(lambda value: 255 * (value >= INK)).getbbox()
    if box is None:
        raise ImageError("Nothing was drawn yet. Draw something first.", "is empty")
    cut = strokes.crop(box)
    scale = BOX / max(cut.size)
    width, height = (max(1, round(scale * side)) for side in cut.size)
    small = np.asarray(cut.resize((width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR))
    weights = small.astype(float)
    middles = [float((weights.sum(1 - axis) * np.arange(weights.shape[axis])).sum() / weights.sum()) for axis in (0, 1)]
    top, left = (
        min(max(0, round((SIDE - 1) / 2 - middle)), SIDE - size)
        for middle, size in zip(middles, small.shape, strict=True)
    )
    picture = np.zeros((SIDE, SIDE), np.uint8)
    picture[top : top + height, left : left + width] = small
    return Image.fromarray(picture)
