"""From pictures to probabilities: the ImageNet model, saved models, and the few that are kept loaded."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image

from dlkit.catalog.backbones import BACKBONES
from dlkit.engine import prediction
from dlkit.engine.bundle import Bundle, save_bundle
from dlkit.engine.model import build
from dlkit.engine.prediction import BATCH, KEPT_MODELS, predict
from dlkit.engine.preprocess import preprocessing_of
from dlkit.errors import BundleError, DeviceError

LITE0 = BACKBONES["efficientnet-lite0"]
COFFEE, CAT, ASTRONAUT = (
    Image.fromarray(array) for array in (skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut())
)


@pytest.fixture(autouse=True)
def _one_thread_and_nothing_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    forget()
    yield
    forget()
    torch.set_num_threads(threads)


def forget() -> None:
    prediction._kept.clear()
    prediction._imagenet.clear()


def save_model(folder: Path, seed: int = 0, classes: tuple[str, ...] = ("a", "b", "c")) -> Path:
    model = build(LITE0, len(classes), seed=seed)
    save_bundle(Bundle(model, LITE0.name, classes, preprocessing_of(LITE0, 64), {}), folder)
    return folder


def shares(source: Path | None, pictures: list[Image.Image], top_k: int = 1000) -> list[dict[str, float]]:
    return [{guess.label: guess.probability for guess in top} for top in predict(source, pictures, top_k, "cpu")]


def test_imagenet_model_knows_coffee_and_cat():
    coffee, cat = predict(None, [COFFEE, CAT], 5, "cpu")
    assert coffee[0].label == "espresso"
    assert coffee[0].probability >= 0.9
    assert cat[0].label in ("tabby", "tiger cat", "Egyptian cat")


def test_probabilities_sum_to_one_and_come_likeliest_first():
    for top in predict(None, [COFFEE, CAT, ASTRONAUT], 1000, "cpu"):
        probabilities = [guess.probability for guess in top]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert probabilities == sorted(probabilities, reverse=True)
        assert len(top) == 1000


def test_pictures_together_get_what_each_gets_alone(tmp_path):
    source = save_model(tmp_path / "model")
    pictures = [picture.rotate(angle) for angle in range(0, 12 * 12, 12) for picture in (COFFEE, CAT, ASTRONAUT)]
    assert len(pictures) > BATCH
    together = shares(source, pictures)
    assert len(together) == len(pictures)
    for index in (0, 1, 2, BATCH - 1, BATCH, len(pictures) - 1):
        assert together[index] == pytest.approx(shares(source, [pictures[index]])[0], abs=1e-5)


def test_answers_equal_the_forward_pass_written_out(tmp_path):
    source = save_model(tmp_path / "model")
    preprocessing = preprocessing_of(LITE0, 64)
    squares = torch.tensor(preprocessing.square(CAT))[None]
    with torch.no_grad():
        expected = build(LITE0, 3, seed=0).eval()(preprocessing.normalise(squares)).softmax(1)[0]
    assert shares(source, [CAT])[0] == pytest.approx(dict(zip("abc", expected.tolist(), strict=True)), abs=1e-6)


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (4, 3), (1000, 3)])
def test_no_more_classes_are_named_than_there_are(tmp_path, top_k, count):
    (top,) = predict(save_model(tmp_path / "model"), [CAT], top_k, "cpu")
    assert len(top) == count


def test_no_pictures_give_no_answers(tmp_path):
    assert predict(save_model(tmp_path / "model"), [], 5, "cpu") == []


def test_model_that_is_saved_anew_is_loaded_anew(tmp_path):
    source = save_model(tmp_path / "model", seed=0)
    before = shares(source, [CAT])
    save_model(source, seed=1, classes=("x", "y"))
    after = shares(source, [CAT])
    assert after[0].keys() == {"x", "y"}
    save_model(source, seed=0)
    assert shares(source, [CAT]) == before


def test_model_is_read_once_while_it_stays_the_same(tmp_path, monkeypatch):
    source, loads, real = save_model(tmp_path / "model"), [], prediction.load_bundle
    monkeypatch.setattr(prediction, "load_bundle", lambda folder: loads.append(folder) or real(folder))
    for _ in range(3):
        predict(source, [CAT], 5, "cpu")
    assert loads == [source]


def test_the_models_used_last_stay_loaded(tmp_path, monkeypatch):
    sources = [save_model(tmp_path / str(seed), seed) for seed in range(KEPT_MODELS + 1)]
    loads, real = [], prediction.load_bundle
    monkeypatch.setattr(prediction, "load_bundle", lambda folder: loads.append(folder) or real(folder))
    for source in (*sources[:KEPT_MODELS], sources[0], sources[-1], sources[0], sources[1]):
        predict(source, [CAT], 1, "cpu")
    assert loads == [*sources, sources[1]]
    assert len(prediction._kept) == KEPT_MODELS


@pytest.mark.parametrize("is_loaded", [False, True])
def test_model_whose_folder_is_gone_is_refused(tmp_path, is_loaded):
    source = save_model(tmp_path / "model")
    if is_loaded:
        predict(source, [CAT], 1, "cpu")
    shutil.rmtree(source)
    with pytest.raises(BundleError, match="There is no saved model here"):
        predict(source, [CAT], 1, "cpu")


def test_predicting_draws_nothing_and_leaves_the_kept_model_in_evaluation():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = shares(None, [COFFEE])
    assert torch.equal(torch.rand(2), expected)
    (bundle,) = prediction._imagenet.values()
    assert not bundle.model.training
    assert not any(parameter.requires_grad for parameter in bundle.model.parameters())
    assert shares(None, [COFFEE]) == first


def test_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="cuda was asked for"):
        predict(None, [CAT], 1, "cuda")


def test_warm_up_loads_the_imagenet_model_once(monkeypatch):
    assert not prediction.is_warm()
    prediction.warm_up()
    assert prediction.is_warm()
    monkeypatch.setattr(prediction, "_imagenet_bundle", lambda: pytest.fail("loaded again"))
    predict(None, [CAT], 1)


def test_imagenet_model_stays_however_many_others_are_used(tmp_path):
    predict(None, [CAT], 1, "cpu")
    for seed in range(KEPT_MODELS + 1):
        predict(save_model(tmp_path / str(seed), seed), [CAT], 1, "cpu")
    assert prediction.is_warm()


def test_model_that_is_saved_anew_takes_the_place_of_its_older_self(tmp_path):
    for seed in range(3):
        predict(save_model(tmp_path / "model", seed), [CAT], 1, "cpu")
    assert len(prediction._kept) == 1
