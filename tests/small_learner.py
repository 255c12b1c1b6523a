"""Trainings that take milliseconds, and what is read from them: a network of 186 weights on squares of noise."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from dlkit.catalog.augmentations import AUGMENTATIONS, BatchTransform
from dlkit.config import FinetuneConfig, parse
from dlkit.data.dataset import Dataset, open_dataset
from dlkit.data.split import FileSplit
from dlkit.engine.learner import Learner
from dlkit.engine.model import Classifier
from dlkit.engine.pixels import shuffled_batches
from dlkit.engine.training import Report
from dlkit.runs.records import Change, Point

CPU = torch.device("cpu")
SIZE = 75  # an odd margin around the crop: 86 - 75
UNEVEN = [0] * 12 + [1] * 8 + [2] * 5


def one_thread() -> Iterator[None]:
    """Keep torch to one thread during a test; a module's fixture yields from here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def part_of(split: FileSplit, per_class: int) -> FileSplit:
    """Return the first few pictures of each class."""
    chosen = np.concatenate([split.indices_of(label)[:per_class] for label in range(5)])
    return FileSplit(split.labels[chosen], split.folder, tuple(split.names[index] for index in chosen))


def few_flowers() -> Dataset:
    """Return twenty real photographs of five flowers to learn from, and ten to check."""
    whole = open_dataset("flowers-mini")
    return Dataset(whole.name, whole.classes, part_of(whole.train, 4), part_of(whole.val, 2), "a part of it")


def config_of(**values: Any) -> FinetuneConfig:
    """Return a config for small pictures, small batches and two epochs, but for `values`."""
    epochs = {} if values.get("strategy") == "auto" else {"epochs": 2}
    return parse({"device": "cpu", "image_size": SIZE, "batch_size": 8, **epochs, **values}).resolved()


class Squares:
    """Stands in for Pixels: images (N, 3, 8, 8) of noise around a mean that tells the class.

    A view's pictures are brighter by 0.01 times its number, and by more the stronger the augmentation is.
    """

    def __init__(self, labels: list[int], seed: int, answers: list[int] | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.tensor(labels if answers is None else answers)
        means = torch.randn(3, 3, 1, 1, generator=torch.Generator().manual_seed(99))
        self.images = means[labels] + torch.randn(len(labels), 3, 8, 8, generator=generator)
        self.strength = 1
        self.asked: list[tuple[int | None, int]] = []

    def __len__(self) -> int:
        return len(self.labels)

    def use(self, build: Callable[[int], BatchTransform]) -> None:
        """Take the place of another strength in the catalog as the measure of brightness."""
        self.strength = [level.build for level in AUGMENTATIONS.values()].index(build)

    def expect(self, batches: list[np.ndarray]) -> None:
        """Prepare nothing."""

    def batch(self, indices: np.ndarray, view: int | None, device: torch.device) -> torch.Tensor:
        """Return pictures of a view and remember which."""
        self.asked += [(view, int(index)) for index in indices]
        return self.images[indices] + (0 if view is None else 0.01 * view * self.strength)


def small_learner(validation: Squares | None = None, labels: list[int] = UNEVEN, **values: Any) -> Learner:
    """Return a learner of a network with 186 weights, BatchNorm among them."""
    config = config_of(**values)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()]
        if config.strategy in ("partial", "auto"):  # a front that has twice the work of the tail
            layers += [nn.Conv2d(6, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), nn.ReLU()]
        body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model = Classifier(body, nn.Linear(6, 3), config.dropout)
    learner = Learner(config, model, Squares(labels, 1), validation or Squares([0, 1, 2] * 5, 2), CPU)
    learner.train.use(AUGMENTATIONS[config.augmentation].build)
    return learner


def wrong_answers() -> Squares:
    """Validation pictures whose labels are wrong: the better the training, the higher their loss."""
    return Squares([0, 1, 2] * 5, 2, answers=[1, 2, 0] * 5)


class Planned:
    """Steering that wishes for changes once a step is reached, and remembers what took effect when, as a store does."""

    def __init__(self, plan: dict[int, tuple[str, Any]] | None = None, on_record: tuple[Change, ...] = ()) -> None:
        self._plan, self.on_record, self.notes = dict(plan or {}), list(on_record), list[str]()

    def due(self, step: int, applied: set[int], is_epoch_start: bool) -> Iterator[Change]:
        """Yield what is on record and not applied, and what is wished by now."""
        for change in tuple(self.on_record):
            if change.number not in applied and change.step <= step:
                yield change
        for wished, (what, value) in tuple(self._plan.items()):
            if wished <= step and (is_epoch_start or what != "frozen"):
                del self._plan[wished]
                yield self._keep(what, value, step, "user")

    def record(self, what: str, value: Any, step: int, note: str) -> Change:
        """Keep the training's own change and its note."""
        self.notes.append(note)
        return self._keep(what, value, step, "worker")

    def _keep(self, what: str, value: Any, step: int, actor: str) -> Change:
        self.on_record.append(Change(len(self.on_record) + 1, what, value, step, actor))
        return self.on_record[-1]


def points_of(reports: list[Report]) -> list[Point]:
    """Return all points, in the order in which they were told."""
    return [point for report in reports for point in report.points]


def values_of(reports: list[Report], key: str) -> list[float]:
    """Return the values of one curve."""
    return [point.value for point in points_of(reports) if point.key == key]


def steps_of(reports: list[Report], key: str) -> list[int]:
    """Return the steps of one curve."""
    return [point.step for point in points_of(reports) if point.key == key]


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of all parameters and buffers."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Tell whether two sets of weights are equal, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def first_batch(learner: Learner) -> np.ndarray:
    """Return the pictures of the first step."""
    config = learner.config
    return shuffled_batches(len(learner.train), config.batch_size, config.seed, 0)[0]
