"""What somebody asks of a descent, as text from a form, a link or a command line: read, checked, and worded."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlkit.catalog import choose
from dlkit.catalog.formulas import read_formula
from dlkit.catalog.schedules import SCHEDULES
from dlkit.catalog.surfaces import SURFACES, Point, SurfaceEntry
from dlkit.catalog.updates import RULES
from dlkit.descent.losses import Surface, is_inside
from dlkit.descent.race import Chance, Competitor
from dlkit.errors import ConfigError

OWN = "formula"  # what a surface is called that somebody has typed
OWN_DOMAIN = (-5.0, 5.0, -5.0, 5.0)
OWN_START = (3.0, 2.0)
#: a rate for surfaces that say none for the rule: Newton's and L-BFGS's own, and those of torch for the others
OWN_RATE = 0.05


@dataclass(frozen=True)
class Number:
    """One number that may be asked for: above `low`, or from it on where `is_from`, up to `high`."""

    title: str
    default: float | None
    low: float
    high: float
    is_whole: bool = False
    is_from: bool = True

    def read(self, name: str, value: Any) -> float | None:
        """Return the number; the default where nothing was given; ConfigError with a sentence where it will not do."""
        text = str(value).strip() if value is not None else ""
        if not text:
            return self.default
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        is_above = number >= self.low if self.is_from else number > self.low
        if is_above and number <= self.high and (not self.is_whole or number == int(number)):
            return number
        kind = "a whole number" if self.is_whole else "a number"
        bound = f"from {self.low:g} to" if self.is_from else f"above {self.low:g} and at most"
        raise ConfigError([f"{self.title} ({name}) must be {kind} {bound} {self.high:g}; got {text[:40]}."])


NUMBERS = {
    "learning_rate": Number("Learning rate", None, 0, 1000, is_from=False),
    "steps": Number("Steps", 200, 1, 20_000, is_whole=True),
    "noise": Number("Noise", 0, 0, 1000),
    "present": Number("Chance of a coordinate", 1, 0, 1, is_from=False),
    "degrees": Number("Turned by", 0, -360, 360),
    "seed": Number("Seed", 0, 0, 2**31 - 1, is_whole=True),
    "weight_decay": Number("Weight decay", None, 0, 1),
    "momentum": Number("Momentum", None, 0, 0.9999),
    "beta1": Number("Beta 1", None, 0, 0.9999),
    "beta2": Number("Beta 2", None, 0, 0.999999),
    "epsilon": Number("Epsilon", None, 0, 0.1, is_from=False),
    "rho": Number("Rho", None, 0, 0.9999),
    "smoothing": Number("Smoothing", None, 0, 0.999999),
    "learning_rate_decay": Number("Rate decay", None, 0, 1),
    "momentum_decay": Number("Momentum decay", None, 0, 1),
    "bias_correction": Number("Bias correction", None, 0, 1, is_whole=True),
    "history": Number("History", None, 1, 100, is_whole=True),
}


@dataclass(frozen=True)
class Asked:
    """What is descended on, from where, by what, and how far."""

    surface: SurfaceEntry
    loss: Surface
    start: Point
    competitors: tuple[Competitor, ...]
    steps: int
    chance: Chance

    @property
    def budget(self) -> int:
        """What the steps of the first competitor cost, in gradients."""
        return math.ceil(self.steps * self.competitors[0].cost(self.loss))


def surface_of(name: str, formula: str = "") -> SurfaceEntry:
    """Return a surface of the catalog, or that of a formula; FormulaError, UnknownChoice."""
    if not formula.strip():
        return choose(SURFACES, name, "surface")
    read_formula(formula)
    return SurfaceEntry(OWN, "Your formula", "", formula, OWN_DOMAIN, OWN_START, (), "", {})


def default_rate(surface: SurfaceEntry, rule: str) -> float:
    """Return a rate that suits: the surface's own for the rule or one like it, else the rule's."""
    like = {"gradient-descent": "sgd", "adamw": "adam", "nadam": "adam", "radam": "adam", "adamax": "adam"}.get(rule)
    own = RULES[rule].learning_rate
    if rule in ("newton", "lbfgs", "adadelta"):
        return own
    return surface.rates.get(rule, surface.rates.get(like or "", OWN_RATE))


def read(values: Mapping[str, Any]) -> Asked:
    """Read one optimizer's descent; DlkitError with a sentence for every problem."""
    problems: list[str] = []

    def number(name: str) -> float | None:
        try:
            return NUMBERS[name].read(name, values.get(name))
        except ConfigError as error:
            problems.extend(error.problems)
            return NUMBERS[name].default

    surface = surface_of(str(values.get("surface") or "ravine"), str(values.get("formula") or ""))
    rule = choose(RULES, str(values.get("optimizer") or "sgd"), "optimizer")
    schedule = choose(SCHEDULES, str(values.get("schedule") or "constant"), "schedule")
    rate, steps, noise, present, degrees, seed = map(
        number, ("learning_rate", "steps", "noise", "present", "degrees", "seed")
    )
    settings = {}
    for name in NUMBERS.keys() - {"learning_rate", "steps", "noise", "present", "degrees", "seed"}:
        if values.get(name) in (None, ""):
            continue
        if name not in rule.settings:
            uses = ", ".join(rule.settings) or "none"
            problems.append(f"{name} is not a setting of {rule.name}; its settings: {uses}. Leave it out.")
        elif (given := number(name)) is not None:
            settings[name] = given
    loss = Surface.of(surface, degrees or 0.0)
    start = loss.turn(surface.start)
    if values.get("start") not in (None, ""):
        try:
            start = read_point(str(values["start"]), loss)
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(sorted(problems))
    assert steps is not None
    assert noise is not None
    assert present is not None
    assert seed is not None
    competitor = Competitor(
        rule.name, default_rate(surface, rule.name) if rate is None else rate, settings, schedule.name
    )
    return Asked(surface, loss, start, (competitor,), int(steps), Chance(noise, present, int(seed)))


def read_point(text: str, loss: Surface) -> Point:
    """Read "X,Y"; ConfigError where it is no point of the domain."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError([f"The start must be two numbers, as in -3,2.5; got {text[:40]}."]) from None
    left, right, low, high = loss.domain
    if not is_inside(np.array((x, y)), loss.domain):
        where = f"x from {left:g} to {right:g}, y from {low:g} to {high:g}"
        raise ConfigError([f"The start {text[:40]} is outside the domain: {where}."])
    return x, y
