"""From a picture to the numbers that a backbone was trained on: resize, crop, normalise.

It does not open files: `dlkit.data.images` does. Augmentation comes between `square` and `normalise`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from dlkit.catalog.backbones import BackboneEntry
from dlkit.engine.device import upload
from dlkit.errors import BundleError, ConfigError

# A longer picture loses its ends before it is resized: 1×20,000 pixels would grow to 256×5,120,000, or 4 GB.
LONGEST_ASPECT = 8

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """How pictures are prepared: short side to `resize` pixels, centre crop of `size`, then (x / 255 - mean) / std.

    `mean` and `std` are per channel (R, G, B) on the scale 0 to 1; `interpolation` is "bilinear" or "bicubic".
    """

    size: int
    resize: int
    mean: Triple
    std: Triple
    interpolation: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a plain dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Return what `to_json` wrote, also after a trip through JSON; raise BundleError for anything else."""
        try:
            return cls(
                int(values["size"]),
                int(values["resize"]),
                _triple(values["mean"]),
                _triple(values["std"]),
                Image.Resampling[values["interpolation"].upper()].name.lower(),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BundleError(
                f"The model's preprocessing must have size, resize, mean, std and interpolation; {error!r} is wrong. "
                "Export the model again."
            ) from error

    def square(self, image: Image.Image) -> np.ndarray:
        """Return the centre of an RGB picture of any size as uint8 (size, size, 3).

        The same as torchvision's ImageClassification preset up to an aspect of LONGEST_ASPECT.
        """
        image = _without_ends(image)
        short = min(image.size)
        width, height = (int(self.resize * side / short) for side in image.size)
        image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        return np.asarray(_centre(image, self.size, self.size))

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """Return uint8 (N, H, W, 3) as float32 (N, 3, H, W) in channels_last memory format, on the same device.

        Computed a row of pixels at a time, with the mean and std of the channels by turns: to spread the three over all
        pixels takes four times as long on a CPU, for the same numbers.
        """
        count, height, width, channels = batch.shape
        mean, std = (upload(torch.tensor(values).repeat(width), batch.device) for values in (self.mean, self.std))
        rows = batch.reshape(count, height, width * channels).to(torch.float32).div_(255).sub_(mean).div_(std)
        return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def preprocessing_of(entry: BackboneEntry, size: int | None = None) -> Preprocessing:
    """Return how the backbone's pictures are prepared; at another `size`, `resize` keeps its proportion.

    Raises ConfigError for a size that the backbone cannot take.
    """
    size = entry.input_size if size is None else size
    if size < entry.min_size or (entry.fixed_size and size != entry.input_size):
        allowed = f"exactly {entry.input_size}" if entry.fixed_size else f"at least {entry.min_size}"
        raise ConfigError([f"Pictures for {entry.title} must have {allowed} pixels a side, got {size}."])
    resize = round(entry.resize * size / entry.input_size)
    return Preprocessing(size, resize, entry.mean, entry.std, entry.interpolation)


def _triple(values: Any) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _without_ends(image: Image.Image) -> Image.Image:
    """Cut both ends off a picture that is longer than LONGEST_ASPECT times its short side."""
    longest = LONGEST_ASPECT * min(image.size)
    return _centre(image, min(image.width, longest), min(image.height, longest))


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)  # rounds as torchvision does
    return image.crop((left, top, left + width, top + height))
