"""The records of the data sets that were imported here: one small file a set, read anew when it has changed.

`dlkit.data.importing` writes them; what else lies in a set's folder is no business of the catalog.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from dlkit.settings import settings

RECORD_NAME = "set.json"
RECORD_FORMAT = 1
VERSION_MARK = "@"  # pets@2 is the second version of pets


def records() -> dict[str, Mapping[str, Any]]:
    """Return the records of all sets by their names, sorted; each has its `folder` and its `versions`, oldest first."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in (settings().data_folder / "datasets").glob(f"[!.]*/{RECORD_NAME}"):  # with a dot it is not whole
        try:
            state = path.stat()
            record = _read(path, state.st_mtime_ns, state.st_size, state.st_ino)
        except OSError:  # it has just been deleted
            continue
        if record is not None:
            found[record["name"]] = record
    return dict(sorted(found.items(), key=lambda item: item[0].casefold()))


@lru_cache(maxsize=1024)
def _read(path: Path, changed: int, size: int, inode: int) -> Mapping[str, Any] | None:
    """Return a record; None of a file that is damaged or of another format. The numbers tell one state from another."""
    try:
        record = json.loads(path.read_text())
        if record["format"] != RECORD_FORMAT or not record["versions"]:
            return None
        return {**record, "name": str(record["name"]), "folder": path.parent.name}
    except (OSError, ValueError, KeyError, TypeError):
        return None
