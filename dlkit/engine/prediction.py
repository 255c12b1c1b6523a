"""From pictures to softmax probabilities, with the ImageNet model or with any run's saved model.

One inference at a time: several forward passes side by side are slower in sum than one after another. Loaded models are
kept, the last few, and never changed: training builds its own.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from dlkit.catalog.backbones import BACKBONES
from dlkit.engine import device as devices
from dlkit.engine.bundle import Bundle, load_bundle
from dlkit.engine.model import imagenet_labels, pretrained
from dlkit.engine.preprocess import preprocessing_of
from dlkit.runs.artifacts import read_description

IMAGENET_BACKBONE = "efficientnet-lite0"
KEPT_MODELS = 3  # of runs; the ImageNet model stays
BATCH = 32


@dataclass(frozen=True)
class Guess:
    """One class and its softmax probability."""

    label: str
    probability: float


_lane = threading.Lock()
_imagenet: dict[str, Bundle] = {}  # by device
_kept: OrderedDict[tuple[Path, str], tuple[str, Bundle]] = OrderedDict()  # (folder, device) -> (sha256, model)


def predict(
    source: Path | None, images: Sequence[Image.Image], top_k: int = 5, device: str = "auto"
) -> list[tuple[Guess, ...]]:
    """Return the `top_k` likeliest classes of each RGB picture, likeliest first.

    `source` is the folder of a saved model, or None for the ImageNet model. BundleError where it cannot be loaded.
    """
    with _lane:
        bundle = _model(source, device)
        probabilities = [
            row
            for start in range(0, len(images), BATCH)
            for row in _probabilities(bundle, images[start : start + BATCH])
        ]
    return [_top(bundle.classes, row, top_k) for row in probabilities]


def warm_up() -> None:
    """Load the ImageNet model and run it once, so that the first visitor need not wait for it."""
    torch.set_num_threads(1)  # the server's share: the cores belong to the workers
    predict(None, [Image.new("RGB", (64, 64))])


def is_warm() -> bool:
    """Tell whether the ImageNet model is loaded."""
    return bool(_imagenet)


def _probabilities(bundle: Bundle, images: Sequence[Image.Image]) -> torch.Tensor:
    """Return (N, C) float32 on the CPU."""
    squares = torch.stack([torch.tensor(bundle.preprocessing.square(image)) for image in images])
    device = next(bundle.model.parameters()).device
    with torch.inference_mode():
        logits = bundle.model(bundle.preprocessing.normalise(squares.to(device)))
        return logits.float().softmax(1).cpu()


def _top(classes: Sequence[str], probabilities: torch.Tensor, top_k: int) -> tuple[Guess, ...]:
    values, indices = probabilities.topk(min(top_k, len(classes)))
    return tuple(Guess(classes[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True))


def _model(source: Path | None, device: str) -> Bundle:
    """Return the model, from those kept where it has not been saved anew since."""
    target = devices.resolve(device)
    if source is None:
        if str(target) not in _imagenet:
            _imagenet[str(target)] = _ready(_imagenet_bundle(), target)
        return _imagenet[str(target)]
    key, version = (source, str(target)), read_description(source)["sha256"]
    if key not in _kept or _kept[key][0] != version:
        _kept[key] = version, _ready(load_bundle(source), target)
        while len(_kept) > KEPT_MODELS:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key][1]


def _ready(bundle: Bundle, device: torch.device) -> Bundle:
    bundle.model.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    return bundle


def _imagenet_bundle() -> Bundle:
    entry = BACKBONES[IMAGENET_BACKBONE]
    return Bundle(pretrained(entry), entry.name, imagenet_labels(), preprocessing_of(entry), {})
