"""How the pictures and labels of each kind of data set lie on disk: one small function a layout.

A layout takes the folder (or the file) and the options of its catalog entry and returns a Listing. What it finds
missing or misshapen it raises as it comes, most often OSError or ValueError: `dlkit.data.dataset` words the message.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.data.flower_names import FLOWER_NAMES
from dlkit.data.shapes import SHAPES, draw_shapes
from dlkit.data.split import ArraySplit, FileSplit, Split, StoredSplit, lot

PICTURE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
MANIFEST_FORMAT = 1
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Listing:
    """What a layout found."""

    classes: tuple[str, ...]
    train: Split
    val: Split


def class_folders(folder: Path, options: Options) -> Listing:
    """train/CLASS/picture and val/CLASS/picture; `titles` may give the folders readable names."""
    inner = options.get("folder", "")
    root = folder / inner
    names = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    train, val = (
        _files(
            folder,
            ((picture, label) for label, name in enumerate(names) for picture in _pictures(root / part / name)),
        )
        for part in ("train", "val")
    )
    titles = options.get("titles", {})
    return Listing(tuple(titles.get(name, name) for name in names), train, val)


def unsplit_class_folders(folder: Path, options: Options) -> Listing:
    """CLASS/picture; of each class the share `val_share` becomes validation, the same on every machine."""
    root = folder / options["folder"]
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    train, val = [], []
    for label, name in enumerate(names):
        pictures = sorted(_pictures(root / name), key=lambda picture: lot(picture.name, options["seed"]))
        count = round(len(pictures) * options["val_share"])
        val += [(picture, label) for picture in sorted(pictures[:count])]
        train += [(picture, label) for picture in sorted(pictures[count:])]
    return Listing(tuple(_spaced(name) for name in names), _files(folder, train), _files(folder, val))


def npz(path: Path, options: Options) -> Listing:
    """One .npz file with train_images, train_labels, test_images, test_labels and classes."""
    with np.load(path, allow_pickle=False) as arrays:
        return Listing(
            tuple(str(name) for name in arrays["classes"]),
            _array("train", arrays["train_images"], arrays["train_labels"]),
            _array("test", arrays["test_images"], arrays["test_labels"]),
        )


def shapes(folder: Path, options: Options) -> Listing:
    """Drawn, not read: the pictures follow from the seed."""
    train, train_labels = draw_shapes(options["seed"], options["train_per_class"])
    val, val_labels = draw_shapes(options["seed"] + 1, options["val_per_class"])
    return Listing(SHAPES, _array("train", train, train_labels), _array("test", val, val_labels))


def cifar_binary(folder: Path, options: Options) -> Listing:
    """Records of one label byte and 3 × 32 × 32 pixel bytes: https://www.cs.toronto.edu/~kriz/cifar.html."""
    root = folder / "cifar-10-batches-bin"

    def read(title: str, names: Iterable[str]) -> ArraySplit:
        records = np.concatenate([np.fromfile(root / name, dtype=np.uint8) for name in names]).reshape(-1, 3073)
        return _array(title, records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0])

    train = read("train", [f"data_batch_{number}.bin" for number in range(1, 6)])
    return Listing(_words(root / "batches.meta.txt"), train, read("test", ["test_batch.bin"]))


def idx(folder: Path, options: Options) -> Listing:
    """The four gzipped files of MNIST and its followers: http://yann.lecun.com/exdb/mnist/."""

    def read(title: str, prefix: str) -> ArraySplit:
        images = _idx_array(folder / f"{prefix}-images-idx3-ubyte.gz")
        return _array(title, images, _idx_array(folder / f"{prefix}-labels-idx1-ubyte.gz"))

    return Listing(tuple(options["classes"]), read("train", "train"), read("test", "t10k"))


def stl_10(folder: Path, options: Options) -> Listing:
    """Planes of 3 × 96 × 96 bytes, column after column, and labels from 1 on; mapped, not loaded."""
    root = folder / "stl10_binary"

    def read(title: str) -> ArraySplit:
        planes = np.memmap(root / f"{title}_X.bin", dtype=np.uint8, mode="r").reshape(-1, 3, 96, 96)
        labels = np.fromfile(root / f"{title}_y.bin", dtype=np.uint8).astype(np.int64) - 1
        return _array(title, planes.transpose(0, 3, 2, 1), labels)

    return Listing(_words(root / "class_names.txt"), read("train"), read("test"))


def flowers_102(folder: Path, options: Options) -> Listing:
    """jpg/image_00001.jpg, with labels and splits (both counted from 1) in two MATLAB files."""
    labels = _matlab_arrays(folder / "imagelabels.mat")["labels"]
    splits = _matlab_arrays(folder / "setid.mat")
    train, val = (
        _files(folder, ((folder / "jpg" / f"image_{number:05d}.jpg", labels[number - 1] - 1) for number in splits[key]))
        for key in ("trnid", "valid")
    )
    return Listing(FLOWER_NAMES, train, val)


def oxford_pets(folder: Path, options: Options) -> Listing:
    """images/NAME_12.jpg, listed with their labels (from 1) in annotations/trainval.txt and test.txt."""
    rows = {
        part: [line.split() for line in (folder / "annotations" / f"{part}.txt").read_text().splitlines()]
        for part in ("trainval", "test")
    }
    train, val = (
        _files(folder, ((folder / "images" / f"{row[0]}.jpg", int(row[1]) - 1) for row in rows[part]))
        for part in ("trainval", "test")
    )
    breeds = {int(row[1]): row[0].rpartition("_")[0] for row in rows["trainval"]}
    return Listing(tuple(breeds[label].replace("_", " ").title() for label in sorted(breeds)), train, val)


def food_101(folder: Path, options: Options) -> Listing:
    """images/CLASS/123.jpg, listed by class in meta/train.json and test.json."""
    root = folder / "food-101"
    listed = {part: json.loads((root / "meta" / f"{part}.json").read_text()) for part in ("train", "test")}
    names = sorted(listed["train"])
    train, val = (
        _files(
            folder,
            (
                (root / "images" / f"{picture}.jpg", label)
                for label, name in enumerate(names)
                for picture in listed[part][name]
            ),
        )
        for part in ("train", "test")
    )
    return Listing(tuple(name.replace("_", " ") for name in names), train, val)


def dtd(folder: Path, options: Options) -> Listing:
    """images/CLASS/picture, listed for each of ten partitions in labels/train1.txt, val1.txt and so on."""
    root = folder / "dtd"
    listed = {
        part: (root / "labels" / f"{part}{options['partition']}.txt").read_text().split() for part in ("train", "val")
    }
    names = sorted({line.partition("/")[0] for line in listed["train"]})
    train, val = (
        _files(folder, ((root / "images" / line, names.index(line.partition("/")[0])) for line in listed[part]))
        for part in ("train", "val")
    )
    return Listing(tuple(names), train, val)


def manifest(folder: Path, options: Options) -> Listing:
    """An imported set: images/DIGEST, told by one manifest a version; `dlkit.data.importing` writes it."""
    told = json.loads((folder / manifest_name(options["version"])).read_text())
    if told["format"] != MANIFEST_FORMAT:
        raise ValueError(f"its manifest is of format {told['format']}, not {MANIFEST_FORMAT}")
    pictures = told["pictures"]
    labels, splits = np.array(pictures["label"], dtype=np.int64), np.array(pictures["split"])

    def part(split: str) -> StoredSplit:
        indices = np.flatnonzero(splits == split)
        if not len(indices):
            raise ValueError("a split has no pictures")
        paths = tuple(image_path(pictures["sha256"][index]) for index in indices)
        return StoredSplit(labels[indices], folder, paths, tuple(pictures["name"][index] for index in indices))

    return Listing(tuple(told["classes"]), part("train"), part("val"))


def manifest_name(version: int) -> str:
    """Return the name of a version's manifest in the folder of its set."""
    return f"manifest-{version}.json"


def image_path(digest: str) -> str:
    """Return where an imported picture lies in the folder of its set."""
    return f"images/{digest}"


LAYOUTS: dict[str, Callable[[Path, Options], Listing]] = {
    layout.__name__: layout
    for layout in (
        class_folders,
        unsplit_class_folders,
        npz,
        shapes,
        cifar_binary,
        idx,
        stl_10,
        flowers_102,
        oxford_pets,
        food_101,
        dtd,
        manifest,
    )
}


def _files(folder: Path, pictures: Iterable[tuple[Path, int]]) -> FileSplit:
    pairs = list(pictures)
    if not pairs:
        raise ValueError("a split has no pictures")
    labels = np.array([label for _, label in pairs], dtype=np.int64)
    return FileSplit(labels, folder, tuple(path.relative_to(folder).as_posix() for path, _ in pairs))


def _array(title: str, images: np.ndarray, labels: np.ndarray) -> ArraySplit:
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"{len(images)} pictures have {len(labels)} labels")
    return ArraySplit(labels.astype(np.int64), images, title)


def _pictures(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.suffix.lower() in PICTURE_ENDINGS)
    return sorted(path for path in found if not path.name.startswith("."))


def _spaced(name: str) -> str:
    """AnnualCrop -> annual crop"""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _words(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text().split())


def _matlab_arrays(path: Path) -> dict[str, np.ndarray]:
    from scipy.io import loadmat, matlab  # half a second that only this layout needs

    try:
        return loadmat(path, squeeze_me=True)
    except matlab.MatReadError as error:
        raise ValueError(f"{path.name} is no MATLAB file") from error


def _idx_array(path: Path) -> np.ndarray:
    """Read unsigned bytes of any shape: two zero bytes, type 8, number of dimensions, sizes as big-endian int32."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path.name} is no IDX file of bytes")
    dimensions = data[3]
    shape = np.frombuffer(data, ">i4", dimensions, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
