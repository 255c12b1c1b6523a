"""What is kept of a run: plain frozen records, and the words for its states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Where a run stands: queued -> running -> one of the ends; interrupted -> running is the same run again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"  # by the user; the model so far is kept
    CANCELLED = "cancelled"  # by the user; nothing is kept
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # the worker died; it is taken up again


ACTIVE = (State.QUEUED, State.RUNNING, State.INTERRUPTED)


class Kind(StrEnum):
    """What a worker does for a run."""

    FINETUNE = "finetune"
    FETCH = "fetch"


class Slot(StrEnum):
    """What a run occupies while it runs."""

    GPU = "gpu"
    CPU = "cpu"
    NETWORK = "network"


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
    sequence: int
    attempt: int
    wish: str | None  # what the user asked of a running run: stop or cancel
    pid: int | None
    process: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    beat_at: datetime | None
    progress: Progress = field(default_factory=Progress)
    summary: Mapping[str, Any] = field(default_factory=dict)
    failure: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether it is waiting or at work."""
        return self.state in ACTIVE

    @property
    def seconds(self) -> float | None:
        """How long it has been at work, or was."""
        if self.started_at is None:
            return None
        return max(0.0, ((self.finished_at or now()) - self.started_at).total_seconds())


@dataclass(frozen=True)
class Point:
    """One value of a curve: `key` is what is measured, `step` counts optimizer steps from 1 (0 is before training)."""

    key: str
    step: int
    epoch: float
    value: float


@dataclass(frozen=True)
class Happening:
    """One line of a run's history."""

    at: datetime
    actor: str
    text: str


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)
