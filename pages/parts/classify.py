"""Classifying on a page: which models there are, and their answers, kept between reruns by content."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from PIL import Image
from streamlit.runtime.uploaded_file_manager import UploadedFile

from dlkit.data.dataset import Dataset
from dlkit.data.images import image_digest, read_image
from dlkit.figures.pictures import softmax_html
from dlkit.runs import artifacts, service
from dlkit.runs.records import Kind

IMAGENET = "imagenet"
PHOTOS = Path(artifacts.__file__).parents[1] / "samples" / "photos"

SAMPLES = {"Cat": "chelsea", "Coffee": "coffee", "Rocket": "rocket"}

Guesses = tuple[tuple[str, float], ...]  # (label, probability), likeliest first


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to classify: RGB, and a digest of its content under which answers are kept."""

    name: str
    image: Image.Image
    digest: str


def uploaded(file: UploadedFile) -> Picture:
    """Return an uploaded picture; ImageError where it is none."""
    data = file.getvalue()
    return Picture(file.name, read_image(data, name=file.name), image_digest(data))


@st.cache_resource(show_spinner=False)
def sample(title: str) -> Picture:
    """Return one of the photographs that come with dlkit."""
    data = (PHOTOS / f"{SAMPLES[title]}.jpg").read_bytes()
    return Picture(f"{SAMPLES[title]}.jpg", read_image(data), image_digest(data))


def validation_picture(dataset: Dataset, index: int) -> Picture:
    """Return a validation picture of a data set."""
    return Picture(dataset.val.name(index), dataset.val.read(index), f"{dataset.fingerprint}:{index}")


def model_names() -> dict[str, str]:
    """Return the models that can classify now: {key: title}, ImageNet's first, then runs, newest first."""
    runs = [run for run in service.store().list_runs(Kind.FINETUNE) if artifacts.has_bundle(model_folder(run.id))]
    return {IMAGENET: "ImageNet, 1\u202f000 classes"} | {run.id: f"{run.name} · {run.id[:6]}" for run in runs}


def model_folder(key: str) -> Path:
    """Return the folder of a run's saved model."""
    return service.run_folder(key) / "model"


def is_warm() -> bool:
    """Tell whether an answer of the ImageNet model comes at once; does not import torch to find out."""
    # the warm-up thread may be in the middle of importing it, and then the module lacks its functions
    ask = getattr(sys.modules.get("dlkit.engine.prediction"), "is_warm", None)
    return ask is not None and ask()


def classify(key: str, pictures: Sequence[Picture], top_k: int) -> list[Guesses]:
    """Return what the model says of each picture; BundleError where the model is gone."""
    version = IMAGENET if key == IMAGENET else artifacts.read_description(model_folder(key))["sha256"]
    return [_answer(key, version, picture.digest, top_k, picture.image) for picture in pictures]


def show_answer(picture: Picture, guesses: Guesses) -> None:
    """Draw the bars over the picture."""
    st.html(_html(picture.digest, guesses, picture.image))


@st.cache_data(max_entries=2000, show_spinner="Looking …")
def _answer(key: str, version: str, digest: str, top_k: int, _image: Image.Image) -> Guesses:
    from dlkit.engine import prediction  # torch

    source = None if key == IMAGENET else model_folder(key)
    (top,) = prediction.predict(source, [_image], top_k)
    return tuple((guess.label, guess.probability) for guess in top)


@st.cache_data(max_entries=100, show_spinner=False)
def _html(digest: str, guesses: Guesses, _image: Image.Image) -> str:
    labels, probabilities = zip(*guesses, strict=True)
    return softmax_html(_image, labels, probabilities)
