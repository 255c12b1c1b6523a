"""The files of a run that can be read without torch: the model's description and zip, and the validation results."""

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlkit import files
from dlkit.errors import BundleError

DESCRIPTION = "model.json"
FORMAT = "dlkit-classifier/1"
FIELDS = {"backbone": str, "classes": list, "preprocessing": dict, "weights": str, "sha256": str, "about": dict}
IMAGENET = "imagenet"  # what stands for the ImageNet model where a run's id could stand
WEIGHTS = re.compile(r"model-[0-9a-f]{12}\.safetensors")

README = """A fine-tuned image classifier in two files: the weights as safetensors, and model.json with the backbone,
the class names, the preprocessing and the checksum. From this folder alone, wherever it lies:

    from pathlib import Path
    from dlkit.data.images import read_image
    from dlkit.engine.prediction import predict
    print(predict(Path("this folder"), [read_image(Path("photo.jpg"))]))
"""


@dataclass(frozen=True)
class Validation:
    """What the kept model said of every validation picture: labels (N,) int64, probabilities (N, C) float32."""

    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The class with the highest probability for each picture, (N,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def losses(self) -> np.ndarray:
        """The cross-entropy of each picture in nats, (N,)."""
        right = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        return -np.log(np.clip(right, 1e-12, 1))

    def confusion(self) -> np.ndarray:
        """Return how often a picture of class *row* was called class *column*, (C, C)."""
        classes = self.probabilities.shape[1]
        cells = np.bincount(self.labels * classes + self.predicted, minlength=classes * classes)
        return cells.reshape(classes, classes)

    def most_wrong(self, count: int) -> np.ndarray:
        """Return the wrongly called pictures, highest loss first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.losses[wrong], kind="stable")][:count]

    def in_cell(self, actual: int, predicted: int) -> np.ndarray:
        """Return the pictures behind one cell of the confusion matrix, highest loss first."""
        found = np.flatnonzero((self.labels == actual) & (self.predicted == predicted))
        return found[np.argsort(-self.losses[found], kind="stable")]

    def save(self, path: Path) -> None:
        """Write both arrays so that the file is either whole or the one before."""
        buffer = io.BytesIO()
        np.savez(buffer, labels=self.labels, probabilities=self.probabilities)
        files.write_whole(path, buffer.getvalue())


def read_validation(folder: Path) -> Validation | None:
    """Return the validation results of a run's folder; None where there are none yet, BundleError where damaged."""
    path = folder / "validation.npz"
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Validation(arrays["labels"], arrays["probabilities"])
    except (ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile):
        raise BundleError(f"{path.name} must hold the run's validation results; it is damaged. Train again.") from None


def read_description(folder: Path) -> Mapping[str, Any]:
    """Return what stands in the `model.json` of a bundle folder; BundleError where that is missing or not ours."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise BundleError("There is no saved model here: the run has not kept one, or its folder was removed.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise BundleError(f"{DESCRIPTION} must be JSON and is not: the model's folder is damaged.") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise BundleError(f"{DESCRIPTION} must have the format {FORMAT}; it is something else.")
    for name, kind in FIELDS.items():
        if not isinstance(description.get(name), kind):
            raise BundleError(f"{DESCRIPTION} must have the field {name!r} as dlkit writes it. Export the model again.")
    if not description["classes"] or not all(isinstance(name, str) for name in description["classes"]):
        raise BundleError(f"{DESCRIPTION} must list the class names; it does not. Export the model again.")
    return description


def read_files(folder: Path) -> tuple[Mapping[str, Any], bytes]:
    """Return the description and the weights that belong together, still unchecked; BundleError where one is missing.

    Only a plain file name is followed, so a foreign `model.json` cannot point out of its folder.
    """
    for _ in range(3):  # a training run may have replaced the weights between the two reads
        description = read_description(folder)
        name = description.get("weights")
        if not isinstance(name, str) or not WEIGHTS.fullmatch(name):
            raise BundleError(f"{DESCRIPTION} must name a weights file beside it; it names {str(name)[:40]!r}.")
        with contextlib.suppress(FileNotFoundError):
            return description, (folder / name).read_bytes()
    raise BundleError(f"The weights {name} must lie beside {DESCRIPTION}; they are not there. Export the model again.")


def has_bundle(folder: Path) -> bool:
    """Tell whether a model has been saved in this bundle folder."""
    return (folder / DESCRIPTION).is_file()


def zip_bundle(folder: Path) -> bytes:
    """Return a zip of the bundle: the weights, their description, and a note on how to load them."""
    description, weights = read_files(folder)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("README.txt", README)
        archive.writestr(DESCRIPTION, json.dumps(description, indent=1, ensure_ascii=False))
        archive.writestr(description["weights"], weights)
    return buffer.getvalue()
