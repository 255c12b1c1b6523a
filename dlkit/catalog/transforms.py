"""What augmentation does to a batch of pictures, on the device on which they are: crops, flips, colours, RandAugment.

Everything random is drawn as numbers per picture beforehand (`draws`), so a picture never depends on its neighbours in
the batch. On the CPU pictures go one by one: they stay in the cache, and no rounding depends on how many there are. On
a GPU they go in as few groups as there are different operations, as each kernel's start costs more than its work.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dlkit.catalog.draws import uniforms

if TYPE_CHECKING:
    import torch

#: a change of crops (B, 3, S, S) uint8 by numbers (B, n) from 0 to below 1, n at least OTHER_DRAWS
Change = Callable[["torch.Tensor", np.ndarray], "torch.Tensor"]

TRIES = 10  # of a crop, before the whole picture is taken; as torchvision's RandomResizedCrop
CROP_DRAWS, OTHER_DRAWS = 2 * TRIES + 2, 4
LARGEST_RATIO = 4 / 3  # of a crop's width to its height, and the reverse
JITTER = 0.2
MAGNITUDE = 9 / 30  # RandAugment: the tenth of 31 steps
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision has it


def cropped(
    images: "torch.Tensor", keys: np.ndarray, *, size: int, smallest: float, change: Change | None = None
) -> "torch.Tensor":
    """Return random parts of squares (B, 3, R, R) uint8 as (B, 3, size, size) uint8, half of them flipped, and changed.

    `keys` (B,) uint64 are all the randomness; `smallest` is the least share of the area that a part has.
    """
    draws = uniforms(keys, CROP_DRAWS + 1 + OTHER_DRAWS)
    boxes, is_flipped = crop_boxes(draws, images.shape[-1], smallest), draws[:, CROP_DRAWS] < 0.5
    resize = resized_one_by_one if images.device.type == "cpu" else resized_at_once
    crops = resize(images, boxes, is_flipped, size)
    return crops if change is None else change(crops, draws[:, CROP_DRAWS + 1 :])


def centre(images: "torch.Tensor", keys: np.ndarray, *, size: int) -> "torch.Tensor":
    """Return the same centre (B, 3, size, size) whatever the keys are."""
    from torchvision.transforms.v2 import functional

    return functional.center_crop(images, [size, size])


def crop_boxes(draws: np.ndarray, side: int, smallest: float) -> np.ndarray:
    """Return top, left, height and width (B, 4) int64 of crops of a square, from draws (B, CROP_DRAWS or more).

    As torchvision's RandomResizedCrop: area and logarithm of the ratio are uniform, and the first crop that fits is
    taken, or the whole square.
    """
    area = side**2 * (smallest + (1 - smallest) * draws[:, :TRIES])
    ratio = np.exp(math.log(LARGEST_RATIO) * (2 * draws[:, TRIES : 2 * TRIES] - 1))
    tried = np.rint(np.sqrt(np.stack([area / ratio, area * ratio], axis=2))).astype(np.int64)  # (B, tries, 2)
    fits = (tried.min(axis=2) > 0) & (tried.max(axis=2) <= side)
    first = np.take_along_axis(tried, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    sizes = np.where(fits.any(axis=1)[:, None], first, side)
    starts = (draws[:, 2 * TRIES : CROP_DRAWS] * (side - sizes + 1)).astype(np.int64)
    return np.hstack([starts, sizes])


def resized_one_by_one(images: "torch.Tensor", boxes: np.ndarray, is_flipped: np.ndarray, size: int) -> "torch.Tensor":
    """Return the boxes of squares (B, 3, R, R) as (B, 3, size, size) uint8: bilinear, antialiased, some flipped.

    3 ms for 32 crops of 224 pixels on one core with vector instructions for bytes; `v2.functional.resized_crop` takes 7
    as it loses the pixels' order in memory, and one affine `grid_sample` of floats 22, without antialiasing.
    """
    import torch
    from torch.nn.functional import interpolate

    crops = torch.empty(len(images), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for place, ((top, left, height, width), flip) in enumerate(zip(boxes.tolist(), is_flipped, strict=True)):
        part = images[place : place + 1, :, top : top + height, left : left + width]
        crop = interpolate(part, (size, size), mode="bilinear", antialias=True)
        crops[place] = crop[0].flip(-1) if flip else crop[0]
    return crops


def resized_at_once(images: "torch.Tensor", boxes: np.ndarray, is_flipped: np.ndarray, size: int) -> "torch.Tensor":
    """Return what `resized_one_by_one` does up to 1 of 255, by two matrix products for the whole batch, on any device.

    Resizing weighs rows, then columns; a flip turns the weights of the columns round. In float32, without TF32.
    """
    import torch

    tops, lefts, heights, widths = torch.from_numpy(boxes.astype(np.float32)).to(images.device).unbind(1)
    rows, columns = (
        _weights(start, length, images.shape[-1], size) for start, length in ((tops, heights), (lefts, widths))
    )
    flips = torch.from_numpy(is_flipped).to(images.device)
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    crops = torch.einsum("bsr,bcrk,btk->bcst", rows, images.float(), columns)
    return crops.round_().clamp_(0, 255).to(torch.uint8)


def _weights(start: "torch.Tensor", length: "torch.Tensor", side: int, size: int) -> "torch.Tensor":
    """Return weights (B, size, side) of a bilinear, antialiased resize: triangles, at least one pixel to each side."""
    import torch

    start, end = start[:, None, None], (start + length)[:, None, None]
    scale = (end - start) / size
    centres = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    pixels = torch.arange(side, device=start.device) + 0.5
    weights = (1 - (pixels - centres).abs() / scale.clamp(min=1)).clamp_(min=0)
    weights = weights * ((pixels > start) & (pixels < end))
    return weights / weights.sum(2, keepdim=True)


def _groups(codes: np.ndarray, device: "torch.device") -> Iterator[tuple[int, Any]]:
    """Yield a code and the pictures that have it: one by one on the CPU, together elsewhere."""
    import torch

    if device.type == "cpu":
        for place, code in enumerate(codes.tolist()):
            yield code, slice(place, place + 1)
    else:
        for code in np.unique(codes).tolist():
            yield code, torch.from_numpy(np.flatnonzero(codes == code)).to(device)


def jittered(images: "torch.Tensor", draws: np.ndarray) -> "torch.Tensor":
    """Return the pictures with brightness, contrast and saturation times 0.8 to 1.2 each, in random order.

    As torchvision's ColorJitter, but rounded once, at the end. `draws` is (B, 4 or more).
    """
    import torch

    factors = torch.from_numpy((1 + JITTER * (2 * draws[:, :3] - 1)).astype(np.float32)).to(images.device)
    changed = torch.empty(images.shape, dtype=torch.uint8, device=images.device)
    orders = (draws[:, 3] * len(_ORDERS)).astype(np.int64)
    for order, pictures in _groups(orders, images.device):
        values = images[pictures].to(torch.float32, memory_format=torch.contiguous_format)
        for which in _ORDERS[order]:
            values = _blended(values, which, factors[pictures, which].view(-1, 1, 1, 1))
        changed[pictures] = values.round_().to(torch.uint8)
    return changed


def _blended(values: "torch.Tensor", which: int, factor: "torch.Tensor") -> "torch.Tensor":
    """Blend pictures (B, 3, S, S) float32 in place with black (0), their mean grey (1) or their own greys (2)."""
    values.mul_(factor)
    if which:
        red, green, blue = values.unbind(1)
        grey = (red * _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2]).unsqueeze_(1)
        grey = grey.mean((2, 3), keepdim=True) if which == 1 else grey
        values.add_(grey.mul_(1 / factor - 1))  # the greys were multiplied by the factor, too
    return values.clamp_(0, 255)


@dataclass(frozen=True)
class Operation:
    """One of RandAugment's: `apply(functional, images, amount)`; the amount's sign is random where it `is_signed`."""

    name: str
    apply: Callable[[Any, "torch.Tensor", float], "torch.Tensor"]
    amount: float = 0.0
    is_signed: bool = False


def _moved(
    functional: Any, images: "torch.Tensor", shear: tuple[float, float] = (0, 0), shift: tuple[float, float] = (0, 0)
) -> "torch.Tensor":
    """Shear from the corner, or shift by a share of the side; what comes in is black."""
    return functional.affine(
        images,
        angle=0.0,
        translate=[int(share * images.shape[-1]) for share in shift],
        scale=1.0,
        shear=[math.degrees(math.atan(share)) for share in shear],
        center=[0, 0],
    )


_SHIFT = 150 / 331 * MAGNITUDE  # 150 pixels of the 331 that the paper's pictures had
OPERATIONS = (  # Cubuk et al. 2020, arxiv.org/abs/1909.13719, with torchvision's ranges
    Operation("Identity", lambda f, images, amount: images),
    Operation("ShearX", lambda f, images, amount: _moved(f, images, shear=(amount, 0)), 0.3 * MAGNITUDE, True),
    Operation("ShearY", lambda f, images, amount: _moved(f, images, shear=(0, amount)), 0.3 * MAGNITUDE, True),
    Operation("TranslateX", lambda f, images, amount: _moved(f, images, shift=(amount, 0)), _SHIFT, True),
    Operation("TranslateY", lambda f, images, amount: _moved(f, images, shift=(0, amount)), _SHIFT, True),
    Operation("Rotate", lambda f, images, amount: f.rotate(images, amount), 30 * MAGNITUDE, True),
    Operation("Brightness", lambda f, images, amount: f.adjust_brightness(images, 1 + amount), 0.9 * MAGNITUDE, True),
    Operation("Color", lambda f, images, amount: f.adjust_saturation(images, 1 + amount), 0.9 * MAGNITUDE, True),
    Operation("Contrast", lambda f, images, amount: f.adjust_contrast(images, 1 + amount), 0.9 * MAGNITUDE, True),
    Operation("Sharpness", lambda f, images, amount: f.adjust_sharpness(images, 1 + amount), 0.9 * MAGNITUDE, True),
    Operation("Posterize", lambda f, images, amount: f.posterize(images, int(amount)), round(8 - 4 * MAGNITUDE)),
    Operation("Solarize", lambda f, images, amount: f.solarize(images, amount), 255 * (1 - MAGNITUDE)),
    Operation("AutoContrast", lambda f, images, amount: f.autocontrast(images)),
    Operation("Equalize", lambda f, images, amount: f.equalize(images)),
)


def rand_augmented(images: "torch.Tensor", draws: np.ndarray) -> "torch.Tensor":
    """Return the pictures after two random OPERATIONS each, which may be the same; `draws` is (B, 4 or more)."""
    import torch
    from torchvision.transforms.v2 import functional

    images = images.contiguous()
    is_signed = np.array([operation.is_signed for operation in OPERATIONS])
    for which, sign in (draws[:, 0:2].T, draws[:, 2:4].T):
        chosen = (which * len(OPERATIONS)).astype(np.int64)
        changed = torch.empty_like(images)
        for code, pictures in _groups(2 * chosen + (is_signed[chosen] & (sign < 0.5)), images.device):
            operation, is_negative = OPERATIONS[code // 2], code % 2
            amount = -operation.amount if is_negative else operation.amount
            changed[pictures] = operation.apply(functional, images[pictures], amount)
        images = changed
    return images
