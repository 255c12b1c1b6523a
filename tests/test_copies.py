"""Copies are looked for once in an album, and hold for every set of its pictures."""

from pathlib import Path

import numpy as np
import pytest

from dlkit.data import copies
from dlkit.data.copies import PAIRS_NAME, copies_among
from dlkit.data.duplicates import duplicate_pairs
from dlkit.data.looks import Album, Seen, album_writer
from tests.photos import flower
from tests.test_looks import seen

ROWS = np.array([0, 1, -1, 2, 0, 3])  # of the album: the first twice, one that nobody has looked at


@pytest.fixture
def album(tmp_path: Path) -> Album:
    one, other = seen(flower(0)), seen(flower(1))
    with album_writer(tmp_path) as writer:
        for picture in (one, other, one._replace(digest=b"c" * 32), Seen(b"d" * 32, 0, 0, 0, 0, 0.0, b"", b"")):
            writer.add(picture)
    return Album(tmp_path)


def test_each_picture_has_the_first_of_its_copies(album):
    assert copies_among(album, ROWS).tolist() == [0, 1, 2, 0, 0, 5]
    assert copies_among(album, np.array([2, 1])).tolist() == [0, 1]
    assert copies_among(album, np.array([-1, 3])).tolist() == [0, 1]


def test_picture_that_is_gone_joins_no_others(album, monkeypatch):
    monkeypatch.setattr(copies, "duplicate_pairs", lambda looks: np.array([[0, 1], [1, 2]]))
    assert copies_among(album, np.array([0, 1, 2])).tolist() == [0, 0, 0]
    assert copies_among(album, np.array([0, 2])).tolist() == [0, 1]


def test_copies_are_looked_for_once_until_the_album_grows(album, monkeypatch):
    asked = []
    monkeypatch.setattr(copies, "duplicate_pairs", lambda looks: asked.append(len(looks)) or duplicate_pairs(looks))
    for _ in range(3):
        copies_among(album, ROWS)
    with album_writer(album.folder) as writer:
        writer.add(seen(flower(2)))
    copies_among(Album(album.folder), ROWS)
    assert asked == [4, 5]


@pytest.mark.parametrize("damage", [b"", b"PK\3\4", b"not at all"])
def test_damaged_file_is_made_anew(album, damage):
    expected = copies_among(album, ROWS).tolist()
    (album.folder / PAIRS_NAME).write_bytes(damage)
    assert copies_among(album, ROWS).tolist() == expected
    np.savez(album.folder / PAIRS_NAME, count=4, pairs=np.array([[0, 99]]))
    assert copies_among(album, ROWS).tolist() == expected


def test_album_without_pictures_leaves_no_file(tmp_path):
    assert copies_among(Album(tmp_path), np.array([-1, -1])).tolist() == [0, 1]
    assert not list(tmp_path.iterdir())
