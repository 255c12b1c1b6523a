"""Augmentation levels, from none to strong, and the two ways of mixing images.

A level works on one image; its builder gives a torchvision transform from uint8 (3, R, R) to uint8 (3, S, S).
Mixing works on a whole batch of normalised images and turns its labels into shares of classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AugmentationEntry:
    """One level; `build(size)` gives the transform to squares of `size` pixels."""

    name: str
    title: str
    summary: str
    build: Callable[[int], Any]


@dataclass(frozen=True)
class MixingEntry:
    """One way of mixing; `build(classes, alpha)` gives a transform of (images, labels), or None."""

    name: str
    title: str
    summary: str
    build: Callable[[int, float], Any]
    paper: str = ""


def _no_change(size: int) -> Any:
    from torchvision.transforms import v2

    return v2.CenterCrop(size)


def _light(size: int) -> Any:
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(size, scale=(0.7, 1.0), antialias=True), v2.RandomHorizontalFlip()])


def _medium(size: int) -> Any:
    from torchvision.transforms import v2

    colour = v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)
    return v2.Compose([v2.RandomResizedCrop(size, scale=(0.4, 1.0), antialias=True), v2.RandomHorizontalFlip(), colour])


def _strong(size: int) -> Any:
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.25, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(num_ops=2, magnitude=9),
        ]
    )


def _mixup(classes: int, alpha: float) -> Any:
    from torchvision.transforms import v2

    return v2.MixUp(alpha=alpha, num_classes=classes)


def _cutmix(classes: int, alpha: float) -> Any:
    from torchvision.transforms import v2

    return v2.CutMix(alpha=alpha, num_classes=classes)


_LEVELS = (
    AugmentationEntry("none", "None", "Every epoch shows the same centre crop.", _no_change),
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
