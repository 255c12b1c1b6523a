"""A small network that learns: batches, penalties, an update rule of the catalog, and the curves.

Each step is asked for, so a page can take one batch, one example or an epoch, and look inside. Orders and masks are
functions of (seed, epoch) and (seed, step). A step that would leave the numbers is not taken.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dlkit.catalog.point_sets import Array, Labels
from dlkit.catalog.updates import RULES, RuleEntry
from dlkit.descent.race import FARTHEST, Walker
from dlkit.errors import ConfigError, DivergedError
from dlkit.lab.network import Back, Network, Pass, Plan
from dlkit.lab.points import Points
from dlkit.lab.softmax import Judged, cross_entropy

LONGEST_CURVE = 1000  # measurements; of more, every second one is left out
#: rules that need no second derivatives, which would be of all pairs of weights
NETWORK_RULES: dict[str, RuleEntry] = {name: rule for name, rule in RULES.items() if not rule.needs_hessian}


@dataclass(frozen=True, eq=False)
class Task:
    """What is learnt, and how; `settings` are those of the rule that differ from its own.

    `batch`: examples a step, None: all. The loss is cross-entropy, plus `l1` · Σ|w| and `l2`/2 · Σw² of the weights,
    not of biases and batch norm.
    """

    plan: Plan
    points: Points = field(repr=False)
    rule: str = "adam"
    learning_rate: float = 0.03
    settings: Mapping[str, float] = field(default_factory=dict)
    batch: int | None = 32
    l1: float = 0.0
    l2: float = 0.0
    seed: int = 0

    @property
    def batches_per_epoch(self) -> int:
        """How many batches an epoch has, of sizes that differ by one at most; batch norm needs two examples in each."""
        count = len(self.points.train()[1])
        batches = math.ceil(count / (self.batch or count))
        return max(1, min(batches, count // 2)) if self.plan.batch_norm else batches


@dataclass(frozen=True)
class Look:
    """The loss of some examples and its gradients, with everything on the way.

    `examples` (B,) are places among the points that are learnt from; `parameters` (P,) those that were looked at;
    `loss` has the penalties in it, as has `gradient` (P,).
    """

    examples: Labels
    parameters: Array
    passes: Sequence[Pass]
    judged: Judged
    backs: Sequence[Back]
    loss: float
    gradient: Array


@dataclass(frozen=True)
class Step:
    """One step, the first being number 1: what was looked at, and what the rule made of it.

    `values` are by the names of the rule's lines, each (1, P) or a number; "delta" was added to the weights, which
    were "w".
    """

    number: int
    look: Look
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """What the network is worth after so many steps, as it is used: without dropout, penalties and batch statistics.

    Losses are cross-entropy; accuracies from 0 to 1. Of the test points None where there are none.
    """

    step: int
    epoch: float
    train_loss: float
    train_accuracy: float
    test_loss: float | None
    test_accuracy: float | None


class Training:
    """A network with what its rule remembers; the curve begins with the untrained network."""

    def __init__(self, task: Task) -> None:
        self.task, self.network = task, Network(task.plan)
        self._walker = self._fresh_walker()
        self._points, self._labels = task.points.train()
        self._order: tuple[int, list[Labels]] = (-1, [])
        self.steps, self._batches = 0, 0
        self.curve: list[Measured] = []
        self.measure()

    @property
    def epochs(self) -> float:
        """How many epochs were learnt."""
        return self._batches / self.task.batches_per_epoch

    def changed(self, task: Task) -> "Training":
        """Return a training of another task that goes on with this network where it fits.

        What the rule remembers stays if rule and settings are the same.
        """
        other = Training(task)
        if task.plan != self.task.plan or not task.points.is_same(self.task.points):
            return other
        other.network, other.curve, other.steps = self.network, self.curve, self.steps
        other._batches = round(self.epochs * task.batches_per_epoch)
        if (task.rule, task.settings) == (self.task.rule, self.task.settings):
            other._walker = self._walker
        return other

    def step(self, examples: Sequence[int] | None = None) -> Step:
        """Learn from the next batch, or from `examples`, which are places among the points that are learnt from.

        DivergedError where that would leave the numbers: the network stays as it was, and the rule begins afresh.
        ConfigError for examples that are not there, or a single one where there is batch norm.
        """
        look = self.look(self._next_batch() if examples is None else self._checked(examples))
        if not (math.isfinite(look.loss) and np.isfinite(look.gradient).all()):
            raise self._diverged("the loss was not a finite number")
        rate = np.float64(self.task.learning_rate)
        with np.errstate(all="ignore"):
            values = self._walker.explain(look.parameters[None], look.gradient[None], rate)
            moved = look.parameters + values["delta"][0]
        if not (np.abs(moved) <= FARTHEST).all():
            raise self._diverged("a weight grew beyond a million")
        self.network.parameters[:] = moved
        self.network.remember(look.passes)
        self.steps += 1
        self._batches += examples is None
        return Step(self.steps, look, values)

    def epoch(self) -> Step:
        """Learn to the end of the epoch; return the last step."""
        while True:
            step = self.step()
            if not self._batches % self.task.batches_per_epoch:
                return step

    def look(self, examples: Labels) -> Look:
        """Return the loss of some examples with its gradients, as the next step would meet them; nothing is learnt."""
        task, network = self.task, self.network
        points, labels = self._points[examples], self._labels[examples]
        with np.errstate(all="ignore"):
            passes = network.forward(points, np.random.default_rng((task.seed, self.steps)))
            judged = cross_entropy(passes[-1].outputs, labels)
            gradient, backs = network.backward(passes, judged.gradient)
            loss = judged.loss
            if task.l1 or task.l2:
                weights = np.where(network.is_weight, network.parameters, 0.0)
                loss += float(task.l1 * np.abs(weights).sum() + task.l2 / 2 * (weights**2).sum())
                gradient = gradient + task.l1 * np.sign(weights) + task.l2 * weights
        return Look(examples, network.parameters.copy(), passes, judged, backs, loss, gradient)

    def measure(self) -> Measured:
        """Measure the network as it is, and put that on the curve."""
        train, test = self._worth(*self.task.points.train()), self._worth(*self.task.points.test())
        assert train is not None
        self.curve.append(Measured(self.steps, self.epochs, *train, *(test or (None, None))))
        if len(self.curve) > LONGEST_CURVE:
            del self.curve[1:-1:2]
        return self.curve[-1]

    def _worth(self, points: Array, labels: Labels) -> tuple[float, float] | None:
        if not len(labels):
            return None
        with np.errstate(all="ignore"):
            judged = cross_entropy(self.network.logits(points), labels)
        return judged.loss, float((judged.probabilities.argmax(1) == labels).mean())

    def _checked(self, examples: Sequence[int]) -> Labels:
        chosen, count = np.asarray(examples, np.int64), len(self._labels)
        if not len(chosen) or chosen.min() < 0 or chosen.max() >= count:
            raise ConfigError(
                [f"The examples to learn from must be some of 0 to {count - 1}; got {list(examples)[:5]}."]
            )
        if self.task.plan.batch_norm and len(chosen) < 2:
            raise ConfigError(
                ["Batch norm needs two examples at least: one has no variance. Switch it off, or add one."]
            )
        return chosen

    def _next_batch(self) -> Labels:
        epoch, place = divmod(self._batches, self.task.batches_per_epoch)
        if self._order[0] != epoch:
            order = np.random.default_rng((self.task.seed, epoch)).permutation(len(self._labels))
            self._order = epoch, np.array_split(order, self.task.batches_per_epoch)
        return self._order[1][place]

    def _fresh_walker(self) -> Walker:
        rule = NETWORK_RULES[self.task.rule]
        return Walker(rule, {**rule.settings, **self.task.settings}, (1, self.network.parameters.size))

    def _diverged(self, what: str) -> DivergedError:
        self._walker = self._fresh_walker()
        return DivergedError(self.steps + 1, self.task.learning_rate, what, advice="")
