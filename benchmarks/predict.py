"""What classifying costs the server: `python -m benchmarks.predict [--data PATH] [--rounds N]`.

One picture, and 500, from their files to their answers through `dlkit.engine.prediction.predict`, against decoding them
and a bare forward pass of the same network in the quickest format, over what lies in memory already. One thread, as the
server has it. In each round a process with the tuned allocator measures both, picture by picture in turn; another one
has the allocator as it comes, and its answers are held against the same bare passes.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contest import paired, table, written
from benchmarks.machine import headline
from benchmarks.pictures import FLOWERS_MINI, class_folders, describe
from benchmarks.processes import Line, as_it_comes, tuned, watched
from dlkit.errors import DlkitError

WANTED = {"one": 1.25, "many": 1.10}
ALLOCATORS = {"tuned": tuned, "as it comes": as_it_comes}
LIMIT_SECONDS = 600

Rounds = dict[str, list[Line | None]]  # by allocator


def rows(rounds: Rounds, many: int) -> list[list[str]]:
    """Return what was measured with each allocator, against the bare passes with the tuned one, within each round."""
    written_rows = []
    for allocator, results in rounds.items():
        for what, title in (("one", "one picture"), ("many", f"{many} pictures")):
            ours = {clock: _values(results, what, f"ours {clock}") for clock in ("wall", "cpu")}
            bare = {clock: _values(rounds["tuned"], what, f"bare {clock}") for clock in ("wall", "cpu")}
            columns = [written(values, 1) for clock in ("wall", "cpu") for values in (ours[clock], bare[clock])]
            ratios = [written(paired(ours[clock], bare[clock]), 2, " ×") for clock in ("wall", "cpu")]
            written_rows.append([f"{title}, allocator {allocator}", *columns, *ratios, f"≤ {WANTED[what]:.2f} ×"])
    return written_rows


def _values(results: Sequence[Line | None], what: str, kind: str) -> list[float | None]:
    """Return milliseconds."""
    return [1000 * result[what][kind] if result else None for result in results]


def formats(rounds: Rounds) -> dict[str, str]:
    """Return the formats that were the quickest, for one picture and for many."""
    known = [result for result in rounds["tuned"] if result]
    return {what: " or ".join(dict.fromkeys(result[what]["format"] for result in known)) for what in WANTED}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=FLOWERS_MINI, help="class folders, or a zip file of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=500)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended on the way out
    rounds: Rounds = {name: [] for name in ALLOCATORS}
    try:
        with class_folders(given.data) as folder:
            print(headline(), f"load {os.getloadavg()[0]:.1f} before", sep="\n")
            print(f"{describe(folder)}; {given.rounds} rounds: median (minimum–maximum)\n", flush=True)
            for number in range(given.rounds):
                _round(rounds, folder, number, given.pictures)
    except DlkitError as error:
        print(error, file=sys.stderr)
        return 2
    columns = ["what", "wall ms", "bare wall ms", "CPU ms", "bare CPU ms", "wall ratio", "CPU ratio", "wanted"]
    print(table(columns, rows(rounds, given.pictures)))
    print("\nbare passes in", ", ".join(f"{chosen} ({what})" for what, chosen in formats(rounds).items()))
    print(f"load {os.getloadavg()[0]:.1f} after")
    return 0


def _round(rounds: Rounds, folder: Path, number: int, pictures: int) -> None:
    """Add what each allocator gave in this round; in every second one all goes the other way round."""
    is_reverse = number % 2 == 1
    arguments = [str(folder), "--pictures", str(pictures), *(["--bare-first"] if is_reverse else [])]
    for name in list(ALLOCATORS)[:: -1 if is_reverse else 1]:
        ended = watched("benchmarks.answers", arguments, ALLOCATORS[name](), LIMIT_SECONDS)
        rounds[name].append(ended.lines[0] if ended.lines else None)
        print(f"round {number + 1}, allocator {name}: {ended.failure or 'done'}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
