"""The main job on the shipped samples: `python -m benchmarks.samples [--rounds N]`.

Each run goes the way of a visitor's: submitted to the store, taken by the supervisor, trained by a worker process. The
time of the first point is when a page could first draw a curve.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import headline, print_table
from dlkit.data.images import read_image
from dlkit.runs import service

PHOTOS = Path(__file__).parents[1] / "dlkit" / "samples" / "photos"
FLOWERS = {"dataset": "flowers-mini", "backbone": "efficientnet-lite0", "strategy": "head"}
FASHION = {"dataset": "fashion-mnist-mini", "backbone": "efficientnet-lite0", "strategy": "full", "epochs": 2}


@dataclass(frozen=True)
class Outcome:
    """What one run reached; seconds from the submit."""

    accuracy: float
    first_point: float
    done: float


def follow(config: dict[str, object]) -> Outcome:
    """Submit a run and watch the store as a page does."""
    started, first_point = time.monotonic(), 0.0
    run = service.submit(config)
    while run.is_active:
        time.sleep(0.1)
        if not first_point and service.store().curve(run.id):
            first_point = time.monotonic() - started
        run = service.run(run.id)
    if run.failure:
        raise RuntimeError(run.failure)
    return Outcome(run.summary["val_accuracy"], first_point, time.monotonic() - started)


def imagenet_rows() -> list[tuple[str, str, str]]:
    """Classify the two photographs whose answers are known."""
    from dlkit.engine.prediction import predict

    coffee, cat = predict(None, [read_image(PHOTOS / "coffee.jpg"), read_image(PHOTOS / "chelsea.jpg")], top_k=1)
    return [
        ("ImageNet model, coffee", f"{coffee[0].label} {coffee[0].probability:.3f}", "espresso ≥ 0.9"),
        ("ImageNet model, chelsea", f"{cat[0].label} {cat[0].probability:.3f}", "a cat class first"),
    ]


def spread(values: list[float], digits: int) -> str:
    """Write median (minimum–maximum)."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(headline(), f"load {os.getloadavg()[0]:.1f}", f"{rounds} rounds: median (minimum–maximum)", sep="\n")
    with tempfile.TemporaryDirectory() as home:
        os.environ["DLKIT_HOME"] = home
        flowers = [follow({**FLOWERS, "seed": seed}) for seed in range(rounds)]
        fashion = [follow({**FASHION, "seed": seed}) for seed in range(rounds)]
    print_table(
        [
            ("flowers-mini, head: accuracy", spread([run.accuracy for run in flowers], 3), "≥ 0.84"),
            ("flowers-mini, head: submit to done, s", spread([run.done for run in flowers], 1), "≤ 25"),
            ("flowers-mini, head: first curve point, s", spread([run.first_point for run in flowers], 1), "≤ 8"),
            ("fashion-mnist-mini, full: accuracy", spread([run.accuracy for run in fashion], 3), "≥ 0.80"),
            ("fashion-mnist-mini, full: submit to done, s", spread([run.done for run in fashion], 1), "–"),
            *imagenet_rows(),
        ]
    )


if __name__ == "__main__":
    main()
