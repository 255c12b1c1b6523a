"""A small network that learns while somebody watches: by the clock, and within what one visitor may cost."""

import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from dlkit.descent.race import FARTHEST
from dlkit.errors import ConfigError, DlkitError
from dlkit.lab.learning import Step, Task, Training

PACE = 60  # steps a second
LONGEST_GAP = 2.0  # seconds of steps that are made up for; what is missed beyond it is not
MOST_SECONDS = 0.05  # of computing at a time: a large network learns at less than the pace
MOST_REPEATED = 20_000  # steps that a link may ask for
LONGEST_REPEATING = 3.0  # seconds
EVERY = 12  # batches of many, for which the curve gets a point

PICTURE_SECONDS = 0.2  # between two pictures of it
SHARE = 0.4  # of a core, that steps and pictures may take


class Live:
    """A training, the last step that it took, and whether a link can repeat it.

    That is so as long as each step was a batch of the task as it stands: orders and masks follow from the seed.
    """

    def __init__(self, task: Task) -> None:
        self.training = Training(task)
        self.last: Step | None = None
        self.is_repeatable = True
        self._seen, self._due = 0.0, 0.0

    def change(self, task: Task) -> None:
        """Go on with another task: with the same network, or with a new one where the old one does not fit."""
        before = self.training
        self.training = before.changed(task)
        if self.training.network is not before.network:
            self.last, self.is_repeatable = None, True
        elif self.training.steps:
            self.is_repeatable = False

    def restart(self) -> None:
        """Begin anew, with the network as it was drawn."""
        self.training, self.last, self.is_repeatable = Training(self.training.task), None, True

    def start(self, now: float) -> None:
        """Begin to play; `now` in seconds of any clock that only goes forward."""
        self._seen, self._due = now, 0.0

    def go(self, now: float) -> None:
        """Take the steps that are due, PACE for each second since the last call.

        DivergedError where the next step would leave the numbers.
        """
        self._due += PACE * min(now - self._seen, LONGEST_GAP)
        self._seen = now
        end = time.thread_time() + MOST_SECONDS
        try:
            while self._due >= 1 and time.thread_time() < end:
                self.last = self.training.step()
                self._due -= 1
        finally:
            self._due = min(self._due, 1.0)
            self.training.measure()

    def batches(self, count: int) -> None:
        """Learn from the next batches; of many, as many as there is time for. DivergedError as in `go`."""
        end = time.thread_time() + LONGEST_REPEATING
        try:
            for number in range(1, count + 1):
                self.last = self.training.step()
                if time.thread_time() > end:
                    break
                if number % EVERY == 0:
                    self.training.measure()
        finally:
            self.training.measure()

    def example(self) -> None:
        """Learn from one example, another each time. DlkitError where that cannot be."""
        count = len(self.training.task.points.train()[1])
        try:
            self.last = self.training.step([self.training.steps % count])
            self.is_repeatable = False
        finally:
            self.training.measure()

    def edit(self, name: str, place: Sequence[int], value: object) -> None:
        """Set one number of the network, as "1.weight" at (0, 1); ConfigError where there is none such."""
        numbers = self.training.network.named.get(name)
        is_there = numbers is not None and len(place) == numbers.ndim and np.all(np.asarray(place) >= 0)
        if numbers is None or not is_there or not np.all(np.asarray(place) < numbers.shape):
            raise ConfigError(["This network has no such weight any more. Choose a unit anew."])
        try:
            number = float(str(value))
        except ValueError:
            number = float("nan")
        if not abs(number) <= FARTHEST:
            raise ConfigError([f"A weight must be a number from -1 million to 1 million; got {str(value)[:40]}."])
        numbers[tuple(place)] = number
        self.is_repeatable = False
        self.training.measure()


def rest(seconds: float) -> float:
    """Return after how many seconds the next picture comes, where steps and picture took so long to compute."""
    return max(PICTURE_SECONDS, seconds / SHARE)


def repeated(task: Task, steps: int) -> Live:
    """Return a training that has taken so many batches, as a link asks for; fewer where the next one diverges."""
    live = Live(task)
    if steps:
        with suppress(DlkitError):  # who follows the link sees the network before that step; the next one says why
            live.batches(min(steps, MOST_REPEATED))
    return live
