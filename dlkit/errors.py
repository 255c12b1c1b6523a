"""The errors that a user can cause, as one tree.

    DlkitError                  the user's business: shown in a box, exit code 2, no traceback
    ├── ConfigError             settings that do not hold; carries one sentence per problem
    ├── UnknownChoice           a name that the catalog does not have
    ├── FormulaError            a formula that cannot be read; names the column
    ├── ImageError              a file that is no picture, or none that we accept
    ├── DatasetError            a data set that cannot be used
    ├── DownloadError           a file that could not be fetched whole
    │   └── OfflineError        there is no network, or the server does not answer
    ├── DivergedError           a training whose loss or gradients are no longer numbers
    ├── MemoryFullError         a training step that does not fit even with one picture at a time
    ├── DiskFullError           no room for what must be written
    ├── StoreError              a store that cannot be opened or written
    ├── DeviceError             a device that was asked for and is not there
    ├── BusyError               more asked at once than can be answered soon
    ├── RunError                a run that is not there, or cannot do what was asked
    └── BundleError             a saved model that is missing, damaged or not ours

A message is one or two full sentences: what must hold; what was found; what to do.
Anything that is not a DlkitError is our bug and keeps its traceback.
"""

from collections.abc import Iterable

MOST_CHOICES = 40  # that a message names


class DlkitError(Exception):
    """Something the user can mend; `str(error)` is fit to be shown."""


class ConfigError(DlkitError):
    """Settings that do not hold; `problems` has one sentence for each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(" ".join(self.problems))


class UnknownChoice(DlkitError):
    """A name that is not in the catalog."""

    def __init__(self, kind: str, name: object, choices: Iterable[str]) -> None:
        known = list(choices)
        more = f" and {len(known) - MOST_CHOICES:,} more" if len(known) > MOST_CHOICES else ""
        shown = f"{', '.join(known[:MOST_CHOICES])}{more}"
        super().__init__(f"There is no {kind} called {str(name)[:60]!r}. Choose one of: {shown}.")


class FormulaError(DlkitError):
    """A formula that cannot be read; `column` counts from 1 and is None where the whole text is meant."""

    def __init__(self, problem: str, column: int | None = None) -> None:
        self.column = column
        super().__init__(problem if column is None else f"Column {column}: {problem}")


class ImageError(DlkitError):
    """A file that cannot be read as a picture; `reason` says of several such files what they are: "are damaged"."""

    def __init__(self, message: str, reason: str = "cannot be read") -> None:
        self.reason = reason
        super().__init__(message)


class DatasetError(DlkitError):
    """A data set that cannot be used."""


class DownloadError(DlkitError):
    """A file that could not be fetched whole and unharmed."""


class OfflineError(DownloadError):
    """No network, or a server that does not answer."""


class DeviceError(DlkitError):
    """A device that was asked for and is not there."""


class BusyError(DlkitError):
    """More predictions asked for at once than can be answered soon; `waiting` wait already."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        super().__init__(
            f"The server is busy: {waiting} predictions wait, the most at one time. Try again in a moment."
        )


class RunError(DlkitError):
    """A run that does not exist, or whose state forbids what was asked."""


class BundleError(DlkitError):
    """A saved model that is missing, damaged, or not one of ours."""


class DivergedError(DlkitError):
    """A loss, or gradients, that are no longer numbers; `learning_rate` is the one to try instead."""

    def __init__(
        self,
        step: int,
        learning_rate: float,
        what: str = "the loss was not a finite number",
        advice: str = ", or gradient clipping of 1",
    ) -> None:
        self.step, self.learning_rate = step, learning_rate / 10
        super().__init__(
            f"Training diverged: {what} at step {step}. Try a learning rate of {self.learning_rate:g}{advice}."
        )


class MemoryFullError(DlkitError):
    """A step that does not fit into the memory even with one picture at a time."""

    def __init__(self, device: str) -> None:
        super().__init__(
            f"The memory of the {device} is not enough for one picture at a time. "
            "Choose a smaller image size or a smaller backbone, or end what else uses the memory."
        )


class DiskFullError(DlkitError):
    """No room on the disk; `needed` and `free` in bytes, `what` for (a file, a data set)."""

    def __init__(self, needed: int, free: int, what: str = "") -> None:
        self.needed, self.free = needed, free
        wanted = f"{-(-needed // 10**6):,} MB needed{f' for {what}' if what else ''}"
        super().__init__(f"Disk full: {free / 1e6:,.0f} MB free, {wanted}. Make room.")


class StoreError(DlkitError):
    """The store of runs cannot be opened, or cannot be written now."""
