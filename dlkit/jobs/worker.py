"""One run in one process: `python -m dlkit.jobs.worker RUN ATTEMPT`, started by the supervisor.

Binds itself to the run before anything heavy is imported, does the work as a stream of events, and lets a thread write
what came of it twice a second. Learns from the same thread what the user wishes. Leaves the run in a named state; what
the store cannot take just now waits in memory until it can.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dlkit import files, machine
from dlkit.catalog.backbones import BACKBONES
from dlkit.config import FinetuneConfig, parse
from dlkit.data import adding, importing
from dlkit.data.cases import look, open_case
from dlkit.data.copying import open_copy
from dlkit.data.dataset import open_dataset, prepare
from dlkit.data.doctor import copies_in
from dlkit.data.fetch import FetchProgress
from dlkit.data.importing import ImportProgress, Report
from dlkit.data.opinions import write_opinions
from dlkit.data.plans import Plan, make_plan, read_labels_of
from dlkit.data.sources import Source
from dlkit.data.uploads import drop_upload, open_upload
from dlkit.data.versions import is_made
from dlkit.data.weights import fetch_weights, has_weights
from dlkit.errors import (
    BundleError,
    DatasetError,
    DiskFullError,
    DivergedError,
    DlkitError,
    DownloadError,
    ImageError,
    MemoryFullError,
    RunError,
    StoreError,
)
from dlkit.estimate import Estimate, estimate
from dlkit.runs import service
from dlkit.runs.records import WISHED, Change, Checkpoint, Failure, Kind, Point, Progress, Run, State, Wish
from dlkit.runs.store import Beat

if TYPE_CHECKING:
    from dlkit.engine.checkpoint import Saved

BEAT_SECONDS = 0.5
PATIENCE_SECONDS = 0.5  # between two tries of what the store could not take
KEPT_CHECKPOINTS = 2
NOT_OURS = 17  # exit code of a worker whose run was taken over
LEAVE = "leave"  # what the system wishes that ends the process: the run is to go on in another

#: the name of an error, the first that fits
NAMES: tuple[tuple[type[DlkitError], Failure], ...] = (
    (DivergedError, Failure.DIVERGED),
    (MemoryFullError, Failure.MEMORY),
    (DownloadError, Failure.NETWORK),
    (DatasetError, Failure.DATA),
    (ImageError, Failure.DATA),
    (BundleError, Failure.DATA),
    (DlkitError, Failure.SETTINGS),
)


class Reporter:
    """Carries what a run has to tell to the store from a thread of its own, and the user's wishes and changes back."""

    def __init__(self, run: Run) -> None:
        self._run, self._started = run, time.monotonic()
        self._lock = threading.Lock()
        self._points: list[Point] = []
        self._checkpoints: list[Checkpoint] = []
        self._number = max((known.number for known in service.store().checkpoints(run.id)), default=0)
        self._progress, self._step = Progress("starting"), 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._wish: Wish | None = None
        self._changes: list[Change] = []
        self.is_lost = self.is_leaving = False

    def __enter__(self) -> "Reporter":
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        while not self._beat() and not self.is_lost:
            time.sleep(PATIENCE_SECONDS)

    @property
    def wish(self) -> str:
        """What the user, or the system, wishes; empty where nobody wishes anything."""
        return self._wish or (LEAVE if self.is_leaving else "")

    @property
    def worked(self) -> float:
        """Seconds at work, those of earlier attempts among them, by a clock that nobody sets."""
        return (self._run.worked or 0.0) + time.monotonic() - self._started

    def say(self, progress: Progress) -> None:
        """Replace what is shown as the progress."""
        with self._lock:
            self._progress = progress

    def tell(self, points: tuple[Point, ...], step: int, saved: "Saved | None" = None) -> None:
        """Queue points of the curves for the next beat, and a checkpoint: it is written with all points before it."""
        with self._lock:
            self._points += points
            self._step = step
            if saved is None:
                return
            self._number += 1
            self._checkpoints.append(
                Checkpoint(self._number, self._run.attempt, saved.step, saved.file, saved.size, saved.sha256)
            )

    def due(self, step: int, applied: set[int], is_epoch_start: bool) -> Iterator[Change]:
        """Yield the changes that take effect after `step`, each after it was put on record."""
        todo = [change for change in self._changes if change.number not in applied]
        asked = {change.what for change in todo if change.step is None and (is_epoch_start or change.what != "frozen")}
        for change in todo:
            if change.step is None and change.what in asked:
                yield self._patiently(partial(self._apply, change, step))
            elif change.step is not None and (change.step <= step or change.what in asked):
                yield change  # one that an attempt which came further made later comes before what is asked now

    def record(self, what: str, value: Any, step: int, note: str) -> Change:
        """Put a change of the training's own on record."""
        print(note, flush=True)  # the run's log
        return self._patiently(partial(self._apply, Change(0, what, value, step, "worker"), step, note))

    def _apply(self, change: Change, step: int, note: str = "") -> Change:
        return service.store().apply_change(self._run.id, self._run.attempt, change, step, note)

    def _patiently(self, write: Callable[[], Change]) -> Change:
        while True:
            try:
                return write()
            except StoreError:
                time.sleep(PATIENCE_SECONDS)
            except RunError:
                self.is_lost = True
                raise Interrupted(LEAVE) from None

    def _work(self) -> None:
        while not self.is_lost and not self._ended.wait(BEAT_SECONDS):
            self._beat()

    def _beat(self) -> bool:
        """Tell the store what is new; False where it cannot take it now, and then all waits for the next beat."""
        with self._lock:
            points, checkpoints = self._points, self._checkpoints
            beat = Beat(self._progress, tuple(points), self._step, self.worked, tuple(checkpoints))
            self._points, self._checkpoints = [], []
        try:
            wish, self._changes = service.store().beat(self._run.id, self._run.attempt, beat)
            self._wish = wish or self._wish  # a withdrawn one may have been heard: `finish` then queues the run again
        except RunError:
            self.is_lost = True
            return False
        except Exception as error:  # the disk is full, the database is locked or gone: it may be there again soon
            print(f"not written yet: {error}", file=sys.stderr, flush=True)
            with self._lock:
                self._points, self._checkpoints = points + self._points, checkpoints + self._checkpoints
            return False
        if checkpoints:
            with suppress(StoreError, OSError):  # one that stays is removed by the next attempt
                self._prune()
        return True

    def _prune(self) -> None:
        """Forget and remove all checkpoints but the newest ones."""
        old = service.store().checkpoints(self._run.id)[KEPT_CHECKPOINTS:]
        service.store().forget_checkpoints(self._run.id, [checkpoint.number for checkpoint in old])
        for checkpoint in old:
            (service.run_folder(self._run.id) / checkpoint.file).unlink(missing_ok=True)


class Interrupted(BaseException):
    """Somebody wishes an end; carries the wish. Not an error, and not to be caught as one."""


@dataclass
class Outcome:
    """How a run is left."""

    state: State
    summary: dict[str, Any]
    failure: str | None = None
    kind: Failure | None = None
    awaits_bytes: int | None = None


def main(run_id: str, attempt: int) -> int:
    """Do the run; the exit code says whether this worker was the one to do it."""
    process = machine.process_identity(os.getpid()) or ""
    if not service.store().bind(run_id, attempt, os.getpid(), process):
        return NOT_OURS
    run = service.run(run_id)
    with Reporter(run) as reporter:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: setattr(reporter, "is_leaving", True))
        outcome = _work(run, reporter)
    if reporter.is_lost:  # what lies in the run's folder may be the next worker's
        return NOT_OURS
    if outcome.state == State.CANCELLED:
        service.discard(run_id)
    while True:
        try:
            left_as = service.store().finish(
                run_id,
                attempt,
                outcome.state,
                outcome.summary,
                outcome.failure,
                outcome.kind,
                outcome.awaits_bytes,
            )
            break
        except StoreError:  # what has been done is not lost because it cannot be written now
            time.sleep(PATIENCE_SECONDS)
    if left_as == State.CANCELLED != outcome.state:  # it was wished in the last moment
        service.discard(run_id)
    return 0 if left_as else NOT_OURS


def _work(run: Run, reporter: Reporter) -> Outcome:
    try:
        summary = TASKS[run.kind](run, reporter)
        return Outcome(_state_after(reporter.wish) if reporter.wish else State.SUCCEEDED, summary)
    except Interrupted as wish:
        return Outcome(_state_after(str(wish)), {})
    except DiskFullError as error:
        return Outcome(State.PAUSED, {}, str(error), Failure.DISK, error.needed)
    except StoreError as error:  # a lock that was held for long, a server that was away: the next attempt goes on
        print(error, file=sys.stderr, flush=True)
        return Outcome(State.INTERRUPTED, {})
    except DlkitError as error:
        return Outcome(State.FAILED, {}, str(error), next(name for kind, name in NAMES if isinstance(error, kind)))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in files.FULL:
            full = files.disk_full(service.run_folder(run.id), service.room_of(run))
            return Outcome(State.PAUSED, {}, str(full), Failure.DISK, full.needed)
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            text = "The memory was not enough. Choose a smaller image size or a smaller backbone."
            return Outcome(State.FAILED, {}, text, Failure.MEMORY)
        traceback.print_exc()  # the run's log
        return Outcome(State.FAILED, {}, "This is a mistake of ours: the run's log has the details.", Failure.BUG)


def _state_after(wish: str) -> State:
    return State.INTERRUPTED if wish == LEAVE else WISHED[Wish(wish)]


def finetune(run: Run, reporter: Reporter) -> dict[str, Any]:
    """Fetch what is missing, train, keep the best model; return what the run's page shows first."""
    config = parse(run.config)
    _fetch_missing(config, reporter)
    service.check_room(config)
    told = estimate(config)
    reporter.say(Progress("loading PyTorch"))
    from dlkit.engine import finetuning  # heavy: torch is imported here

    folder = service.run_folder(run.id)
    state = _last_state(run)
    if state is None:
        service.discard(run.id)  # an attempt that died may have left its own
    try:
        for event in finetuning.finetune(config, folder, reporter, state, run.attempt, run.worked or 0.0):
            reporter.tell(event.points, event.step, event.checkpoint)
            if reporter.wish == Wish.CANCEL or reporter.is_lost:
                raise Interrupted(Wish.CANCEL)
            reporter.say(event.progress)
            if event.summary:
                return {**event.summary, "estimate": _in_short(told)}
    except DiskFullError:
        raise files.disk_full(folder, service.room_of(run)) from None
    raise AssertionError("training ended without a summary")


def _in_short(told: Estimate) -> dict[str, Any]:
    """Return what an estimate said, to stand beside what the run then took."""
    return {"seconds": told.seconds, "memory_mb": told.memory_mb, "is_measured": told.is_measured}


def _last_state(run: Run) -> dict[str, Any] | None:
    """Return the state of the newest checkpoint that is whole, and remove what none names; None without any.

    BundleError where there are some and none is whole: what the run has kept is then left as it is.
    """
    from dlkit.engine.checkpoint import FOLDER, load_checkpoint

    folder, store = service.run_folder(run.id), service.store()
    known = store.checkpoints(run.id)
    for part in (folder, folder / "model", folder / FOLDER):
        files.sweep(part)
    for path in (folder / FOLDER).glob("*.pt"):
        if f"{FOLDER}/{path.name}" not in {checkpoint.file for checkpoint in known}:
            path.unlink(missing_ok=True)
    for checkpoint in known:
        try:
            state = load_checkpoint(folder / checkpoint.file, checkpoint.sha256)
        except BundleError as error:
            print(error, file=sys.stderr, flush=True)
            store.note(run.id, "worker", str(error))
            continue
        newer = [other.number for other in known if other.number > checkpoint.number]
        store.forget_checkpoints(run.id, newer)
        store.note(run.id, "worker", f"goes on after step {checkpoint.step}")
        return state
    if known:
        raise BundleError("None of the run's checkpoints can be read. Launch it again; what it has kept stays here.")
    return None


def fetch(run: Run, reporter: Reporter) -> dict[str, Any]:
    """Download a data set, unless it is here, or the weights of a backbone, anew where they are: that mends them."""
    name = run.config["name"]
    _follow(prepare(name) if run.config["what"] == "dataset" else fetch_weights(BACKBONES[name]), reporter)
    return {}


def find(run: Run, reporter: Reporter) -> dict[str, Any]:
    """Fetch what is missing, and try learning rates; return the curve and what it suggests. It keeps no file."""
    config = parse(run.config)
    _fetch_missing(config, reporter)
    reporter.say(Progress("loading PyTorch"))
    from dlkit.engine import rate_finder  # heavy: torch is imported here

    for sweep in rate_finder.find(config):
        _heed(reporter)
        reporter.say(sweep.progress)
        if sweep.curve is not None:
            return asdict(sweep.curve)
    raise AssertionError("the search for a learning rate ended without a curve")


def measure(run: Run, reporter: Reporter) -> dict[str, Any]:
    """Measure what the parts of a training cost; what is found is remembered for the whole machine."""
    config = parse(run.config)
    reporter.say(Progress("loading PyTorch"))
    from dlkit.engine import measuring  # heavy: torch is imported here

    for progress in measuring.measure(config, reporter.worked):
        _heed(reporter)
        reporter.say(progress)
    return {"seconds": reporter.worked}


def import_images(run: Run, reporter: Reporter) -> dict[str, Any]:
    """Import or add what was sent, or copy a data set, from the beginning at each attempt; forget what was sent."""
    config, found = run.config, {"dataset": run.config["name"]}
    if not is_made(run.id):  # else an attempt died just after it
        with _source_of(config) as (source, plan):
            put = adding.add_pictures if _is_addition(config) else importing.import_pictures
            with closing(put(source, plan, config["name"], seed=config["seed"], identity=run.id)) as steps:
                report = _follow_import(steps, reporter)
        found |= {"report": report.sentences(), **report.counts}
    if "upload" in config:
        drop_upload(config["upload"])
    return found


@contextmanager
def _source_of(config: Mapping[str, Any]) -> Iterator[tuple[Source, Plan]]:
    """Open what is to be imported, and plan it."""
    if "upload" not in config:
        yield open_copy(config["dataset"])
        return
    with open_upload(config["upload"], config["title"]) as source:
        table = read_labels_of(source, config["labels"])
        yield source, make_plan(source, *table, fewest=1 if _is_addition(config) else 2, label=config.get("label"))


def _is_addition(config: Mapping[str, Any]) -> bool:
    return "upload" in config and "dataset" in config


def _follow_import(steps: Generator[ImportProgress, None, Report], reporter: Reporter) -> Report:
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            report: Report = end.value
            return report
        _heed(reporter)
        reporter.say(Progress(f"{step.phase} images", step.done / step.total))


def examine_pictures(run: Run, reporter: Reporter) -> dict[str, Any]:
    """Look at the pictures of a data set that nobody has looked at, and keep what a backbone thinks of them."""
    name, backbone = run.config["dataset"], run.config["backbone"]
    for done, total in look(name):
        _heed(reporter)
        reporter.say(Progress("looking at pictures", done / total))
    if backbone is None:
        return {}
    if not has_weights(BACKBONES[backbone]):
        _follow(fetch_weights(BACKBONES[backbone]), reporter)
    reporter.say(Progress("loading PyTorch"))
    from dlkit.engine import suspects  # heavy: torch is imported here

    case = open_case(name)
    for thought in suspects.think(case, open_dataset(name), backbone, copies_in(case)):
        _heed(reporter)
        reporter.say(thought.progress)
        if thought.opinions is not None:
            write_opinions(case, thought.opinions)
            return {"suspects": int(thought.opinions.is_suspect.sum())}
    raise AssertionError("the examination ended without an opinion")


TASKS: dict[Kind, Callable[[Run, Reporter], dict[str, Any]]] = {
    Kind.FINETUNE: finetune,
    Kind.FETCH: fetch,
    Kind.FIND: find,
    Kind.MEASURE: measure,
    Kind.IMPORT: import_images,
    Kind.DOCTOR: examine_pictures,
}


def _fetch_missing(config: FinetuneConfig, reporter: Reporter) -> None:
    """Fetch the data set and the backbone's weights where they are not here."""
    _follow(prepare(config.dataset), reporter)
    if not has_weights(BACKBONES[config.backbone]):
        _follow(fetch_weights(BACKBONES[config.backbone]), reporter)


def _heed(reporter: Reporter) -> None:
    """End the work, of which nothing is kept, where somebody wishes that it ends."""
    if reporter.wish or reporter.is_lost:
        raise Interrupted(reporter.wish or Wish.CANCEL)


def _follow(steps: Iterator[FetchProgress], reporter: Reporter) -> None:
    for step in steps:
        _heed(reporter)
        share = step.done_bytes / step.total_bytes if step.total_bytes else None
        reporter.say(Progress(f"{step.phase} {step.name}", share))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
