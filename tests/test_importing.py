"""Pictures of one's own: checked, kept by their content, visible when all are there; then a data set like another."""

import errno
import io
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from dlkit import files
from dlkit.catalog.datasets import DATASETS, OFFICIAL
from dlkit.config import parse
from dlkit.data.dataset import is_here, open_dataset
from dlkit.data.images import image_digest, read_image
from dlkit.data.importing import Report, import_pictures, open_source
from dlkit.data.looks import Album
from dlkit.data.plans import make_plan
from dlkit.data.shelf import delete_import, free_name, sweep_imports
from dlkit.data.split import draw_validation
from dlkit.errors import DatasetError, DiskFullError, DlkitError, UnknownChoice
from dlkit.runs import service
from dlkit.runs.records import State
from dlkit.settings import settings
from tests.archive_maker import Member, by_hand, picture, zipped
from tests.photos import copies, film, flower

PETS = {
    f"{label}/{number}.png": picture(10 * place + number) for place, label in enumerate("cd") for number in range(6)
}


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Every test has a data folder of its own."""


def imported(tmp_path: Path, content: dict[str, bytes] | bytes, name: str = "pets", **options: int) -> Report:
    """Import a zip and return what is reported."""
    archive = tmp_path / "photos.zip"
    archive.write_bytes(content if isinstance(content, bytes) else zipped(content))
    with open_source(archive) as source:
        steps = import_pictures(source, make_plan(source), name, **options)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                report: Report = end.value
                return report


def leftovers(home: Path) -> list[str]:
    """Return all that lies in the folder of data sets but the lock for names."""
    return sorted(path.name for path in (home / "datasets").iterdir() if path.name != ".names.lock")


def test_imported_set_is_a_data_set_like_another(tmp_path, home):
    report = imported(tmp_path, PETS)
    assert report.sentences() == ["pets: 2 classes, 10 images to learn from, 2 to be checked with."]
    assert "pets" in DATASETS
    assert next(iter(DATASETS)) == "pets"
    assert is_here("pets")
    entry = DATASETS["pets"]
    assert (entry.classes, entry.train_images, entry.val_images, entry.image_size) == (2, 10, 2, 8)
    dataset = open_dataset("pets")
    assert dataset.classes == ("c", "d")
    assert dataset.counts("train") == {"c": 5, "d": 5}
    assert dataset.counts("val") == {"c": 1, "d": 1}
    for split in (dataset.train, dataset.val):
        for index in range(len(split)):
            expected = PETS[split.name(index)]
            assert (np.asarray(split.read(index)) == np.asarray(read_image(expected))).all()
            assert split.name(index).startswith(dataset.classes[split.labels[index]])


def test_files_are_called_by_their_content_and_nothing_else_is_written(tmp_path, home):
    imported(tmp_path, {**PETS, "c/copy.png": PETS["c/0.png"]})
    (folder,) = (path for path in (home / "datasets").iterdir() if path.is_dir())
    assert len(folder.name) == 32
    stored = [path for path in folder.rglob("*") if path.is_file() and path.parent.name == "images"]
    assert {path.name for path in stored} == {image_digest(data) for data in PETS.values()}
    assert all(image_digest(path.read_bytes()) == path.name for path in stored)
    assert sorted(path.name for path in folder.iterdir()) == [
        "images",
        "looks.bin",
        "manifest-1.json",
        "pairs.npz",
        "set.json",
        "thumbnails.bin",
    ]
    assert leftovers(home) == [folder.name]


def test_run_names_the_version(tmp_path):
    imported(tmp_path, PETS)
    config = parse({"dataset": "pets"}).resolved()
    assert config.dataset == "pets@1"
    assert config.name.startswith("pets ·")
    assert config.resolved() == config
    assert parse(config.changes()).resolved() == config
    assert DATASETS["pets@1"].pinned == "pets@1"
    assert open_dataset("pets@1").fingerprint == open_dataset("pets").fingerprint
    for key in ("pets@2", "pets@", "pets@x", "@1", "dogs@1", "flowers-mini@1"):
        assert key not in DATASETS


def test_older_version_stays_what_it_was(tmp_path, home):
    """As a later edit will make one: another manifest, and a line more in the record."""
    imported(tmp_path, PETS)
    (folder,) = (path for path in (home / "datasets").iterdir() if path.is_dir())
    manifest, record = (json.loads((folder / name).read_text()) for name in ("manifest-1.json", "set.json"))
    before = open_dataset("pets").fingerprint
    manifest["classes"] = ["cat", "dog"]
    files.write_whole(folder / "manifest-2.json", json.dumps(manifest).encode())
    record["versions"].append({**record["versions"][0], "number": 2})
    files.write_whole(folder / "set.json", json.dumps(record).encode())
    assert open_dataset("pets").classes == ("cat", "dog")
    assert open_dataset("pets@1").classes == ("c", "d")
    assert open_dataset("pets@1").fingerprint == before != open_dataset("pets").fingerprint
    assert DATASETS["pets@1"].title == "pets (version 1)"
    assert parse({"dataset": "pets"}).resolved().dataset == "pets@2"


def test_damaged_images_are_left_out_and_named(tmp_path):
    files_of = {
        **PETS,
        "c/7.png": picture(70)[:100],
        "d/8.jpg": b"text",
        "d/9.heic": b"\0\0\0\x18ftypavif",
        "d/n.txt": b"",
    }
    report = imported(tmp_path, files_of)
    assert report.sentences()[1:] == [
        "1 file holds no picture and was left out: d/n.txt.",
        "1 of 15 images is damaged and was left out: c/7.png.",
        "1 of 15 images holds no picture and was left out: d/8.jpg.",
        "1 of 15 images is in a format that cannot be read here (AVIF pictures) and was left out: d/9.heic.",
    ]
    assert sum(report.counts.values()) == 12


def test_images_are_counted_with_those_that_were_left_out_before(tmp_path):
    report = imported(tmp_path, {**PETS, "cover.png": picture(80), "c/7.png": b""})
    assert report.sentences()[1:] == [
        "1 of 14 images lies in no folder of a class and was left out: cover.png.",
        "1 of 14 images is empty and was left out: c/7.png.",
    ]


def test_first_frames_are_said(tmp_path):
    frames = [read_image(picture(number)) for number in (90, 91)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    report = imported(tmp_path, {**PETS, "c/moving.gif": buffer.getvalue()})
    assert report.remarks == ("Of animations and files of several pages the first picture is taken: c/moving.gif.",)


def test_class_of_which_nothing_is_left_is_left_out(tmp_path):
    report = imported(tmp_path, {**PETS, "e/1.png": b"", "f/1.png": picture(60)})
    assert report.classes == ("c", "d", "f")
    assert "Nothing to learn from is left of these classes, so they are left out: e." in report.sentences()
    assert "These classes have no image to be checked with: f." in report.sentences()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (dict.fromkeys(PETS, b"no picture"), "Too few images of photos.zip can be read"),
        ({**{f"c/{n}.png": picture(n) for n in range(5)}, "d/1.png": b""}, "a classifier needs two classes or more"),
        ({"c/1.png": picture(1), "d/1.png": picture(2)}, "has only one image that can be used, copies not counted"),
    ],
)
def test_too_little_is_refused_and_leaves_nothing(tmp_path, home, content, sentence):
    with pytest.raises(DatasetError, match=sentence):
        imported(tmp_path, content)
    assert leftovers(home) == []
    assert list(DATASETS) == list(OFFICIAL)


def test_hostile_archive_with_honest_images_writes_nothing_outside(tmp_path, home):
    evil = [Member(f"../../{tmp_path.name}/evil.png".encode(), picture(1)), Member(b"/tmp/evil.png", picture(1))]
    good = [Member(name.encode(), data) for name, data in PETS.items()]
    before = set(tmp_path.rglob("*"))
    report = imported(tmp_path, by_hand([*evil, *good]))
    assert "2 files have a name that leads out of their folder" not in report.sentences()[1]
    assert report.sentences()[1].startswith("2 files have a name that leads out of its folder and were left out")
    new = {path for path in set(tmp_path.rglob("*")) - before if path.name != "photos.zip"}
    assert all(path == home or home in path.parents for path in new)


def test_copies_of_a_photograph_stay_on_one_side_whatever_was_made_of_them(tmp_path):
    photos = {f"{label}/{number}": flower(number, label) for label in ("daisy", "roses") for number in range(6)}
    content = {f"{name} {what}.jpg": data for name, photo in photos.items() for what, data in copies(photo).items()}
    imported(tmp_path, content, seed=3)
    dataset = open_dataset("pets")
    sides = [
        {part.name(index).rpartition("/")[2][0:1] + part.name(index)[0] for index in range(len(part))}
        for part in (dataset.train, dataset.val)
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == len(photos)


def test_film_of_a_class_is_divided_and_that_is_said(tmp_path):
    films = {"daisy": film(0, 1), "roses": film(2, 3)}
    report = imported(
        tmp_path, {f"{label}/{n}.jpg": data for label, frames in films.items() for n, data in enumerate(frames)}
    )
    assert report.counts == {"train": 50, "val": 12, "test": 0}
    assert report.remarks == (
        "Nearly all pictures of these classes are like another one, as in a film, so alike pictures are on both sides "
        "of the split: daisy, roses.",
    )


def test_each_picture_is_seen_once_and_has_a_thumbnail(tmp_path, home):
    imported(tmp_path, {**PETS, "c/copy.png": PETS["c/0.png"]})
    (folder,) = (path for path in (home / "datasets").iterdir() if path.is_dir())
    album = Album(folder)
    assert len(album.records) == len(PETS)
    for row in album.rows_of(map(image_digest, PETS.values())):
        assert album.thumbnail(row).size == (8, 8)


def test_thousand_classes_are_imported(tmp_path):
    many = {f"class {number:04}/{place}.png": picture(2 * number + place) for number in range(1200) for place in (0, 1)}
    report = imported(tmp_path, many)
    assert len(report.classes) == 1200
    assert report.counts["train"] + report.counts["val"] == 2400
    assert DATASETS["pets"].classes == 1200


def test_picture_with_another_formats_ending_is_what_it_is(tmp_path):
    renamed = {"c/1.png": picture(1, "JPEG"), "c/2.jpg": picture(2, "PNG"), "c/three": picture(3, "GIF")}
    report = imported(tmp_path, {**renamed, "d/1.bmp": picture(4, "TIFF"), "d/2.jpeg": picture(5, "WEBP")})
    assert sum(report.counts.values()) == 5
    assert report.left_out == ()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("", "1 to 60"),
        ("  ", "1 to 60"),
        ("x" * 61, "1 to 60"),
        ("a@1", "neither"),
        ("a/b", "neither"),
        ("\u200b", "1 to"),
    ],
)
def test_name_that_cannot_be_is_refused(name, word):
    with pytest.raises(DatasetError, match=word):
        free_name(name)


@pytest.mark.parametrize("name", ["pets", "PETS", "Flowers-mini"])
def test_name_that_is_taken_is_refused(tmp_path, name):
    imported(tmp_path, PETS)
    with pytest.raises(DatasetError, match="already"):
        imported(tmp_path, PETS, name)


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "Löwe 🐱", "=1+1", "..", "CON", "$(reboot)"])
def test_any_other_name_is_only_a_name(tmp_path, home, name):
    imported(tmp_path, PETS, name)
    assert open_dataset(name).name == name
    assert [len(entry) for entry in leftovers(home)] == [32]


# Whole or not at all


def test_nothing_is_visible_until_all_is_there(tmp_path, home):
    archive = tmp_path / "photos.zip"
    archive.write_bytes(zipped(PETS))
    with open_source(archive) as source:
        steps = import_pictures(source, make_plan(source), "pets")
        seen = [next(steps) for _ in range(2)]
        assert [(step.phase, step.done, step.total) for step in seen] == [("checking", 8, 12), ("checking", 12, 12)]
        assert "pets" not in DATASETS
        sweep_imports()  # of another process: this one is still at work
        assert any(name.endswith(".importing") for name in leftovers(home))
        steps.close()
    assert leftovers(home) == []


@pytest.mark.parametrize("after", [1, 2, 3])
def test_cancelled_import_leaves_nothing(tmp_path, home, after):
    archive = tmp_path / "photos.zip"
    archive.write_bytes(zipped(PETS))
    with open_source(archive) as source, closing(import_pictures(source, make_plan(source), "pets")) as steps:
        for _ in range(after):
            next(steps)
    assert leftovers(home) == []
    assert "pets" not in DATASETS


def _import_until_killed(archive: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with open_source(archive) as source:
        steps = import_pictures(source, make_plan(source), "pets")
        next(steps)
        ready.set()
        time.sleep(60)


def test_what_a_killed_import_left_is_swept_by_the_next(tmp_path, home):
    archive = tmp_path / "photos.zip"
    archive.write_bytes(zipped(PETS))
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_import_until_killed, args=(archive, ready))
    process.start()
    assert ready.wait(60)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert any(name.endswith(".importing") for name in leftovers(home))
    assert "pets" not in DATASETS
    imported(tmp_path, PETS)
    assert [len(entry) for entry in leftovers(home)] == [32]


def test_full_disk_leaves_nothing(tmp_path, home, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("dlkit.data.importing.image_digest", "dlkit.data.importing.os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(DiskFullError, match=r"Disk full: .* MB needed"):
                imported(tmp_path, PETS)
        assert leftovers(home) == []


def test_room_is_looked_at_before(tmp_path, home, monkeypatch):
    monkeypatch.setattr("dlkit.data.shelf.files.free_bytes", lambda folder: 1000)
    with pytest.raises(DiskFullError, match=r"needed for photos\.zip"):
        imported(tmp_path, PETS)
    assert leftovers(home) == []


def test_quota_counts_what_was_imported_before(tmp_path, home, monkeypatch):
    monkeypatch.setenv("DLKIT_IMPORT_MB", "1")
    settings.cache_clear()
    large = {f"{label}/{number}.png": picture(number, side=250) for label in "cd" for number in range(2)}
    with pytest.raises(DatasetError, match=r"needs 1 MB, and imported data sets take 0 of 1 MB\. Delete one"):
        imported(tmp_path, {**PETS, **large, "c/9.png": picture(9, side=400)})
    imported(tmp_path, large)
    with pytest.raises(DatasetError, match=r"imported data sets take 0 of 1 MB"):
        imported(tmp_path, {name.replace("c/", "e/"): picture(70 + int(name[2]), side=330) for name in large}, "more")


# Splits


def test_splits_are_stratified_seeded_and_keep_copies_together():
    labels = ["a"] * 50 + ["b"] * 10 + ["c"] * 2 + ["d"]
    groups = [str(number // 2) if number < 20 else f"x{number}" for number in range(len(labels))]
    flags = draw_validation(labels, groups, 0.2, seed=0)
    drawn = Counter(label for label, flag in zip(labels, flags, strict=True) if flag)
    assert drawn in ({"a": 10, "b": 2, "c": 1}, {"a": 11, "b": 2, "c": 1})  # 11 where the last is a pair
    assert all(flags[number] == flags[number + 1] for number in range(0, 20, 2))
    assert flags == draw_validation(labels, groups, 0.2, seed=0) != draw_validation(labels, groups, 0.2, seed=1)


def test_same_picture_under_two_labels_is_on_one_side():
    labels, groups = ["a", "a", "a", "b", "b", "b"], ["1", "2", "3", "1", "4", "5"]
    for seed in range(20):
        flags = draw_validation(labels, groups, 0.34, seed)
        assert flags[0] == flags[3]
        assert all(not all(flags[start : start + 3]) and any(flags[start : start + 3]) for start in (0, 3))


def test_class_of_copies_alone_is_for_training():
    assert draw_validation(["a"] * 5, ["1"] * 5, 0.2, 0) == [False] * 5


def test_group_that_is_most_of_a_class_is_for_training():
    labels, groups = ["a"] * 40, ["1"] * 30 + [str(number) for number in range(2, 12)]
    for seed in range(20):
        flags = draw_validation(labels, groups, 0.2, seed)
        assert (sum(flags), any(flags[:30])) == (8, False)
    assert sum(draw_validation(["a"] * 10, ["1"] * 5 + ["2"] * 5, 0.2, 0)) == 5


def test_splits_of_the_source_are_kept(tmp_path):
    content = {f"{split}/{name}": data for split in ("train", "val", "test") for name, data in PETS.items()}
    report = imported(tmp_path, content)
    assert report.counts == {"train": 12, "val": 12, "test": 12}
    assert report.sentences()[0] == (
        "pets: 2 classes, 12 images to learn from, 12 to be checked with, 12 kept for testing."
    )
    assert all(name.startswith("val/") for name in map(open_dataset("pets").val.name, range(12)))


# Deletion and damage


def test_deleted_set_is_gone(tmp_path, home):
    imported(tmp_path, PETS)
    service.delete_dataset("pets")
    assert leftovers(home) == []
    assert "pets" not in DATASETS
    with pytest.raises(UnknownChoice):
        service.delete_dataset("pets")
    with pytest.raises(DatasetError, match="was not imported, so it cannot be deleted"):
        service.delete_dataset("flowers-mini")


@pytest.mark.parametrize("name", ["pets", "pets@1"])
def test_set_that_a_run_uses_is_not_deleted(tmp_path, monkeypatch, name):
    monkeypatch.setattr(service, "ensure_supervisor", lambda: None)
    imported(tmp_path, PETS)
    run = service.submit({"dataset": name, "name": "my run"})
    with pytest.raises(DatasetError, match=r"pets is used by my run\. Let it end, or cancel it, first"):
        service.delete_dataset("pets")
    assert is_here("pets")
    assert service.cancel(run.id).state == State.CANCELLED
    with pytest.raises(DatasetError, match="pets@1 is one version"):
        service.delete_dataset("pets@1")
    service.delete_dataset("pets")
    assert "pets" not in DATASETS
    assert service.config_of(service.run(run.id)) is None


def test_set_without_its_images_or_manifest_is_said_to_be_damaged(tmp_path, home):
    imported(tmp_path, PETS)
    (folder,) = (path for path in (home / "datasets").iterdir() if path.is_dir())
    shutil.rmtree(folder / "images")
    with pytest.raises(DlkitError, match=r"c/\d.png cannot be opened"):
        open_dataset("pets").train.read(0)
    (folder / "manifest-1.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"pets is damaged .*Delete it and import it again"):
        open_dataset("pets")
    (folder / "set.json").write_text("[]")
    assert "pets" not in DATASETS


def test_deletion_of_a_damaged_set_works(tmp_path, home):
    imported(tmp_path, PETS)
    (folder,) = (path for path in (home / "datasets").iterdir() if path.is_dir())
    (folder / "manifest-1.json").unlink()
    delete_import("pets")
    assert leftovers(home) == []
