"""A saved classifier: a folder with safetensors and one JSON, from which it is rebuilt alone, wherever the folder lies.

`model.json` names the weights file and its sha256. It is replaced last, so that at every instant it names a whole file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from dlkit import __version__, files
from dlkit.catalog.backbones import BACKBONES
from dlkit.engine.model import Classifier, build
from dlkit.engine.preprocess import Preprocessing
from dlkit.errors import BundleError
from dlkit.runs.artifacts import DESCRIPTION, FORMAT, read_files


@dataclass(frozen=True)
class Bundle:
    """A classifier with all that predicting needs: `about` is what was recorded of its training."""

    model: Classifier
    backbone: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    about: Mapping[str, Any]


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write the bundle into `folder`, in place of the one there; a reader sees the old one or the new one, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.model.state_dict().items()}
    data = save(state)
    digest = hashlib.sha256(data).hexdigest()
    weights = f"model-{digest[:12]}.safetensors"
    description = {
        "format": FORMAT,
        "dlkit": __version__,
        "torch": torch.__version__,
        "backbone": bundle.backbone,
        "classes": list(bundle.classes),
        "preprocessing": bundle.preprocessing.to_json(),
        "weights": weights,
        "sha256": digest,
        "about": dict(bundle.about),
    }
    files.write_whole(folder / weights, data)
    files.write_whole(folder / DESCRIPTION, json.dumps(description, indent=1, ensure_ascii=False).encode())
    for old in folder.glob("model-*.safetensors"):
        if old.name != weights:
            old.unlink(missing_ok=True)


def load_bundle(folder: Path) -> Bundle:
    """Rebuild the classifier of a folder, in eval mode; BundleError where anything is missing, damaged or foreign."""
    return _rebuild(*read_files(folder))


def _rebuild(description: Mapping[str, Any], data: bytes) -> Bundle:
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise BundleError("The weights do not have the checksum in model.json: the file was damaged or changed.")
    backbone, classes = description.get("backbone"), description.get("classes")
    if not isinstance(backbone, str) or backbone not in BACKBONES:
        raise BundleError(f"The model's backbone {str(backbone)[:40]!r} is not in the catalog of this version.")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise BundleError("model.json must list the class names; it does not.")
    model = build(BACKBONES[backbone], len(classes))
    try:
        state = load(data)
    except SafetensorError:
        raise BundleError("The weights must be a safetensors file; they are not.") from None
    _fill(model, state)
    preprocessing = Preprocessing.from_json(description.get("preprocessing", {}))
    return Bundle(model.eval(), backbone, tuple(classes), preprocessing, description.get("about", {}))


def _fill(model: Classifier, state: Mapping[str, torch.Tensor]) -> None:
    """Load the weights after checking names, shapes, and that every number is finite."""
    wanted = model.state_dict()
    if state.keys() != wanted.keys():
        name = min(state.keys() ^ wanted.keys())
        raise BundleError(f"The weights do not belong to this backbone: {name!r} is in only one of the two.")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise BundleError(f"{name} must have the shape {tuple(wanted[name].shape)}; got {tuple(tensor.shape)}.")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(f"{name} has numbers that are not finite: this model cannot predict.")
    model.load_state_dict(dict(state))
