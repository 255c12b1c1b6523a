"""Mutated zips, pictures and label files: whatever the bytes are, an import or a sentence, in little time and memory.

The seeds are fixed. `-m slow` takes 10,000 files, else a few hundred.
"""

import io
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dlkit.catalog.datasets import DATASETS
from dlkit.data.images import read_picture
from dlkit.data.importing import import_pictures
from dlkit.data.plans import make_plan
from dlkit.data.shelf import delete_import
from dlkit.data.sources import Loose
from dlkit.data.zips import Zip
from dlkit.errors import DatasetError, ImageError
from tests.archive_maker import LINK, Member, by_hand, picture, zipped
from tests.test_images import with_right_checksums

SECONDS = 2.0  # of this process, for one file
GROWTH = 300 << 20  # bytes
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF)  # that many a reader takes for something else
TABLE = b"file,label\n" + b"".join(b"%d.png,%s\n" % (number, b"ab"[number % 2 :][:1]) for number in range(8))
TABLES = (
    TABLE,
    TABLE.replace(b",", b";"),
    TABLE.decode().encode("utf-16"),
    b"\xef\xbb\xbf" + TABLE.replace(b"a", b'"a"'),
)
ZIPS = (
    zipped({f"{label}/{number}.png": picture(number) for label in "ab" for number in range(2)}),
    zipped({**{f"{number}.png": picture(number) for number in range(4)}, "labels.csv": TABLE}),
    by_hand([Member(b"a/1.png", picture(1)), Member(b"b/1.jpg", picture(2, "JPEG")), Member(b"b/2", b"x", mode=LINK)]),
    zipped({"a/1.png": picture(1), "b/1.zip": zipped({"c/1.png": picture(1)}), "b/2.png": picture(2)}),
)


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Change some bytes, most of them near a mark of structure; cut, double or move a piece."""
    changed = bytearray(data)
    marks = [place for place in range(len(data) - 1) if data[place : place + 2] in (b"PK", b"\xff\xda", b"ID", b"\n1")]
    for _ in range(draw.choice((0, 1, 1, 2, 4, 16))):
        near = draw.choice(marks) + draw.randrange(48) if marks and draw.random() < 0.7 else draw.randrange(len(data))
        changed[min(near, len(data) - 1)] = draw.choice((*NUMBERS, draw.randrange(256)))
    kind, begin, end = draw.random(), draw.randrange(len(data)), draw.randrange(len(data))
    if kind < 0.15:
        return bytes(changed[:begin])
    if kind < 0.25:
        return bytes(changed[:begin] + changed[begin : begin + 200] + changed[begin:])
    if kind < 0.3:
        return bytes(changed[: min(begin, end)] + changed[max(begin, end) :])
    if kind < 0.35:
        return draw.randbytes(draw.randrange(200)) + bytes(changed)
    return bytes(changed)


def import_zip(data: bytes) -> None:
    """Import it as far as it goes; what is imported is read, and deleted again."""
    with Zip(io.BytesIO(data), "fuzz.zip") as source:
        try:
            for _ in import_pictures(source, make_plan(source), "fuzz"):
                pass
        finally:
            if "fuzz" in DATASETS:
                delete_import("fuzz")


def read_table(data: bytes) -> None:
    """Plan an import by it."""
    make_plan(Loose("photos", [(f"{number}.png", io.BytesIO(b"x")) for number in range(8)]), data, "labels.csv")


def read_png(data: bytes) -> None:
    """Read it as it is, and with its checksums made right, so that the decoder is reached."""
    for content in (data, with_right_checksums(data)):
        with suppress(ImageError):
            read_picture(content)


def read_jpeg(data: bytes) -> None:
    """Read it."""
    read_picture(data)


KINDS: dict[str, tuple[tuple[bytes, ...], Callable[[bytes], None]]] = {
    "zip": (ZIPS, import_zip),
    "table": (TABLES, read_table),
    "png": (tuple(picture(number, "PNG", 32) for number in range(4)), read_png),
    "jpeg": (tuple(picture(number, "JPEG", 32) for number in range(4)), read_jpeg),
}


def refusal_of(take: Callable[[bytes], None], data: bytes) -> str | None:
    """Return the sentence with which it is refused, None where it is taken; anything else that is raised flies."""
    try:
        take(data)
    except (DatasetError, ImageError) as error:
        return str(error)
    return None


def fuzz(kind: str, count: int, home: Path) -> None:
    """Let a reader take mutated files, and check each time what must hold."""
    seeds, take = KINDS[kind]
    draw, process = random.Random(f"{kind} 0"), psutil.Process()
    take(seeds[0])
    before, around = process.memory_info().rss, {path for path in home.parent.iterdir() if path != home}
    outcomes = {"taken": 0, "refused": 0}
    for number in range(count):
        data, started = mutated(draw.choice(seeds), draw), time.process_time()
        sentence = refusal_of(take, data)
        assert sentence is None or sentence.endswith((".", "…"))
        outcomes["taken" if sentence is None else "refused"] += 1
        assert time.process_time() - started < SECONDS, f"{kind} {number} takes too long"
        left = {path.name for path in (home / "datasets").iterdir()} if (home / "datasets").exists() else set()
        assert left <= {".names.lock"}, f"{kind} {number} leaves {left}"
    assert process.memory_info().rss - before < GROWTH
    assert {path for path in home.parent.iterdir() if path != home} == around, "something was written outside"
    assert min(outcomes.values()) > count / 100 or kind == "png", outcomes


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here, so nothing has to reach the disk."""
    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_do_no_harm(home, kind):
    fuzz(kind, 100, home)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_mutated_files_do_no_harm(home, kind):
    fuzz(kind, 2500, home)
