"""An exported version: what is in the zip, under which names, and that importing it gives the same data set again."""

import csv
import io
import time
import tracemalloc
import zipfile
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from dlkit.data import exporting
from dlkit.data.edits import Drop, Move, Relabel, Rename
from dlkit.data.exporting import Unlike, export_bytes, export_chunks, export_zip, safe_part
from dlkit.data.importing import import_pictures, open_source
from dlkit.data.plans import LABEL_FILE, make_plan
from dlkit.data.versions import Version, edit, open_version
from dlkit.errors import DatasetError, DiskFullError
from tests.archive_maker import picture
from tests.test_importing import PETS, imported
from tests.test_words import NAMES

HOSTILE = (
    *NAMES,
    "=1+1",
    "'=1+1",
    "CON",
    "com1.txt",
    "a/b",
    "..",
    "Cat",
    "cat",
    "train",
    "__MACOSX",
    "Löwe 🐱",
    "a" * 99,
)


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Every test has a data folder of its own."""


def exported(version: Version, tmp_path: Path) -> zipfile.ZipFile:
    export_zip(version, tmp_path / "export.zip")
    return zipfile.ZipFile(tmp_path / "export.zip")


def again(version: Version, tmp_path: Path) -> Version:
    """Return what comes of importing the export of a version."""
    export_zip(version, tmp_path / "export.zip")
    with open_source(tmp_path / "export.zip") as source:
        plan = make_plan(source)
        assert plan.left_out == ()
        for _ in import_pictures(source, plan, "again"):
            pass
    return open_version("again")


def content(version: Version) -> Counter[tuple[str, str, str]]:
    return Counter((one.digest, one.label, one.split) for one in version.pictures)


def test_zip_has_splits_classes_and_a_table(tmp_path):
    imported(tmp_path, PETS)
    version = edit("pets", [Move([0], "test")])
    with exported(version, tmp_path) as archive:
        assert archive.testzip() is None
        *names, table = archive.namelist()
        assert len(names) == 12
        assert {name.rpartition("/")[0] for name in names} == {"train/c", "train/d", "val/c", "val/d", "test/c"}
        assert table == "labels.csv"
        rows = list(csv.reader(io.StringIO(archive.read(table).decode("utf-8-sig"))))
        assert rows[0] == ["file", "label", "split"]
        assert [row[0] for row in rows[1:]] == names
        for name in names:
            _, label, file = name.split("/")
            assert archive.read(name) == PETS[f"{label}/{file}"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert (tmp_path / "export.zip").stat().st_size <= export_bytes(version)


def test_import_of_an_export_is_the_same_data_set(tmp_path):
    imported(tmp_path, {**PETS, "c/copy.png": PETS["c/0.png"]})
    version = edit("pets", [Relabel([1, 2], "new"), Move([3], "test")])
    assert content(again(version, tmp_path)) == content(version)


def test_classes_of_any_name_come_back(tmp_path):
    """Names that would be formulas, other folders, or the same one on another system."""
    names = sorted({" ".join(name.split())[:100] for name in HOSTILE})
    imported(tmp_path, {f"{n}/{m}.png": picture(2 * n + m) for n in range(len(names)) for m in range(2)})
    first = open_version("pets")
    version = edit("pets", [Rename(old, new) for old, new in zip(first.classes, names, strict=True)])
    assert set(version.classes) == set(names)
    with exported(version, tmp_path) as archive:
        table = archive.read("labels.csv").decode("utf-8-sig")
        assert not [
            row for row in csv.reader(io.StringIO(table)) if any(cell.startswith(tuple("=+-@")) for cell in row)
        ]
        folders = {name.split("/")[1].casefold() for name in archive.namelist() if "/" in name}
        assert len(folders) == len(names)
        assert all(len(name.split("/")) == 3 for name in archive.namelist() if name != "labels.csv")
    assert content(again(version, tmp_path)) == content(version)


def test_labels_that_were_changed_in_the_table_hold(tmp_path):
    imported(tmp_path, PETS)
    with exported(open_version("pets"), tmp_path) as archive:
        changed = {name: archive.read(name) for name in archive.namelist()}
    changed["labels.csv"] = changed["labels.csv"].replace(b",d,", b",dog,")
    imported(tmp_path, changed, "more")
    assert open_version("more").classes == ("c", "dog")


def test_table_that_leaves_out_a_picture_tells_no_classes(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name, data in PETS.items():
            made.writestr(name, data)
        made.writestr("labels.csv", "file,label,split\nc/0.png,x,train\n")
    with open_source(archive) as source:
        plan = make_plan(source)
    assert plan.layout != LABEL_FILE
    assert plan.classes == ("c", "d")


def test_same_version_makes_the_same_bytes(tmp_path):
    imported(tmp_path, PETS)
    assert b"".join(export_chunks(open_version("pets"))) == b"".join(export_chunks(open_version("pets@1")))


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("cat", "cat"),
        ("a/b\\c:d", "a_b_c_d"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("..", "_"),
        (".hidden", "_.hidden"),
        ("-rf", "_-rf"),
        ("dot. .", "dot"),
        ("__MACOSX", "___MACOSX"),
        ("", "_"),
        ("ö" * 60, "ö" * 40),
    ],
)
def test_names_are_safe_on_every_system(name, safe):
    assert safe_part(name) == safe


def test_names_that_some_systems_take_for_one_are_told_apart():
    unlike = Unlike()
    found = [unlike.name(name) for name in ("Cat", "cat", "CAT (2)", "cat", "ﬁn", "fin")]
    assert found == ["Cat", "cat (2)", "CAT (2) (2)", "cat (3)", "ﬁn", "fin (2)"]


def test_names_that_differ_in_capitals_are_told_apart_quickly():
    unlike, started = Unlike(), time.process_time()
    names = ["".join(letters) for letters in product(*zip("abcdefghijklm", "ABCDEFGHIJKLM", strict=True))]
    assert len({unlike.name(name).casefold() for name in names}) == len(names) == 8192
    assert time.process_time() - started < 2


@pytest.mark.parametrize(("kind", "ending"), [("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("WEBP", "webp"),
                                              ("BMP", "bmp"), ("TIFF", "tif")])  # fmt: skip
def test_ending_is_that_of_the_content(tmp_path, kind, ending):
    imported(tmp_path, {**PETS, "c/evil.svg": picture(77, kind)})
    with exported(open_version("pets"), tmp_path) as archive:
        (name,) = [name for name in archive.namelist() if "evil" in name]
    assert name.endswith(f"evil.{ending}")


def test_export_takes_little_memory(tmp_path):
    imported(
        tmp_path, {f"{label}/{n}.png": picture(n + 40 * (label == "d"), side=300) for label in "cd" for n in range(40)}
    )
    version = open_version("pets")
    tracemalloc.start()
    total = sum(len(chunk) for chunk in export_chunks(version))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 20_000_000
    assert peak < 3_000_000


def test_room_is_looked_at_before_and_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    imported(tmp_path, PETS)
    version, target = open_version("pets"), tmp_path / "out" / "pets.zip"
    with pytest.raises(DatasetError, match="cannot be written"):
        export_zip(version, target)
    target.parent.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(exporting.files, "free_bytes", lambda folder: 1000)
        with pytest.raises(DiskFullError, match=r"needed for pets\.zip"):
            export_zip(version, target)
    (version.folder / "images" / version.pictures[5].digest).unlink()
    with pytest.raises(DatasetError, match="is not there any more"):
        export_zip(version, target)
    assert list(target.parent.iterdir()) == []
    export_zip(edit("pets", [Drop([5])]), target)
    assert zipfile.ZipFile(target).testzip() is None
