"""Which number format and memory layout are quickest here: tried once per network, size, task and machine.

The best for inference is not the best for training, and neither is the same on another machine, so nothing is guessed.
A trial takes about a second, draws from no global generator and changes nothing but the file of `dlkit.evidence`.
"""

import copy
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from dlkit import evidence
from dlkit.engine.device import check_precision, is_out_of_memory, precisions, release_memory, wait
from dlkit.engine.folding import fold_batchnorm
from dlkit.errors import DlkitError
from dlkit.evidence import FEATURES, PLAIN, REFERENCE, TRAINING, Choice, Format, known_choices, remember
from dlkit.settings import settings

TRIAL_BATCH = 16
TRIAL_SECONDS = 0.3  # of each format, after a first run that is not counted
LONGEST_SECONDS = 15  # of all formats; what takes longer is a machine that is busy, and nothing to be remembered
#: how far a format's outputs may lie from those of float32, as a share of their length; bfloat16 is at about 0.01
LARGEST_ERROR = 0.05
#: how much quicker than any other float16 must be to be learnt in: a step whose gradients overflow is taken twice
FLOAT16_GAIN = 1.1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Frozen(nn.Module):
    """A network that does not learn, in one format: float32 images (N, 3, S, S) → float32 outputs.

    The network that was given stays as it is; `example` is an input of it.
    """

    def __init__(self, network: nn.Module, form: Format, example: torch.Tensor) -> None:
        super().__init__()
        self.dtype = DTYPES[form.precision]
        self.layout = torch.channels_last if form.channels_last else torch.contiguous_format
        network = fold_batchnorm(network, example) if form.folded else copy.deepcopy(network).eval()
        self.network = network.requires_grad_(False).to(self.dtype).to(memory_format=self.layout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the network makes of normalised images."""
        outputs: torch.Tensor = self.network(images.to(dtype=self.dtype, memory_format=self.layout))
        return outputs.float()


def choose(task: str, name: str, network: nn.Module, size: int, device: torch.device, precision: str) -> Choice:
    """Return the quickest format for a task: FEATURES (a forward pass) or TRAINING (forward and backward).

    `network` takes images of `size` pixels and is called `name`. A `precision` other than "auto" is taken as it is:
    "float32" then is torch's own to the last digit, nothing folded; DeviceError where the device has it not. What was
    measured before is remembered.
    """
    if precision != "auto":
        check_precision(precision, device)
        return Choice(Format(precision))
    if not settings().measure_speed:
        return Choice()
    key = key_of(task, name, size, device)
    known = known_choices().get(key)
    if known is not None:
        return known
    try:
        choice, is_whole = _trial(task, network, size, device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        release_memory(device)
        return Choice()
    if is_whole:
        with suppress(DlkitError, OSError):  # a folder that cannot be written: it is measured again the next time
            remember(key, choice)
    return choice


def needs_trial(task: str, name: str, size: int, device: torch.device, precision: str) -> bool:
    """Tell whether `choose` has to try formats."""
    return precision == "auto" and settings().measure_speed and key_of(task, name, size, device) not in known_choices()


def key_of(task: str, name: str, size: int, device: torch.device) -> str:
    """Return what a measurement in this process is remembered by."""
    return evidence.key_of(evidence.task_of(task, name, size), place_of(device))


def place_of(device: torch.device) -> str:
    """Return where this process measures."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return evidence.place(device.type, name, torch.get_num_threads())


def _trial(task: str, network: nn.Module, size: int, device: torch.device) -> tuple[Choice, bool]:
    """Return the quickest of all formats, or of those that could be tried before it took too long, and which it is."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(TRIAL_BATCH, 3, size, size, generator=generator).to(device)
    tries = _try_features(network, images) if task == FEATURES else _try_training(network, images)
    rates: dict[Format, float] = {}
    started, is_whole = time.perf_counter(), True
    for form, rate in tries:
        is_whole = time.perf_counter() - started < LONGEST_SECONDS
        if not is_whole:
            break
        rates[form] = rate

    def worth(form: Format) -> float:
        return rates[form] / (FLOAT16_GAIN if task == TRAINING and form.precision == "float16" else 1)

    best = max(rates.keys() - {PLAIN}, key=worth, default=REFERENCE)  # PLAIN is there to compare with
    return Choice(best, {str(form): rate for form, rate in rates.items()}), is_whole


def _formats(folded: bool, names: Iterable[str]) -> list[Format]:
    return [REFERENCE, *(Format(name, folded=folded) for name in names), PLAIN]


def _try_features(network: nn.Module, images: torch.Tensor) -> Iterable[tuple[Format, float]]:
    with torch.no_grad():
        wanted = copy.deepcopy(network).eval()(images).float()
        for form in _formats(folded=True, names=precisions(images.device)):
            frozen = Frozen(network, form, images[:1])
            error = (frozen(images) - wanted).norm() / wanted.norm()
            if form == PLAIN or error <= LARGEST_ERROR:
                yield form, len(images) / _seconds(images.device, partial(frozen, images))


def _try_training(network: nn.Module, images: torch.Tensor) -> Iterable[tuple[Format, float]]:
    for form in _formats(folded=False, names=precisions(images.device)[1:]):
        layout = torch.channels_last if form.channels_last else torch.contiguous_format
        learning = copy.deepcopy(network).eval().requires_grad_(True).to(memory_format=layout)
        pictures = images.to(memory_format=layout)

        def step(net: nn.Module = learning, pictures: torch.Tensor = pictures, form: Format = form) -> None:
            with torch.autocast(pictures.device.type, DTYPES[form.precision], enabled=form.precision != "float32"):
                outputs = net(pictures)
            functional.mse_loss(outputs.float(), torch.zeros_like(outputs, dtype=torch.float32)).backward()

        yield form, len(images) / _seconds(images.device, step)


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Return the shortest of a few runs, as whatever else the machine does makes a run longer only.

    The first run is not counted, however long it took: kernels are made in it, and memory is touched for the first
    time, which may take four times as long as the work.
    """
    work()
    shortest, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < TRIAL_SECONDS:
        wait(device)
        begun = time.perf_counter()
        work()
        wait(device)
        shortest = min(shortest, time.perf_counter() - begun)
    return shortest
