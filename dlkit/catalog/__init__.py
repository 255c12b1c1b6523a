"""What may be chosen: dicts of frozen entries, listed without importing torch.

Adding a choice is adding one entry in one file of this package; a test walks every entry and uses it once.
"""

from collections.abc import Mapping
from typing import TypeVar

from dlkit.errors import UnknownChoice

Entry = TypeVar("Entry")


def choose(entries: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """Return the entry called `name`; raise UnknownChoice, which lists the names that there are."""
    if name not in entries:
        raise UnknownChoice(kind, name, entries)
    return entries[name]
