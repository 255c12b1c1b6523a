"""What became of a path, by its numbers: converged, stuck, cycling, diverged, left the domain, or still under way."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from dlkit.descent.losses import Array, Loss, is_inside, known_value, newton_step
from dlkit.descent.race import FARTHEST, Chance, Competitor, Path
from dlkit.words import number


class Status(StrEnum):
    CONVERGED = "converged"
    STUCK = "stuck"
    CYCLING = "cycling"
    DIVERGED = "diverged"
    LEFT = "left the domain"
    MOVING = "still moving"


@dataclass(frozen=True)
class Verdict:
    """What became of a path, and the evidence in a sentence; `gap`: how far above the known minimum it ended."""

    status: Status
    reason: str
    gap: float | None


TARGET = 1e-3  # above the lowest value
#: a minimum this near, by Newton's step, as a share of the domain's diagonal, is reached
NEAR = 1e-4
#: two minima whose values differ by less are equally good
EQUAL = 1e-3
#: a gradient has all but vanished below this share of the largest on the path, or below this
GENTLE, LEAST_GRADIENT = 1e-2, 1e-8
#: a gradient of less, where nothing else explains it, is that of a plateau
LEVEL_GRADIENT = 1e-3
#: so many half widths from the middle of the domain is far; so many steps are looked at for growth
FAR, GROWING = 10, 4
#: how many of the last steps are looked at, as a share of all; and how many at least
LAST_SHARE, LAST_STEPS = 0.2, 10
SETTLED_SHARE = 0.1  # of the steps, over which a loss is averaged
#: whoever goes less than this share of the way that it walks goes round in circles
CIRCLE = 0.1


def verdict(loss: Loss, path: Path, chance: Chance | None = None) -> Verdict:
    """Tell what became of a path."""
    best, value = known_value(loss), float(path.values[-1])
    gap = value - best if best is not None and math.isfinite(value) else None
    status, reason = _judge(loss, path, chance or Chance())
    return Verdict(status, reason, gap)


def reached(loss: Loss, path: Path, above: float = TARGET) -> int | None:
    """Return after how many steps a path first was within `above` of the lowest value that is known; None: never."""
    best = known_value(loss)
    is_there = path.values <= (-math.inf if best is None else best + above)
    return int(is_there.argmax()) if is_there.any() else None


def settled(path: Path) -> float:
    """Return the mean loss of the last tenth of a path's steps: where there is noise the last step says little."""
    return float(path.values[-max(1, round(SETTLED_SHARE * path.steps)) :].mean())


def _judge(loss: Loss, path: Path, chance: Chance) -> tuple[Status, str]:
    end = path.points[-1]
    diagonal = math.dist(loss.domain[::2], loss.domain[1::2])
    is_off = not (np.isfinite(end).all() and (np.abs(end) <= FARTHEST).all())
    if path.is_cut and not is_off:
        where, last = f"({number(end[0])}, {number(end[1])})", _lengths(path)[-1:]
        if last.size and last[0] > diagonal:
            reason = (
                f"Its last step went {number(float(last[0]))}, to {where}: the loss is not defined or too large there."
            )
            return Status.DIVERGED, reason
        if not path.steps:
            return Status.LEFT, f"The loss or its gradient is not defined at its start, {where}. Choose another."
        return Status.LEFT, f"At {where}, after {_steps(path.steps)}, the loss or its gradient is not defined."
    if is_off or _runs_away(loss, path):
        return Status.DIVERGED, _why_diverged(loss, path)
    inside = is_inside(path.points, loss.domain)
    if not inside[-1]:
        first = int(len(inside) - inside[::-1].argmax()) if inside.any() else 0
        return Status.LEFT, f"It is outside the plotted domain since step {first}."
    gradient, hessian = _descended(loss, path)
    size, curvatures = float(np.linalg.norm(gradient)), np.asarray(np.linalg.eigvalsh(hessian), dtype=float)
    window = path.points[-max(LAST_STEPS, round(LAST_SHARE * path.steps)) - 1 :]
    step, has_one, has_line = newton_step(gradient[None], hessian[None])
    is_noisy = chance.reaches(path.competitor, loss)
    rests = float(np.abs(path.coming).max()) <= NEAR * diagonal
    if is_noisy:
        rests &= bool(np.abs(window - end).max() <= NEAR * diagonal)
    begun = float(np.linalg.norm(path.gradients, axis=1).max(initial=0.0))
    is_gentle = size <= max(GENTLE * begun, LEAST_GRADIENT)
    if (has_one[0] or has_line[0]) and rests and is_gentle and float(np.linalg.norm(step)) <= NEAR * diagonal:
        return Status.CONVERGED, _why_converged(loss, path, size, curvatures, is_line=bool(has_line[0]))
    if path.steps == 0:
        return Status.MOVING, "It has taken no step."
    walked = float(np.linalg.norm(np.diff(window, axis=0), axis=1).sum())
    gone, steps = float(np.linalg.norm(window[-1] - window[0])), len(window) - 1
    if walked <= NEAR * diagonal:
        return Status.STUCK, _why_stuck(path, size, curvatures, walked, steps)
    if gone < CIRCLE * walked and path.values[-1] > path.values[: len(path.values) - steps].min() - 1e-12:
        return Status.CYCLING, _why_cycling(path, is_noisy, size, curvatures, walked, gone, steps)
    return Status.MOVING, f"Its last {_steps(steps)} went {number(gone)}; the gradient's norm is {number(size)}."


def decay(competitor: Competitor) -> float:
    """Return the weight decay that a rule adds to the gradient: of AdamW, which takes it from the weights, none."""
    return 0.0 if competitor.rule == "adamw" else competitor.all_settings().get("weight_decay", 0.0)


def _descended(loss: Loss, path: Path) -> tuple[Array, Array]:
    """Return gradient (2,) and Hessian (2, 2), where a path ends, of what it descends on: the loss with its decay."""
    end, added = path.points[-1], decay(path.competitor)
    look = loss.look(end[None], bends=True)
    assert look.hessian is not None
    return look.gradient[0] + added * end, look.hessian[0] + added * np.eye(2)


def _lengths(path: Path) -> Array:
    """Return how long each step was (T,)."""
    with np.errstate(all="ignore"):
        lengths: Array = np.linalg.norm(np.diff(path.points, axis=0), axis=1)
    return lengths


def _grows(path: Path) -> bool:
    """Tell whether the last steps were each longer than the one before."""
    last = _lengths(path)[-GROWING:]
    return len(last) == GROWING and bool((np.diff(last) > 0).all())


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"


def _runs_away(loss: Loss, path: Path) -> bool:
    """Tell whether a path that still is in the plane leaves it: far out, and with longer and longer steps."""
    left, right, low, high = loss.domain
    middle, half = np.array(((left + right) / 2, (low + high) / 2)), max(right - left, high - low) / 2
    return bool(np.abs(path.points[-1] - middle).max() > FAR * half and _grows(path))


def edge(rule: str, settings: dict[str, float]) -> float | None:
    """Return the product of rate and curvature from which a rule moves away from a quadratic's minimum; None: unknown.

    2 for gradient descent; with momentum μ it is 2(1 + μ), and 2(1 + μ)/(1 + 2μ) for Nesterov's as torch computes it:
    where a root of the step's characteristic polynomial reaches −1.
    """
    momentum = settings.get("momentum", 0.0)
    return {
        "gradient-descent": 2.0,
        "sgd": 2.0,
        "momentum": 2 * (1 + momentum),
        "nesterov": 2 * (1 + momentum) / (1 + 2 * momentum),
    }.get(rule)


def _why_diverged(loss: Loss, path: Path) -> str:
    values = path.values[np.isfinite(path.values)]
    steps = path.steps
    if len(values) > 1 and values[-1] < values[0] and values[-1] == values.min():
        return f"The loss falls without end: it is {number(float(values[-1]))} after {_steps(steps)}."
    if path.competitor.rule == "newton":
        last = path.bends[-1] if path.bends is not None and len(path.bends) else None
        if last is not None and abs(last[0] * last[2] - last[1] ** 2) <= 1e-12 * np.abs(last).max() ** 2:
            return f"At step {steps} the Hessian has no inverse, so there is nothing to divide the gradient by."
    far = f"It is {number(float(np.abs(path.points[-1]).max()))} out after {_steps(steps)}"
    limit = edge(path.competitor.rule, path.competitor.all_settings())
    inside = path.points[:-1][is_inside(path.points[:-1], loss.domain)]
    if limit is not None and len(inside) and steps:
        hessians = loss.look(inside, bends=True).hessian
        assert hessians is not None
        added = decay(path.competitor)
        steepest = np.abs(np.linalg.eigvalsh(np.nan_to_num(hessians) + added * np.eye(2))).max()
        product, what = float(path.rates.max() * steepest), "curvature and decay" if added else "curvature"
        if product > limit:
            return f"{far}: learning rate × largest {what} on its way is {number(product)}, more than {number(limit)}."
    if _grows(path):
        return f"{far}, and each step is longer than the one before."
    return f"{far}: its last step went {number(float(_lengths(path)[-1]))}, at a rate of {number(path.rates[-1])}."


def _why_converged(loss: Loss, path: Path, gradient: float, curvatures: Array, *, is_line: bool) -> str:
    value, best = float(path.values[-1]), known_value(loss)
    bends = (
        f"it curves up across a line of minima ({number(float(curvatures[1]))})"
        if is_line
        else f"it curves up in every direction ({number(float(curvatures[0]))})"
    )
    evidence = f"The gradient's norm is {number(gradient)}, and {bends}."
    if decay(path.competitor):
        above = "" if best is None else f", {number(max(0.0, value - best))} above the lowest of the loss alone"
        return f"A minimum of the loss with its decay{above}. {evidence}"
    if best is None:
        return f"A minimum. {evidence}"
    if value - best > EQUAL:
        return f"A local minimum: {number(value - best)} above the lowest. {evidence}"
    return f"The lowest point: {number(max(0.0, value - best))} above it. {evidence}"


def _why_stuck(path: Path, gradient: float, curvatures: Array, walked: float, steps: int) -> str:
    slow = f"Its last {_steps(steps)} went {number(walked)} in all: the gradient's norm is {number(gradient)}"
    least, most = float(curvatures[0]), float(curvatures[1])
    if most < 0:
        return f"{slow}, at a maximum: it curves down in every direction."
    if least < 0 < most and gradient < 1e-2 * max(-least, most):
        return f"{slow}, near a saddle, with curvatures {number(least)} and {number(most)}."
    if path.competitor.rule == "adamw" and path.competitor.all_settings()["weight_decay"]:
        return f"{slow}, and the weight decay, which is beside the gradient, holds it here."
    if gradient < LEVEL_GRADIENT:
        return f"{slow}, as on a plateau."
    return f"{slow}, and at a rate of {number(float(path.rates[-1]))} it hardly moves."


def _why_cycling(
    path: Path, is_noisy: bool, gradient: float, curvatures: Array, walked: float, gone: float, steps: int
) -> str:
    round_ = f"Its last {_steps(steps)} walked {number(walked)} and came {number(gone)} far"
    if is_noisy:
        return f"{round_}: the noise of its gradients keeps it moving. A smaller rate, or a falling one, calms it."
    limit = edge(path.competitor.rule, path.competitor.all_settings())
    product = float(path.rates[-1] * np.abs(curvatures).max())
    if limit is not None and product > 0.9 * limit:
        return f"{round_}: learning rate × curvature is {number(product)} here, and the edge is {number(limit)}."
    return f"{round_}: its steps are as long as the rate, not as the gradient ({number(gradient)}). Let the rate fall."
