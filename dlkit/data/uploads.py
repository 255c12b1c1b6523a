"""Files that were sent and wait to be imported, each lot as one zip that nobody has named.

A zip that was sent is kept as it is; other files are put into one, so that no name that a browser sends becomes a path.
"""

import csv
import io
import secrets
import shutil
import time
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import BinaryIO

from dlkit import files
from dlkit.data.sources import Loose
from dlkit.data.zips import Zip
from dlkit.errors import DatasetError
from dlkit.settings import settings
from dlkit.words import escape_csv

KEPT_SECONDS = 24 * 3600  # of what nobody imports


def keep_upload(uploads: Sequence[tuple[str, BinaryIO]]) -> str:
    """Keep what was sent, names and open files, and return the name of the lot.

    Raises DatasetError where nothing was sent or more than may be imported, DiskFullError where there is no room.
    """
    if not uploads:
        raise DatasetError("No files were sent. Choose a zip, or the pictures themselves.")
    Loose("The upload", uploads)  # counts them
    needed = sum(upload.seek(0, 2) for _, upload in uploads)
    if needed > settings().import_mb * 10**6:
        raise DatasetError(
            f"The upload has {needed / 1e6:,.0f} MB; the limit is {settings().import_mb:,} MB. Send less, or raise "
            "DLKIT_IMPORT_MB."
        )
    folder, lot = settings().folder("uploads"), secrets.token_hex(16)
    if files.free_bytes(folder) < needed:
        raise files.disk_full(folder, needed, "the upload")
    try:
        _write(folder / f".{lot}.tmp", uploads)
        (folder / f".{lot}.tmp").replace(folder / f"{lot}.zip")
    except OSError as error:
        if error.errno in files.FULL:
            raise files.disk_full(folder, needed, "the upload") from error
        raise
    finally:
        (folder / f".{lot}.tmp").unlink(missing_ok=True)
    return lot


def labelled(pictures: Sequence[tuple[str, bytes]], ending: str) -> list[tuple[str, BinaryIO]]:
    """Return pictures, each a class and the content of a file, as files to keep: numbered, and a label file.

    So a class may be called anything, as it is no part of a name.
    """
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(("file", "label"))
    files: list[tuple[str, BinaryIO]] = []
    for number, (label, content) in enumerate(pictures):
        files.append((f"{number:05}{ending}", io.BytesIO(content)))
        rows.writerow((files[-1][0], escape_csv(label)))
    return [*files, ("labels.csv", io.BytesIO(table.getvalue().encode()))]


def open_upload(lot: str, title: str) -> Zip:
    """Return a lot to be imported, to be closed; DatasetError where it is not there, or is no archive that is read."""
    path = _path(lot)
    if not path.is_file():
        raise DatasetError("The files that were sent are not there any more. Send them again.")
    return Zip(path, title)


def drop_upload(lot: str) -> None:
    """Forget a lot."""
    _path(lot).unlink(missing_ok=True)


def sweep_uploads(in_use: Collection[str]) -> None:
    """Forget all lots but those in use that are older than a day."""
    for path in settings().folder("uploads").iterdir():
        if path.stem.lstrip(".") not in in_use and time.time() - path.stat().st_mtime > KEPT_SECONDS:
            path.unlink(missing_ok=True)


def _path(lot: str) -> Path:
    if len(lot) != 32 or not set(lot) <= set("0123456789abcdef"):
        raise DatasetError("This is no upload. Send the files again.")
    return settings().data_folder / "uploads" / f"{lot}.zip"


def _write(path: Path, uploads: Sequence[tuple[str, BinaryIO]]) -> None:
    name, upload = uploads[0]
    upload.seek(0)
    if len(uploads) == 1 and not name.lower().endswith((".jpg", ".jpeg", ".png")):  # a zip, or what will be refused
        with path.open("xb") as file:
            shutil.copyfileobj(upload, file, 1 << 20)
        return
    taken: set[str] = set()
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        for name, upload in uploads:
            upload.seek(0)
            with archive.open(_unlike(name, taken), "w") as entry:
                shutil.copyfileobj(upload, entry, 1 << 20)


def _unlike(name: str, taken: set[str]) -> str:
    """Return the name, or one like it that is not taken: a camera begins anew with IMG_0001.jpg."""
    stem, dot, ending = name.rpartition(".")
    number, free = 1, name or "?"
    while free in taken:
        number += 1
        free = f"{stem} ({number}){dot}{ending}"
    taken.add(free)
    return free
