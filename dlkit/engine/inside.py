"""Looks into networks for the pages: the last few stay open, and one at a time is looked into.

Pages get arrays from it, no tensors. It takes its turn with the forward passes of `prediction`; a step of a run, which
takes seconds, has a lane of its own and waits for other steps only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from dlkit.catalog.backbones import BACKBONES
from dlkit.data.dataset import open_dataset
from dlkit.engine import prediction
from dlkit.engine.arithmetic import Arithmetic, arithmetic_of, softmax_at
from dlkit.engine.bundle import Bundle, load_bundle
from dlkit.engine.checkpoint import load_checkpoint
from dlkit.engine.lane import Lane
from dlkit.engine.layers import Layer, Seen, Statistics, layers_of, pictures_for, seen_in, statistics_of
from dlkit.engine.one_step import OneStep, one_step_of_run, standing_at
from dlkit.engine.phases import begin_phase
from dlkit.engine.preprocess import preprocessing_of

Floats = NDArray[np.float32]
OPEN = 3  # networks

_steps = Lane(4)  # places to wait: for half a minute or so


@dataclass(frozen=True)
class Source:
    """Which network: the model that is kept in a run's folder, a checkpoint of it, or, with no folder, ImageNet's.

    `sha256` is that of the weights or of the checkpoint: what is kept under another is another network.
    """

    folder: Path | None = None
    checkpoint: str = ""  # its file in the folder
    sha256: str = ""


@dataclass(frozen=True)
class Look:
    """What a layer was given and what it made of one picture, without the batch; arrays are float32."""

    _seen: Seen

    @property
    def inputs(self) -> Floats:
        return np.asarray(self._seen.inputs[0].numpy())

    @property
    def outputs(self) -> Floats:
        return np.asarray(self._seen.outputs[0].numpy())

    @property
    def filters(self) -> Floats | None:
        """The filters of a convolution, (units, inputs, kernel, kernel); None of another layer."""
        layer = self._seen.module
        return np.asarray(layer.weight.numpy()) if isinstance(layer, nn.Conv2d) else None

    def arithmetic(self, index: Sequence[int], *, training: bool = False, seed: int = 0) -> Arithmetic:
        """Return how the value at `index` comes about: see `arithmetic.arithmetic_of`, which is given this picture."""
        return arithmetic_of(self._seen, (0, *index), training=training, seed=seed)

    def probability(self, label: int) -> Arithmetic:
        """Return how the probability of a class comes about, where these are the logits."""
        return softmax_at(self._seen.outputs[0], label)


@dataclass(frozen=True)
class _Open:
    bundle: Bundle
    layers: tuple[Layer, ...]


def layers(source: Source) -> tuple[Layer, ...]:
    """Return the layers of a network; BundleError where it is gone or damaged."""
    with prediction.turn():
        return _open(source).layers


def classes(source: Source) -> tuple[str, ...]:
    """Return the names of the classes that a network tells apart."""
    with prediction.turn():
        return _open(source).bundle.classes


def statistics(source: Source, image: Image.Image) -> list[Statistics]:
    """Return what each layer makes of an RGB picture, in the order of `layers`."""
    with prediction.turn():
        bundle = _open(source).bundle
        return statistics_of(bundle.model, pictures_for(bundle, [image]))


def square(source: Source, image: Image.Image) -> Image.Image:
    """Return what the network sees of a picture, cut and scaled."""
    with prediction.turn():
        return Image.fromarray(_open(source).bundle.preprocessing.square(image))


def look(source: Source, image: Image.Image, layer: str, call: int = 1) -> Look:
    """Return what a layer makes of an RGB picture when it runs for the `call`th time; ConfigError where it does not."""
    with prediction.turn():
        bundle = _open(source).bundle
        return Look(seen_in(bundle.model, pictures_for(bundle, [image]), layer, call))


def step(source: Source, parameter: str, batch: int) -> OneStep:
    """Return the step that a run would take from a checkpoint: see `one_step.one_step_of_run`.

    BusyError where too many wait for theirs.
    """
    with _steps.turn():
        return one_step_of_run(_state(source), parameter, batch)


@lru_cache(maxsize=OPEN)
def _open(source: Source) -> _Open:
    bundle = _read(source)
    bundle.model.eval().requires_grad_(False)
    return _Open(bundle, tuple(layers_of(bundle.model, bundle.preprocessing.size)))


def _read(source: Source) -> Bundle:
    if source.folder is None:
        return prediction.imagenet_bundle()
    return _at_checkpoint(source) if source.checkpoint else load_bundle(source.folder / "model")


def _at_checkpoint(source: Source) -> Bundle:
    """Return the model as it would have been kept at a checkpoint."""
    with standing_at(_state(source)) as learner:
        begin_phase(learner)
        model = learner.model_to_keep().cpu().to(memory_format=torch.contiguous_format)
        config = learner.config
        preprocessing = preprocessing_of(BACKBONES[config.backbone], config.image_size)
        return Bundle(model, config.backbone, open_dataset(config.dataset).classes, preprocessing, {})


def _state(source: Source) -> dict[str, object]:
    assert source.folder is not None
    return load_checkpoint(source.folder / source.checkpoint, source.sha256)
