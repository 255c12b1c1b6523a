"""What was estimated beside what it took: `python -m benchmarks.estimates [--data NAME …]`.

Each configuration is measured as the button *Measure* does, estimated, and then run as a visitor's run: by the
supervisor and a worker process, in an empty data folder. The time is the worker's, the memory its peak. Pretrained
weights that would have to be fetched are random ones: what a step costs does not depend on their values.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.machine import headline, print_table
from dlkit.catalog.backbones import BACKBONES
from dlkit.config import FinetuneConfig, parse
from dlkit.data.weights import has_weights, weights_path
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
    # the estimate was never adjusted on these
    {"dataset": "flowers-mini", "strategy": "full", "backbone": "resnet18", "image_size": 112, "epochs": 2},
    {"dataset": "shapes", "strategy": "partial", "backbone": "mobilenet-v3-small", "image_size": 192, "epochs": 3},
)


def follow(run: Run, look: Callable[[], object] = lambda: None) -> Run:
    """Wait until a run has ended, and `look` meanwhile; RuntimeError where it broke."""
    while run.is_active:
        look()
        time.sleep(0.1)
        service.ensure_supervisor()
        run = service.run(run.id)
    if run.failure:
        raise RuntimeError(run.failure)
    return run


def measure(config: FinetuneConfig) -> tuple[float | None, Run]:
    """Measure for a config; return the seconds from asking to the first measured estimate, and the job.

    None where the estimate was known already: every measuring is of all strategies.
    """
    started, found = time.monotonic(), list[float]()
    is_known = estimate(config).is_measured

    def look() -> None:
        if not found and estimate(config).is_measured:
            found.append(time.monotonic() - started)

    run = follow(service.submit_measure(config), look)
    look()
    return found[0] if found and not is_known else None, run


def bring_weights(backbone: str) -> None:
    """Put random weights where fetched ones would lie."""
    entry = BACKBONES[backbone]
    if not has_weights(entry):
        from safetensors.torch import save_file  # heavy: torch is imported here

        weights_path(entry).parent.mkdir(parents=True, exist_ok=True)
        save_file(entry.build().state_dict(), weights_path(entry))


def rows_of(
    values: dict[str, Any], told: Estimate, first: float | None, measured: Run, run: Run
) -> list[tuple[str, str, str]]:
    """Return the lines of one configuration."""
    name = ", ".join(map(str, values.values()))
    asked = "known already" if first is None else duration(first)
    seconds, memory = run.seconds or 0.0, run.summary["memory_mb"]
    assert told.seconds is not None
    assert told.memory_mb is not None
    return [
        (f"{name}: asked to estimated, measuring", f"{asked}, {duration(measured.seconds)}", "≤ 3 s"),
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
    parser.add_argument("--warm", action="store_true", help="fork workers from a process with torch loaded")
    given = parser.parse_args()
    data = given.data
    print(headline(), f"load {os.getloadavg()[0]:.1f}", sep="\n")
    rows: list[tuple[str, str, str]] = []
    chosen = [{**values, "dataset": name} for name in data for values in CONFIGURATIONS] if data else CONFIGURATIONS
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"DLKIT_HOME": home, "DLKIT_WARM_WORKER": str(int(given.warm))}
        for values in chosen:
            config = parse(values).resolved()
            bring_weights(config.backbone)
            first, measured = measure(config)
            told = estimate(config)
            rows += rows_of(values, told, first, measured, follow(service.submit(config)))
            print(*rows[-3:], told.phases, sep="\n", flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
