"""What the model sees: one batch after augmentation and mixing, turned back into pictures."""

from contextlib import closing

import numpy as np
import torch
from PIL import Image

from dlkit.catalog.augmentations import AUGMENTATIONS, MIXINGS
from dlkit.catalog.backbones import BACKBONES
from dlkit.config import FinetuneConfig
from dlkit.data.dataset import Dataset
from dlkit.engine.pixels import Pixels, seeded
from dlkit.engine.preprocess import Preprocessing, preprocessing_of
from dlkit.engine.rows import Room

PICTURES = 16


def augmented_batch(dataset: Dataset, config: FinetuneConfig, view: int) -> list[Image.Image]:
    """Return PICTURES training pictures, of the classes by turns, as they enter the network in epoch `view`.

    Where a frozen network's outputs are kept, view 0 has the pictures as they are; others are augmented.
    """
    config = config.resolved()
    seen = view if config.strategy == "full" else view % (config.views or 1) or None
    preprocessing = preprocessing_of(BACKBONES[config.backbone], config.image_size)
    augment = AUGMENTATIONS[config.augmentation].build(preprocessing.size)
    indices = _from_every_class(dataset, PICTURES)
    with closing(Pixels(dataset.train, preprocessing, augment, config.seed, Room(memory=0), threads=1)) as pixels:
        batch = pixels.batch(indices, seen, torch.device("cpu"))
    mix = MIXINGS[config.mixing].build(len(dataset.classes), config.mixing_alpha)
    if mix is not None:
        with seeded(config.seed, view, len(indices)):
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
