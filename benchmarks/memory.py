"""The memory of head runs over many pictures: `python -m benchmarks.memory [--counts N …]`.

Each run is a process of its own in a worker's environment, `benchmarks.many`, with budgets for what it keeps. Beyond
what is kept a picture may cost a name, a label and a few numbers of bookkeeping, and no more. What is held is looked at
when the last epoch ends, without what the allocator keeps free for later; the peak has that, too, and differs by it
from run to run.
"""

import argparse
import os
import signal
import sys
import tempfile
from dataclasses import dataclass

from benchmarks.machine import headline, print_table
from benchmarks.processes import Line, as_worker, watched

COUNTS = (10_000, 100_000)
WANTED_KIB = 1.0  # for each picture beyond the budget
LIMIT_SECONDS = 3600


@dataclass(frozen=True)
class Case:
    """Budgets for what a run keeps, in MB, and the views of each picture. `is_beyond`: many pictures do not fit."""

    title: str
    memory_mb: int
    disk_mb: int
    views: int
    is_beyond: bool = True


CASES = (
    Case("the default budgets, all features in memory", 2048, 20_000, 1, is_beyond=False),
    Case("64 MB, then a file", 64, 20_000, 1),
    Case("64 MB and no file, 2 views: most is decoded and computed anew", 64, 0, 2),
)


def measured(case: Case, count: int) -> Line:
    """Return what one run says of itself; RuntimeError where it broke."""
    with tempfile.TemporaryDirectory() as home:
        budgets = {"DLKIT_CACHE_MB": str(case.memory_mb), "DLKIT_CACHE_DISK_MB": str(case.disk_mb)}
        environment = {**as_worker(), **budgets, "DLKIT_HOME": home}
        ended = watched("benchmarks.many", [str(count), "--views", str(case.views)], environment, LIMIT_SECONDS)
    if ended.is_cut or ended.failure:
        raise RuntimeError(ended.failure or f"{count} pictures took longer than {LIMIT_SECONDS} s")
    return ended.lines[0]


def rows_of(case: Case, runs: list[Line]) -> list[tuple[str, str, str]]:
    """Return the lines of one case, its runs being over more and more pictures."""
    rows = [
        (
            f"{case.title}: {run['pictures']:,} pictures in {run['seconds']:.0f} s: before, held, peak",
            ", ".join(f"{run[what]:,.0f} MiB" for what in ("before_mib", "held_mib", "peak_mib")),
            "–",
        )
        for run in runs
    ]
    few, many = runs[0], runs[-1]
    each = 1024 * (many["held_mib"] - few["held_mib"]) / (many["pictures"] - few["pictures"])
    wanted = f"< {WANTED_KIB:.0f} KiB" if case.is_beyond else "5 KiB of features and < 1 KiB"
    return [*rows, (f"{case.title}: each picture more", f"{each:.2f} KiB", wanted)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="pictures to learn from; at least two")
    counts = parser.parse_args().counts
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended on the way out
    print(headline(), f"load {os.getloadavg()[0]:.1f}", sep="\n")
    rows = []
    for case in CASES:
        runs = []
        for count in counts:
            runs.append(measured(case, count))
            print(case.title, runs[-1], f"load {os.getloadavg()[0]:.1f}", flush=True, file=sys.stderr)
        rows += rows_of(case, runs)
    print_table(rows)


if __name__ == "__main__":
    main()
