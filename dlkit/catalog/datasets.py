"""The data sets that may be chosen: what each one is, where it comes from, how its files lie.

Beside those that are listed here there are the imported ones. Nothing here reads pictures or fetches: `dlkit.data`
does. Addresses and MD5 digests are those of torchvision 0.29, except that CIFAR-10 is its authors' binary version, so
that no pickle is ever read.
"""

from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dlkit.catalog.imported import VERSION_MARK, records
from dlkit.catalog.remote import RemoteFile
from dlkit.errors import UnknownChoice


@dataclass(frozen=True)
class DatasetEntry:
    """One data set. `image_size` is the typical short side in pixels.

    `layout` names the function in `dlkit.data.layouts` that finds images and labels; `options` are its arguments.
    An entry without `files` is always here: it is the `sample` that is shipped (a path below dlkit/samples), it is
    drawn by its layout, or it was imported: then `folder` and `version` tell where it lies. `pinned` is the name by
    which a run says which version it means; of sets that have none it is the name.
    """

    name: str
    title: str
    summary: str
    classes: int
    train_images: int
    val_images: int
    image_size: int
    licence: str
    source: str
    layout: str
    files: tuple[RemoteFile, ...] = ()
    sample: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    version: int = 0
    pinned: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pinned", self.pinned or self.name)

    @property
    def download_mb(self) -> float:
        """Megabytes to fetch; 0 for a set that is shipped or drawn."""
        return sum(file.size_mb for file in self.files)


def dataset_entry(name: str) -> DatasetEntry:
    """Return the entry called `name`; UnknownChoice if there is none."""
    if name not in DATASETS:
        raise UnknownChoice("data set", name, DATASETS)
    return DATASETS[name]


VARYING_LICENCE = "Research use; the licence of the photographs varies"
FASHION_CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
FASHION_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
FLOWERS_URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
PETS_URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"

_ENTRIES = (
    DatasetEntry(
        name="flowers-mini",
        title="Flowers (mini)",
        summary="Photographs of five flowers: learnt in seconds, yet real enough to need a pretrained model.",
        classes=5,
        train_images=500,
        val_images=125,
        image_size=160,
        licence="CC BY 2.0; the photographers are in ATTRIBUTION.csv",
        source="The TensorFlow Team, Flowers, 2019, https://www.tensorflow.org/datasets/catalog/tf_flowers",
        layout="class_folders",
        sample="flowers_mini",
    ),
    DatasetEntry(
        name="fashion-mnist-mini",
        title="Fashion-MNIST (mini)",
        summary="Small grey pictures of ten kinds of clothes: how far from ImageNet can a pretrained model still help?",
        classes=10,
        train_images=3000,
        val_images=500,
        image_size=28,
        licence="MIT",
        source="Xiao, Rasul, Vollgraf, Fashion-MNIST, 2017, https://arxiv.org/abs/1708.07747",
        layout="npz",
        sample="fashion_mnist_mini.npz",
    ),
    DatasetEntry(
        name="shapes",
        title="Shapes",
        summary="Six drawn shapes whose colour, size, angle and background mean nothing: what has the model looked at?",
        classes=6,
        train_images=360,
        val_images=120,
        image_size=96,
        licence="CC0: drawn by dlkit itself",
        source="dlkit.data.shapes",
        layout="shapes",
        options={"seed": 0, "train_per_class": 60, "val_per_class": 20},
    ),
    DatasetEntry(
        name="cifar-10",
        title="CIFAR-10",
        summary="Tiny colour pictures of animals and vehicles, the classic benchmark; validation is the test split.",
        classes=10,
        train_images=50_000,
        val_images=10_000,
        image_size=32,
        licence="No licence stated by its authors: cite the report; the licence of the photographs varies",
        source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, "
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        layout="cifar_binary",
        files=(
            RemoteFile(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "cifar-10-binary.tar.gz",
                "md5:c32a1d4ab5d03f1284b67883e8d87530",
                170.1,
            ),
        ),
    ),
    DatasetEntry(
        name="fashion-mnist",
        title="Fashion-MNIST",
        summary="Grey pictures of ten kinds of clothes, a harder MNIST; validation is the test split.",
        classes=10,
        train_images=60_000,
        val_images=10_000,
        image_size=28,
        licence="MIT",
        source="Xiao, Rasul, Vollgraf, Fashion-MNIST, 2017, https://arxiv.org/abs/1708.07747",
        layout="idx",
        files=(
            RemoteFile(
                FASHION_URL + "train-images-idx3-ubyte.gz",
                "train-images-idx3-ubyte.gz",
                "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                26.4,
            ),
            RemoteFile(
                FASHION_URL + "train-labels-idx1-ubyte.gz",
                "train-labels-idx1-ubyte.gz",
                "md5:25c81989df183df01b3e8a0aad5dffbe",
                0.03,
            ),
            RemoteFile(
                FASHION_URL + "t10k-images-idx3-ubyte.gz",
                "t10k-images-idx3-ubyte.gz",
                "md5:bef4ecab320f06d8554ea6380940ec79",
                4.4,
            ),
            RemoteFile(
                FASHION_URL + "t10k-labels-idx1-ubyte.gz",
                "t10k-labels-idx1-ubyte.gz",
                "md5:bb300cfdad3c16e7a12a480ee83cd310",
                0.01,
            ),
        ),
        options={"classes": FASHION_CLASSES},
    ),
    DatasetEntry(
        name="flowers-102",
        title="Oxford Flowers 102",
        summary="102 flowers with ten training photographs each: many classes, few examples; "
        "validation is the validation split.",
        classes=102,
        train_images=1020,
        val_images=1020,
        image_size=500,
        licence=VARYING_LICENCE,
        source="Nilsback and Zisserman, Automated Flower Classification over a Large Number of Classes, 2008, "
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        layout="flowers_102",
        files=(
            RemoteFile(FLOWERS_URL + "102flowers.tgz", "102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa", 344.9),
            RemoteFile(
                FLOWERS_URL + "imagelabels.mat", "imagelabels.mat", "md5:e0620be6f572b9609742df49c70aed4d", 0.001
            ),
            RemoteFile(FLOWERS_URL + "setid.mat", "setid.mat", "md5:a5357ecc9cb78c4bef273ce3793fc85c", 0.015),
        ),
    ),
    DatasetEntry(
        name="oxford-iiit-pet",
        title="Oxford-IIIT Pet",
        summary="37 breeds of cats and dogs: differences that a person must learn too; validation is the test split.",
        classes=37,
        train_images=3680,
        val_images=3669,
        image_size=330,
        licence="CC BY-SA 4.0; the licence of the photographs varies",
        source="Parkhi, Vedaldi, Zisserman, Jawahar, Cats and Dogs, 2012, https://www.robots.ox.ac.uk/~vgg/data/pets/",
        layout="oxford_pets",
        files=(
            RemoteFile(PETS_URL + "images.tar.gz", "images.tar.gz", "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c", 791.9),
            RemoteFile(
                PETS_URL + "annotations.tar.gz", "annotations.tar.gz", "md5:95a8c909bbe2e81eed6a22bccdf3f68f", 19.2
            ),
        ),
    ),
    DatasetEntry(
        name="food-101",
        title="Food-101",
        summary="101 dishes, with wrong labels left in the training part on purpose; validation is the test split.",
        classes=101,
        train_images=75_750,
        val_images=25_250,
        image_size=384,
        licence=VARYING_LICENCE,
        source="Bossard, Guillaumin, Van Gool, Food-101, 2014, https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        layout="food_101",
        files=(
            RemoteFile(
                "https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                "food-101.tar.gz",
                "md5:85eeb15f3717b99a5da872d97d918f87",
                4996.3,
            ),
        ),
    ),
    DatasetEntry(
        name="eurosat",
        title="EuroSAT",
        summary="Land use seen by the Sentinel-2 satellite: pictures unlike ImageNet; "
        "there is no official split, so one image in five is validation, chosen by a fixed seed.",
        classes=10,
        train_images=21_600,
        val_images=5400,
        image_size=64,
        licence="MIT",
        source="Helber, Bischke, Dengel, Borth, EuroSAT, 2019, https://arxiv.org/abs/1709.00029",
        layout="unsplit_class_folders",
        files=(
            RemoteFile(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "EuroSAT.zip",
                "md5:c8fa014336c82ac7804f0398fcb19387",
                94.3,
            ),
        ),
        options={"folder": "2750", "seed": 0, "val_share": 0.2},
    ),
    DatasetEntry(
        name="imagenette",
        title="Imagenette (160 px)",
        summary="Ten easy classes of ImageNet: a pretrained model has seen them all; validation is the official split.",
        classes=10,
        train_images=9469,
        val_images=3925,
        image_size=160,
        licence=VARYING_LICENCE,
        source="Howard, Imagenette, 2019, https://github.com/fastai/imagenette",
        layout="class_folders",
        files=(
            RemoteFile(
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
                "imagenette2-160.tgz",
                "md5:e793b78cc4c9e9a4ccc0c1155377a412",
                99.0,
            ),
        ),
        options={
            "folder": "imagenette2-160",
            "titles": {
                "n01440764": "tench",
                "n02102040": "English springer",
                "n02979186": "cassette player",
                "n03000684": "chain saw",
                "n03028079": "church",
                "n03394916": "French horn",
                "n03417042": "garbage truck",
                "n03425413": "gas pump",
                "n03445777": "golf ball",
                "n03888257": "parachute",
            },
        },
    ),
    DatasetEntry(
        name="stl-10",
        title="STL-10",
        summary="Ten animals and vehicles with 500 training pictures each, made to reward pretraining; "
        "validation is the test split.",
        classes=10,
        train_images=5000,
        val_images=8000,
        image_size=96,
        licence=VARYING_LICENCE,
        source="Coates, Lee, Ng, An Analysis of Single-Layer Networks in Unsupervised Feature Learning, 2011, "
        "https://cs.stanford.edu/~acoates/stl10/",
        layout="stl_10",
        files=(
            RemoteFile(
                "https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
                "stl10_binary.tar.gz",
                "md5:91f7769df0f17e558f3565bffb0c7dfb",
                2640.4,
            ),
        ),
        options={"leave_out": ("unlabeled_X.bin",)},
    ),
    DatasetEntry(
        name="dtd",
        title="Describable Textures",
        summary="47 textures named by adjectives such as bubbly or woven: no objects at all; "
        "training and validation are the first official partition.",
        classes=47,
        train_images=1880,
        val_images=1880,
        image_size=450,
        licence=VARYING_LICENCE,
        source="Cimpoi et al., Describing Textures in the Wild, 2014, https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        layout="dtd",
        files=(
            RemoteFile(
                "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                "dtd-r1.0.1.tar.gz",
                "md5:fff73e5086ae6bdbea199a49dfb8a4c1",
                625.2,
            ),
        ),
        options={"partition": 1},
    ),
)


class ImportedSets(Mapping[str, DatasetEntry]):
    """The imported sets as they are now: by name in their newest version, and each version as NAME@2.

    Only the names themselves are listed.
    """

    def __getitem__(self, key: str) -> DatasetEntry:
        if not isinstance(key, str):  # whatever stands in a record or a form
            raise KeyError(key)
        known = records()
        name, mark, version = key.rpartition(VERSION_MARK)
        record = known.get(name if mark else key)
        if record is None:
            raise KeyError(key)
        versions = record["versions"]
        for number in versions[-1:] if not mark else versions:
            if not mark or str(number["number"]) == version:
                return _imported_entry(key, record, number)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(records())

    def __len__(self) -> int:
        return len(records())


def _imported_entry(key: str, record: Mapping[str, Any], version: Mapping[str, Any]) -> DatasetEntry:
    number, newest = version["number"], record["versions"][-1]["number"]
    return DatasetEntry(
        name=key,
        title=record["name"] if number == newest else f"{record['name']} (version {number})",
        summary=f"Imported from {record['source']} on {record['imported_at'][:10]}.",
        classes=version["classes"],
        train_images=version["train"],
        val_images=version["val"],
        image_size=version["image_size"],
        licence=record.get("licence", "Your own"),  # of a copy that of what was copied
        source=record.get("credit", record["source"]),
        layout="manifest",
        options={"version": number},
        folder=record["folder"],
        version=number,
        pinned=f"{record['name']}{VERSION_MARK}{number}",
    )


OFFICIAL: dict[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}
#: all that may be chosen; the imported ones are read only
DATASETS: ChainMap[str, DatasetEntry] = ChainMap(OFFICIAL, ImportedSets())  # type: ignore[arg-type]
