"""One process of `benchmarks.predict`: `python -m benchmarks.answers FOLDER`; prints one JSON line.

Two ways are taken in turn with the same pictures: from the file to the answers through `predict`, and decoding followed
by a bare forward pass over what lies in memory already. One thread, as the server has it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

import torch
from PIL import Image

from benchmarks.limits import ENTRY, PREPROCESSING, images, quickest_forward
from benchmarks.pictures import pictures_of
from benchmarks.processes import Line, printer
from dlkit.data.images import read_image
from dlkit.engine import prediction
from dlkit.engine.model import pretrained

ONES = 40  # pictures that are classified one at a time
BATCH = 32
TOP = 5

Way = Callable[[Sequence[Path]], object]


def ours(paths: Sequence[Path]) -> object:
    """Classify as a page does."""
    return prediction.predict(None, [read_image(path) for path in paths], TOP)


def bare_way(size: int) -> tuple[Way, str]:
    """Return what decodes pictures and passes them through the network, `size` at a time, and the quickest format."""
    network = pretrained(ENTRY).eval().requires_grad_(False)
    with torch.inference_mode():
        chosen = quickest_forward(network, size, "cpu")
        prepared, resident = chosen.prepared(network), chosen.inputs(images(size))

    def bare(paths: Sequence[Path]) -> None:
        for start in range(0, len(paths), size):
            for path in paths[start : start + size]:
                with Image.open(path) as image:
                    PREPROCESSING.square(image.convert("RGB"))
            with torch.inference_mode(), chosen.context("cpu"):
                prepared(resident[: len(paths) - start])

    return bare, str(chosen)


def compare(size: int, works: Sequence[Sequence[Path]], is_bare_first: bool) -> Line:
    """Return the median wall and CPU seconds that one of the works takes in each way."""
    bare, chosen = bare_way(size)
    ways: dict[str, Way] = {"ours": ours, "bare": bare}
    spent: dict[str, list[float]] = {f"{name} {clock}": [] for name in ways for clock in ("wall", "cpu")}
    for way in ways.values():
        way(works[0][:1])  # the first pass asks for memory and chooses kernels
    for work in works:
        for name in list(ways)[:: -1 if is_bare_first else 1]:
            wall, cpu = time.perf_counter(), time.process_time()
            ways[name](work)
            spent[f"{name} wall"].append(time.perf_counter() - wall)
            spent[f"{name} cpu"].append(time.process_time() - cpu)
    return {kind: statistics.median(seconds) for kind, seconds in spent.items()} | {"format": chosen}


def main() -> int:
    """Measure both ways, for one picture at a time and for many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--bare-first", action="store_true", help="take the bare way first, then ours")
    parser.add_argument("--started", help=argparse.SUPPRESS)
    given = parser.parse_args()
    put = printer()
    prediction.warm_up()  # as the server does: this also sets the number of threads
    prediction.choose_format()
    paths = [path for part in ("val", "train") for path in pictures_of(given.folder, part)]
    many = list(islice(cycle(paths), given.pictures))
    for path in dict.fromkeys(many):
        path.read_bytes()  # into the system's memory
    one = [[path] for path in islice(cycle(paths), ONES)]
    put(one=compare(1, one, given.bare_first), many=compare(BATCH, [many], given.bare_first))
    return 0


if __name__ == "__main__":
    sys.exit(main())
