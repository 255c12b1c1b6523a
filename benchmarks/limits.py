"""What this machine allows: `python -m benchmarks.limits NAME FOLDER`, each in a process of its own; prints JSON.

Nothing here is clever: pictures decoded and thrown away, and bare network passes over what lies in memory already.
"""

import argparse
import contextlib
import copy
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from benchmarks.contestants import BACKBONE, BATCH
from benchmarks.pictures import PARTS, pictures_of
from benchmarks.processes import printer
from dlkit import machine
from dlkit.catalog.backbones import BACKBONES
from dlkit.engine.folding import fold_batchnorm
from dlkit.engine.model import freeze_batchnorm, pretrained
from dlkit.engine.preprocess import preprocessing_of

ENTRY = BACKBONES[BACKBONE]
PREPROCESSING = preprocessing_of(ENTRY)
RATE = 3e-4
RESIDENT_BATCHES = 4  # that the forward pass goes around
TRIALS, STEPS = 3, 6
#: a format is not tried further that takes so many times the best one's time: at its first pass, which asks for memory
#: and chooses kernels, and at its second
FIRST_HOPELESS, HOPELESS = 5, 1.5
CLOSE = 1e-3  # how far a folded network's output may be from the network's, as a share of its largest

Result = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """How the numbers of a network lie in memory, and how exact they are."""

    numbers: str  # "float32", "bfloat16 autocast" or "bfloat16 weights"
    layout: str  # "NCHW" or "channels_last"
    is_folded: bool = False

    def __str__(self) -> str:
        return f"{self.numbers}, {self.layout}{', BatchNorm folded' if self.is_folded else ''}"

    def prepared(self, model: nn.Module) -> nn.Module:
        """Return a copy of the model in this format."""
        model = fold_batchnorm(model, EXAMPLE) if self.is_folded else copy.deepcopy(model)
        if self.numbers == "bfloat16 weights":
            model = model.to(torch.bfloat16)
        return model.to(memory_format=torch.channels_last) if self.layout == "channels_last" else model

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Return images (N, 3, S, S) in this format."""
        images = images.to(torch.bfloat16) if self.numbers == "bfloat16 weights" else images
        is_last = self.layout == "channels_last"
        return images.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)

    def context(self, device: str) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the network computes."""
        return torch.autocast(device, torch.bfloat16, enabled=self.numbers == "bfloat16 autocast")


EXAMPLE = torch.zeros(1, 3, ENTRY.input_size, ENTRY.input_size)
NUMBERS = ("float32", "bfloat16 autocast", "bfloat16 weights")
LAYOUTS = ("channels_last", "NCHW")
FORWARD_FORMATS = [Format(*choice) for choice in product(NUMBERS, LAYOUTS, (False, True))]
STEP_FORMATS = [Format(*choice) for choice in product(NUMBERS[:2], LAYOUTS)]


def decode(folder: Path, device: str) -> Result:
    """Decode, resize and crop every picture once, in as many processes as there are cores."""
    paths = [path for part in PARTS for path in pictures_of(folder, part)]
    with multiprocessing.get_context("fork").Pool(machine.cores()) as pool:
        pool.map(_decode, paths[: 2 * machine.cores()], 1)  # the processes are there
        started = time.perf_counter()
        pool.map(_decode, paths, 8)
        return {"seconds": time.perf_counter() - started, "images": len(paths)}


def _decode(path: Path) -> None:
    with Image.open(path) as image:
        PREPROCESSING.square(image.convert("RGB"))


def forward(folder: Path, device: str) -> Result:
    """Pass as many pictures as the folder has through the network without its head, in the quickest format."""
    count = sum(len(pictures_of(folder, part)) for part in PARTS)
    batches = math.ceil(count / BATCH)
    model = pretrained(ENTRY).body.eval().requires_grad_(False)
    with torch.inference_mode():
        chosen = quickest_forward(model, BATCH, device)
        network, inputs = chosen.prepared(model).to(device), chosen.inputs(images(BATCH).to(device))
        resident = [inputs.clone() for _ in range(RESIDENT_BATCHES)]
        with chosen.context(device):
            seconds = elapsed(
                lambda: [network(resident[number % RESIDENT_BATCHES]) for number in range(batches)], device
            )
    return {"seconds": seconds * count / (batches * BATCH), "images": count, "format": str(chosen)}


def quickest_forward(model: nn.Module, batch: int, device: str) -> Format:
    """Return the format in which a pass of a batch takes least; to be called in inference mode."""

    def work(candidate: Format) -> Callable[[], None]:
        network, inputs = candidate.prepared(model).to(device), candidate.inputs(images(batch).to(device))

        def take() -> None:
            with candidate.context(device):
                network(inputs)

        return take

    return _quickest(FORWARD_FORMATS, work, device)


def step(folder: Path, device: str) -> Result:
    """Take training steps on one resident batch, BatchNorm statistics frozen, in the quickest format."""
    chosen = _quickest(STEP_FORMATS, lambda candidate: _step(candidate, device, is_frozen=True), device)
    return {
        "seconds": _median_seconds(_step(chosen, device, is_frozen=True), STEPS, device),
        "images": BATCH,
        "format": f"{chosen}, BatchNorm frozen",
    }


def tutorial_step(folder: Path, device: str) -> Result:
    """Take the tutorial loop's training steps on one resident batch."""
    plain = Format("float32", "NCHW")
    return {
        "seconds": _median_seconds(_step(plain, device, is_frozen=False), STEPS, device),
        "images": BATCH,
        "format": f"{plain}, BatchNorm learning",
    }


def _step(chosen: Format, device: str, *, is_frozen: bool) -> Callable[[], None]:
    """Return what takes one training step on a resident batch."""
    network = chosen.prepared(pretrained(ENTRY, classes=5)).to(device).train()
    if is_frozen:
        freeze_batchnorm(network)
    inputs, labels = chosen.inputs(images(BATCH).to(device)), (torch.arange(BATCH) % 5).to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), RATE, fused=is_frozen or None
    )  # torch's own choice is no fusion

    def take() -> None:
        optimizer.zero_grad()
        with chosen.context(device):
            logits = network(inputs)
        functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return take


def images(count: int) -> torch.Tensor:
    """Return what stands in for normalised images (N, 3, S, S) float32: their content does not matter to the time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, ENTRY.input_size, ENTRY.input_size, generator=generator)


def elapsed(work: Callable[[], Any], device: str) -> float:
    """Return the seconds that `work` takes, also what a GPU still has to do when it returns."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _quickest(formats: list[Format], work: Callable[[Format], Callable[[], None]], device: str) -> Format:
    """Return the format whose work takes least."""
    best, least = formats[0], math.inf
    for candidate in formats:
        take = work(candidate)
        if elapsed(take, device) < FIRST_HOPELESS * least and elapsed(take, device) < HOPELESS * least:
            seconds = statistics.median(elapsed(take, device) for _ in range(TRIALS))
            best, least = (candidate, seconds) if seconds < least else (best, least)
    return best


def _median_seconds(work: Callable[[], Any], times: int, device: str) -> float:
    work()  # the first pass asks for memory and chooses kernels
    return statistics.median(elapsed(work, device) for _ in range(times))


MEASURES: dict[str, Callable[[Path, str], Result]] = {
    "decode": decode,
    "forward": forward,
    "untuned-forward": forward,
    "step": step,
    "tutorial-step": tutorial_step,
}


def main() -> int:
    """Measure one limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=MEASURES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--started", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    put = printer()
    put(**MEASURES[given.name](given.folder, given.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
