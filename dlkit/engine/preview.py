"""What the model sees: one batch after augmentation and mixing, turned back into pictures."""

import numpy as np
import torch
from PIL import Image

from dlkit.catalog.augmentations import AUGMENTATIONS, MIXINGS
from dlkit.catalog.backbones import BACKBONES
from dlkit.config import suggested_image_size
from dlkit.data.dataset import Dataset
from dlkit.engine.pixels import Pixels, seeded
from dlkit.engine.preprocess import Preprocessing, preprocessing_of

PICTURES = 16
MIXING_ALPHA = 0.4


def augmented_batch(
    dataset: Dataset, backbone: str, augmentation: str, mixing: str, seed: int, view: int
) -> list[Image.Image]:
    """Return PICTURES training pictures of every class as they enter the network in epoch `view`."""
    preprocessing = preprocessing_of(BACKBONES[backbone], suggested_image_size(dataset.name, backbone))
    augment = AUGMENTATIONS[augmentation].build(preprocessing.size)
    pixels = Pixels(dataset.train, preprocessing, augment, seed, budget_mb=0, threads=1)
    indices = _from_every_class(dataset, PICTURES)
    batch = pixels.batch(indices, view, torch.device("cpu"))
    mix = MIXINGS[mixing].build(len(dataset.classes), MIXING_ALPHA)
    if mix is not None:
        with seeded(seed, view, len(indices)):
            batch, _ = mix(batch, pixels.labels[torch.from_numpy(indices)])
    return _pictures(batch, preprocessing)


def _from_every_class(dataset: Dataset, count: int) -> np.ndarray:
    """Return the indices of `count` training pictures, the classes by turns."""
    turns = [dataset.train.indices_of(label) for label in range(min(count, len(dataset.classes)))]
    chosen = [
        int(turns[place % len(turns)][place // len(turns) % len(turns[place % len(turns)])]) for place in range(count)
    ]
    return np.array(chosen)


def _pictures(batch: torch.Tensor, preprocessing: Preprocessing) -> list[Image.Image]:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = (batch.cpu() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).contiguous().numpy()]
