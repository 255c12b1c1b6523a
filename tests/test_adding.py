"""Pictures added to a set that is there, and sets copied into one's own: what is new, what is told, and no halves."""

import io
import json
from pathlib import Path

import pytest

from dlkit.catalog.datasets import DATASETS
from dlkit.data import versions
from dlkit.data.adding import add_pictures
from dlkit.data.copying import open_copy
from dlkit.data.dataset import open_dataset
from dlkit.data.edits import Drop, Rename
from dlkit.data.images import read_image
from dlkit.data.importing import Report, import_pictures, open_source
from dlkit.data.plans import make_plan
from dlkit.data.uploads import keep_upload
from dlkit.data.versions import edit, history, open_version
from dlkit.errors import DatasetError, DiskFullError, UnknownChoice
from dlkit.runs import service
from dlkit.runs.records import State
from dlkit.settings import settings
from tests.archive_maker import picture, zipped
from tests.photos import copies, flower
from tests.test_importing import PETS, imported, leftovers
from tests.test_uploads import worked

MORE = {f"c/new {number}.png": picture(100 + number) for number in range(10)}


@pytest.fixture(autouse=True)
def _own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a data folder of its own, where nothing takes the runs."""
    monkeypatch.setattr(service, "ensure_supervisor", lambda: None)


def added(tmp_path: Path, content: dict[str, bytes], name: str = "pets") -> Report:
    (tmp_path / "more.zip").write_bytes(zipped(content))
    with open_source(tmp_path / "more.zip") as source:
        return ended(add_pictures(source, make_plan(source, fewest=1), name))


def copied(name: str, new: str) -> Report:
    return ended(import_pictures(*open_copy(name), new))


def ended(steps) -> Report:  # type: ignore[no-untyped-def]
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


# Adding


def test_new_pictures_make_a_version_on_top(tmp_path, home):
    imported(tmp_path, PETS)
    before = open_version("pets")
    report = added(tmp_path, {**MORE, "e/1.png": picture(50), "e/2.png": picture(51)})
    assert report.sentences() == [
        "pets: 3 classes, 19 images to learn from, 5 to be checked with.",
        "12 pictures were added from more.zip.",
    ]
    assert history("pets")[0].change == "12 pictures added from more.zip."
    after = open_version("pets@2")
    assert after.pictures[: len(before.pictures)] == before.pictures
    assert after.counts() == {"c": {"train": 13, "val": 3, "test": 0}, "d": {"train": 5, "val": 1, "test": 0},
                              "e": {"train": 1, "val": 1, "test": 0}}  # fmt: skip
    opened = open_dataset("pets")
    for index in range(len(opened.train)):
        opened.train.read(index)
    assert [len(entry) for entry in leftovers(home)] == [32]
    record = json.loads((after.folder / "set.json").read_text())
    sizes = sum(path.stat().st_size for path in (after.folder / "images").iterdir())
    assert record["bytes"] == sizes + (after.folder / "manifest-2.json").stat().st_size


def test_copies_of_pictures_that_are_there_go_to_their_side(tmp_path):
    photos = {f"{label}/{n}": flower(n, label) for label in ("daisy", "roses") for n in range(6)}
    imported(tmp_path, {f"{name}.jpg": data for name, data in photos.items()})
    photos |= {f"{label}/{n}": flower(n, label) for label in ("daisy", "roses") for n in range(6, 10)}
    more = {f"{name} {what}.jpg": data for name, photo in photos.items() for what, data in copies(photo).items()}
    added(tmp_path, more)
    pictures = open_version("pets").pictures
    assert len(pictures) == 12 + len(more)
    sides = {(one.name.removesuffix(".jpg").split()[0], one.split) for one in pictures}
    assert len(sides) == len(photos)
    assert {split for _, split in sides} == {"train", "val"}


def test_pictures_that_are_there_are_told_and_not_added_again(tmp_path):
    imported(tmp_path, PETS)
    twice = {
        "c/again.png": PETS["c/0.png"],
        "d/torn.png": PETS["c/1.png"],
        "d/bad.png": b"",
        "d/copy.png": MORE["c/new 0.png"],
    }
    report = added(tmp_path, {**MORE, **twice})
    assert report.sentences()[1:] == [
        "1 of 14 images is empty and was left out: d/bad.png.",
        "1 of 14 images is there already and was left out: c/again.png.",
        "2 of 14 images are there as another class and were left out: d/copy.png (as c), d/torn.png (as c).",
        "10 pictures were added from more.zip.",
    ]
    with pytest.raises(DatasetError, match=r"Nothing of more.zip is new to pets\. 10 images are there already"):
        added(tmp_path, MORE)


def test_picture_that_was_left_out_can_come_back(tmp_path):
    imported(tmp_path, PETS)
    row = next(row for row, one in enumerate(open_version("pets").pictures) if one.name == "c/3.png")
    size = edit("pets", [Drop([row])]).folder / "set.json"
    before = json.loads(size.read_text())["bytes"]
    assert sum(added(tmp_path, {"c/3.png": PETS["c/3.png"]}).counts.values()) == 12
    manifest = (open_version("pets").folder / "manifest-3.json").stat().st_size
    assert json.loads(size.read_text())["bytes"] == before + manifest  # its file was there


def test_set_that_is_edited_meanwhile_keeps_the_edit(tmp_path):
    imported(tmp_path, PETS)
    (tmp_path / "more.zip").write_bytes(zipped(MORE))
    with open_source(tmp_path / "more.zip") as source:
        steps = add_pictures(source, make_plan(source, fewest=1), "pets")
        next(steps)
        edit("pets", [Rename("d", "dog")])
        ended(steps)
    assert open_version("pets").number == 3
    assert open_version("pets").classes == ("c", "dog")


def test_addition_that_was_edited_into_at_the_last_moment_is_made_again(tmp_path, monkeypatch):
    imported(tmp_path, PETS)
    check, turns = versions.check_space, []

    def edited_now(*arguments: object) -> None:
        if not turns:
            turns.append(edit)
            edit("pets", [Rename("d", "dog")])
        check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(versions, "check_space", edited_now)
    added(tmp_path, MORE)
    assert open_version("pets").classes == ("c", "dog")
    assert len(open_version("pets").pictures) == 22


def test_cancelled_addition_leaves_nothing(tmp_path, home):
    imported(tmp_path, PETS)
    images = open_version("pets").folder / "images"
    (tmp_path / "more.zip").write_bytes(zipped(MORE))
    with open_source(tmp_path / "more.zip") as source:
        steps = add_pictures(source, make_plan(source, fewest=1), "pets")
        next(steps)
        steps.close()
    assert open_version("pets").number == 1
    assert len(list(images.iterdir())) == 12
    assert [len(entry) for entry in leftovers(home)] == [32]


def test_room_for_an_addition_is_looked_at_before(tmp_path, monkeypatch):
    imported(tmp_path, PETS)
    monkeypatch.setattr("dlkit.data.shelf.files.free_bytes", lambda folder: 1000)
    with pytest.raises(DiskFullError, match=r"needed for more\.zip"):
        added(tmp_path, MORE)


def test_addition_to_what_is_no_imported_set_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"Make a copy of it"):
        added(tmp_path, MORE, "flowers-mini")
    with pytest.raises(UnknownChoice):
        added(tmp_path, MORE, "nowhere")


# Copying


@pytest.mark.parametrize("name", ["shapes", "fashion-mnist-mini", "flowers-mini"])
def test_copy_has_the_same_pictures_classes_and_splits_and_keeps_the_licence(name):
    report = copied(name, "mine")
    theirs, ours = open_dataset(name), open_dataset("mine")
    assert sorted(theirs.classes) == list(ours.classes)
    assert report.left_out == ()
    for split in ("train", "val"):
        assert theirs.counts(split) == ours.counts(split)
    for index in (0, len(theirs.val) - 1):
        at = [
            n
            for n in range(len(ours.val))
            if ours.val.name(n).removesuffix(".png") == theirs.val.name(index).removesuffix(".png")
        ]
        assert len(at) == 1
        assert ours.val.read(at[0]).tobytes() == theirs.val.read(index).tobytes()
    assert DATASETS["mine"].licence == DATASETS[name].licence
    assert DATASETS["mine"].source == DATASETS[name].source
    edit("mine", [Drop([0])])
    assert DATASETS["mine"].licence == DATASETS[name].licence


def test_copy_of_a_version_has_its_test_pictures(tmp_path):
    imported(tmp_path, {f"{split}/{name}": data for split in ("train", "val", "test") for name, data in PETS.items()})
    edit("pets", [Drop([0])])
    copied("pets@1", "mine")
    assert open_version("mine").pictures == tuple(open_version("pets@1").pictures)
    assert DATASETS["mine"].licence == "Your own"


def test_set_that_was_not_fetched_is_not_copied():
    with pytest.raises(DatasetError, match="must be fetched first"):
        open_copy("cifar-10")
    failed = worked(service.submit_copy("cifar-10", "mine"))
    assert failed.state == State.FAILED
    assert "must be fetched first" in (failed.failure or "")


def test_room_for_a_copy_is_looked_at_before(monkeypatch):
    monkeypatch.setenv("DLKIT_IMPORT_MB", "1")
    settings.cache_clear()
    with pytest.raises(DatasetError, match="Delete one, or raise DLKIT_IMPORT_MB"):
        copied("flowers-mini", "mine")


# By a worker


def lot(content: dict[str, bytes]) -> str:
    return keep_upload([("more.zip", io.BytesIO(zipped(content)))])


def test_worker_adds_what_was_sent_once(tmp_path, home):
    imported(tmp_path, PETS)
    run = service.submit_addition(lot(MORE), "more.zip", "pets@1")
    with pytest.raises(DatasetError, match="is used by Add to pets"):
        service.delete_dataset("pets")
    done = worked(run)
    assert done.state == State.SUCCEEDED
    assert done.summary["report"][-1] == "10 pictures were added from more.zip."
    assert open_version("pets").number == 2
    assert not list((home / "uploads").iterdir())
    assert versions.is_made(run.id)
    assert not versions.is_made("")


def test_worker_that_died_after_the_addition_adds_nothing_again(tmp_path):
    imported(tmp_path, PETS)
    run = service.submit_addition(lot(MORE), "more.zip", "pets")
    (tmp_path / "more.zip").write_bytes(zipped(MORE))
    with open_source(tmp_path / "more.zip") as source:
        ended(add_pictures(source, make_plan(source, fewest=1), "pets", identity=run.id))
    assert worked(run).state == State.SUCCEEDED
    assert open_version("pets").number == 2


def test_worker_copies_a_set_which_is_not_deleted_meanwhile(tmp_path):
    imported(tmp_path, PETS)
    run = service.submit_copy("pets", "mine")
    with pytest.raises(DatasetError, match="is used by Copy pets"):
        service.delete_dataset("pets")
    assert worked(run).state == State.SUCCEEDED
    assert open_version("mine").pictures == open_version("pets").pictures
    service.delete_dataset("pets")
    assert read_image(open_version("mine").folder / "images" / open_version("mine").pictures[0].digest)


def test_copy_of_a_taken_name_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="already"):
        service.submit_copy("flowers-mini", "Shapes")
