"""A head run over many pictures, in a process of its own: `python -m benchmarks.many COUNT`; prints a JSON object.

It goes the whole way from the listing of the files to the kept model, by the engine's own functions. But the files are
empty: a picture is drawn when it is read. And the network is an average of squares and one layer, with as many features
as an EfficientNet: what a run keeps of a picture is as large as ever, and 100,000 of them take a minute.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
from PIL import Image
from torch import nn

from benchmarks.processes import peak_mib, printer
from dlkit import machine
from dlkit.config import parse
from dlkit.data.split import FileSplit
from dlkit.engine import finetuning
from dlkit.engine.model import Classifier, with_new_head
from dlkit.settings import settings

DATASET, FOLDER = "imagenette", "imagenette2-160"  # whose layout is class folders
CLASSES, VALIDATION = 10, 11  # one picture of eleven is checked with
SIZE, RESIZE, FEATURES = 224, 256, 1280
SQUARE = 32  # pixels a side, of what the network takes the average of
NOISE = np.random.default_rng(0).integers(0, 256, 3 * RESIZE**2 + 2**16, dtype=np.uint8)


def make_files(home: Path, count: int) -> None:
    """Make `count` empty files to learn from, and a tenth of it to check with, in class folders."""
    for part, pictures in (("train", count), ("val", count // (VALIDATION - 1))):
        for number in range(CLASSES):
            (home / "datasets" / DATASET / FOLDER / part / f"n{number:08}").mkdir(parents=True)
        for number in range(pictures):
            name = f"n{number % CLASSES:08}"
            (home / "datasets" / DATASET / FOLDER / part / name / f"{name}_{number:08}.JPEG").touch()


def draw(split: FileSplit, index: int) -> Image.Image:
    """Return noise that differs from picture to picture."""
    start = index * 7919 % 2**16
    return Image.fromarray(NOISE[start : start + 3 * RESIZE**2].reshape(RESIZE, RESIZE, 3))


def small_network(*_: object, **__: object) -> Classifier:
    """Return a network that takes pictures and puts out features as an EfficientNet does, for next to no work."""
    averages = nn.Sequential(nn.AvgPool2d(SQUARE), nn.Flatten())
    body = nn.Sequential(averages, nn.Linear(3 * (SIZE // SQUARE) ** 2, FEATURES))
    return with_new_head(Classifier(body, nn.Linear(FEATURES, CLASSES)), CLASSES)


def main() -> int:
    """Run, and print what memory it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--started", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    put = printer()
    config = parse(
        {
            "dataset": DATASET,
            "strategy": "head",
            "epochs": given.epochs,
            "views": given.views,
            "augmentation": "none",
            "precision": "float32",
            "image_size": SIZE,
            "device": "cpu",
        }
    )
    make_files(settings().data_folder, given.count)
    started, before = time.perf_counter(), psutil.Process().memory_info().rss / 2**20
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(FileSplit, "read", draw),
        patch.object(finetuning, "pretrained", small_network),
    ):
        for event in finetuning.finetune(config, Path(folder)):
            if any(point.key == "val/accuracy" for point in event.points):  # what was kept is there until the end
                machine.give_back_memory()
                held = psutil.Process().memory_info().rss / 2**20
            done = event.summary
    put(
        pictures=done["train_images"] + done["val_images"],
        seconds=time.perf_counter() - started,
        before_mib=before,
        held_mib=held,
        peak_mib=peak_mib(),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
