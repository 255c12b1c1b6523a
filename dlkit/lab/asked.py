"""What somebody asks of a small network, as text from a form, a link or a command line: read, checked, and worded."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dlkit.catalog import choose
from dlkit.catalog.activations import ACTIVATIONS
from dlkit.catalog.initialisations import INITIALISATIONS
from dlkit.catalog.point_sets import POINT_SETS
from dlkit.catalog.updates import RULES, RuleEntry
from dlkit.descent import asked
from dlkit.descent.asked import Number
from dlkit.errors import ConfigError
from dlkit.lab.learning import NETWORK_RULES, Task
from dlkit.lab.network import Plan
from dlkit.lab.points import FEWEST, MOST, MOST_CLASSES, Points, drawn

MOST_LAYERS, MOST_UNITS = 8, 64
NO_LAYER = "none"  # what is written where an empty field stands for the default
#: rates that suit small networks, where they are not the rule's own
RATES = {
    "gradient-descent": 0.5,
    "sgd": 0.3,
    "momentum": 0.05,
    "nesterov": 0.05,
    "adagrad": 0.1,
    "rmsprop": 0.01,
    "adam": 0.03,
    "adamw": 0.03,
    "nadam": 0.03,
    "radam": 0.03,
    "adamax": 0.03,
}
NUMBERS = {
    "classes": Number("Classes", 2, 2, MOST_CLASSES, is_whole=True),
    "count": Number("Points", 500, FEWEST * MOST_CLASSES, MOST, is_whole=True),
    "noise": Number("Noise", 0.05, 0, 1),
    "test": Number("Share of test points", 0.2, 0, 0.9),
    "dropout": Number("Dropout", 0, 0, 0.9),
    "learning_rate": Number("Learning rate", None, 0, 1000, is_from=False),
    "batch": Number("Batch", None, 1, MOST, is_whole=True),
    "l1": Number("L1", 0, 0, 10),
    "l2": Number("L2", 0, 0, 10),
    "seed": Number("Seed", 0, 0, 2**31 - 1, is_whole=True),
}
BATCH = 32  # examples a step, where nothing else is asked for and the rule may go by a part of them
SETTINGS = {name for rule in NETWORK_RULES.values() for name in rule.settings}
SWITCHES = {"0": False, "false": False, "off": False, "1": True, "true": True, "on": True}


def default_rate(rule: str) -> float:
    """Return a learning rate that suits a small network."""
    return RATES.get(rule, RULES[rule].learning_rate)


def read_hidden(text: str) -> tuple[int, ...]:
    """Read the units of the hidden layers, as in 8,8; nothing, or "none": no layer. ConfigError with a sentence."""
    unit = Number("Units of a layer", None, 1, MOST_UNITS, is_whole=True)
    parts = text.split(",") if text.strip() not in ("", NO_LAYER) else []
    if len(parts) > MOST_LAYERS:
        raise ConfigError([f"There may be {MOST_LAYERS} hidden layers; got {len(parts)}. Leave some out."])
    found = [unit.read("hidden", part) for part in parts]
    if None in found:
        raise ConfigError(["Hidden layers (hidden) must be numbers of units with commas between, as in 8,8."])
    return tuple(int(units) for units in found if units is not None)


def read(values: Mapping[str, Any], points: Points | None = None) -> Task:
    """Read what is to be learnt; `points` are somebody's own, in place of a set of the catalog.

    DlkitError with a sentence for every problem.
    """
    reader = _Reader(values)
    rule, seed = _rule(reader.word("optimizer", "adam")), int(reader.number("seed"))
    plan = reader.plan(seed)
    batch, rate = reader.given("batch", NUMBERS), reader.given("learning_rate", NUMBERS)
    if plan.batch_norm and batch == 1:
        reader.problems.append(
            "Batch norm needs two examples at least: one has no variance. Take a batch of 2 or more."
        )
    if rule.is_exact and batch is not None:
        reader.problems.append(f"{rule.title} goes by all examples at once. Leave the batch empty.")
    size = None if rule.is_exact else BATCH if batch is None else int(batch)
    settings, test = reader.settings(rule), reader.number("test")
    l1, l2 = reader.number("l1"), reader.number("l2")
    points = points or reader.points(seed)
    if reader.problems or points is None:
        raise ConfigError(reader.problems)
    plan = replace(plan, classes=len(points.classes))
    rate = default_rate(rule.name) if rate is None else rate
    return Task(plan, points.split(test, seed), rule.name, rate, settings, size, l1, l2, seed)


def _rule(name: str) -> RuleEntry:
    rule = choose(RULES, name, "optimizer")
    if rule.needs_hessian:
        others = ", ".join(NETWORK_RULES)
        raise ConfigError([f"{rule.title} needs the curvature by every pair of weights. Choose one of: {others}."])
    return rule


class _Reader:
    """What reads single values, and collects a sentence for each that will not do."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.problems: list[str] = []

    def word(self, name: str, default: str) -> str:
        return str(self._values.get(name) or default)

    def given(self, name: str, numbers: Mapping[str, Number]) -> float | None:
        """Return a number; what it is by default where none was given, or one that will not do."""
        try:
            return numbers[name].read(name, self._values.get(name))
        except ConfigError as error:
            self.problems.extend(error.problems)
            return numbers[name].default

    def number(self, name: str) -> float:
        found = self.given(name, NUMBERS)
        assert found is not None, f"{name} has a default"
        return found

    def settings(self, rule: RuleEntry) -> dict[str, float]:
        """Return the settings of the rule that were given."""
        found = {}
        for name in sorted(SETTINGS):
            if self._values.get(name) in (None, ""):
                continue
            if name not in rule.settings:
                uses = ", ".join(rule.settings) or "none"
                self.problems.append(f"{name} is not a setting of {rule.name}; its settings: {uses}. Leave it out.")
            elif (given := self.given(name, asked.NUMBERS)) is not None:
                found[name] = given
        return found

    def plan(self, seed: int) -> Plan:
        """Return what the network is built by; the classes are not known yet."""
        hidden, units = self._values.get("hidden"), Plan.hidden
        try:
            units = units if hidden is None else read_hidden(str(hidden))
        except ConfigError as error:
            self.problems.extend(error.problems)
        activation = choose(ACTIVATIONS, self.word("activation", "relu"), "activation")
        first = choose(INITIALISATIONS, self.word("initialisation", "pytorch"), "initialisation")
        has_norm = SWITCHES.get(self.word("batch_norm", "off").lower())
        if has_norm is None:
            self.problems.append(f"Batch norm (batch_norm) must be on or off; got {self.word('batch_norm', '')[:40]}.")
        return Plan(
            units,
            activation=activation.name,
            batch_norm=bool(has_norm),
            dropout=self.number("dropout"),
            initialisation=first.name,
            seed=seed,
        )

    def points(self, seed: int) -> Points | None:
        """Return points of the catalog; None where something will not do."""
        entry = choose(POINT_SETS, self.word("data", "circles"), "data set")
        classes, (fewest, most) = int(self.number("classes")), entry.classes
        if not fewest <= classes <= most:
            rule = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            self.problems.append(f"{entry.title} has {rule} classes; got {classes}.")
        count, noise = int(self.number("count")), self.number("noise")
        return None if self.problems else drawn(entry.name, count, classes, noise, seed)
