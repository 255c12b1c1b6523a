"""Softmax and cross-entropy: from logits to probabilities, the loss and its gradient, with everything in between.

Bridle 1990, Probabilistic interpretation of feedforward classification network outputs; label smoothing: Szegedy et al.
2016, Rethinking the Inception architecture. Losses and gradients are those of torch.nn.functional.cross_entropy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlkit.descent.asked import Number
from dlkit.errors import ConfigError

Array = NDArray[Any]  # float16, float32 or float64; what is computed has the precision of the logits
Labels = NDArray[np.int64]

MOST_CLASSES = 1000
LARGEST_LOGIT = 1e6
PRECISIONS = ("float16", "float32", "float64")
NUMBERS = {
    "label": Number("Right class", 0, 0, MOST_CLASSES - 1, is_whole=True),
    "temperature": Number("Temperature", 1, 0.01, 1000),
    "smoothing": Number("Label smoothing", 0, 0, 1),
}


@dataclass(frozen=True)
class Judged:
    """What a loss says of N examples: `probabilities` (N, C), `losses` (N,), and their mean `loss`.

    `targets` (N, C) is what the probabilities should be, times the class weights where there are any. `gradient` (N, C)
    is that of the mean by the logits.
    """

    probabilities: Array
    targets: Array
    losses: Array
    loss: float
    gradient: Array


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    """Return the probabilities (…, C) of logits (…, C); above a temperature of 1 they are more alike."""
    powers = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    probabilities: Array = powers / powers.sum(-1, keepdims=True)
    return probabilities


def log_softmax(logits: Array, temperature: float = 1.0) -> Array:
    """Return the logarithms of the probabilities (…, C), finite also where these round to 0."""
    scaled = (logits - logits.max(-1, keepdims=True)) / temperature
    logs: Array = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    return logs


def smoothed(labels: Labels, classes: int, smoothing: float = 0.0) -> Array:
    """Return the targets (N, C) of labels (N,): 1 for the right class, of which `smoothing` is shared among all."""
    targets = np.full((len(labels), classes), smoothing / classes)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return targets


def cross_entropy(
    logits: Array, labels: Labels, *, temperature: float = 1.0, smoothing: float = 0.0, weights: Array | None = None
) -> Judged:
    """Judge logits (N, C) by -Σ q·log p, in their own precision; `weights` (C,) weigh the classes.

    As in torch the mean is the weighted one, by the weights of the right classes. Without weights and smoothing the
    gradient is (p - y)/N.
    """
    probabilities = softmax(logits, temperature)
    targets = smoothed(labels, logits.shape[1], smoothing).astype(logits.dtype)
    total: Any = len(labels)
    if weights is not None:
        weights = weights.astype(logits.dtype)
        targets, total = targets * weights, weights[labels].sum()
    losses = -(targets * log_softmax(logits, temperature)).sum(1)
    gradient = (probabilities * targets.sum(1, keepdims=True) - targets) / (total * temperature)
    return Judged(probabilities, targets, losses, float(losses.sum() / total), gradient.astype(logits.dtype))


def squared_error(logits: Array, labels: Labels, *, temperature: float = 1.0) -> Judged:
    """Judge logits (N, C) by Σ (p - y)².

    Its gradient by a logit has p as a factor, so it dies where the network is sure, whether it is right or wrong:
    Solla, Levin & Fleisher 1988, Accelerated learning in layered neural networks.
    """
    probabilities = softmax(logits, temperature)
    targets = smoothed(labels, logits.shape[1]).astype(logits.dtype)
    errors = probabilities - targets
    losses, slopes = (errors**2).sum(1), 2 * errors / (len(labels) * temperature)
    gradient = probabilities * (slopes - (slopes * probabilities).sum(1, keepdims=True))
    return Judged(probabilities, targets, losses, float(losses.mean()), gradient)


def naive_loss(logits: Array, label: int) -> tuple[Array, float]:
    """Return probabilities (C,) and the loss of one example by the letter: e^z overflows, and log(0) is not finite."""
    with np.errstate(all="ignore"):
        powers = np.exp(logits)
        probabilities = powers / powers.sum()
        return probabilities, float(-np.log(probabilities[label]))


@dataclass(frozen=True)
class Precision:
    """One example in one precision: by the letter, and with the largest logit taken off first."""

    name: str
    naive_probabilities: Array
    naive_loss: float
    probabilities: Array
    loss: float

    @property
    def is_naive_enough(self) -> bool:
        """Whether the letter gives the same loss, up to the rounding of the precision."""
        tolerance = 16 * float(np.finfo(self.probabilities.dtype).eps)
        return math.isclose(self.naive_loss, self.loss, rel_tol=tolerance, abs_tol=tolerance)


@dataclass(frozen=True)
class Question:
    """One example: its logits (C,), the right class, and how it is judged."""

    logits: tuple[float, ...]
    label: int
    temperature: float = 1.0
    smoothing: float = 0.0
    weights: tuple[float, ...] | None = None

    def judge(self) -> Judged:
        """Return what cross-entropy says of it: arrays of one row."""
        weights = None if self.weights is None else np.asarray(self.weights)
        kinds = {"temperature": self.temperature, "smoothing": self.smoothing}
        return cross_entropy(np.asarray([self.logits]), np.asarray([self.label]), weights=weights, **kinds)

    def by_squared_error(self) -> Judged:
        """Return what the squared error says of it: arrays of one row."""
        return squared_error(np.asarray([self.logits]), np.asarray([self.label]), temperature=self.temperature)

    def precisions(self) -> list[Precision]:
        """Return the plain loss in each precision, by the letter and safely."""
        found = []
        for name in PRECISIONS:
            with np.errstate(over="ignore"):
                logits = np.asarray(self.logits).astype(name)
            with np.errstate(all="ignore"):
                safe = cross_entropy(logits[None], np.asarray([self.label]))
            found.append(Precision(name, *naive_loss(logits, self.label), safe.probabilities[0], safe.loss))
        return found

    def along_right_logit(self, reach: float = 10.0, count: int = 81) -> "Curves":
        """Return both losses while the right class's logit goes from `reach` below to `reach` above the others'."""
        others = np.delete(np.asarray(self.logits), self.label)
        places = others.max() + np.linspace(-reach, reach, count)
        logits = np.tile(np.asarray(self.logits), (count, 1))
        logits[:, self.label] = places
        labels = np.full(count, self.label)
        both = [made(logits, labels, temperature=self.temperature) for made in (cross_entropy, squared_error)]
        losses, slopes = zip(*((one.losses, count * one.gradient[:, self.label]) for one in both), strict=True)
        return Curves(places, losses[0], slopes[0], losses[1], slopes[1])


@dataclass(frozen=True)
class Curves:
    """Losses of one example, and their derivatives by the right class's logit, at some `logits` of it; all (N,)."""

    logits: Array
    cross_entropy: Array
    cross_entropy_slope: Array
    squared_error: Array
    squared_error_slope: Array


def read(values: Mapping[str, Any]) -> Question:
    """Read one example from a form, a link or a command line; ConfigError with a sentence for every problem.

    `logits` and `weights` are numbers with commas, or lists of numbers.
    """
    problems: list[str] = []

    def number(name: str) -> float:
        try:
            return NUMBERS[name].read(name, values.get(name)) or 0.0
        except ConfigError as error:
            problems.extend(error.problems)
            return NUMBERS[name].default or 0.0

    logits = _numbers("logits", values.get("logits"), -LARGEST_LOGIT, problems)
    weights = _numbers("weights", values.get("weights"), 0.0, problems) if values.get("weights") else None
    label, temperature, smoothing = map(number, NUMBERS)
    if not problems and not 2 <= len(logits) <= MOST_CLASSES:
        problems.append(f"There must be from 2 to {MOST_CLASSES:,} logits, one for each class; got {len(logits)}.")
    if not problems and label >= len(logits):
        problems.append(f"The right class must be one of 0 to {len(logits) - 1}; got {label:g}.")
    if not problems and weights is not None and len(weights) != len(logits):
        problems.append(f"There must be as many weights as logits, {len(logits)}; got {len(weights)}.")
    if not problems and weights is not None and not weights[int(label)]:
        problems.append("The weight of the right class must be above 0: nothing would be left to learn from.")
    if problems:
        raise ConfigError(problems)
    return Question(logits, int(label), temperature, smoothing, weights)


def _numbers(name: str, given: Any, low: float, problems: list[str]) -> tuple[float, ...]:
    parts = given if isinstance(given, list | tuple) else str(given).split(",") if given else []
    rule = Number(name.capitalize(), None, low, LARGEST_LOGIT)
    found = []
    for part in parts[: MOST_CLASSES + 1]:
        try:
            number = rule.read(name, part)
        except ConfigError as error:
            problems.extend(error.problems)
            return ()
        if number is None:
            problems.append(f"{name} must be numbers with commas between them, as in 2, 1, -1; one is missing.")
            return ()
        found.append(number)
    return tuple(found)
