"""Small networks that learn live: `python -m benchmarks.networks [--seconds N]`.

What a step costs in CPU time, and what 60 of them a second are of a core, with the pictures that a page draws of them:
2-8-8-3 on 500 points of a spiral, all of them in each step.
"""

import argparse
import os
import time
from collections.abc import Callable

from benchmarks.machine import headline, print_table
from dlkit.lab import asked
from dlkit.lab.backpropagation import written_out
from dlkit.lab.learning import Training
from dlkit.lab.looking import health, maps

WANTED = {"data": "spiral", "classes": 3, "hidden": "8,8", "count": 500, "test": 0, "batch": 500}
LIVE, DRAWN = 60, 10  # steps and pictures a second


def cost(work: Callable[[], object], seconds: float) -> float:
    """Return the CPU milliseconds of one piece of work, done over and over for so long."""
    work()
    times, before, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        work()
        times += 1
    return 1000 * (time.process_time() - before) / times


def looked_at(seconds: float) -> list[tuple[str, str, str]]:
    """Return what a plain network costs: a step, what is drawn of it, and both together as a part of a core."""
    training = Training(asked.read(WANTED))
    step, points = training.step(), training.task.points.points
    costs = {
        "ReLU, Adam: CPU ms a step": cost(training.step, seconds),
        "what each unit says at 40 × 40 places: CPU ms": cost(lambda: maps(training.network), seconds),
        "dead units and norms: CPU ms": cost(lambda: health(training.network, points, step), seconds),
        "losses of train and test: CPU ms": cost(training.measure, seconds),
        "backpropagation written out: CPU ms": cost(lambda: written_out(training, step.look), seconds),
    }
    each, *looks = costs.values()
    share = (LIVE * each + DRAWN * sum(looks)) / 10
    rows = [(what, f"{milliseconds:.2f}", "–") for what, milliseconds in costs.items()]
    return [*rows, (f"{LIVE} steps and {DRAWN} looks a second: % of a core", f"{share:.1f}", "≤ 50")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    seconds = parser.parse_args().seconds
    print(headline(), f"load {os.getloadavg()[0]:.1f}")
    rows = looked_at(seconds)
    for values in ({"batch_norm": "on", "dropout": 0.1}, {"activation": "gelu", "optimizer": "nadam"}):
        name = ", ".join(f"{name} {value}" for name, value in values.items())
        training = Training(asked.read({**WANTED, **values}))
        rows.append((f"{name}: CPU ms a step", f"{cost(training.step, seconds):.2f}", "–"))
    print_table(rows)


if __name__ == "__main__":
    main()
