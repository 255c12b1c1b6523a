"""What a network thinks of the pictures of a data set: which class each looks like, and how far it lies from its own.

The engine forms the opinions; they are kept beside the set's looks, one file for each backbone. An opinion is about a
picture with a label: it holds in a later version, too, as long as that picture has that label.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlkit import files
from dlkit.data.cases import Case

COLUMNS = ("version", "digests", "labels", "guesses", "own", "best", "distances", "is_suspect")
BACKBONE = "efficientnet-lite0"  # whose opinion is asked unless another is named: its weights come along


@dataclass(frozen=True, eq=False)
class Opinions:
    """For each picture of a case, N rows: `guesses`, int64 (N,), the likeliest class by a head that never saw it;
    `own` and `best`, float32 (N,), the probabilities of its label and of that class; `distances`, float32 (N,), how
    far it lies from its nearest neighbours in its class, in robust deviations of the class; `is_suspect`, bool (N,),
    whether its label is likely to be wrong. Rows of which nothing is known have a guess of −1.
    """

    backbone: str
    version: int
    guesses: np.ndarray
    own: np.ndarray
    best: np.ndarray
    distances: np.ndarray
    is_suspect: np.ndarray

    @property
    def is_known(self) -> np.ndarray:
        """Which rows an opinion is there about, bool (N,)."""
        return self.guesses >= 0


def write_opinions(case: Case, opinions: Opinions) -> None:
    """Keep the opinions about all pictures of a case."""
    buffer = io.BytesIO()
    columns = {name: getattr(opinions, name) for name in ("own", "best", "distances", "is_suspect")}
    np.savez(
        buffer,
        version=case.version,
        digests=_digests(case),
        labels=np.array(case.classes)[case.labels],
        guesses=np.array([*case.classes, ""])[opinions.guesses],
        **columns,
    )
    case.folder.mkdir(parents=True, exist_ok=True)
    files.write_whole(_path(case, opinions.backbone), buffer.getvalue())


def read_opinions(case: Case, backbone: str) -> Opinions | None:
    """Return what this backbone thought of the pictures, those among them that are as they were; None where nothing."""
    try:
        with np.load(_path(case, backbone), allow_pickle=False) as kept:
            columns = {name: kept[name] for name in COLUMNS}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    known = zip(map(bytes, columns["digests"]), columns["labels"].tolist(), strict=True)
    rows = {key: row for row, key in enumerate(known)}
    asked = zip(map(bytes, _digests(case)), np.array(case.classes)[case.labels].tolist(), strict=True)
    found = np.array([rows.get(key, -1) for key in asked], np.int64)
    places = {name: place for place, name in enumerate(case.classes)}
    guesses = np.array([places.get(name, -1) for name in columns["guesses"].tolist()], np.int64)[found]
    is_known = (found >= 0) & (guesses >= 0)
    return Opinions(
        backbone,
        int(columns["version"]),
        np.where(is_known, guesses, -1),
        columns["own"][found],
        columns["best"][found],
        columns["distances"][found],
        columns["is_suspect"][found] & is_known,
    )


def _digests(case: Case) -> np.ndarray:
    """Return what each picture is known by, uint8 (N, 32); zeros for what nobody has looked at."""
    digests = np.zeros((len(case), 32), np.uint8)
    is_seen = case.album_rows >= 0
    digests[is_seen] = case.album.records["digest"][case.album_rows[is_seen]]
    return digests


def _path(case: Case, backbone: str) -> Path:
    return case.folder / f"opinions-{backbone}.npz"
