"""One contestant in a process of its own: `python -m benchmarks.contestants NAME FOLDER [--target 0.9]`.

Prints a JSON line for each look at the validation pictures, and one at the end. All start from the same weights and
look at the same validation pictures; each prepares them in its own way.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.processes import device_peak_mib, peak_mib, printer

BACKBONE = "efficientnet-lite0"
BATCH = 32
NAME = "contest"  # of the data set while ours runs
HEAD_PHASE = "training: head"  # as a run calls it: its steps compute features or cost nothing, so they are not measured


@dataclass(frozen=True)
class Contestant:
    """Who takes part. `settings` are ours, None for a peer; `packages` are what the peer needs.

    Before `least_epochs` it is not ended for having reached the target: there is something else to be seen.
    """

    title: str
    settings: Mapping[str, Any] | None = None
    packages: tuple[str, ...] = ()
    least_epochs: float = 0


CONTESTANTS = {
    # all ten epochs of the head: the whole run is compared with what the hardware allows
    "head": Contestant("ours, head", {"strategy": "head"}, least_epochs=10),
    # three epochs of the head come first: the fourth is the first of all layers; the last ends within eight minutes
    "full": Contestant("ours, full", {"strategy": "full", "epochs": 4}, least_epochs=4),
    "partial": Contestant("ours, partial", {"strategy": "partial"}),
    "auto": Contestant("ours, auto, 2 minutes", {"strategy": "auto", "budget_minutes": 2}),
    "tutorial-head": Contestant("tutorial loop, frozen backbone, Adam 3e-3"),
    "tutorial-full": Contestant("tutorial loop, all layers, AdamW 3e-4"),
    "fastai": Contestant("fastai, fine_tune, freeze 1", packages=("fastai",)),
    "trainer": Contestant(
        "Hugging Face Trainer, all layers, AdamW 3e-4", packages=("transformers", "accelerate", "torch")
    ),
}


class Reached(BaseException):
    """The target is reached. No contestant catches what is not an Exception."""


class Skipped(Exception):
    """A sentence that says why a contestant cannot take part."""


class Judge:
    """Takes the scores of one contestant, writes them down, and ends it when it has reached the target."""

    def __init__(self, put: Callable[..., None], started: float, target: float | None, least_epochs: float) -> None:
        self._put, self._started, self._target, self._least_epochs = put, started, target, least_epochs
        self._ready = started
        self._is_reached = False

    def ready(self) -> None:
        """Take note that data and model are there."""
        self._ready = time.monotonic()

    def score(self, epoch: float, accuracy: float, step_seconds: float | None = None) -> None:
        """Take the accuracy on the validation pictures after `epoch` epochs, the last of which had such steps."""
        self._put(epoch=epoch, val_accuracy=accuracy, step_seconds=step_seconds, **self._now())
        self._is_reached |= self._target is not None and accuracy >= self._target
        if self._is_reached and epoch >= self._least_epochs:
            raise Reached

    def done(self) -> None:
        """Take note that the contestant has done all that it meant to do."""
        self._put(is_done=True, **self._now())

    def _now(self) -> dict[str, float]:
        now = time.monotonic()
        return {"seconds": now - self._started, "since_ready": now - self._ready}


@dataclass(frozen=True)
class Race:
    """What each contestant is given: class folders, a device, a seed, and a folder for what it writes."""

    folder: Path
    device: str
    seed: int
    scratch: Path


class Steps:
    """Measures the training steps between two looks at the validation pictures, from the first report to the last."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def look(self, step: int) -> None:
        """Take note that so many steps are done now."""
        self._last = time.perf_counter(), step
        self._first = self._first or self._last

    def seconds_each(self) -> float | None:
        """Return what one took, None where fewer than two reports came; begin anew."""
        first, self._first = self._first, None
        if first is None or self._last[1] == first[1]:
            return None
        return (self._last[0] - first[0]) / (self._last[1] - first[1])


def run_ours(settings: Mapping[str, Any], race: Race, judge: Judge) -> None:
    """Train as a worker does, without store and process; Skipped where the config does not know a setting."""
    from dlkit.config import parse
    from dlkit.errors import ConfigError

    register(race.folder)
    try:
        given = {"dataset": NAME, "backbone": BACKBONE, "device": race.device, "seed": race.seed}
        config = parse({**given, **settings})
    except ConfigError as error:
        raise Skipped(f"This version does not take it: {error}") from None
    from dlkit.engine.finetuning import finetune

    steps = Steps()
    for number, event in enumerate(finetune(config, race.scratch / "run")):
        if number == 1:  # the event before it comes before anything is opened
            judge.ready()
        values, doing = {point.key: point for point in event.points}, event.progress.phase
        if "step/loss" in values and doing.startswith("training: ") and doing != HEAD_PHASE:
            steps.look(event.step)
        if "val/accuracy" in values:
            score = values["val/accuracy"]
            judge.score(score.epoch, score.value, steps.seconds_each())


def register(folder: Path) -> None:
    """Make the class folders a data set of this process's catalog; its data folder must be a temporary one."""
    from dlkit.catalog.datasets import DATASETS, DatasetEntry
    from dlkit.settings import settings

    classes = sum(path.is_dir() for path in (folder / "train").iterdir())
    DATASETS[NAME] = DatasetEntry(
        name=NAME,
        title="Contest",
        summary="What the contestants learn from.",
        classes=classes,
        train_images=0,
        val_images=0,
        image_size=224,
        licence="",
        source="",
        layout="class_folders",
    )
    (settings().folder("datasets") / NAME).symlink_to(folder, target_is_directory=True)


def take_part(name: str, race: Race, judge: Judge) -> None:
    """Let a contestant run to its end; Reached, or Skipped with a sentence."""
    contestant = CONTESTANTS[name]
    missing = [package for package in contestant.packages if find_spec(package) is None]
    if missing:
        raise Skipped(f"{', '.join(missing)} must be installed: pip install -r requirements-bench.txt")
    if contestant.settings is not None:
        run_ours(contestant.settings, race, judge)
        return
    from benchmarks.peers import PEERS

    PEERS[name](race, judge)


def main() -> int:
    """Run one contestant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", type=float, help="end when this accuracy is reached")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--started", type=float, default=time.monotonic(), help="monotonic time of the start")
    given = parser.parse_args()
    put = printer()
    judge = Judge(put, given.started, given.target, CONTESTANTS[given.name].least_epochs)
    with tempfile.TemporaryDirectory(prefix="contestant-") as scratch:
        try:
            take_part(given.name, Race(given.folder.absolute(), given.device, given.seed, Path(scratch)), judge)
            judge.done()
        except Reached:
            judge.done()
        except Skipped as reason:
            put(skipped=str(reason))
    put(peak_mib=peak_mib(), device_mib=device_peak_mib(given.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
