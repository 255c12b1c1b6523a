"""One fine-tuning run from its config to a saved model: opens the data, builds the model, trains, keeps the best.

Writes into the run's folder and nowhere else; knows no store and no process.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from dlkit.catalog.augmentations import AUGMENTATIONS
from dlkit.catalog.backbones import BACKBONES
from dlkit.config import FinetuneConfig
from dlkit.data.dataset import Dataset, Split, open_dataset
from dlkit.engine import device as devices
from dlkit.engine.bundle import Bundle, save_bundle
from dlkit.engine.model import parameter_count, pretrained
from dlkit.engine.pixels import Augment, Pixels
from dlkit.engine.preprocess import Preprocessing, preprocessing_of
from dlkit.engine.training import Learner, Scores, train
from dlkit.runs.artifacts import Validation
from dlkit.runs.records import Point, Progress
from dlkit.settings import settings


@dataclass(frozen=True)
class Event:
    """What a run has to tell while it goes on; the last one has the summary."""

    progress: Progress
    points: tuple[Point, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Best:
    """The best epoch so far: highest validation accuracy, and of equals the lowest loss."""

    epoch: int = -1
    scores: Scores | None = None

    def is_beaten_by(self, scores: Scores) -> bool:
        """Tell whether these scores are better."""
        if self.scores is None:
            return True
        return (scores.accuracy, -scores.loss) > (self.scores.accuracy, -self.scores.loss)


def finetune(config: FinetuneConfig, folder: Path, wish: Callable[[], str] = lambda: "") -> Iterator[Event]:
    """Train and keep the best epoch's model in `folder/model`; `wish()` == "stop" ends it with the model so far."""
    started = perf_counter()
    yield Event(Progress("opening the pictures"))
    config, dataset = config.resolved(), open_dataset(config.dataset)
    learner = make_learner(config, dataset)
    yield Event(Progress("looking at the first pictures"))
    best = Best()
    for report in train(learner):
        if report.scores is not None and learner.epoch > 0 and best.is_beaten_by(report.scores):
            best = Best(learner.epoch, report.scores)
            _keep(learner, dataset, best, folder)
        yield Event(report.progress, report.points)
        if wish() == "stop":
            break
    if best.scores is None:
        best = Best(learner.epoch)
        _keep(learner, dataset, best, folder)
    summary = _summary(learner, best, perf_counter() - started)
    yield Event(Progress("done", 1.0, 0.0, summary["images_per_second"]), summary=summary)


def make_learner(config: FinetuneConfig, dataset: Dataset) -> Learner:
    """Return the model on its device and both splits behind the preprocessing; raises what is missing as a sentence."""
    entry = BACKBONES[config.backbone]
    device = devices.resolve(config.device)
    model = pretrained(entry, len(dataset.classes), seed=config.seed, dropout=config.dropout)
    model = model.to(device).to(memory_format=torch.channels_last)
    preprocessing = preprocessing_of(entry, config.image_size)
    augment = AUGMENTATIONS[config.augmentation].build(preprocessing.size)
    train_pixels = _pixels(config, dataset.train, preprocessing, augment)
    validation_pixels = _pixels(config, dataset.val, preprocessing, None)
    return Learner(config, model, train_pixels, validation_pixels, device)


def _pixels(config: FinetuneConfig, split: Split, preprocessing: Preprocessing, augment: Augment | None) -> Pixels:
    threads = max(2, torch.get_num_threads())
    return Pixels(split, preprocessing, augment, config.seed, settings().cache_mb / 2, threads)


def _keep(learner: Learner, dataset: Dataset, best: Best, folder: Path) -> None:
    """Save the model as it would be kept now, with what it says of the validation pictures."""
    config = learner.config
    scores = best.scores
    about = {
        "name": config.name,
        "epoch": best.epoch,
        "val_accuracy": None if scores is None else scores.accuracy,
        "val_loss": None if scores is None else scores.loss,
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "config": config.model_dump(mode="json"),
    }
    preprocessing = preprocessing_of(BACKBONES[config.backbone], config.image_size)
    bundle = Bundle(learner.model_to_keep(), config.backbone, dataset.classes, preprocessing, about)
    save_bundle(bundle, folder / "model")
    if scores is not None:
        Validation(learner.validation.labels.numpy(), scores.probabilities).save(folder / "validation.npz")


def _summary(learner: Learner, best: Best, seconds: float) -> dict[str, Any]:
    """Return what stands at the head of a run's results."""
    return {
        "val_accuracy": None if best.scores is None else best.scores.accuracy,
        "val_loss": None if best.scores is None else best.scores.loss,
        "best_epoch": best.epoch,
        "epochs": learner.epoch,
        "steps": learner.step,
        "seconds": seconds,
        "images_per_second": learner.seen / seconds,
        "train_images": len(learner.train),
        "val_images": len(learner.validation),
        "classes": learner.classes,
        "image_size": learner.config.image_size,
        "parameters": parameter_count(learner.model),
        "trained_parameters": parameter_count(learner.trained),
        "device": devices.describe(learner.device),
        "torch": torch.__version__,
    }
