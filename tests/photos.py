"""Photographs of the sample and what becomes of them on their way through other programs."""

import io
from pathlib import Path

from PIL import Image, ImageOps

FLOWERS = Path(__file__).parents[1] / "dlkit" / "samples" / "flowers_mini"


def flower(number: int, label: str = "daisy", split: str = "train") -> bytes:
    """Return the file of one photograph."""
    return sorted((FLOWERS / split / label).iterdir())[number].read_bytes()


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    """Return a picture as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    """Return the picture in a file as RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def film(first: int, last: int, frames: int = 31) -> list[bytes]:
    """Return frames in which one photograph becomes another: each is like the next one, the ends are not alike."""
    start, end = (opened(flower(number)).resize((240, 180)) for number in (first, last))
    return [jpeg(Image.blend(start, end, step / (frames - 1)), 90) for step in range(frames)]


def copies(data: bytes) -> dict[str, bytes]:
    """Return copies that differ from the file in every byte and show the same."""
    image = opened(data)
    half = image.resize((image.width // 2, image.height // 2))
    return {
        "smaller": jpeg(half),
        "larger": jpeg(image.resize((image.width * 3 // 2, image.height * 3 // 2))),
        "compressed": jpeg(image, 40),
        "mirrored": jpeg(ImageOps.mirror(image)),
        "mirrored and smaller": jpeg(ImageOps.mirror(half), 60),
    }
