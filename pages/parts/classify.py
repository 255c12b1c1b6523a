"""Classifying on a page: which models there are, and their answers, kept between reruns by content."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import streamlit as st
from PIL import Image

from dlkit.data.images import read_image
from dlkit.figures.results import softmax_html
from dlkit.runs import artifacts, service
from dlkit.runs.records import Kind

IMAGENET = "imagenet"
PHOTOS = Path(artifacts.__file__).parents[1] / "samples" / "photos"

Guesses = tuple[tuple[str, float], ...]  # (label, probability), likeliest first


def model_names() -> dict[str, str]:
    """Return the models that can classify now: {key: title}, ImageNet's first, then runs, newest first."""
    runs = [run for run in service.store().list_runs(Kind.FINETUNE) if artifacts.has_bundle(model_folder(run.id))]
    return {IMAGENET: "ImageNet, 1\u202f000 classes"} | {run.id: f"{run.name} · {run.id[:6]}" for run in runs}


def model_folder(key: str) -> Path:
    """Return the folder of a run's saved model."""
    return service.run_folder(key) / "model"


def is_warm() -> bool:
    """Tell whether an answer of the ImageNet model comes at once; does not import torch to find out."""
    prediction = sys.modules.get("dlkit.engine.prediction")
    return prediction is not None and prediction.is_warm()


def classify(key: str, images: Sequence[Image.Image], top_k: int) -> list[Guesses]:
    """Return what the model says of each picture; BundleError where the model is gone."""
    version = IMAGENET if key == IMAGENET else artifacts.read_description(model_folder(key))["sha256"]
    return [_answer(key, version, _digest(image), top_k, image) for image in images]


def show_answer(image: Image.Image, guesses: Guesses) -> None:
    """Draw the bars over the picture."""
    st.html(_html(_digest(image), guesses, image))


@st.cache_data(show_spinner=False)
def sample_photo(name: str) -> Image.Image:
    """Return one of the photographs that come with dlkit."""
    return read_image(PHOTOS / f"{name}.jpg")


@st.cache_data(max_entries=2000, show_spinner=False)
def _answer(key: str, version: str, digest: str, top_k: int, _image: Image.Image) -> Guesses:
    from dlkit.engine import prediction  # torch

    source = None if key == IMAGENET else model_folder(key)
    (top,) = prediction.predict(source, [_image], top_k)
    return tuple((guess.label, guess.probability) for guess in top)


@st.cache_data(max_entries=100, show_spinner=False)
def _html(digest: str, guesses: Guesses, _image: Image.Image) -> str:
    labels, probabilities = zip(*guesses, strict=True)
    return softmax_html(_image, labels, probabilities)


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
