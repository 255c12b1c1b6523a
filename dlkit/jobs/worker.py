"""One run in one process: `python -m dlkit.jobs.worker RUN ATTEMPT`, started by the supervisor.

Binds itself to the run before anything heavy is imported, does the work as a stream of events, and lets a thread write
what came of it twice a second. Learns from the same thread what the user wishes. Ends the run with a named state.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from dlkit import machine
from dlkit.catalog.backbones import BACKBONES
from dlkit.config import parse
from dlkit.data.dataset import prepare
from dlkit.data.fetch import FetchProgress
from dlkit.data.weights import fetch_weights, has_weights
from dlkit.errors import DlkitError, RunError
from dlkit.runs import service
from dlkit.runs.records import Kind, Point, Progress, Run, State

BEAT_SECONDS = 0.5
NOT_OURS = 17  # exit code of a worker whose run was taken over


class Reporter:
    """Carries progress and points to the store from a thread of its own, and the user's wish back."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._points: list[Point] = []
        self._progress = Progress("starting")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.wish: str | None = None
        self.is_lost = False

    def __enter__(self) -> "Reporter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._beat()

    def say(self, progress: Progress) -> None:
        """Replace what is shown as the progress."""
        with self._lock:
            self._progress = progress

    def add(self, points: list[Point]) -> None:
        """Queue points of the curves for the next beat."""
        with self._lock:
            self._points += points

    def _work(self) -> None:
        while not self.is_lost and not self._ended.wait(BEAT_SECONDS):
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            points, self._points = self._points, []
            progress = self._progress
        try:
            self.wish = service.store().beat(self._run.id, self._run.attempt, progress, points)
        except RunError:
            self.is_lost = True


class Interrupted(BaseException):
    """The user wishes an end; carries the wish. Not an error, and not to be caught as one."""


def main(run_id: str, attempt: int) -> int:
    """Do the run; the exit code says whether this worker was the one to do it."""
    process = machine.process_identity(os.getpid()) or ""
    if not service.store().bind(run_id, attempt, os.getpid(), process):
        return NOT_OURS
    run = service.run(run_id)
    state, summary, failure = State.FAILED, {}, None
    with Reporter(run) as reporter:
        try:
            summary = TASKS[run.kind](run, reporter)
            state = State.STOPPED if reporter.wish == "stop" else State.SUCCEEDED
        except Interrupted as wish:
            state = State.STOPPED if str(wish) == "stop" else State.CANCELLED
        except DlkitError as error:
            failure = str(error)
        except MemoryError:
            failure = "There was not enough memory. Choose a smaller batch size or image size."
        except Exception as error:
            traceback.print_exc()  # the run's log
            failure = _named(error)
    if reporter.is_lost:  # what lies in the run's folder may be the next worker's
        return NOT_OURS
    if state == State.CANCELLED:
        service.discard(run_id)
    return 0 if service.store().finish(run_id, attempt, state, summary, failure) else NOT_OURS


def finetune(run: Run, reporter: Reporter) -> dict[str, Any]:
    """Fetch what is missing, train, keep the best model; return what the run's page shows first."""
    config = parse(run.config)
    _follow(prepare(config.dataset), reporter)
    if not has_weights(BACKBONES[config.backbone]):
        _follow(fetch_weights(BACKBONES[config.backbone]), reporter)
    reporter.say(Progress("loading PyTorch"))
    from dlkit.engine import finetuning  # heavy: torch is imported here

    folder = service.run_folder(run.id)
    service.discard(run.id)  # an attempt that died may have left its own
    for event in finetuning.finetune(config, folder, lambda: reporter.wish or ""):
        if reporter.wish == "cancel" or reporter.is_lost:
            raise Interrupted(reporter.wish or "cancel")
        reporter.say(event.progress)
        reporter.add(list(event.points))
        if event.summary:
            return dict(event.summary)
    raise AssertionError("training ended without a summary")


def fetch(run: Run, reporter: Reporter) -> dict[str, Any]:
    """Download a data set, unless it is here, or the weights of a backbone, anew where they are: that mends them."""
    name = run.config["name"]
    _follow(prepare(name) if run.config["what"] == "dataset" else fetch_weights(BACKBONES[name]), reporter)
    return {}


TASKS: dict[Kind, Callable[[Run, Reporter], dict[str, Any]]] = {Kind.FINETUNE: finetune, Kind.FETCH: fetch}


def _follow(steps: Iterator[FetchProgress], reporter: Reporter) -> None:
    for step in steps:
        if reporter.wish or reporter.is_lost:
            raise Interrupted(reporter.wish or "cancel")
        share = step.done_bytes / step.total_bytes if step.total_bytes else None
        reporter.say(Progress(f"{step.phase} {step.name}", share))


def _named(error: Exception) -> str:
    """Return a sentence for an error that is not the user's: memory by name, all else as our mistake."""
    if type(error).__name__ == "OutOfMemoryError":
        return "The GPU's memory was not enough. Choose a smaller batch size or image size."
    if isinstance(error, OSError) and error.errno == 28:
        return "The disk is full. Make room, then launch the run again."
    return "This is a mistake of ours: the run's log has the details."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
