"""What is kept of a run: plain frozen records, and the words for its states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any


class State(StrEnum):
    """Where a run stands: queued -> running -> one of the ends; interrupted and paused -> running is the same run."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"  # by the user, or for lack of room; goes on when it is resumed
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"  # by the user; the model so far is kept
    CANCELLED = "cancelled"  # by the user; nothing is kept
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # the worker died; it is taken up again


WAITING = (State.QUEUED, State.INTERRUPTED)
ACTIVE = (State.QUEUED, State.RUNNING, State.INTERRUPTED)
ENDED = (State.SUCCEEDED, State.STOPPED, State.CANCELLED, State.FAILED)


class Wish(StrEnum):
    """What the user asked of a running run, the stronger after the weaker: only a stronger one replaces it."""

    PAUSE = "pause"
    STOP = "stop"
    CANCEL = "cancel"


#: the state in which a run ends that is wished so
WISHED = {Wish.PAUSE: State.PAUSED, Wish.STOP: State.STOPPED, Wish.CANCEL: State.CANCELLED}


class Kind(StrEnum):
    """What a worker does for a run."""

    FINETUNE = "finetune"
    FETCH = "fetch"
    FIND = "find"  # a learning rate
    MEASURE = "measure"  # what the parts of a training cost
    IMPORT = "import"  # pictures that were sent
    DOCTOR = "doctor"  # what is wrong with a data set


class Slot(StrEnum):
    """What a run occupies while it runs."""

    GPU = "gpu"
    CPU = "cpu"
    NETWORK = "network"  # downloads, imports, looks at pictures: they need no torch


class Priority(IntEnum):
    """Which run goes first when a slot is free; of equals the one that waits longest."""

    LOW = -1
    NORMAL = 0
    HIGH = 1


class Failure(StrEnum):
    """The name of what went wrong; it decides what the page advises."""

    MEMORY = "out of memory"
    DIVERGED = "diverged"
    DATA = "data error"
    DISK = "disk full"
    NETWORK = "download failed"
    SETTINGS = "settings"
    CRASHES = "crash loop"
    BUG = "our mistake"


@dataclass(frozen=True)
class Progress:
    """How far a running run is; `share` is between 0 and 1, None where it cannot be told."""

    phase: str = ""
    share: float | None = None
    seconds_left: float | None = None
    images_per_second: float | None = None


@dataclass(frozen=True)
class Run:
    """One run as the store has it now."""

    id: str
    kind: Kind
    name: str
    state: State
    config: Mapping[str, Any]
    needs: Slot
    slot: str | None
    sequence: int  # in the order of submission
    priority: Priority
    place: int  # in the queue, among runs of the same priority
    attempt: int
    version: int  # grows with each change of state or wish: what a page compares before it acts
    wish: Wish | None
    pid: int | None
    process: str | None
    step: int  # the furthest that any attempt has come to
    mark: int  # what `step` was when this attempt began
    fruitless: int  # attempts in a row that came to no new step
    worked: float | None  # seconds at work, over all attempts, by a clock that nobody sets
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    beat_at: datetime | None
    progress: Progress = field(default_factory=Progress)
    summary: Mapping[str, Any] = field(default_factory=dict)
    failure: str | None = None
    failure_kind: Failure | None = None
    awaits_bytes: int | None = None  # of a run that was paused for lack of room: what it needs to go on

    @property
    def is_active(self) -> bool:
        """Whether it is waiting or at work."""
        return self.state in ACTIVE

    @property
    def has_ended(self) -> bool:
        """Whether it goes on only if somebody asks for more."""
        return self.state in ENDED

    @property
    def seconds(self) -> float | None:
        """How long it has been at work."""
        if self.worked is not None or self.started_at is None:
            return self.worked
        return max(0.0, ((self.finished_at or now()) - self.started_at).total_seconds())  # of an older version


@dataclass(frozen=True)
class Point:
    """One value of a curve: `key` is what is measured, `step` counts optimizer steps from 1 (0 is before training)."""

    key: str
    step: int
    epoch: float
    value: float


#: all that is measured; the first ones at every step, the others at an epoch's end
STEP_KEYS = ("step/loss", "step/gradient_norm", "learning_rate")
EPOCH_KEYS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")


@dataclass(frozen=True)
class Change:
    """What was changed while the run went on: from the step after `step` on; None while it is still to come.

    `what` is a field of the config, "frozen" (the backbone learns no more), "micro_batch" (pictures at a time) or
    "plan" (the phases and their epochs), or "more" (so many epochs after those of the plan).
    """

    number: int
    what: str
    value: Any
    step: int | None
    actor: str


@dataclass(frozen=True)
class Checkpoint:
    """A file in the run's folder from which training goes on after `step` as if it had never ended."""

    number: int
    attempt: int
    step: int
    file: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Happening:
    """One line of a run's history."""

    at: datetime
    actor: str
    text: str


def in_words(what: str, value: Any) -> str:
    """Return a change as the history says it."""
    if what == "frozen":
        return "a frozen backbone" if value else "a backbone that learns"
    if what == "micro_batch":
        return f"at most {value} pictures at a time"
    if what == "more":
        return f"{value} epochs more"
    if what == "plan":
        return " · ".join(f"{epochs} epochs {kind}" for kind, epochs in value)
    return f"{what.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{what.replace('_', ' ')} {value}"


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)
