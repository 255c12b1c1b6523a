"""Pictures of data sets, kept between reruns by the data set's fingerprint."""

from collections.abc import Sequence

import streamlit as st
from PIL import Image

from dlkit.data.dataset import Dataset, is_here, open_dataset
from dlkit.figures.pictures import contact_sheet


@st.cache_resource(max_entries=6, show_spinner=False)
def dataset_of(name: str) -> Dataset:
    """Return an open data set; it is read only, so all sessions share it."""
    return open_dataset(name)


@st.cache_data(max_entries=64, show_spinner=False)
def mosaic(name: str, side: int = 96) -> Image.Image | None:
    """Return nine pictures of a data set that is here, in three rows, drawn from all classes."""
    if not is_here(name):
        return None
    data = dataset_of(name)
    places = [data.train.indices_of(place % len(data.classes)) for place in range(9)]
    images = [data.train.read(int(found[turn])) for turn, found in enumerate(places) if len(found) > turn]
    return contact_sheet(images, columns=3, side=side)


@st.cache_data(max_entries=256, show_spinner=False)
def class_sheet(name: str, fingerprint: str, split: str, label: int, count: int, columns: int) -> Image.Image:
    """Return the first pictures of one class."""
    part = dataset_of(name).split(split)
    images = [part.read(int(index)) for index in part.indices_of(label)[:count]]
    return contact_sheet(images, columns=columns, side=112)


@st.cache_data(max_entries=64, show_spinner="Drawing a batch …")
def augmented_sheet(
    name: str, fingerprint: str, backbone: str, augmentation: str, mixing: str, seed: int, view: int
) -> Image.Image:
    """Return one batch as the model would see it in epoch `view`."""
    from dlkit.engine.preview import augmented_batch  # torch

    return contact_sheet(
        augmented_batch(dataset_of(name), backbone, augmentation, mixing, seed, view), columns=8, side=112
    )


def validation_pictures(name: str, indices: Sequence[int]) -> list[Image.Image]:
    """Return some validation pictures of a data set."""
    part = dataset_of(name).val
    return [part.read(int(index)) for index in indices]
