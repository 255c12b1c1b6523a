"""What was measured on this machine: how quick each number format is, by network, picture size and task.

The measuring is `dlkit.engine.speed`'s; here it is remembered, in one file of the data folder, and read without torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from dlkit import files
from dlkit.settings import settings

FILE = "speed.json"
PRECISIONS = ("float32", "bfloat16", "float16")


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


def known_choices() -> dict[str, Choice]:
    """Return all that was measured here, by what it was measured for; nothing where the file is gone or damaged."""
    try:
        found = json.loads((settings().data_folder / FILE).read_text())
        known = {key: Choice(Format(**entry["format"]), entry["rates"]) for key, entry in found.items()}
        return {key: choice for key, choice in known.items() if choice.format.precision in PRECISIONS}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def remember(key: str, choice: Choice) -> None:
    """Add one measurement; of two processes that do so at once one may be lost, and is then measured again."""
    entries = {
        name: {"format": asdict(known.format), "rates": dict(known.rates or {})}
        for name, known in {**known_choices(), key: choice}.items()
    }
    files.write_whole(settings().folder() / FILE, json.dumps(entries, indent=1).encode())
