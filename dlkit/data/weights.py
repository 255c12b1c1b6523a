"""Where a backbone's weights lie on this machine, and how they come here.

It neither reads nor checks them: `dlkit.engine.model` does, and turns a downloaded .pth into safetensors once.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from dlkit.catalog.backbones import BackboneEntry, PackagedFile
from dlkit.data.fetch import FetchProgress, fetch
from dlkit.errors import DownloadError
from dlkit.settings import settings


def weights_path(entry: BackboneEntry) -> Path:
    """Return the file that the engine reads, be it there or not.

    Raises DownloadError if it belongs to a Python package that is not installed.
    """
    if isinstance(entry.weights, PackagedFile):
        return _packaged_path(entry.weights)
    return _folder() / f"{entry.name}.safetensors"


def download_path(entry: BackboneEntry) -> Path:
    """Return the file as it is fetched: a .pth still to be converted, or `weights_path` itself."""
    return weights_path(entry) if isinstance(entry.weights, PackagedFile) else _folder() / entry.weights.name


def has_weights(entry: BackboneEntry) -> bool:
    """Tell whether the weights are on this machine, converted or as they were downloaded."""
    try:
        return weights_path(entry).is_file() or download_path(entry).is_file()
    except DownloadError:
        return False


def fetch_weights(entry: BackboneEntry) -> Iterator[FetchProgress]:
    """Download the weights and yield the progress; nothing happens for weights that a package carries.

    Weights that are here already are fetched anew, which mends a damaged file.
    Raises DownloadError, OfflineError, DiskFullError.
    """
    if isinstance(entry.weights, PackagedFile):
        return
    yield from fetch(entry.weights, _folder(), timeout_seconds=settings().download_timeout_seconds)


def _folder() -> Path:
    return settings().data_folder / "weights"


def _packaged_path(file: PackagedFile) -> Path:
    spec = find_spec(file.module)  # of a top-level module: finds it without importing it
    if spec is None or spec.origin is None:
        raise DownloadError(
            f"The package {file.distribution} must be installed; it is not. Run `pip install {file.distribution}`."
        )
    return Path(spec.origin).parent / file.path
