"""One fine-tuning run from its config to a saved model: opens the data, builds the model, trains, keeps the best.

Writes into the run's folder and nowhere else; knows no store and no process. Every now and then it writes a checkpoint
and says so; given its state it goes on from there.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch

from dlkit.catalog.augmentations import AUGMENTATIONS, BatchTransform
from dlkit.catalog.backbones import BACKBONES
from dlkit.config import FinetuneConfig, keeps_pictures
from dlkit.data.dataset import Dataset, Split, open_dataset
from dlkit.engine import device as devices
from dlkit.engine.bundle import Bundle, save_bundle
from dlkit.engine.checkpoint import Cadence, Saved, save_checkpoint
from dlkit.engine.learner import Learner, Steering, Unsteered
from dlkit.engine.model import Classifier, parameter_count, pretrained
from dlkit.engine.pixels import Pixels, shuffled_batches, validation_batches
from dlkit.engine.preprocess import Preprocessing, preprocessing_of
from dlkit.engine.rows import Resident, Room
from dlkit.engine.speed import choose, needs_trial
from dlkit.engine.training import Scores, train
from dlkit.errors import BundleError, DiskFullError, DivergedError, DlkitError
from dlkit.evidence import FEATURES, RESIDENT_SHARE, TRAINING
from dlkit.runs.artifacts import Validation, read_description
from dlkit.runs.records import Point, Progress
from dlkit.settings import settings

KEEP_SECONDS = 2


class Control(Steering, Protocol):
    """How a run is told from outside what to do next."""

    @property
    def wish(self) -> str:
        """What is wished of the run: to stop, to pause, to leave (the process must end), or nothing."""
        ...


class Uncontrolled(Unsteered):
    """Control of a run that nobody meddles with."""

    wish = ""


@dataclass(frozen=True)
class Event:
    """What a run has to tell while it goes on; the last one has the summary."""

    progress: Progress
    points: tuple[Point, ...] = ()
    step: int = 0
    checkpoint: Saved | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Best:
    """The best epoch so far: highest validation accuracy, and of equals the lowest loss; none before the first."""

    epoch: int = 0
    accuracy: float | None = None
    loss: float | None = None

    def is_beaten_by(self, scores: Scores) -> bool:
        """Tell whether these scores are better."""
        if self.accuracy is None or self.loss is None:
            return True
        return (scores.accuracy, -scores.loss) > (self.accuracy, -self.loss)

    @classmethod
    def of(cls, folder: Path) -> "Best":
        """Return what an earlier attempt has kept in a run's folder."""
        try:
            about = read_description(folder / "model")["about"]
            return cls(about["epoch"], about["val_accuracy"], about["val_loss"])
        except (BundleError, KeyError):
            return cls()


def finetune(
    config: FinetuneConfig,
    folder: Path,
    control: Control | None = None,
    state: Mapping[str, Any] | None = None,
    attempt: int = 1,
    seconds_before: float = 0.0,
) -> Iterator[Event]:
    """Train and keep the best epoch's model in `folder/model`; the last event has the summary.

    A wish of `control` ends it at the next step: with the model so far, and with a checkpoint. With `state`, that of a
    checkpoint, it goes on from there, as attempt number `attempt` of a run that took `seconds_before` until now. Raises
    what `train` raises, after a checkpoint of the weights before the step that went wrong; DiskFullError where neither
    model nor checkpoint can be written.
    """
    started = perf_counter()
    yield Event(Progress("opening the pictures"))
    config, control = config.resolved(), control or Uncontrolled()
    dataset = open_dataset(config.dataset)  # the version that the config now names
    with closing(make_learner(config, dataset)) as learner:  # nobody waits for pictures that nobody asks for
        devices.forget_peak_memory(learner.device)
        learner.steering = control
        if state is not None:
            learner.restore(state)
        yield Event(Progress("looking at the first pictures"), step=learner.step)
        best, cadence = Best.of(folder) if state else Best(), Cadence(settings().checkpoint_seconds)
        keeper = Keeper(dataset, folder)
        try:
            for report in train(learner):
                if report.scores is not None and learner.epoch > 0 and best.is_beaten_by(report.scores):
                    best = Best(learner.epoch, report.scores.accuracy, report.scores.loss)
                    keeper.take(learner, best, report.scores)
                is_end = bool(control.wish)
                is_time = (
                    cadence.is_due and not is_end
                )  # asked once: no checkpoint may be ahead of the model that is kept
                if keeper.is_due or is_time or is_end:
                    keeper.write()
                saved = _save(learner, folder, attempt, cadence) if is_time else None
                yield Event(report.progress, report.points, learner.step, saved)
                if is_end:
                    break
        except DiskFullError:
            raise
        except DlkitError as error:
            keeper.write()
            blew_up = (
                isinstance(error, DivergedError) and error.step == learner.step
            )  # in the step that is taken already
            has_come_further = learner.step > (state["position"]["step"] if state else 0)
            if (
                has_come_further and not blew_up and learner.is_finite()
            ):  # else the one before would be pruned for nothing
                yield Event(
                    Progress(f"keeping the weights from before step {learner.step + 1}"),
                    step=learner.step,
                    checkpoint=_save(learner, folder, attempt, cadence),
                )
                if best.accuracy is None and isinstance(error, DivergedError):
                    keeper.take(learner, Best(learner.epoch))
                    keeper.write()
            raise
        except Exception:  # a mistake of ours costs no model that was the best
            with suppress(DlkitError, OSError):
                keeper.write()
            raise
        if best.accuracy is None:
            best = Best(learner.epoch)
            keeper.take(learner, best)
        keeper.write()
        saved = _save(learner, folder, attempt, cadence)
        summary = _summary(learner, best, seconds_before + perf_counter() - started)
        yield Event(Progress("done", 1.0, 0.0, summary["images_per_second"]), (), learner.step, saved, summary)


def _save(learner: Learner, folder: Path, attempt: int, cadence: Cadence) -> Saved:
    started = perf_counter()
    saved = save_checkpoint(learner.state(), folder, attempt)
    cadence.saved(perf_counter() - started)
    return saved


def make_learner(config: FinetuneConfig, dataset: Dataset) -> Learner:
    """Return the model on its device and both splits behind the preprocessing; raises what is missing as a sentence.

    The first pictures are decoded while the network is built: importing its library takes seconds.
    """

    def make() -> Classifier:
        return pretrained(BACKBONES[config.backbone], len(dataset.classes), seed=config.seed, dropout=config.dropout)

    learner = assemble(config, dataset, make, is_ahead=True)
    try:
        choose_formats(learner, config.strategy)
    except Exception:
        learner.close()
        raise
    return learner


def assemble(
    config: FinetuneConfig,
    dataset: Dataset,
    make: Callable[[], Classifier],
    room: Room | None = None,
    *,
    is_ahead: bool = False,
) -> Learner:
    """Return a model on its device and both splits behind the preprocessing; no format is chosen yet.

    `room` is for decoded pictures, and as much for what a frozen network puts out; without it half of the settings'.
    With `is_ahead` the first pictures are decoded while `make` makes the model.
    """
    device = devices.resolve(config.device)  # says what is missing before anything is built
    preprocessing = preprocessing_of(BACKBONES[config.backbone], config.image_size)
    augment = AUGMENTATIONS[config.augmentation].build(preprocessing.size)
    resident = Resident(device, RESIDENT_SHARE * devices.spare_bytes(device))
    folder = settings().data_folder / "cache"
    half = room or Room(settings().cache_mb / 2 * 1e6, settings().cache_disk_mb / 2 * 1e6, folder, resident)
    of_pixels = half if keeps_pictures(config) else Room(0.0)
    share = len(dataset.train) / (len(dataset.train) + len(dataset.val))
    train_pixels = _pixels(config, dataset.train, preprocessing, augment, of_pixels, share)
    validation_pixels = _pixels(config, dataset.val, preprocessing, None, of_pixels, 1 - share)
    if is_ahead:
        validation_pixels.expect(validation_batches(len(dataset.val)))
        train_pixels.expect(shuffled_batches(len(dataset.train), config.batch_size, config.seed, 0))
    try:
        model = make().to(device).to(memory_format=torch.channels_last)
    except Exception:
        train_pixels.close()
        validation_pixels.close()
        raise
    return Learner(config, model, train_pixels, validation_pixels, device, room=half)


def choose_formats(learner: Learner, strategy: str) -> None:
    """Let the learner compute in the formats that are quickest here, where its config leaves that open."""
    config = learner.config
    size = preprocessing_of(BACKBONES[config.backbone], config.image_size).size
    for task in (FEATURES, TRAINING) if strategy != "head" else (FEATURES,):
        if needs_trial(task, config.backbone, size, learner.device, config.precision):
            for pixels in (learner.train, learner.validation):  # whatever else is done makes it slower
                pixels.expect([])
        choice = choose(task, config.backbone, learner.model.body, size, learner.device, config.precision)
        learner.formats[task] = choice.format


def _pixels(
    config: FinetuneConfig,
    split: Split,
    preprocessing: Preprocessing,
    augment: BatchTransform | None,
    room: Room,
    share: float,
) -> Pixels:
    """Return one split's pictures, with its share of the room that a run has for decoded pictures."""
    threads = max(2, torch.get_num_threads())
    return Pixels(split, preprocessing, augment, config.seed, room.share(share), threads)


class Keeper:
    """Keeps the best model in memory, and writes it now and then: of hundreds of quick epochs each may be a new best.

    It is written before each checkpoint. So what a checkpoint goes on from is never ahead of what is kept.
    """

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        self._dataset, self._folder = dataset, folder
        self._taken: tuple[Bundle, Validation | None] | None = None
        self._written = -inf

    @property
    def is_due(self) -> bool:
        """Whether a model waits to be written, and the last was written a while ago."""
        return self._taken is not None and perf_counter() - self._written >= KEEP_SECONDS

    def take(self, learner: Learner, best: Best, scores: Scores | None = None) -> None:
        """Copy the model as it would be kept now, with what it says of the validation pictures."""
        config, dataset = learner.config, self._dataset
        about = {
            "name": config.name,
            "epoch": best.epoch,
            "val_accuracy": best.accuracy,
            "val_loss": best.loss,
            "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
            "config": config.model_dump(mode="json"),
        }
        preprocessing = preprocessing_of(BACKBONES[config.backbone], config.image_size)
        model = copy.deepcopy(learner.model_to_keep()).cpu()
        bundle = Bundle(model, config.backbone, dataset.classes, preprocessing, about)
        labels = learner.validation.labels.numpy()
        validation = None if scores is None else Validation(labels, scores.probabilities)
        self._taken = bundle, validation

    def write(self) -> None:
        """Write what was taken since the last time."""
        if self._taken is None:
            return
        bundle, validation = self._taken
        self._folder.mkdir(parents=True, exist_ok=True)
        if validation is not None:  # first, as the model is what a later attempt goes by: it repeats both or none
            validation.save(self._folder / "validation.npz")
        save_bundle(bundle, self._folder / "model")
        self._taken, self._written = None, perf_counter()


def _summary(learner: Learner, best: Best, seconds: float) -> dict[str, Any]:
    """Return what stands at the head of a run's results."""
    return {
        "val_accuracy": best.accuracy,
        "val_loss": best.loss,
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
        "formats": {task: str(form) for task, form in learner.formats.items()},
        "memory_mb": devices.peak_memory_mb(learner.device),
        "device": devices.describe(learner.device),
        "torch": torch.__version__,
    }
