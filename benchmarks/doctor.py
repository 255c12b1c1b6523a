"""What the doctor of data sets finds, and what it costs: `python -m benchmarks.doctor photos.zip [--rounds N]`.

Labels are flipped at random and copies are planted, from a seed, so it is known what is to be found. Copies of pictures
that the set has twice already count for either. Time is beside decoding every image once with the same reader.
"""

import argparse
import io
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.imports import cost_of, decode_once, import_once, spread
from benchmarks.machine import headline, print_table
from dlkit.catalog.datasets import DATASETS
from dlkit.data.cases import Case, open_case
from dlkit.data.dataset import Dataset, open_dataset
from dlkit.data.doctor import copies_in, examine_looks
from dlkit.data.duplicates import duplicate_pairs
from dlkit.data.images import check_picture, image_digest
from dlkit.data.looks import RECORD, look_at
from dlkit.data.opinions import BACKBONE, Opinions
from dlkit.data.suspicions import suspect_order
from dlkit.engine.suspects import think

FLIPPED = 0.05  # of the labels
PLANTED = 600  # pictures of which a copy is planted


def main() -> None:
    """Measure in turns, and print medians with least and most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, help="a zip, or a folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(headline(), f"load {os.getloadavg()[0]:.1f}", f"{options.rounds} rounds: median (least–most)", sep="\n")
    with tempfile.TemporaryDirectory() as home:
        os.environ["DLKIT_HOME"] = home
        works = (decode_once, import_once, examine_once)
        rounds = [[cost_of(work, options.archive) for work in works] for _ in range(options.rounds)]
        decoding, importing, examining = zip(*rounds, strict=True)
        name = next(iter(DATASETS))
        case, dataset = open_case(name), open_dataset(name)
        recall, precision, pairs = planted_copies(case, dataset, options.seed)
        held, started = flipped_labels(case, dataset, options.seed), time.perf_counter()
        list(think(case, dataset, BACKBONE, copies_in(case)))
        thinking = time.perf_counter() - started
    beside = [
        [cost.seconds / bare.seconds for cost, bare in zip(costs, decoding, strict=True)]
        for costs in (importing, examining)
    ]
    in_cpu = [
        [cost.cpu / bare.cpu for cost, bare in zip(costs, decoding, strict=True)] for costs in (importing, examining)
    ]
    print_table(
        [
            ("decode every image once, s", spread([cost.seconds for cost in decoding]), "–"),
            ("import with looks and thumbnails, s", spread([cost.seconds for cost in importing]), "–"),
            ("the same beside decoding", spread(beside[0]), "≤ 1.5"),
            ("the same in CPU time", spread(in_cpu[0]), "≤ 1.5"),
            ("findings from what was seen, s", spread([cost.seconds for cost in examining]), "–"),
            ("the same beside decoding", spread(beside[1]), "≤ 1.5"),
            ("the same in CPU time", spread(in_cpu[1]), "≤ 1.5"),
            (f"opinions of {BACKBONE}, loading it among them, s", f"{thinking:.1f}", "–"),
            (f"copies found, of {PLANTED}", f"{recall:.3f}", "≥ 0.95"),
            (f"pairs with a planted copy that are copies, of {pairs}", f"{precision:.3f}", "≥ 0.95"),
            (f"flipped labels among the {FLIPPED:.0%} most suspect", f"{held:.3f}", "≥ 0.80"),
        ]
    )


def examine_once(archive: Path) -> None:
    """Examine the set that was imported last."""
    examine_looks(open_case(next(iter(DATASETS))))


def planted_copies(case: Case, dataset: Dataset, seed: int) -> tuple[float, float, int]:
    """Return recall and precision for planted copies of pictures, and how many pairs have one of them."""
    looks = case.album.records[case.album_rows]
    rows = case.learnt_rows()
    known = copies_in(case)
    chosen = np.random.default_rng(seed).choice(len(rows), min(PLANTED, len(rows)), replace=False)
    planted = []
    for number, place in enumerate(chosen):
        split, index = (
            (dataset.train, place) if place < len(dataset.train) else (dataset.val, place - len(dataset.train))
        )
        planted.append(seen(WAYS[number % len(WAYS)](split.read(int(index)))))
    pairs = duplicate_pairs(np.concatenate([looks, np.array(planted)]))
    owner = np.concatenate([np.arange(len(case)), rows[chosen]])
    with_copy = pairs[pairs[:, 1] >= len(case)]
    is_right = known[owner[with_copy[:, 0]]] == known[owner[with_copy[:, 1]]]
    found = {second for first, second in with_copy.tolist() if owner[second] == first}
    return len(found) / len(chosen), float(is_right.mean()), len(with_copy)


def flipped_labels(case: Case, dataset: Dataset, seed: int) -> float:
    """Return which share of the labels that are flipped is among as many that are the most suspect."""
    rng = np.random.default_rng(seed)
    count = round(FLIPPED * len(case))
    flipped = rng.choice(len(case), count, replace=False)
    labels = case.labels.copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, len(case.classes), count)) % len(case.classes)
    sick = replace(case, labels=labels)
    thought = list(think(sick, dataset, BACKBONE, copies_in(case)))[-1].opinions
    assert isinstance(thought, Opinions)
    return len(set(suspect_order(thought)[:count].tolist()) & set(flipped.tolist())) / count


def seen(data: bytes) -> np.void:
    """Return what is seen of a file, RECORD ()."""
    looks = check_picture(data)
    packed = look_at(looks.small, image_digest(data), looks.width, looks.height).packed(0)
    record: np.void = np.frombuffer(packed, RECORD)[0]
    return record


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(factor * image.width), round(factor * image.height)))


WAYS = (
    lambda image: _jpeg(_scaled(image, 0.5), 85),
    lambda image: _jpeg(_scaled(image, 1.5), 75),
    lambda image: _jpeg(image, 40),
    lambda image: _jpeg(ImageOps.mirror(image), 85),
    lambda image: _jpeg(_scaled(ImageOps.mirror(image), 0.7), 60),
)


if __name__ == "__main__":
    main()
