"""Every data set of the catalog, opened: shipped and drawn ones as they are, the others as tiny official archives.

The archives are built here in the layout of the real ones and served from the loopback address.
"""

import dataclasses
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dlkit.catalog.datasets import DATASETS, OFFICIAL, DatasetEntry, dataset_entry
from dlkit.catalog.remote import RemoteFile
from dlkit.data import fetch as fetch_module
from dlkit.data.dataset import Dataset, is_here, open_dataset, prepare
from dlkit.data.fetch import FetchProgress
from dlkit.errors import DatasetError, DiskFullError, DownloadError, OfflineError, UnknownChoice
from tests.file_server import FileServer

LOCAL = [entry.name for entry in OFFICIAL.values() if not entry.files]
REMOTE = [entry.name for entry in OFFICIAL.values() if entry.files]
Files = dict[str, bytes]


def colour_of(number: int) -> tuple[int, int, int]:
    return (number * 37 % 256, number * 101 % 256, number * 17 % 256)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), colour_of(number)).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def tar_of(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def mat_of(**values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, values)
    return buffer.getvalue()


def idx_of(values: np.ndarray) -> bytes:
    sizes = np.array(values.shape, dtype=">i4").tobytes()
    return gzip.compress(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())


def cifar() -> Files:
    def records(labels: list[int]) -> bytes:
        rows = [bytes([label]) + b"".join(bytes([value]) * 1024 for value in colour_of(label)) for label in labels]
        return b"".join(rows)

    root = "cifar-10-batches-bin/"
    files = {f"{root}data_batch_{number}.bin": records([number, number + 4]) for number in range(1, 6)}
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    files |= {f"{root}test_batch.bin": records([3]), f"{root}batches.meta.txt": names.replace(" ", "\n").encode()}
    return {"cifar-10-binary.tar.gz": tar_of(files)}


def fashion() -> Files:
    images = np.arange(3 * 28 * 28, dtype=np.uint32).reshape(3, 28, 28).astype(np.uint8)
    labels = np.array([9, 0, 2], dtype=np.uint8)
    return {
        "train-images-idx3-ubyte.gz": idx_of(images),
        "train-labels-idx1-ubyte.gz": idx_of(labels),
        "t10k-images-idx3-ubyte.gz": idx_of(images[:1]),
        "t10k-labels-idx1-ubyte.gz": idx_of(labels[:1]),
    }


def flowers() -> Files:
    numbers = range(1, 9)
    return {
        "102flowers.tgz": tar_of({f"jpg/image_{number:05d}.jpg": picture(number) for number in numbers}),
        "imagelabels.mat": mat_of(labels=np.array([[1, 2, 3, 102, 1, 2, 77, 102]], dtype=np.uint8)),
        "setid.mat": mat_of(trnid=np.array([[4, 1, 7]]), valid=np.array([[2, 8]]), tstid=np.array([[3, 5, 6]])),
    }


def pets() -> Files:
    names = ["Abyssinian_1", "Abyssinian_2", "american_bulldog_10", "american_bulldog_11"]
    rows = ["Abyssinian_{} 1 1 1", "american_bulldog_{} 2 2 1"]
    images = {f"images/{name}.jpg": picture(number) for number, name in enumerate(names)}
    annotations = {
        "annotations/trainval.txt": "\n".join([rows[0].format(2), rows[1].format(10)]).encode(),
        "annotations/test.txt": "\n".join([rows[1].format(11), rows[0].format(1)]).encode(),
        "annotations/._trimaps": b"left by a Mac",
    }
    return {"images.tar.gz": tar_of(images), "annotations.tar.gz": tar_of(annotations)}


def food() -> Files:
    split = {"train": {"waffles": ["waffles/1"], "apple_pie": ["apple_pie/2", "apple_pie/3"]}}
    split["test"] = {"waffles": ["waffles/4"], "apple_pie": ["apple_pie/5"]}
    files = {f"food-101/meta/{part}.json": json.dumps(listed).encode() for part, listed in split.items()}
    for listed in split.values():
        for names in listed.values():
            files |= {f"food-101/images/{name}.jpg": picture(int(name[-1])) for name in names}
    return {"food-101.tar.gz": tar_of(files)}


def eurosat() -> Files:
    names = [f"{name}/{name}_{number}" for name in ("AnnualCrop", "SeaLake") for number in range(1, 11)]
    return {"EuroSAT.zip": zip_of({f"2750/{name}.jpg": picture(number) for number, name in enumerate(names)})}


def imagenette() -> Files:
    root = "imagenette2-160/"
    names = ["train/n02102040/a.JPEG", "train/n01440764/b.JPEG", "train/n01440764/c.JPEG", "val/n02102040/d.JPEG"]
    files = {f"{root}{name}": picture(number) for number, name in enumerate([*names, "val/n01440764/e.JPEG"])}
    return {"imagenette2-160.tgz": tar_of(files | {f"{root}noisy_imagenette.csv": b"path"})}


def stl() -> Files:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 3, 96, 96), dtype=np.uint8)
    names = "airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n"
    files = {
        "train_X.bin": pixels[:2].tobytes(),
        "train_y.bin": bytes([10, 1]),
        "test_X.bin": pixels[2:].tobytes(),
        "test_y.bin": bytes([5]),
        "unlabeled_X.bin": b"large",
        "class_names.txt": names.encode(),
    }
    return {"stl10_binary.tar.gz": tar_of({f"stl10_binary/{name}": content for name, content in files.items()})}


def dtd() -> Files:
    names = ["banded/banded_0002.jpg", "woven/woven_0001.jpg", "banded/banded_0005.jpg", "woven/woven_0100.jpg"]
    files = {f"dtd/images/{name}": picture(number) for number, name in enumerate(names)}
    files |= {
        "dtd/labels/train1.txt": "\n".join(names[:2]).encode(),
        "dtd/labels/val1.txt": "\n".join(names[2:]).encode(),
    }
    return {"dtd-r1.0.1.tar.gz": tar_of(files)}


OFFICIAL: dict[str, Callable[[], Files]] = {
    "cifar-10": cifar,
    "fashion-mnist": fashion,
    "flowers-102": flowers,
    "oxford-iiit-pet": pets,
    "food-101": food,
    "eurosat": eurosat,
    "imagenette": imagenette,
    "stl-10": stl,
    "dtd": dtd,
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    with FileServer(tmp_path / "served") as running:
        yield running


@pytest.fixture
def offer(server: FileServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DatasetEntry]:
    """Point a catalog entry at tiny files on the loopback server."""

    def offer_files(name: str, files: Files | None = None) -> DatasetEntry:
        files = OFFICIAL[name]() if files is None else files
        for file_name, content in files.items():
            (server.folder / file_name).write_bytes(content)
        remote = tuple(
            RemoteFile(f"{server.url}/{file_name}", file_name, "md5:" + hashlib.md5(content).hexdigest(), 0.001)
            for file_name, content in files.items()
        )
        entry = dataclasses.replace(DATASETS[name], files=remote)
        monkeypatch.setitem(DATASETS, name, entry)
        return entry

    return offer_files


def prepared(name: str) -> Dataset:
    list(prepare(name))
    return open_dataset(name)


def colours(dataset: Dataset, split: str) -> list[tuple[int, ...]]:
    part = dataset.split(split)
    return [part.read(index).getpixel((5, 5)) for index in range(len(part))]


def leftovers(home: Path) -> list[str]:
    """Everything below the folder of data sets but locks, which are empty."""
    names = (path.name for path in (home / "datasets").iterdir())
    return sorted(name for name in names if not name.endswith(".lock"))


# The catalog


def test_catalog_names_are_their_keys_and_every_remote_set_has_a_test_archive():
    assert all(name == entry.name for name, entry in DATASETS.items())
    assert set(OFFICIAL) == set(REMOTE)


@pytest.mark.parametrize("name", OFFICIAL)
def test_entry_is_filled_in(name):
    entry = DATASETS[name]
    assert entry.summary.endswith((".", "?"))
    assert entry.licence
    assert entry.source
    assert min(entry.classes, entry.train_images, entry.val_images, entry.image_size) > 0
    assert (entry.download_mb > 0) == bool(entry.files)
    assert all(file.url.startswith("https://") and len(file.digest) >= 12 for file in entry.files)


def test_official_archives_have_the_names_of_the_catalog():
    for name, build in OFFICIAL.items():
        assert list(build()) == [file.name for file in DATASETS[name].files]


def test_unknown_name_lists_the_choices():
    for use in (dataset_entry, is_here, open_dataset, lambda name: list(prepare(name))):
        with pytest.raises(UnknownChoice, match=r"no data set called '\.\./x'. Choose one of: flowers-mini, "):
            use("../x")


# Shipped and drawn


@pytest.mark.parametrize("name", LOCAL)
def test_local_set_is_as_the_catalog_says(name, home):
    entry = DATASETS[name]
    assert is_here(name)
    assert list(prepare(name)) == []
    dataset = open_dataset(name)
    assert (len(dataset.classes), len(dataset.train), len(dataset.val)) == (
        entry.classes,
        entry.train_images,
        entry.val_images,
    )
    for split in ("train", "val"):
        assert len(set(dataset.counts(split).values())) == 1
        part = dataset.split(split)
        assert part.labels.dtype == np.int64
        assert len({part.name(index) for index in range(len(part))}) == len(part)
        for label in range(entry.classes):
            image = part.read(int(part.indices_of(label)[0]))
            assert image.mode == "RGB"
            assert min(image.size) == entry.image_size
    assert dataset.fingerprint == open_dataset(name).fingerprint
    with pytest.raises(UnknownChoice, match="no split called 'test'"):
        dataset.split("test")


def test_shapes_differ_between_the_splits():
    dataset = open_dataset("shapes")
    train = {dataset.train.read(index).tobytes() for index in range(len(dataset.train))}
    val = {dataset.val.read(index).tobytes() for index in range(len(dataset.val))}
    assert len(train | val) == len(dataset.train) + len(dataset.val)


# Fetched


@pytest.mark.parametrize("name", REMOTE)
def test_remote_set_is_fetched_unpacked_and_opened(name, offer, home):
    entry = offer(name)
    assert not is_here(name)
    with pytest.raises(DatasetError, match=rf"must be fetched first .* python -m dlkit fetch {name}$"):
        open_dataset(name)
    steps = list(prepare(name))
    assert is_here(name)
    assert leftovers(home) == [name]
    assert {step.name for step in steps} == {file.name for file in entry.files}
    dataset = open_dataset(name)
    assert open_dataset(name).fingerprint == dataset.fingerprint
    for part in (dataset.train, dataset.val):
        assert all(part.read(index).mode == "RGB" for index in range(len(part)))
    assert list(prepare(name)) == []


def test_cifar_pixels_and_labels(offer):
    offer("cifar-10")
    dataset = prepared("cifar-10")
    assert dataset.classes[:2] == ("airplane", "automobile")
    assert dataset.train.labels.tolist() == [1, 5, 2, 6, 3, 7, 4, 8, 5, 9]
    assert colours(dataset, "train") == [colour_of(label) for label in dataset.train.labels]
    assert colours(dataset, "val") == [colour_of(3)]


def test_eurosat_split_takes_a_fifth_of_every_class_and_is_always_the_same(offer):
    offer("eurosat")
    dataset = prepared("eurosat")
    assert dataset.counts("train") == {"annual crop": 8, "sea lake": 8}
    assert dataset.counts("val") == {"annual crop": 2, "sea lake": 2}
    assert [dataset.val.name(index) for index in range(4)] == [
        "2750/AnnualCrop/AnnualCrop_4.jpg",
        "2750/AnnualCrop/AnnualCrop_8.jpg",
        "2750/SeaLake/SeaLake_1.jpg",
        "2750/SeaLake/SeaLake_2.jpg",
    ]


def test_stl_leaves_the_unlabelled_pictures_out(offer, home):
    offer("stl-10")
    prepared("stl-10")
    assert not (home / "datasets/stl-10/stl10_binary/unlabeled_X.bin").exists()


def same_as_torchvision(dataset: Dataset, split: str, oracle: object) -> None:
    """Compare labels and pixels with a torchvision data set, sorted, for the order is not promised."""
    part = dataset.split(split)
    ours = [(int(part.labels[index]), np.asarray(part.read(index)).tobytes()) for index in range(len(part))]
    theirs = [(int(label), np.asarray(image.convert("RGB")).tobytes()) for image, label in oracle]
    assert sorted(ours) == sorted(theirs)


def test_torchvision_reads_the_same_folders_alike(offer, home, monkeypatch):
    from torchvision import datasets as oracle
    from torchvision.datasets import flowers102, mnist

    monkeypatch.setattr(flowers102, "check_integrity", lambda *_: True)
    monkeypatch.setattr(oracle.STL10, "_check_integrity", lambda _: True)
    found = {}
    for name in REMOTE:
        offer(name)
        found[name] = prepared(name)
    root = home / "datasets"
    pairs = {
        ("flowers-102", "train"): oracle.Flowers102(root, "train"),
        ("flowers-102", "val"): oracle.Flowers102(root, "val"),
        ("oxford-iiit-pet", "train"): oracle.OxfordIIITPet(root, "trainval"),
        ("oxford-iiit-pet", "val"): oracle.OxfordIIITPet(root, "test"),
        ("food-101", "train"): oracle.Food101(root / "food-101", "train"),
        ("food-101", "val"): oracle.Food101(root / "food-101", "test"),
        ("imagenette", "train"): oracle.Imagenette(root / "imagenette", "train", "160px"),
        ("imagenette", "val"): oracle.Imagenette(root / "imagenette", "val", "160px"),
        ("stl-10", "train"): oracle.STL10(root / "stl-10", "train"),
        ("stl-10", "val"): oracle.STL10(root / "stl-10", "test"),
        ("dtd", "train"): oracle.DTD(root, "train"),
        ("dtd", "val"): oracle.DTD(root, "val"),
    }
    for (name, split), theirs in pairs.items():
        same_as_torchvision(found[name], split, theirs)
    assert found["stl-10"].classes == tuple(pairs["stl-10", "train"].classes)
    assert found["dtd"].classes == tuple(pairs["dtd", "train"].classes)
    assert found["oxford-iiit-pet"].classes == tuple(pairs["oxford-iiit-pet", "train"].classes)
    assert found["flowers-102"].classes == tuple(name.rstrip("?") for name in oracle.Flowers102.classes)
    assert found["food-101"].classes == tuple(name.replace("_", " ") for name in pairs["food-101", "train"].classes)
    assert found["imagenette"].classes == tuple(names[0] for names in pairs["imagenette", "train"].classes)
    assert found["fashion-mnist"].classes == tuple(name.lower() for name in oracle.FashionMNIST.classes)
    eurosat, folder = found["eurosat"], oracle.EuroSAT(root)
    names = [part.name(index) for part in (eurosat.train, eurosat.val) for index in range(len(part))]
    assert sorted(names) == sorted(str(Path(path).relative_to(root / "eurosat")) for path, _ in folder.samples)
    for part, title in (("train", "train"), ("val", "t10k")):
        (home / f"{title}.idx").write_bytes(
            gzip.decompress((root / f"fashion-mnist/{title}-images-idx3-ubyte.gz").read_bytes())
        )
        theirs = mnist.read_image_file(str(home / f"{title}.idx")).numpy()
        np.testing.assert_array_equal(found["fashion-mnist"].split(part).images, theirs)


# What can go wrong


def test_interrupted_fetch_goes_on_where_it_was(offer, server, home):
    offer("imagenette", {"imagenette2-160.tgz": imagenette()["imagenette2-160.tgz"]})
    server.drop_after = 500
    with pytest.raises(DownloadError, match="goes on from there"):
        list(prepare("imagenette"))
    assert not is_here("imagenette")
    server.drop_after = None
    assert len(prepared("imagenette").train) == 3
    assert server.requests[-1][1] == "bytes=500-"


@pytest.mark.parametrize("phase", ["fetching", "checking", "unpacking"])
def test_cancelled_preparation_shows_nothing_and_can_be_repeated(offer, home, phase):
    offer("food-101")
    steps = prepare("food-101")
    while next(steps).phase != phase:
        pass
    steps.close()
    assert not is_here("food-101")
    assert ".food-101.unpacking" not in leftovers(home)
    assert len(prepared("food-101").train) == 3
    assert leftovers(home) == ["food-101"]


def test_folder_of_a_killed_process_is_swept_away(offer, home):
    offer("dtd")
    (home / "datasets/.dtd.unpacking/dtd").mkdir(parents=True)
    (home / "datasets/.dtd.unpacking/dtd/stale").touch()
    prepared("dtd")
    assert not (home / "datasets/dtd/dtd/stale").exists()


def test_offline_sentence_names_what_works_without_network(offer, server):
    entry = offer("dtd")
    server.__exit__()
    with pytest.raises(
        OfflineError, match=rf"{entry.files[0].name} cannot be fetched: no connection .* flowers-mini, "
    ):
        list(prepare("dtd"))
    assert not is_here("dtd")


def hostile_tar(change: Callable[[tarfile.TarInfo], None]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("dtd/images/x.jpg")
        change(member)
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../escaped.jpg"},
        {"name": "dtd/../../escaped.jpg"},
        {"name": "/tmp/escaped.jpg"},
        {"name": "..\\escaped.jpg"},
        {"name": "C:/escaped.jpg"},
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "../../escaped.jpg"},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.CHRTYPE},
    ],
    ids=str,
)
def test_hostile_tar_is_refused(offer, home, changes):
    def change(member: tarfile.TarInfo) -> None:
        for name, value in changes.items():
            setattr(member, name, value)

    offer("dtd", {"dtd-r1.0.1.tar.gz": hostile_tar(change)})
    with pytest.raises(DatasetError, match="The archive was refused: "):
        list(prepare("dtd"))
    assert not is_here("dtd")
    assert not list(home.parent.rglob("escaped.jpg"))


@pytest.mark.parametrize("name", ["../escaped.jpg", "/escaped.jpg", "2750/link"])
def test_hostile_zip_is_refused(offer, home, name):
    member = zipfile.ZipInfo(name)
    member.external_attr = (0o120777 if name.endswith("link") else 0o100644) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, "/etc/passwd")
    offer("eurosat", {"EuroSAT.zip": buffer.getvalue()})
    with pytest.raises(DatasetError, match="The archive was refused: "):
        list(prepare("eurosat"))
    assert not is_here("eurosat")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("dtd", {"dtd-r1.0.1.tar.gz": b"no archive"}),
        ("dtd", {"dtd-r1.0.1.tar.gz": dtd()["dtd-r1.0.1.tar.gz"][:-300]}),
        ("dtd", {"dtd-r1.0.1.tar.gz": tar_of({"dtd/readme": b""})}),
        ("eurosat", {"EuroSAT.zip": b"no archive"}),
        ("eurosat", {"EuroSAT.zip": zip_of({"2750/readme": b""})}),
        ("cifar-10", {"cifar-10-binary.tar.gz": tar_of({"cifar-10-batches-bin/data_batch_1.bin": b"x"})}),
        ("fashion-mnist", fashion() | {"train-images-idx3-ubyte.gz": gzip.compress(b"\0\0\x0d\1")}),
        ("fashion-mnist", fashion() | {"train-images-idx3-ubyte.gz": b"no gzip"}),
        ("fashion-mnist", fashion() | {"t10k-labels-idx1-ubyte.gz": idx_of(np.array([10], dtype=np.uint8))}),
        ("fashion-mnist", fashion() | {"t10k-labels-idx1-ubyte.gz": idx_of(np.array([1, 2], dtype=np.uint8))}),
        ("flowers-102", flowers() | {"setid.mat": b"no matlab file"}),
        ("flowers-102", flowers() | {"imagelabels.mat": mat_of(labels=np.array([[1, 2]]))}),
        ("food-101", {"food-101.tar.gz": tar_of({"food-101/meta/train.json": b"{"})}),
    ],
)
def test_damaged_set_is_refused_with_a_sentence(offer, name, files):
    offer(name, files)
    with pytest.raises(DatasetError, match="damaged"):
        list(prepare(name))
    assert not is_here(name)


def test_name_that_comes_twice_in_an_archive_is_not_written_over(offer):
    files = {"dtd/labels/train1.txt": b"", "dtd/./labels/train1.txt": b"again"}
    offer("dtd", {"dtd-r1.0.1.tar.gz": tar_of(files)})
    with pytest.raises(DatasetError, match="could not be unpacked"):
        list(prepare("dtd"))


def test_missing_pictures_of_an_opened_set_are_said_when_it_is_listed_anew(offer, home):
    offer("dtd")
    prepared("dtd")
    (home / "datasets/dtd/.index.json").write_text("{")
    (home / "datasets/dtd/dtd/images/banded/banded_0002.jpg").unlink()
    with pytest.raises(DatasetError, match="and fetch it again"):
        open_dataset("dtd")


def test_index_says_the_same_as_a_new_listing(offer, home):
    offer("imagenette")
    remembered = prepared("imagenette")
    (home / "datasets/imagenette/.index.json").unlink()
    listed = open_dataset("imagenette")
    assert (remembered.classes, remembered.fingerprint) == (listed.classes, listed.fingerprint)
    assert remembered.train.names == listed.train.names
    assert remembered.val.labels.tolist() == listed.val.labels.tolist()


def test_full_disk_while_unpacking_is_said(offer, monkeypatch):
    offer("dtd")
    monkeypatch.setattr(os, "replace", full_disk_after(os.replace, calls=1))
    with pytest.raises(DiskFullError, match="MB needed for unpacking Describable Textures"):
        list(prepare("dtd"))
    assert not is_here("dtd")


def full_disk_after(function: Callable[..., None], calls: int) -> Callable[..., None]:
    left = SimpleNamespace(calls=calls)

    def limited(*arguments: object) -> None:
        left.calls -= 1
        if left.calls < 0:
            raise OSError(28, "No space left on device")
        function(*arguments)

    return limited


def _prepare_in_process(results: "multiprocessing.Queue[str]") -> None:
    try:
        results.put(f"{len(prepared('food-101').train)}")
    except Exception as error:
        results.put(repr(error))


def test_two_processes_that_prepare_the_same_set_both_succeed(offer, home, server, monkeypatch):
    offer("food-101")
    server.hang_seconds = 0.2
    monkeypatch.setattr(fetch_module, "LOCK_POLL_SECONDS", 0.05)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_prepare_in_process, args=(results,)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=20) for _ in processes] == ["3", "3"]
    for process in processes:
        process.join()
    assert leftovers(home) == ["food-101"]
    assert len(server.requests) == 1


def test_second_preparation_shows_that_it_waits(offer, monkeypatch):
    offer("food-101")
    monkeypatch.setattr(fetch_module, "LOCK_POLL_SECONDS", 0.01)
    first = prepare("food-101")
    next(first)
    second = prepare("food-101")
    assert next(second) == FetchProgress("food-101", 0, None, "waiting")
    list(first)
    assert {step.phase for step in second} <= {"waiting"}
    assert len(open_dataset("food-101").train) == 3
