"""One at a time, in the order of arrival, and only so many waiting. It does not know what is done in a turn."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from dlkit.errors import BusyError


class Lane:
    """A lock that is handed on in the order in which it was asked for.

    places  how many may wait; one more is told that all are taken, instead of waiting for who knows how long
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._guard = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()  # each is held until its owner's turn comes

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    @contextmanager
    def turn(self, goes_on: bool = False) -> Iterator[None]:
        """Wait for a turn and have it; BusyError where all places are taken.

        Work of many turns that has had one goes on: it waits at the end of the queue like everyone, but is not refused.
        """
        self._enter(goes_on)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, goes_on: bool) -> None:
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return
            if len(self._waiting) >= self.places and not goes_on:
                raise BusyError(self.places)
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        try:
            mine.acquire()
        except BaseException:  # Ctrl-C: the turn goes to the next, also where it has just come
            with self._guard:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                    raise
            self._leave()
            raise

    def _leave(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()  # the lane stays taken: nobody can come in between
            else:
                self._is_taken = False
