"""Drawings from a pad become pictures as MNIST's are."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dlkit.data.drawings import BOX, PREFIX, SIDE, centred, read_drawing
from dlkit.errors import ImageError


def sheet(*lines: tuple[int, int, int, int], side: int = 280, width: int = 22) -> Image.Image:
    image = Image.new("L", (side, side))
    for line in lines:
        ImageDraw.Draw(image).line(line, fill=255, width=width)
    return image


def address(image: Image.Image, kind: str = "PNG") -> str:
    found = io.BytesIO()
    image.save(found, kind)
    return PREFIX + base64.b64encode(found.getvalue()).decode()


def middle(picture: Image.Image) -> tuple[float, float]:
    values = np.asarray(picture, dtype=float)
    rows, columns = np.indices(values.shape)
    return float((rows * values).sum() / values.sum()), float((columns * values).sum() / values.sum())


@pytest.mark.parametrize("shift", [(0, 0), (90, 0), (0, 120), (90, 120)])
def test_drawing_is_the_same_wherever_it_was_drawn(shift):
    across, down = shift
    lines = ((40 + across, 30 + down, 120 + across, 30 + down), (120 + across, 30 + down, 60 + across, 130 + down))
    plain = centred(sheet((40, 30, 120, 30), (120, 30, 60, 130)))
    found = centred(sheet(*lines))
    assert found.size == (SIDE, SIDE)
    assert (np.asarray(found) == np.asarray(plain)).all()


@pytest.mark.parametrize("line", [(140, 20, 140, 260), (20, 140, 260, 140), (30, 30, 250, 250), (100, 100, 101, 101)])
def test_drawing_fills_the_box_with_its_mass_in_the_middle(line):
    found = centred(sheet(line))
    left, top, right, low = found.point(lambda value: 255 * (value > 16)).getbbox()
    assert max(right - left, low - top) == BOX
    assert middle(found) == pytest.approx(((SIDE - 1) / 2, (SIDE - 1) / 2), abs=0.51)


def test_mass_at_one_end_stays_inside():
    """A blot with a long thin tail: with its mass in the middle the tail would leave the picture."""
    image = sheet((20, 140, 260, 140), width=4)
    ImageDraw.Draw(image).ellipse((20, 110, 80, 170), fill=255)
    found = np.asarray(centred(image))
    assert (found.max(0) > 0).sum() >= BOX - 1


def test_colours_and_sizes_of_any_png_are_taken():
    found = read_drawing(
        address(
            Image.merge("RGBA", [sheet((10, 10, 50, 90), side=100, width=9)] * 3 + [Image.new("L", (100, 100), 255)])
        )
    )
    picture = Image.open(io.BytesIO(found))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (SIDE, SIDE))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no drawing"),
        ("https://example.org/a.png", "is no drawing"),
        (PREFIX + "!!!", "is no drawing"),
        (PREFIX + "ö", "is no drawing"),
        (PREFIX + "A" * 3_000_000, "is no drawing"),
        (PREFIX, "the drawing"),
        (PREFIX + base64.b64encode(b"<svg/>").decode(), "the drawing"),
        (address(sheet()), "Nothing was drawn"),
    ],
)
def test_what_is_no_drawing_is_refused_with_a_sentence(text, words):
    with pytest.raises(ImageError, match=words):
        read_drawing(text)
