"""Versions of an imported set: what each edit changes, what is refused, and that a version is there whole or not."""

import errno
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import pytest

from dlkit.catalog.datasets import DATASETS
from dlkit.config import parse
from dlkit.data import versions
from dlkit.data.dataset import open_dataset
from dlkit.data.edits import Drop, Merge, Move, Relabel, Rename, Resplit, apply_edits
from dlkit.data.manifests import Picture
from dlkit.data.shelf import delete_import
from dlkit.data.sources import class_name
from dlkit.data.versions import Version, edit, history, open_version, restore
from dlkit.errors import DatasetError, DiskFullError, UnknownChoice
from dlkit.settings import settings
from tests.archive_maker import picture
from tests.test_importing import PETS, imported, leftovers

EVIL = "<img src=x onerror=alert(1)>"
ROOMY = {f"{label}/{n}.png": picture(20 * place + n) for place, label in enumerate("abc") for n in range(5)}


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Every test has a data folder of its own."""


@pytest.fixture
def pets(tmp_path: Path) -> Version:
    """Twelve pictures of c and d, of each five to learn from."""
    imported(tmp_path, PETS)
    return open_version("pets")


def rows_of(version: Version, *names: str) -> list[int]:
    return [row for row, one in enumerate(version.pictures) if one.name in names]


def said(name: str) -> str:
    return history(name)[0].change


def made(*rows: tuple[str, str, str]) -> list[Picture]:
    """Return pictures told by digest, class and split."""
    return [Picture(digest, label, split, f"{digest}.png", 1, 8, 8) for digest, label, split in rows]


# What an edit does


def test_imported_set_has_one_version(pets):
    assert pets.number == 1
    assert pets.classes == ("c", "d")
    assert pets.counts() == {label: {"train": 5, "val": 1, "test": 0} for label in "cd"}
    (past,) = history("pets")
    assert (past.number, past.change, past.based_on, past.train) == (1, "Imported from photos.zip.", None, 10)


def test_pictures_get_another_class_and_are_left_out(pets):
    after = edit("pets", [Relabel(rows_of(pets, "c/0.png", "c/1.png"), "d"), Drop(rows_of(pets, "c/2.png"))])
    assert after.number == 2
    assert said("pets") == "2 pictures moved to d; 1 picture left out."
    assert history("pets")[0].based_on == 1
    labels = {one.name: one.label for one in after.pictures}
    assert (labels["c/0.png"], labels["c/1.png"], labels["c/3.png"]) == ("d", "d", "c")
    assert "c/2.png" not in labels
    opened = open_dataset("pets")
    assert sum(opened.counts("train").values()) + sum(opened.counts("val").values()) == 11
    assert open_version("pets").pictures == after.pictures
    assert open_version("pets@1").pictures == pets.pictures


def test_rows_are_those_of_an_opened_data_set(pets):
    opened = open_dataset("pets")
    assert [pets.pictures[row].name for row in pets.rows("val")] == [opened.val.name(n) for n in range(2)]


def test_pictures_move_to_another_split(pets):
    row = pets.rows("train")[0]
    after = edit("pets", [Move([row], "test")])
    assert after.pictures[row].split == "test"
    assert said("pets") == "1 picture moved to the test split."
    assert (DATASETS["pets"].train_images, history("pets")[0].test) == (9, 1)
    with pytest.raises(DatasetError, match="A split is one of train, val, test"):
        edit("pets", [Move([row], "../..")])


def test_new_class_and_new_name(pets):
    edit("pets", [Relabel(pets.rows("train")[:2], "  a\u202enew  one ")])
    assert open_dataset("pets").classes == ("anew one", "c", "d")
    edit("pets", [Rename("c", EVIL)])
    assert said("pets") == f"Class c renamed to {EVIL}."
    assert open_dataset("pets").classes == (EVIL, "anew one", "d")
    with pytest.raises(DatasetError, match="a class d already"):
        edit("pets", [Rename("anew one", "d")])


def test_classes_are_merged(tmp_path):
    imported(tmp_path, ROOMY)
    edit("pets", [Merge(["a", "b"], "ab")])
    assert said("pets") == "Classes a, b merged into ab."
    assert open_dataset("pets").classes == ("ab", "c")
    restore("pets", 1)
    edit("pets", [Merge(["a"], "b")])
    assert open_dataset("pets").classes == ("b", "c")
    for classes, into in (([], "a"), (["b"], "b"), (["b"], "new")):
        with pytest.raises(DatasetError, match="Two classes or more"):
            edit("pets", [Merge(classes, into)])


def test_earlier_version_comes_back_as_a_new_one(pets):
    edit("pets", [Drop([0])])
    restore("pets", 1, seen=2)
    assert said("pets") == "As in version 1 again."
    assert open_version("pets").pictures == pets.pictures
    assert open_dataset("pets").fingerprint == open_dataset("pets@1").fingerprint != open_dataset("pets@2").fingerprint
    with pytest.raises(DatasetError, match="what pets is now"):
        restore("pets", 1)
    with pytest.raises(UnknownChoice):
        restore("pets", 9)


def test_run_keeps_the_version_it_was_made_with(pets):
    config = parse({"dataset": "pets"}).resolved()
    edit("pets", [Rename("c", "cat")])
    assert (config.dataset, config.resolved().dataset) == ("pets@1", "pets@1")
    assert open_dataset(config.dataset).classes == ("c", "d")
    assert parse({"dataset": "pets"}).resolved().dataset == "pets@2"


# Splits


def test_splits_are_drawn_anew_by_class_and_groups_stay_together():
    digests = [f"{number:02}" for number in range(40)]
    pictures = made(*((digest, "ab"[place % 2], "train" if place else "val") for place, digest in enumerate(digests)))
    groups = {digest: f"g{place // 4}" for place, digest in enumerate(digests[:16])}
    after, sentence = apply_edits(pictures, [Resplit(0.25, 3, groups)])
    sides = {one.digest: one.split for one in after}
    for place in range(0, 16, 4):
        assert len({sides[digest] for digest in digests[place : place + 4]}) == 1
    for label in "ab":
        assert 4 <= sum(one.split == "val" for one in after if one.label == label) <= 8
    assert after == apply_edits(pictures, [Resplit(0.25, 3, groups)])[0]
    assert after != apply_edits(pictures, [Resplit(0.25, 4, groups)])[0]
    val = sum(one.split == "val" for one in after)
    assert sentence == f"Split anew, {40 - val} to learn from and {val} to be checked with."


def test_what_is_like_a_test_picture_joins_it():
    pictures = made(
        ("1", "a", "test"),
        ("2", "a", "train"),
        *((f"a{n}", "a", "train") for n in range(4)),
        *((f"b{n}", "b", "train") for n in range(4)),
        ("b5", "b", "val"),
    )
    after, _ = apply_edits(pictures, [Resplit(0.3, 0, {"1": "same", "2": "same"})])
    assert [one.split for one in after[:2]] == ["test", "test"]
    assert {one.split for one in after[2:]} == {"train", "val"}


@pytest.mark.parametrize("share", [0, -1, 0.95, float("nan")])
def test_share_that_cannot_be_is_refused(pets, share):
    with pytest.raises(DatasetError, match="above 0 and at most 90%"):
        edit("pets", [Resplit(share)])


# What is refused, and leaves all as it was


@pytest.mark.parametrize(
    ("edits", "sentence"),
    [
        ([], "This changes nothing"),
        ([Relabel([0, 1], "c")], "This changes nothing"),
        ([Drop([])], "This changes nothing"),
        ([Rename("c", "c")], "This changes nothing"),
        ([Drop([99])], "no picture in row 99: this version has 12"),
        ([Drop([-1])], "no picture in row -1"),
        ([Drop(range(6))], "needs two classes or more"),
        ([Merge(["c", "d"], "all")], "needs two classes or more"),
        ([Relabel([0], "")], "1 to 100 letters"),
        ([Relabel([0], "\u200b")], "1 to 100 letters"),
        ([Relabel([0], "x" * 101)], "1 to 100 letters"),
        ([Rename("e", "f")], "There is no class e"),
        ([Merge(["c", "e"], "f")], "There is no class e"),
        ([Move(range(12), "train")], "No picture would be left to check"),
        ([Move(range(6), "val")], "no picture in the training split: c"),
        ([Rename("c", "x"), Rename("c", "y")], "There is no class c"),
    ],
)
def test_edit_that_cannot_be_is_refused_with_a_sentence(pets, home, edits, sentence):
    before, there = (pets.folder / "set.json").read_bytes(), sorted(pets.folder.iterdir())
    with pytest.raises(DatasetError, match=sentence):
        edit("pets", edits)
    assert (pets.folder / "set.json").read_bytes() == before
    assert sorted(pets.folder.iterdir()) == there


def test_too_many_classes_are_refused():
    pictures = made(*((str(n), f"class {n}", "train") for n in range(10_001)), ("v", "class 0", "val"))
    with pytest.raises(DatasetError, match=r"10,001 classes; the limit is 10,000"):
        apply_edits(pictures, [Relabel([10_001], "class 1")])


@pytest.mark.parametrize("name", ["pets", "a/b", "=1+1", EVIL, "?", "Löwe", "x" * 100])
def test_any_name_that_an_import_takes_is_a_classs_name(name):
    assert class_name(name) == name


def test_sets_that_were_not_imported_have_no_versions():
    with pytest.raises(DatasetError, match=r"was not imported, .* Make a copy"):
        edit("flowers-mini", [Drop([0])])
    with pytest.raises(DatasetError, match=r"was not imported, .* Make a copy"):
        history("flowers-mini")


# Two who edit


def test_edit_of_a_version_that_is_not_the_newest_is_refused(pets):
    edit("pets", [Drop([0])], seen=1)
    with pytest.raises(DatasetError, match=r"pets has changed: version 2 is the newest, and this was version 1"):
        edit("pets", [Drop([1])], seen=1)
    assert len(history("pets")) == 2


def test_edit_is_put_on_top_where_that_is_asked_for(pets):
    edit("pets", [Drop([0])], seen=1)
    first, second = pets.pictures[0], pets.pictures[1]
    after = edit("pets", [Relabel([0, 1], "e")], seen=1, on_top=True)
    assert after.number == 3
    assert said("pets") == "1 picture moved to e."
    assert first.digest not in {one.digest for one in after.pictures}
    assert {one.name for one in after.pictures if one.label == "e"} == {second.name}
    with pytest.raises(DatasetError, match="This changes nothing"):
        edit("pets", [Drop([0])], seen=1, on_top=True)
    with pytest.raises(DatasetError, match="no picture in row 12"):
        edit("pets", [Drop([12])], seen=1, on_top=True)


def _edit_on_top(start: "multiprocessing.synchronize.Barrier", rows: Sequence[int]) -> None:
    start.wait(60)
    for row in rows:
        edit("pets", [Move([row], "test")], seen=1, on_top=True)


def test_edits_at_once_come_one_after_the_other(pets):
    rows = [pets.rows("train")[:3], pets.rows("train")[5:8]]
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    both = [context.Process(target=_edit_on_top, args=(start, each)) for each in rows]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert [past.number for past in history("pets")] == [7, 6, 5, 4, 3, 2, 1]
    assert history("pets")[0].test == 6
    assert [past.based_on for past in history("pets")] == [6, 5, 4, 3, 2, 1, None]


# Whole or not at all


@pytest.mark.parametrize("file", ["manifest-2.json", "set.json"])
def test_edit_that_could_not_be_written_has_not_been(pets, monkeypatch, file):
    write = versions.files.write_whole

    def full(path: Path, content: bytes) -> object:
        if path.name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(versions.files, "write_whole", full)
        with pytest.raises(DiskFullError, match="needed for pets"):
            edit("pets", [Drop([0])])
    assert open_version("pets").number == 1
    assert edit("pets", [Drop([1])]).number == 2
    assert pets.pictures[0] in open_version("pets").pictures


def test_set_that_was_deleted_meanwhile_is_not_made_again(pets, home):
    delete_import("pets")
    with pytest.raises(UnknownChoice):
        versions.write_next(pets, pets.pictures[1:], "x")
    assert leftovers(home) == []


def test_room_is_looked_at_before(pets, monkeypatch):
    monkeypatch.setenv("DLKIT_IMPORT_MB", "1")
    settings.cache_clear()
    record = json.loads((pets.folder / "set.json").read_text())
    (pets.folder / "set.json").write_text(json.dumps({**record, "bytes": 999_999}))
    with pytest.raises(DatasetError, match="pets needs 0 MB, and imported data sets take 1 of 1 MB"):
        edit("pets", [Drop([0])])
    assert not (pets.folder / "manifest-2.json").exists()


def test_damaged_version_is_said_and_another_one_helps(pets):
    edit("pets", [Drop([0])])
    (pets.folder / "manifest-2.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"Version 2 of this data set is damaged"):
        edit("pets", [Drop([0])])
