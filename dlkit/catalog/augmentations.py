"""Augmentation levels, from none to strong, and the two ways of mixing images.

A level's builder gives a transform of a batch on its device, from uint8 (B, 3, R, R) and the pictures' keys (B,) uint64
to uint8 (B, 3, S, S). The keys (`draws.keys_of`) are all its randomness. Mixing works on a batch of normalised images
and turns its labels into shares of classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

#: (B, 3, R, R) uint8 and keys (B,) uint64 -> (B, 3, S, S) uint8
BatchTransform = Callable[["torch.Tensor", "np.ndarray"], "torch.Tensor"]


@dataclass(frozen=True)
class AugmentationEntry:
    """One level; `build(size)` gives the transform to squares of `size` pixels."""

    name: str
    title: str
    summary: str
    build: Callable[[int], BatchTransform]


@dataclass(frozen=True)
class MixingEntry:
    """One way of mixing; `build(classes, alpha)` gives a transform of (images, labels), or None."""

    name: str
    title: str
    summary: str
    build: Callable[[int, float], Any]
    paper: str = ""


def _none(size: int) -> BatchTransform:
    from dlkit.catalog.transforms import centre  # with numpy, which the supervisor does without

    return partial(centre, size=size)


def _light(size: int) -> BatchTransform:
    from dlkit.catalog.transforms import cropped

    return partial(cropped, size=size, smallest=0.7)


def _medium(size: int) -> BatchTransform:
    from dlkit.catalog.transforms import cropped, jittered

    return partial(cropped, size=size, smallest=0.4, change=jittered)


def _strong(size: int) -> BatchTransform:
    from dlkit.catalog.transforms import cropped, rand_augmented

    return partial(cropped, size=size, smallest=0.25, change=rand_augmented)


def _mixup(classes: int, alpha: float) -> Any:
    from torchvision.transforms import v2

    return v2.MixUp(alpha=alpha, num_classes=classes)


def _cutmix(classes: int, alpha: float) -> Any:
    from torchvision.transforms import v2

    return v2.CutMix(alpha=alpha, num_classes=classes)


_LEVELS = (
    AugmentationEntry("none", "None", "Every epoch shows the same centre crop.", _none),
    AugmentationEntry("light", "Light", "Crops of 70 to 100 % of the picture, flipped half of the time.", _light),
    AugmentationEntry("medium", "Medium", "Crops of 40 to 100 %, flips, and small changes of colour.", _medium),
    AugmentationEntry(
        "strong", "Strong", "Crops of 25 to 100 %, flips, and two random operations (RandAugment).", _strong
    ),
)

_MIXINGS = (
    MixingEntry("none", "None", "Pictures are not mixed.", lambda classes, alpha: None),
    MixingEntry(
        "mixup",
        "Mixup",
        "Two pictures shine through each other, and so do their labels.",
        _mixup,
        "Zhang et al. 2018, arxiv.org/abs/1710.09412",
    ),
    MixingEntry(
        "cutmix",
        "CutMix",
        "A rectangle of one picture covers another; the label is shared by area.",
        _cutmix,
        "Yun et al. 2019, arxiv.org/abs/1905.04899",
    ),
)

AUGMENTATIONS: dict[str, AugmentationEntry] = {entry.name: entry for entry in _LEVELS}
MIXINGS: dict[str, MixingEntry] = {entry.name: entry for entry in _MIXINGS}
