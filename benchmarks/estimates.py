"""What was estimated beside what it took: `python -m benchmarks.estimates [--data NAME …]`.

Each configuration is measured as the button *Measure* does, estimated, and then run as a visitor's run: by the
supervisor and a worker process, in an empty data folder. The time is the worker's, the memory its peak.
"""

import argparse
import os
import tempfile
import time
from typing import Any

from benchmarks.machine import headline, print_table
from dlkit.config import parse
from dlkit.estimate import Estimate, estimate
from dlkit.runs import service
from dlkit.runs.records import Run
from dlkit.words import duration, size

TIME_WITHIN, MEMORY_WITHIN = 0.25, 0.20
CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {"dataset": "flowers-mini", "strategy": "head"},
    {"dataset": "flowers-mini", "strategy": "head", "views": 4, "image_size": 160, "batch_size": 64},
    {"dataset": "flowers-mini", "strategy": "partial", "epochs": 4},
    {"dataset": "shapes", "strategy": "full", "epochs": 2, "image_size": 128},
    {"dataset": "fashion-mnist-mini", "strategy": "head", "epochs": 5},
    {"dataset": "flowers-mini", "strategy": "full", "epochs": 1, "batch_size": 8, "augmentation": "strong"},
)


def follow(run: Run) -> Run:
    """Wait until a run has ended; RuntimeError where it broke."""
    while run.is_active:
        time.sleep(0.1)
        service.ensure_supervisor()
        run = service.run(run.id)
    if run.failure:
        raise RuntimeError(run.failure)
    return run


def rows_of(values: dict[str, Any], told: Estimate, measured: Run, run: Run) -> list[tuple[str, str, str]]:
    """Return the lines of one configuration."""
    name = ", ".join(map(str, values.values()))
    seconds, memory = run.seconds or 0.0, run.summary["memory_mb"]
    assert told.seconds is not None
    assert told.memory_mb is not None
    return [
        (f"{name}: measuring", duration(measured.seconds), "–"),
        (
            f"{name}: time, estimate / actual",
            f"{duration(told.seconds)} / {duration(seconds)} = {told.seconds / seconds:.2f}",
            f"within {TIME_WITHIN:.0%}",
        ),
        (
            f"{name}: memory, estimate / actual",
            f"{size(told.memory_mb)} / {size(memory)} = {told.memory_mb / memory:.2f}",
            f"within {MEMORY_WITHIN:.0%}",
        ),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", help="data sets of the catalog, in place of the samples")
    data = parser.parse_args().data
    print(headline(), f"load {os.getloadavg()[0]:.1f}", sep="\n")
    rows: list[tuple[str, str, str]] = []
    chosen = [{**values, "dataset": name} for name in data for values in CONFIGURATIONS] if data else CONFIGURATIONS
    with tempfile.TemporaryDirectory() as home:
        os.environ["DLKIT_HOME"] = home
        for values in chosen:
            config = parse(values).resolved()
            measured = follow(service.submit_measure(config))
            told = estimate(config)
            rows += rows_of(values, told, measured, follow(service.submit(config)))
            print(*rows[-3:], told.phases, sep="\n", flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
