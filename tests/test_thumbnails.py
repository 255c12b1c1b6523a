"""Small pictures of a version: as they are read in full, of all modes, quickly, and none for what is damaged."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlkit.data import thumbnails as module
from dlkit.data.images import read_image, read_thumbnail
from dlkit.data.looks import LOOKS_NAME, RECORD, THUMBNAILS_NAME, Album
from dlkit.data.thumbnails import SIDE, thumbnails
from dlkit.data.versions import open_version
from tests.test_importing import PETS, imported


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Every test has a data folder of its own."""


def gradient(width: int, height: int) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("turned", [1, 6])
def test_thumbnail_of_a_large_jpeg_is_the_picture_shrunk(tmp_path, mode, turned):
    exif = Image.Exif()
    exif[0x0112] = turned
    path = tmp_path / "large.jpg"
    gradient(2400, 1600).convert(mode).save(path, quality=95, exif=exif)
    small = Image.open(io.BytesIO(read_thumbnail(path, SIDE)))
    whole = read_image(path)
    whole.thumbnail((SIDE, SIDE))
    assert small.size == whole.size
    assert max(small.size) == SIDE
    assert np.abs(np.asarray(small, dtype=int) - np.asarray(whole, dtype=int)).mean() < 3


def decoded(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_damaged_picture_has_none(tmp_path):
    imported(tmp_path, PETS)
    version = open_version("pets")
    (version.folder / LOOKS_NAME).unlink()
    (version.folder / "images" / version.pictures[1].digest).write_bytes(b"torn")
    found = thumbnails(version, [0, 1, 2])
    assert [bool(address) for address in found] == [True, False, True]
    assert decoded(found[0]).size == (8, 8)


def test_what_the_album_has_is_not_decoded_again(tmp_path, monkeypatch):
    imported(tmp_path, PETS)
    version = open_version("pets")
    read: list[Path] = []
    monkeypatch.setattr(module, "read_thumbnail", lambda path, side: read.append(path) or b"decoded")
    album = Album(version.folder)
    rows = album.rows_of([version.pictures[row].digest for row in (2, 0)])
    drawn = [f"data:image/jpeg;base64,{base64.b64encode(album.jpeg(row)).decode()}" for row in rows]
    assert thumbnails(version, [2, 0]) == drawn
    assert not read
    looks = (version.folder / LOOKS_NAME).read_bytes()
    (version.folder / LOOKS_NAME).write_bytes(looks[: 2 * RECORD.itemsize])
    assert len(thumbnails(version, range(len(version.pictures)))) == len(version.pictures)
    assert len(read) == len({picture.digest for picture in version.pictures}) - 2


def test_thumbnail_that_is_not_all_written_yet_is_decoded(tmp_path):
    imported(tmp_path, PETS)
    version = open_version("pets")
    kept = version.folder / THUMBNAILS_NAME
    kept.write_bytes(kept.read_bytes()[:100])
    assert all(decoded(address).size == (8, 8) for address in thumbnails(version, range(len(version.pictures))))
