"""A saved classifier: whole or not there, loaded alone anywhere, and refused with a sentence where it is not ours."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load, save
from sklearn.metrics import confusion_matrix
from torch.nn import functional

from dlkit.catalog.backbones import BACKBONES
from dlkit.engine import bundle as bundles
from dlkit.engine.bundle import Bundle, load_bundle, save_bundle
from dlkit.engine.model import build
from dlkit.engine.prediction import predict
from dlkit.engine.preprocess import preprocessing_of
from dlkit.errors import BundleError
from dlkit.runs.artifacts import DESCRIPTION, Validation, has_bundle, read_description, read_validation, zip_bundle

ROOT = Path(__file__).parents[1]
LITE0 = BACKBONES["efficientnet-lite0"]
CLASSES = ("süß <b>", "桜", "tulips")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(seed: int = 0, **changes: Any) -> Bundle:
    values = {
        "model": build(LITE0, 3, seed=seed).eval(),
        "backbone": LITE0.name,
        "classes": CLASSES,
        "preprocessing": preprocessing_of(LITE0, 64),
        "about": {"name": "a run", "epoch": 2},
    }
    return Bundle(**(values | changes))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_bundle(make(), folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved bundle, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def weights_in(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def describe_as(folder: Path, **changes: Any) -> None:
    path = folder / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# There and back


def test_bundle_comes_back_as_it_was_saved(saved):
    bundle, loaded = make(), load_bundle(saved)
    assert same_weights(bundle.model, loaded.model)
    assert (loaded.backbone, loaded.classes, loaded.preprocessing, loaded.about) == (
        bundle.backbone, bundle.classes, bundle.preprocessing, bundle.about,
    )  # fmt: skip
    assert not loaded.model.training
    assert names_in(saved) == [weights_in(saved).name, DESCRIPTION]


def test_bundle_predicts_the_same_from_another_folder_in_another_process_with_another_home(saved, tmp_path):
    elsewhere = Path(shutil.copytree(saved, tmp_path / "moved" / "Modell ü"))
    picture = tmp_path / "coffee.png"
    Image.fromarray(skimage.data.coffee()).save(picture)
    code = (
        "import json, sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from dlkit.data.images import read_image; from dlkit.engine.prediction import predict\n"
        "(top,) = predict(Path(sys.argv[1]), [read_image(Path(sys.argv[2]))], 3, 'cpu')\n"
        "print(json.dumps([[guess.label, guess.probability] for guess in top]))"
    )
    environment = {"DLKIT_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", code, elsewhere, picture],
        cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    (here,) = predict(saved, [Image.fromarray(skimage.data.coffee())], 3, "cpu")
    assert json.loads(done.stdout) == [[guess.label, guess.probability] for guess in here]
    assert {guess.label for guess in here} == set(CLASSES)


def test_channels_last_model_in_training_on_any_layout_is_saved_the_same(saved, tmp_path):
    model = make().model.to(memory_format=torch.channels_last).train()
    save_bundle(make(model=model), tmp_path / "model")
    assert names_in(tmp_path / "model") == names_in(saved)


def test_newly_saved_model_replaces_the_one_before(folder):
    newer = make(1)
    save_bundle(newer, folder)
    assert same_weights(load_bundle(folder).model, newer.model)
    assert len(names_in(folder)) == 2


def test_saving_the_same_model_again_changes_nothing(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    save_bundle(make(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


class DiskFullError(OSError):
    """Stands for the write that fails."""


@pytest.mark.parametrize("stage", ["weights bytes", "weights name", "description bytes", "description name"])
def test_save_that_fails_at_any_stage_leaves_the_old_model(folder, monkeypatch, stage):
    what, which = stage.split()
    ending = ".safetensors" if what == "weights" else DESCRIPTION
    real_open, real_replace = Path.open, os.replace

    def open_until_full(path, *arguments, **options):
        file = real_open(path, *arguments, **options)
        if ending in path.name and path.suffix == ".tmp" and which == "bytes":
            file.write(b"half")
            file.close()
            raise DiskFullError
        return file

    def replace_until_full(path, target):
        if target.name.endswith(ending) and which == "name":
            raise DiskFullError
        real_replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_until_full)
        patch.setattr(os, "replace", replace_until_full)
        with pytest.raises(DiskFullError):
            save_bundle(make(1), folder)
    assert same_weights(load_bundle(folder).model, make().model)
    assert not list(folder.glob(".*"))
    save_bundle(make(1), folder)
    assert len(names_in(folder)) == 2


def test_model_that_is_replaced_between_the_two_reads_is_read_anew(folder, monkeypatch):
    real_read, newer = Path.read_bytes, make(1)

    def replaced_meanwhile(path):
        monkeypatch.setattr(Path, "read_bytes", real_read)
        save_bundle(newer, folder)
        return real_read(path)

    monkeypatch.setattr(Path, "read_bytes", replaced_meanwhile)
    assert same_weights(load_bundle(folder).model, newer.model)


# Damage


def flip_a_byte(folder: Path) -> None:
    data = bytearray(weights_in(folder).read_bytes())
    data[len(data) // 2] ^= 1
    weights_in(folder).write_bytes(data)


def truncate(folder: Path) -> None:
    weights_in(folder).write_bytes(weights_in(folder).read_bytes()[:-100])


def with_right_sum(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    """Return a damage to the tensors that the checksum knows."""

    def damage(folder: Path) -> None:
        state = load(weights_in(folder).read_bytes())
        change(state)
        put(folder, save(state))

    return damage


def put(folder: Path, data: bytes) -> None:
    weights_in(folder).write_bytes(data)
    describe_as(folder, sha256=hashlib.sha256(data).hexdigest())


def poison(state: dict[str, torch.Tensor]) -> None:
    state["head.bias"][0] = torch.nan


def infinite(state: dict[str, torch.Tensor]) -> None:
    state["head.weight"][1, 2] = torch.inf


def drop(state: dict[str, torch.Tensor]) -> None:
    del state["head.bias"]


def reshape(state: dict[str, torch.Tensor]) -> None:
    state["head.weight"] = state["head.weight"].T.contiguous()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped byte": (flip_a_byte, "do not have the checksum"),
    "truncated": (truncate, "do not have the checksum"),
    "empty weights": (lambda folder: weights_in(folder).write_bytes(b""), "do not have the checksum"),
    "no weights": (lambda folder: weights_in(folder).unlink(), "must lie beside model.json; they are not there"),
    "no description": (lambda folder: (folder / DESCRIPTION).unlink(), "There is no saved model here"),
    "no folder": (lambda folder: shutil.rmtree(folder), "There is no saved model here"),
    "not JSON": (lambda folder: (folder / DESCRIPTION).write_text("{"), "must be JSON and is not"),
    "not text": (lambda folder: (folder / DESCRIPTION).write_bytes(b"\xff\xfe\x00"), "must be JSON and is not"),
    "deep JSON": (lambda folder: (folder / DESCRIPTION).write_text("[" * 200_000), "must be JSON and is not"),
    "foreign JSON": (lambda folder: (folder / DESCRIPTION).write_text('{"a": 1}'), "must have the format"),
    "a list": (lambda folder: (folder / DESCRIPTION).write_text("[]"), "must have the format"),
    "later format": (lambda folder: describe_as(folder, format="dlkit-classifier/2"), "must have the format"),
    "one class more": (lambda folder: describe_as(folder, classes=[*CLASSES, "x"]), r"shape \(4.*; got \(3"),
    "no classes": (lambda folder: describe_as(folder, classes=[]), "must list the class names"),
    "classes by number": (lambda folder: describe_as(folder, classes=[1, 2, 3]), "must list the class names"),
    "classes as text": (lambda folder: describe_as(folder, classes="abc"), "must have the field 'classes'"),
    "unknown backbone": (lambda folder: describe_as(folder, backbone="x" * 99), f"'{'x' * 40}' is not in the catalog"),
    "backbone as a list": (lambda folder: describe_as(folder, backbone=[]), "must have the field 'backbone'"),
    "another backbone": (lambda folder: describe_as(folder, backbone="resnet18"), "do not belong to this backbone"),
    "no preprocessing": (lambda folder: describe_as(folder, preprocessing=None), "must have the field 'preprocessing'"),
    "endless size": (lambda folder: describe_as(folder, preprocessing={"size": float("inf")}), "preprocessing must"),
    "no sum": (lambda folder: describe_as(folder, sha256=None), "must have the field 'sha256'"),
    "no name": (lambda folder: describe_as(folder, weights=None), "must have the field 'weights'"),
    "folder as name": (lambda folder: describe_as(folder, weights=".."), "must name a weights file beside it"),
    "NUL in the name": (lambda folder: describe_as(folder, weights="a\0b"), "must name a weights file beside it"),
    "no safetensors": (lambda folder: put(folder, b"PK\x03\x04 not tensors"), "must be a safetensors file"),
    "not a number": (with_right_sum(poison), r"head\.bias has numbers that are not finite"),
    "infinite": (with_right_sum(infinite), r"head\.weight has numbers that are not finite"),
    "tensor missing": (with_right_sum(drop), "'head.bias' is in only one of the two"),
    "tensor turned": (with_right_sum(reshape), r"head\.weight must have the shape \(3, 1280\); got \(1280, 3\)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_or_foreign_bundle_is_refused_with_a_sentence(folder, damage):
    change, words = DAMAGES[damage]
    change(folder)
    with pytest.raises(BundleError, match=words) as caught:
        load_bundle(folder)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("form", ["../model-{}.safetensors", "{}/model-{}.safetensors", "./model-{}.safetensors"])
def test_description_cannot_point_out_of_its_folder(folder, tmp_path, form):
    data = weights_in(folder).read_bytes()
    digest = hashlib.sha256(data).hexdigest()[:12]
    (tmp_path / f"model-{digest}.safetensors").write_bytes(data)
    describe_as(folder, weights=form.format(digest) if form.count("{}") == 1 else form.format(tmp_path, digest))
    for read in (load_bundle, zip_bundle):
        with pytest.raises(BundleError, match="must name a weights file beside it"):
            read(folder)


def test_nothing_is_built_of_weights_with_another_sum(folder, monkeypatch):
    flip_a_byte(folder)
    monkeypatch.setattr(bundles, "build", lambda *arguments: pytest.fail("built"))
    with pytest.raises(BundleError, match="checksum"):
        load_bundle(folder)


# What a page reads without torch


def test_zip_holds_the_model_and_loads_after_unpacking(saved, tmp_path):
    with zipfile.ZipFile(io.BytesIO(zip_bundle(saved))) as archive:
        assert sorted(archive.namelist()) == sorted(["README.txt", DESCRIPTION, weights_in(saved).name])
        assert archive.testzip() is None
        assert "from dlkit.engine.prediction import predict" in archive.read("README.txt").decode()
        archive.extractall(tmp_path / "unpacked")
    assert same_weights(load_bundle(tmp_path / "unpacked").model, make().model)
    assert read_description(tmp_path / "unpacked") == read_description(saved)


@pytest.mark.parametrize("damage", ["no weights", "no description", "not JSON", "no name"])
def test_damaged_bundle_gives_no_zip(folder, damage):
    change, words = DAMAGES[damage]
    change(folder)
    with pytest.raises(BundleError, match=words):
        zip_bundle(folder)


def test_folder_has_a_bundle_once_its_description_is_there(saved, tmp_path):
    assert has_bundle(saved)
    assert not has_bundle(tmp_path)


def validation(pictures: int = 200, classes: int = 4) -> tuple[Validation, torch.Tensor]:
    """Return random results, and the logits behind them."""
    logits = torch.randn(pictures, classes, generator=torch.Generator().manual_seed(0)) * 3
    labels = np.random.default_rng(0).integers(0, classes - 1, pictures)  # the last class has no picture
    return Validation(labels, logits.softmax(1).numpy()), logits


def test_confusion_equals_sklearns():
    results, _ = validation()
    expected = confusion_matrix(results.labels, results.predicted, labels=range(4))
    assert (results.confusion() == expected).all()
    assert results.confusion().sum() == 200


def test_losses_equal_torchs_cross_entropy():
    results, logits = validation()
    expected = functional.cross_entropy(logits.double(), torch.from_numpy(results.labels), reduction="none")
    assert results.losses == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)


def test_loss_of_a_share_of_zero_is_large_and_finite():
    assert Validation(np.array([0]), np.array([[0.0, 1.0]], np.float32)).losses == pytest.approx([-np.log(1e-12)])


def test_most_wrong_are_the_wrong_pictures_with_the_highest_loss_first():
    results, _ = validation()
    order = results.most_wrong(1000)
    assert set(order) == {index for index in range(200) if results.predicted[index] != results.labels[index]}
    assert (np.diff(results.losses[order]) <= 0).all()
    assert results.most_wrong(5).tolist() == order[:5].tolist()
    assert Validation(np.array([1]), np.array([[0.1, 0.9]])).most_wrong(3).tolist() == []


def test_cells_of_the_confusion_share_out_every_picture():
    results, _ = validation()
    cells = {(row, column): results.in_cell(row, column) for row in range(4) for column in range(4)}
    assert all(len(found) == results.confusion()[cell] for cell, found in cells.items())
    assert sorted(np.concatenate(list(cells.values()))) == list(range(200))
    assert all((np.diff(results.losses[found]) <= 0).all() for found in cells.values())


def test_validation_comes_back_exactly(tmp_path):
    results, _ = validation()
    results.save(tmp_path / "validation.npz")
    found = read_validation(tmp_path)
    assert (found.labels == results.labels).all()
    assert (found.probabilities == results.probabilities).all()
    assert names_in(tmp_path) == ["validation.npz"]
    assert read_validation(tmp_path / "nowhere") is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half", b"\x93NUMPY", "half", "other"])
def test_damaged_validation_is_answered_with_a_sentence(tmp_path, content):
    path = tmp_path / "validation.npz"
    validation()[0].save(path)
    if content == "other":
        np.savez(path, something=np.zeros(3))
    else:
        path.write_bytes(path.read_bytes()[:900] if content == "half" else content)
    with pytest.raises(BundleError, match="validation results; it is damaged"):
        read_validation(tmp_path)
