"""What somebody asks of a descent, as text from a form, a link or a command line: read, checked, and worded."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlkit.catalog import choose
from dlkit.catalog.formulas import read_formula
from dlkit.catalog.schedules import SCHEDULES
from dlkit.catalog.sums import MOST_POINTS, POINT_SETS, SUMS, SumEntry
from dlkit.catalog.surfaces import SURFACES, Point, SurfaceEntry
from dlkit.catalog.updates import RULES
from dlkit.descent.losses import Domain, FiniteSum, Loss, Surface, is_inside
from dlkit.descent.race import STARTS, Chance, Competitor
from dlkit.errors import ConfigError
from dlkit.words import count

OWN = "formula"  # what a surface is called that somebody has typed
OWN_DOMAIN = (-5.0, 5.0, -5.0, 5.0)
OWN_START = (0.8, 0.7)  # as shares of the domain
#: a rate for surfaces that say none for the rule or for one like it
OWN_RATE = 0.05
#: the schedules; not those that follow a validation loss, as there is none
HERE = {name: entry for name, entry in SCHEDULES.items() if not entry.follows_validation}
FARTHEST_INPUT = 100.0  # of an example, and of a domain's border 1,000 times as much
MOST_COMPETITORS = 14
MOST_STARTS = 100
MOST_TOLD = 5  # problems
MOST_STEPS = 20_000  # of one path
MOST_STEPS_OF_ALL = 100_000  # of all competitors: seconds
MOST_PLACES = 200_000  # that all paths come by: megabytes


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
        bound = f"from {self.low:.12g} to" if self.is_from else f"above {self.low:.12g} and at most"
        raise ConfigError([f"{self.title} ({name}) must be {kind} {bound} {self.high:.12g}; got {text[:40]}."])


#: of the whole race
SHARED = {
    "steps": Number("Steps", 200, 1, MOST_STEPS, is_whole=True),
    "starts": Number("Starts", 1, 1, MOST_STARTS, is_whole=True),
    "noise": Number("Noise", 0, 0, 1000),
    "degrees": Number("Turned by", 0, -360, 360),
    "seed": Number("Seed", 0, 0, 2**31 - 1, is_whole=True),
}
#: of one competitor, beside the settings of its rule
OWN_NUMBERS = {
    "learning_rate": Number("Learning rate", None, 0, 1000, is_from=False),
    "batch": Number("Batch size", None, 1, MOST_POINTS, is_whole=True),
}
SETTINGS = {
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
    "history": Number("History", None, 1, 20, is_whole=True),
}
PRESENT = Number("Chance of a coordinate", 1, 0, 1, is_from=False)  # one for both, or one for each
NUMBERS = {**SHARED, "present": PRESENT, **OWN_NUMBERS, **SETTINGS}


@dataclass(frozen=True)
class Ground:
    """What is descended on, and what is said of it; `rates` are learning rates that suit it, by optimizer."""

    name: str
    title: str
    teaches: str
    source: str
    latex: str
    loss: Surface | FiniteSum
    start: Point
    rates: Mapping[str, float]
    is_logarithmic: bool = False

    def rate(self, rule: str) -> float:
        """Return a rate that suits a rule here."""
        return default_rate(self.rates, rule)


def default_rate(rates: Mapping[str, float], rule: str) -> float:
    """Return a rate that suits a rule: the surface's own for it or for one like it, else the rule's."""
    like = {"gradient-descent": "sgd", "adamw": "adam", "nadam": "adam", "radam": "adam", "adamax": "adam"}
    if rule in ("newton", "lbfgs", "adadelta"):
        return RULES[rule].learning_rate
    return rates.get(rule, rates.get(like.get(rule, ""), OWN_RATE))


@dataclass(frozen=True)
class Asked:
    """What is descended on, from where, by whom, and how far: each path may cost `budget` gradients of the whole loss.

    `names` tell the competitors apart.
    """

    ground: Ground
    starts: tuple[Point, ...]
    competitors: tuple[Competitor, ...]
    names: tuple[str, ...]
    budget: float
    chance: Chance

    @property
    def loss(self) -> Loss:
        return self.ground.loss

    @property
    def is_noisy(self) -> bool:
        """Whether anybody's gradients differ from the loss's."""
        return any(self.chance.reaches(one, self.loss) for one in self.competitors)


class _Problems(list[str]):
    """Gathers what is wrong, so that all of it is told at once."""

    def number(self, number: Number, name: str, value: Any) -> float | None:
        try:
            return number.read(name, value)
        except ConfigError as error:
            self.extend(error.problems)
            return number.default

    def numbers(self, number: Number, name: str, text: str, most: int) -> list[float]:
        """Read several numbers with commas between."""
        parts = text.split(",")
        if len(parts) > most or not all(part.strip() for part in parts):
            self.append(
                f"{number.title} ({name}) must be numbers with commas between, {most} at most; got {text[:40]}."
            )
            return []
        read = [self.number(number, name, part) for part in parts]
        return [one for one in read if one is not None]

    def raise_any(self) -> None:
        """Raise what is wrong, if anything is."""
        told = sorted(set(self))
        if len(told) > MOST_TOLD:
            told[MOST_TOLD:] = [f"There are {len(told) - MOST_TOLD} more problems."]
        if told:
            raise ConfigError(told)


def ground_of(values: Mapping[str, Any]) -> Ground:
    """Return the surface, the formula or the sum that is asked for: DlkitError with a sentence."""
    formula, name = _text(values, "formula"), _text(values, "surface") or "ravine"
    for key, is_for in (("points", not formula and name in SUMS), ("domain", bool(formula))):
        if _text(values, key) and not is_for:
            owner = "least squares and logistic regression" if key == "points" else "a formula of your own"
            raise ConfigError([f"{key} is for {owner} only. Leave it out."])
    degrees = SHARED["degrees"].read("degrees", values.get("degrees")) or 0.0
    if formula:
        read_formula(formula)
        domain = _read_domain(_text(values, "domain"))
        left, right, low, high = domain
        start = (left + OWN_START[0] * (right - left), low + OWN_START[1] * (high - low))
        entry = SurfaceEntry(OWN, "Your formula", "", formula, domain, start, (), "", {})
    elif name in SUMS:
        if degrees % 360:
            raise ConfigError(["A sum over points is not turned. Leave the degrees out."])
        return _sum(SUMS[name], _text(values, "points"))
    else:
        entry = choose(SURFACES, name, "surface")
    loss = Surface.of(entry, degrees)
    return Ground(
        entry.name,
        entry.title,
        entry.teaches,
        entry.source,
        _written(entry, loss),
        loss,
        loss.turn(entry.start),
        entry.rates,
        entry.is_logarithmic,
    )


def _written(entry: SurfaceEntry, loss: Surface) -> str:
    """Write a surface as LaTeX: where it is turned, of u and v, and what these are."""
    if not loss.degrees:
        return f"f(x, y) = {entry.formula.latex()}"
    (x, y), angle = loss.middle, rf"{loss.degrees:g}^\circ"
    across, up = (
        rf"({name} {'-' if at >= 0 else '+'} {abs(at):g})" if at else name for name, at in (("x", x), ("y", y))
    )
    u = rf"u = {f'{x:g} + ' if x else ''}{across}\cos {angle} + {up}\sin {angle}"
    v = rf"v = {f'{y:g} ' if y else ''}- {across}\sin {angle} + {up}\cos {angle}"
    return rf"f(x, y) = {entry.formula.latex({'x': 'u', 'y': 'v'})},\quad {u},\quad {v}"


def read(shared: Mapping[str, Any], wanted: Sequence[Mapping[str, Any]], *, in_steps: bool = False) -> Asked:
    """Read a race of the optimizers `wanted`; DlkitError with a sentence for every problem.

    Where one of an optimizer's numbers is several, with commas between, each of them competes. "steps" are gradients of
    the whole loss, equal for all; `in_steps`: steps of the first competitor, whatever each costs.
    """
    problems = _Problems()
    ground = ground_of(shared)
    numbers = {name: problems.number(number, name, shared.get(name)) for name, number in SHARED.items()}
    present = problems.numbers(PRESENT, "present", _text(shared, "present") or "1", 2)
    competitors, names = [], []
    for values in wanted:
        for one, name in _competitors(ground, values, problems):
            competitors.append(one)
            names.append(name)
    starts: tuple[Point, ...] = ()
    try:
        starts = read_starts(_text(shared, "start"), ground, int(numbers["starts"] or 1), int(numbers["seed"] or 0))
    except ConfigError as error:
        problems.extend(error.problems)
    problems.raise_any()
    budget = numbers["steps"] or 0.0
    if in_steps:
        budget *= competitors[0].cost(ground.loss)
    problems += _too_much(ground.loss, competitors, len(starts), budget)
    problems.raise_any()
    chance = Chance(numbers["noise"] or 0.0, (present[0], present[-1]), int(numbers["seed"] or 0))
    return Asked(ground, starts, tuple(competitors), tuple(names), budget, chance)


def _competitors(ground: Ground, values: Mapping[str, Any], problems: _Problems) -> list[tuple[Competitor, str]]:
    """Return the competitors that one optimizer's values ask for, each with its name."""
    rule = choose(RULES, _text(values, "optimizer") or "sgd", "optimizer")
    names = (_text(values, "schedule") or "constant").split(",")
    schedules = {name.strip(): choose(HERE, name.strip(), "schedule") for name in names}
    several: dict[str, list[float]] = {}
    for name, number in {**OWN_NUMBERS, **SETTINGS}.items():
        text = _text(values, name)
        if not text:
            continue
        if name in SETTINGS and name not in rule.settings:
            uses = ", ".join(rule.settings) or "none"
            problems.append(f"{name} is not a setting of {rule.name}; its settings: {uses}. Leave it out.")
        elif name == "batch" and (ground.loss.examples is None or rule.is_exact):
            who = rule.title if rule.is_exact else f"The surface {ground.title}"
            problems.append(f"{who} knows no batches. Leave the batch size out.")
        else:
            several[name] = problems.numbers(number, name, text, MOST_COMPETITORS)
    made = []
    every = itertools.product(schedules.values(), itertools.product(*several.values()))
    for schedule, picked in itertools.islice(every, MOST_COMPETITORS + 1):
        settings = dict(zip(several, picked, strict=True))
        differs = [name for name in several if len(several[name]) > 1]
        parts = [f"{NUMBERS[name].title.lower()} {settings[name]:g}" for name in differs]
        if len(schedules) > 1:
            parts.append(schedule.title.lower())
        rate, batch = settings.pop("learning_rate", ground.rate(rule.name)), settings.pop("batch", None)
        one = Competitor(rule.name, rate, settings, schedule.name, None if batch is None else int(batch))
        made.append((one, ", ".join((rule.title, *parts))))
    return made


def _too_much(loss: Loss, competitors: Sequence[Competitor], starts: int, budget: float) -> list[str]:
    """Return what makes a race too long, if anything does."""
    if len(competitors) > MOST_COMPETITORS:
        return [f"At most {MOST_COMPETITORS} race at once. Ask for fewer optimizers, or fewer values of them."]
    steps = [one.steps(loss, budget) for one in competitors]
    longest = max(steps, default=0)
    if longest > MOST_STEPS:
        return [f"That is {count(longest)} small steps; at most {count(MOST_STEPS)}. Lower steps, or raise the batch."]
    if sum(steps) > MOST_STEPS_OF_ALL:
        return [
            f"That is {count(sum(steps))} steps in all; at most {count(MOST_STEPS_OF_ALL)}. Ask for fewer steps, or "
            "for fewer optimizers."
        ]
    if sum(steps) * starts > MOST_PLACES:
        return [
            f"That is {count(sum(steps) * starts)} steps from all starts; at most {count(MOST_PLACES)}. Ask for fewer "
            "steps or starts."
        ]
    return []


def read_starts(text: str, ground: Ground, number: int, seed: int) -> tuple[Point, ...]:
    """Read "X,Y" or several, with semicolons between, and draw what is missing to `number` from the domain."""
    parts = [part for part in text.split(";") if part.strip()]
    if len(parts) > MOST_STARTS:
        raise ConfigError([f"There may be {MOST_STARTS} starts at most; got {len(parts)}."])
    given = [read_point(part, ground.loss.domain) for part in parts] or [ground.start]
    left, right, low, high = ground.loss.domain
    share = np.random.default_rng((seed, STARTS)).random((max(0, number - len(given)), 2))
    drawn = np.array((left, low)) + share * np.array((right - left, high - low))
    return (*given, *((x, y) for x, y in drawn.tolist()))


def read_point(text: str, domain: Domain) -> Point:
    """Read "X,Y"; ConfigError where it is no point of the domain."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError([f"A start must be two numbers, as in -3,2.5; got {text.strip()[:40]}."]) from None
    left, right, low, high = domain
    if not is_inside(np.array((x, y)), domain):
        where = f"x from {left:g} to {right:g}, y from {low:g} to {high:g}"
        raise ConfigError([f"The start {text.strip()[:40]} is outside the domain: {where}."])
    return x, y


def _read_domain(text: str) -> Domain:
    if not text:
        return OWN_DOMAIN
    try:
        left, right, low, high = (float(part) for part in text.split(","))
    except ValueError:
        left = right = low = high = math.nan
    most = 1000 * FARTHEST_INPUT
    if not (-most <= left < right <= most and -most <= low < high <= most):
        raise ConfigError(
            [f"The domain must be four numbers, x from and to, y from and to, as in -2,2,0,5; got {text[:40]}."]
        )
    return left, right, low, high


def _sum(entry: SumEntry, points: str) -> Ground:
    loss = FiniteSum.of(entry.name, read_points(points or entry.points, entry))
    return Ground(entry.name, entry.title, entry.teaches, entry.source, entry.latex, loss, entry.start, entry.rates)


def read_points(text: str, entry: SumEntry, least: int = 2) -> tuple[Point, ...]:
    """Read examples: the name of a set, or "X,Y; X,Y; …"; a class Y is 0 or 1. ConfigError with a sentence.

    `least`: how many there must be.
    """
    if text.strip() in POINT_SETS:
        points = POINT_SETS[text.strip()].points
    else:
        try:
            points = tuple(
                (float(x), float(y)) for x, y in (part.split(",") for part in text.split(";") if part.strip())
            )
        except ValueError:
            shown = ", ".join(POINT_SETS)
            raise ConfigError(
                [f"The points must be pairs of numbers, as in -1,0; 2,1, or one of {shown}; got {text[:40]}."]
            ) from None
    if not least <= len(points) <= MOST_POINTS:
        raise ConfigError([f"There must be {least} to {MOST_POINTS} points; got {len(points)}. Add or remove some."])
    if not all(abs(x) <= FARTHEST_INPUT and abs(y) <= FARTHEST_INPUT for x, y in points):
        raise ConfigError([f"The points' numbers must be from {-FARTHEST_INPUT:g} to {FARTHEST_INPUT:g}."])
    if entry.name == "logistic" and not all(y in (0, 1) for _, y in points):
        raise ConfigError(["The second number of each point is its class here: 0 or 1."])
    return points


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return "" if value is None else str(value).strip()
