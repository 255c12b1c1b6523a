"""What an import costs beside decoding: `python -m benchmarks.imports photos.zip [--rounds N]`.

The yardstick is to read every image of the archive and to decode it once with the same reader in as many threads. An
import also hashes each image, writes it, makes manifest and record, and waits until all has reached the disk.
"""

import argparse
import os
import resource
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import headline, print_table
from dlkit import machine
from dlkit.data.images import read_image
from dlkit.data.importing import import_pictures, open_source
from dlkit.data.plans import make_plan
from dlkit.data.sources import File

LIMIT = 10_000_000  # bytes of a picture


def main() -> None:
    """Measure in turns, and print medians with least and most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, help="a zip, or a folder")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(headline(), f"load {os.getloadavg()[0]:.1f}", f"{options.rounds} rounds: median (least–most)", sep="\n")
    with tempfile.TemporaryDirectory() as home:
        os.environ["DLKIT_HOME"] = home
        works = (plan_once, decode_once, import_once)
        rounds = [[cost_of(work, options.archive) for work in works] for _ in range(options.rounds)]
        listing, decoding, importing = zip(*rounds, strict=True)
    shares = [whole.seconds / bare.seconds for whole, bare in zip(importing, decoding, strict=True)]
    cpu_shares = [whole.cpu / bare.cpu for whole, bare in zip(importing, decoding, strict=True)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print_table(
        [
            ("list the archive and find its layout, s", spread([cost.seconds for cost in listing]), "≤ 2"),
            ("decode every image once, s", spread([cost.seconds for cost in decoding]), "–"),
            ("import and check, s", spread([cost.seconds for cost in importing]), "–"),
            ("import beside decoding", spread(shares), "≤ 1.5"),
            ("the same in CPU time", spread(cpu_shares), "≤ 1.5"),
            ("largest memory of the process, MiB", f"{peak:.0f}", "–"),
        ]
    )


@dataclass(frozen=True)
class Cost:
    """What some work took, in seconds and in seconds of all processors."""

    seconds: float
    cpu: float


def cost_of(work: Callable[[Path], None], archive: Path) -> Cost:
    """Return what the work took; what others have written to the disk before is not counted."""
    os.sync()
    started, started_cpu = time.perf_counter(), time.process_time()
    work(archive)
    return Cost(time.perf_counter() - started, time.process_time() - started_cpu)


def plan_once(archive: Path) -> None:
    """Find out what is in it, as is done before anything is kept."""
    with open_source(archive) as source:
        make_plan(source)


def decode_once(archive: Path) -> None:
    """Decode every image and keep nothing."""
    with open_source(archive) as source, ThreadPoolExecutor(machine.cores()) as pool:

        def decode(file: File) -> None:
            read_image(source.read(file, LIMIT), name=file.name)

        for _ in pool.map(decode, [picture.file for picture in make_plan(source).pictures]):
            pass


def import_once(archive: Path) -> None:
    """Import it under a name of its own; deleting the one before would keep the disk busy."""
    with open_source(archive) as source:
        for _ in import_pictures(source, make_plan(source), secrets.token_hex(4)):
            pass


def spread(values: list[float]) -> str:
    """Write median (least–most)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
