"""What was measured on this machine: how quick each number format is, and what the parts of a training cost.

The measuring is `dlkit.engine.speed`'s and `dlkit.engine.measuring`'s; here it is remembered, in two files of the data
folder, and read without torch. A file is read again only when it has changed, so a page may ask at each rerun.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dlkit import files, machine
from dlkit.settings import settings

FILE, COSTS_FILE = "speed.json", "costs.json"
PRECISIONS = ("float32", "bfloat16", "float16")
FEATURES, TRAINING = "features", "training"  # tasks: a forward pass; forward and backward
RESIDENT_SHARE = 0.5  # of a GPU's free memory, for pictures and what is kept of them; the rest is for the training


@dataclass(frozen=True)
class Format:
    """How a network computes: the numbers' format, the memory layout, and whether BatchNorm is folded away."""

    precision: str = "float32"
    channels_last: bool = True
    folded: bool = False

    def __str__(self) -> str:
        parts = [self.precision]
        parts += ["channels_last"] if self.channels_last else []
        parts += ["BatchNorm folded"] if self.folded else []
        return ", ".join(parts)


#: as everyone writes it
PLAIN = Format(channels_last=False)
#: what is computed with where nothing is measured; the numbers are torch's own to the last digit
REFERENCE = Format()


@dataclass(frozen=True)
class Choice:
    """The format to use, and pictures per second by format; `rates` is empty where nothing was measured."""

    format: Format = REFERENCE
    rates: Mapping[str, float] | None = None

    @property
    def images_per_second(self) -> float | None:
        """How many pictures a second the chosen format was measured at."""
        return (self.rates or {}).get(str(self.format))

    def __str__(self) -> str:
        rates = self.rates or {}
        if str(self.format) not in rates or str(PLAIN) not in rates:
            return str(self.format)
        return f"{self.format}: {rates[str(self.format)] / rates[str(PLAIN)]:.2g}× plain"


def worker_threads() -> int:
    """Return how many CPU threads a worker uses: what the settings say, or its share of all cores.

    Of more than two the server has one for itself; of two, half of a training's speed would be too much for it.
    """
    cores = machine.cores() - (machine.cores() > 2)
    return settings().worker_threads or max(1, cores // settings().cpu_slots)


def place(device: str, name: str = "", threads: int | None = None) -> str:
    """Return where something is measured: the device, its `name` where that is a GPU, and torch's version.

    Without `threads` it is where a worker would measure.
    """
    where = name if device == "cuda" else f"{machine.processor()}, {threads or worker_threads()} threads"
    return f"{device}, {where}, torch {_torch_version()}"


def worker_place(device: str) -> str:
    """Return where a worker measures that is given the setting `device`, also "auto"; told without torch."""
    gpus = machine.gpus() if device in ("auto", "cuda") else ()
    if gpus:
        return place("cuda", gpus[0].name)
    is_mps = device == "mps" or (device == "auto" and machine.describe().has_mps)
    return place("mps" if is_mps else "cpu")


def key_of(what: str, where: str) -> str:
    """Return what a measurement is remembered by: all that may change it; `where` is a `place`."""
    return f"{what} on {where}"


def task_of(task: str, backbone: str, size: int) -> str:
    """Return how a task of a network is called that takes pictures of so many pixels a side."""
    return f"{task} of {backbone} at {size} px"


def phase_of(kind: str, backbone: str, size: int, precision: str, stage: str) -> str:
    """Return how a phase of a training is called whose costs are known; `stage` matters to the last layers only."""
    which = f"{kind} ({stage})" if kind == "partial" else kind
    return f"{task_of(which, backbone, size)} in {precision}"


def start_with(backbone: str) -> str:
    """Return how the start of a worker until its model and its pictures are there is called."""
    return f"a {'warm ' if settings().warm_worker else ''}start with {backbone}"


def pictures_of(dataset: str, side: int) -> str:
    """Return how the decoding of a data set's pictures to a short side of so many pixels is called."""
    return f"pictures of {dataset} at {side} px"


def augmenting(augmentation: str, size: int) -> str:
    """Return how reading and augmenting decoded pictures is called."""
    return f"augmentation {augmentation} at {size} px"


def known_choices() -> dict[str, Choice]:
    """Return the formats that were tried here, by what they were tried for; nothing where the file is damaged."""
    try:
        found = _read(settings().data_folder / FILE)
        known = {key: Choice(Format(**entry["format"]), entry["rates"]) for key, entry in found.items()}
        return {key: choice for key, choice in known.items() if choice.format.precision in PRECISIONS}
    except (TypeError, KeyError, AttributeError):
        return {}


def remember(key: str, choice: Choice) -> None:
    """Add one measurement; of two processes that do so at once one may be lost, and is then measured again."""
    entries = {
        name: {"format": asdict(known.format), "rates": dict(known.rates or {})}
        for name, known in {**known_choices(), key: choice}.items()
    }
    _write(FILE, entries)


def known_costs() -> dict[str, dict[str, float]]:
    """Return what parts of a training were measured to cost here; nothing where the file is gone or damaged."""
    try:
        found = _read(settings().data_folder / COSTS_FILE)
        return {key: {name: float(value) for name, value in entry.items()} for key, entry in found.items()}
    except (TypeError, ValueError, AttributeError):
        return {}


def remember_costs(costs: Mapping[str, Mapping[str, float]]) -> None:
    """Add measured costs, or replace them; what other processes add in the same instant may be lost."""
    _write(COSTS_FILE, {**known_costs(), **{key: dict(numbers) for key, numbers in costs.items()}})


def _read(path: Path) -> dict[str, Any]:
    try:
        seen = path.stat()
        return _parsed(path, seen.st_mtime_ns, seen.st_size, seen.st_ino)
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=8)
def _parsed(path: Path, *_version: int) -> dict[str, Any]:
    """Read a file; the numbers tell its versions apart."""
    found = json.loads(path.read_text())
    return found if isinstance(found, dict) else {}


def _write(name: str, entries: Mapping[str, Any]) -> None:
    files.write_whole(settings().folder() / name, json.dumps(entries, indent=1).encode())


@lru_cache(maxsize=1)
def _torch_version() -> str:
    return version("torch")  # without the suffix of torch.__version__: both are to give one key
