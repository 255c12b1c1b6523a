"""The perceptron with its own learning rule, which corrects mistakes one by one: no loss, no derivative.

Rosenblatt 1958, The perceptron, doi.org/10.1037/h0042519; that it ends where a line parts the classes, and after how
many mistakes: Novikoff 1962, On convergence proofs for perceptrons. XOR, which no line parts: Minsky & Papert 1969.
"""

from dataclasses import dataclass

import numpy as np

from dlkit.catalog.point_sets import Array, Labels
from dlkit.errors import ConfigError
from dlkit.lab.points import Points


@dataclass(frozen=True)
class Correction:
    """One example seen: `place` among the points, its `side`, -1 or 1, the `sum` w·x + b, and what was added.

    A mistake is a sum that is not on the example's side. `weights` (2,) and `bias` are those afterwards.
    """

    number: int
    place: int
    side: int
    sum: float
    is_mistake: bool
    delta: Array
    bias_delta: float
    weights: Array
    bias: float


class Perceptron:
    """A line that is turned by its mistakes; it goes through the points in an order of each epoch's own."""

    def __init__(self, points: Points, rate: float = 1.0, seed: int = 0) -> None:
        if len(points.classes) != 2:
            raise ConfigError([f"A perceptron parts two classes; there are {len(points.classes)}. Choose two."])
        self._points, self._labels = points.train()
        self._rate, self._seed = rate, seed
        self.weights, self.bias = np.zeros(2), 0.0
        self.seen, self.mistakes = 0, 0
        self._order: Labels = np.zeros(0, np.int64)

    def step(self) -> Correction:
        """Look at the next example, and correct a mistake: w + rate · side · x, b + rate · side."""
        epoch, at = divmod(self.seen, len(self._labels))
        if at == 0:
            self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._labels))
        place = int(self._order[at])
        point, side = self._points[place], 2 * int(self._labels[place]) - 1
        total = float(self.weights @ point + self.bias)
        is_mistake = side * total <= 0
        delta = self._rate * side * point * is_mistake
        bias_delta = self._rate * side * is_mistake
        self.weights, self.bias = self.weights + delta, self.bias + bias_delta
        self.seen += 1
        self.mistakes += is_mistake
        return Correction(self.seen, place, side, total, is_mistake, delta, bias_delta, self.weights, self.bias)

    def wrong(self) -> Labels:
        """Return the places of the points that are on the wrong side now, or on the line."""
        sides = 2 * self._labels - 1
        return np.flatnonzero(sides * (self._points @ self.weights + self.bias) <= 0)

    def longest(self) -> float:
        """Return after how many mistakes at most it ends, by Novikoff and its own line; infinity if a point is wrong.

        (R/γ)² with R the length of the longest point, its bias input of 1 counted, and γ the smallest distance of a
        point to the line.
        """
        if len(self.wrong()):
            return float("inf")
        inputs = np.column_stack((self._points, np.ones(len(self._labels))))
        line = np.append(self.weights, self.bias)
        margin = np.abs(inputs @ line).min() / np.linalg.norm(line)
        return float(((inputs**2).sum(1).max()) / margin**2)


@dataclass(frozen=True)
class Seen:
    """A perceptron after so many examples: the last one, and the mistakes of each epoch, the last perhaps not whole."""

    perceptron: Perceptron
    last: Correction | None
    mistakes: tuple[int, ...]


def after(points: Points, seen: int, rate: float = 1.0, seed: int = 0) -> Seen:
    """Return what a perceptron has learnt from the first `seen` examples."""
    perceptron, last, mistakes = Perceptron(points, rate, seed), None, []
    epoch = len(points.train()[1])
    for number in range(seen):
        if number % epoch == 0:
            mistakes.append(0)
        last = perceptron.step()
        mistakes[-1] += last.is_mistake
    return Seen(perceptron, last, tuple(mistakes))


def next_mistake(points: Points, seen: int, most: int, rate: float = 1.0, seed: int = 0) -> int:
    """Return how many examples are seen with the next mistake; `most` where none comes before."""
    perceptron = after(points, seen, rate, seed).perceptron
    for number in range(seen + 1, most):
        if perceptron.step().is_mistake:
            return number
    return most
