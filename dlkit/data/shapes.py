"""Draw the data set "shapes": six outlines whose colour, size, angle and background tell nothing about the class."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "cross", "ring", "square", "star", "triangle")
IMAGE_SIZE = 96
_OVERSAMPLING = 2  # drawn larger and shrunk, for smooth edges


@lru_cache(maxsize=2)
def draw_shapes(seed: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 (6·per_class, 96, 96, 3), and labels, int64, class after class; both read-only."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(SHAPES)), per_class)
    images = np.stack([_draw(SHAPES[label], generator) for label in labels])
    images.setflags(write=False)  # the cache hands the same arrays to everybody
    labels.setflags(write=False)
    return images, labels


def _draw(shape: str, generator: np.random.Generator) -> np.ndarray:
    side = IMAGE_SIZE * _OVERSAMPLING
    image = _texture(side, generator)
    radius = generator.uniform(0.2, 0.38) * side
    centre = generator.uniform(radius, side - radius, size=2)
    turned = _outline(shape, generator.uniform(0, 2 * np.pi)) * radius + centre
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon([tuple(point) for point in turned], fill=255)
    if shape == "ring":
        hole = (turned - centre) * 0.55 + centre
        ImageDraw.Draw(mask).polygon([tuple(point) for point in hole], fill=0)
    image.paste(_texture(side, generator), mask=mask)
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX))


def _texture(side: int, generator: np.random.Generator) -> Image.Image:
    """Coloured noise of a random grain around a random colour."""
    grain = int(generator.integers(4, 24))
    noise = generator.normal(0, 22, size=(grain, grain, 1)) + generator.uniform(20, 235, size=3)
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)


def _outline(shape: str, angle: float) -> np.ndarray:
    """Return the corners (K, 2) of the shape inside the unit circle, turned by `angle` (radians)."""
    if shape == "cross":
        corners = _cross()
    else:
        count = {"triangle": 3, "square": 4, "star": 10}.get(shape, 60)
        turns = np.arange(count) * 2 * np.pi / count
        radii = np.where(np.arange(count) % 2, 0.42, 1.0) if shape == "star" else np.ones(count)
        corners = np.stack([np.cos(turns), np.sin(turns)], axis=1) * radii[:, None]
    cosine, sine = np.cos(angle), np.sin(angle)
    return corners @ np.array([[cosine, sine], [-sine, cosine]])


def _cross() -> np.ndarray:
    arm = 0.3
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]]) / np.hypot(1, arm)
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, count) for count in range(4)])
