"""Pictures of data sets, kept between reruns by the data set's fingerprint."""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st
from PIL import Image

from dlkit.catalog.datasets import DATASETS, dataset_entry
from dlkit.config import FinetuneConfig
from dlkit.data.dataset import Dataset, is_here, open_dataset
from dlkit.errors import DlkitError
from dlkit.figures.pictures import contact_sheet
from dlkit.runs import artifacts


def dataset_of(name: str) -> Dataset:
    """Return an open data set; it is read only, so all sessions share it."""
    entry = dataset_entry(name)
    return _opened(entry.pinned, entry.folder)


def dataset_of_model(folder: Path) -> Dataset | None:
    """Return the very version that the model in this folder learnt from; None where it is not here any more.

    A set may have been deleted, and another one imported by its name. BundleError where there is no model.
    """
    about = artifacts.read_description(folder)["about"].get("dataset", {})
    if about.get("name") not in DATASETS or not is_here(about["name"]):
        return None
    dataset = dataset_of(about["name"])
    return dataset if dataset.fingerprint == about.get("fingerprint") else None


@st.cache_resource(max_entries=6, show_spinner=False)
def _opened(name: str, folder: str) -> Dataset:
    """Open a set; an imported one may be deleted and another imported by its name, which is another folder."""
    return open_dataset(name)


def mosaic(name: str) -> Image.Image | None:
    """Return nine pictures of a data set in three rows; None where it is not here, or damaged."""
    try:
        return _mosaic(name, dataset_of(name).fingerprint) if is_here(name) else None
    except DlkitError:
        return None  # its own page says what is wrong


@st.cache_data(max_entries=64, show_spinner=False)
def _mosaic(name: str, fingerprint: str) -> Image.Image:
    data = dataset_of(name)
    places = [data.train.indices_of(place % len(data.classes)) for place in range(9)]
    images = [data.train.read(int(found[turn])) for turn, found in enumerate(places) if len(found) > turn]
    return contact_sheet(images, columns=3)


@st.cache_data(max_entries=256, show_spinner=False)
def class_sheet(name: str, fingerprint: str, split: str, label: int, count: int, columns: int) -> Image.Image:
    """Return the first pictures of one class."""
    part = dataset_of(name).split(split)
    images = [part.read(int(index)) for index in part.indices_of(label)[:count]]
    return contact_sheet(images, columns=columns, side=112)


def augmented_sheet(config: FinetuneConfig, view: int = 0) -> Image.Image:
    """Return one batch as the model of this config would see it in epoch `view`."""
    return _augmented_sheet(config.model_dump_json(), dataset_of(config.dataset).fingerprint, view)


@st.cache_data(max_entries=64, show_spinner="Drawing a batch …")
def _augmented_sheet(config: str, fingerprint: str, view: int) -> Image.Image:
    from dlkit.engine.preview import augmented_batch  # torch

    settings = FinetuneConfig.model_validate_json(config)
    return contact_sheet(augmented_batch(dataset_of(settings.dataset), settings, view), columns=8, side=112)


def validation_pictures(dataset: Dataset, indices: Sequence[int]) -> list[Image.Image]:
    """Return some validation pictures of a data set."""
    return [dataset.val.read(int(index)) for index in indices]
