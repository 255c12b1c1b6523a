"""A rule that somebody writes beside a network that learns from examples: on the same points, judged alike.

A rule is a formula of x and y: above zero is class 1, everything else class 0.
"""

from dataclasses import dataclass, replace

import numpy as np

from dlkit.catalog.formulas import Formula
from dlkit.catalog.point_sets import Array, Labels
from dlkit.errors import DivergedError
from dlkit.lab.learning import Task, Training
from dlkit.lab.network import Plan
from dlkit.lab.points import DOMAIN, Points, drawn

#: how many examples of all are learnt from
COUNTS = (4, 10, 20, 50, 100, 200, 400)
TESTED = 500  # points, which neither the rule's author nor the network has seen
HIDDEN, STEPS = (8, 8), 200
SEEDS = (0, 1, 2)  # of the network's first weights and of which examples it gets
GRID = 60  # places along each side of a picture
#: what somebody would write who has looked at the points
WRITTEN = {
    "circles": "x^2 + y^2 - 0.55",
    "spiral": "sin(6*sqrt(x^2 + y^2)) - y",
    "xor": "-x*y",
    "moons": "-0.35*sin(4.7*x) - y",
    "blobs": "-x - y",
}


@dataclass(frozen=True)
class Learnt:
    """What networks are worth that learnt from `count` examples: the share of test points that each seed got right."""

    count: int
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the seeds."""
        return float(np.mean(self.accuracies))


@dataclass(frozen=True)
class Question:
    """Two classes of a set of the catalog, turned about the middle; `noise` is a deviation."""

    data: str
    degrees: float = 0.0
    noise: float = 0.05
    seed: int = 0

    def points(self) -> tuple[Points, Points]:
        """Return the points to learn from, the most that are asked for, and TESTED new ones."""
        angle = np.radians(self.degrees)
        turn = np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
        points = drawn(self.data, max(COUNTS), 2, self.noise, self.seed)
        test = drawn(self.data, TESTED, 2, self.noise, self.seed + 1)
        return replace(points, points=points.points @ turn), replace(test, points=test.points @ turn)


def says(rule: Formula, points: Array) -> Labels:
    """Return the rule's classes (N,) int64 of points (N, 2); where it has no value it says class 0."""
    with np.errstate(all="ignore"):
        values = rule({"x": points[:, 0], "y": points[:, 1]}) + np.zeros(len(points))
    return (values > 0).astype(np.int64)


def task_of(points: Points, count: int, seed: int) -> Task:
    """Return what a network has to learn: from so many of the points, each class as often as it comes."""
    chosen = np.random.default_rng(seed).permutation(len(points.labels))
    chosen = np.sort(np.concatenate([chosen[points.labels[chosen] == label][: count // 2] for label in (0, 1)]))
    few = replace(points, points=points.points[chosen], labels=points.labels[chosen], is_test=np.zeros(count, bool))
    return Task(Plan(hidden=HIDDEN, classes=2, seed=seed), few, seed=seed)


def learnt(task: Task) -> Training:
    """Return a network that has learnt for STEPS batches, or until a step would have left the numbers."""
    training = Training(task)
    for _ in range(STEPS):
        try:
            training.step()
        except DivergedError:
            break
    return training


def worth(training: Training, points: Points) -> float:
    """Return the share of points that a network gets right."""
    return float((training.network.logits(points.points).argmax(1) == points.labels).mean())


def by_examples(question: Question) -> list[Learnt]:
    """Return how good networks become with more examples."""
    points, test = question.points()
    return [
        Learnt(count, tuple(worth(learnt(task_of(points, count, seed)), test) for seed in SEEDS)) for count in COUNTS
    ]


def places() -> Array:
    """Return the places (GRID², 2) at which a picture shows the class, row by row from below."""
    low, high = DOMAIN[:2]
    line = np.linspace(low, high, GRID)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
