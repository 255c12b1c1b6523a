"""Networks that pages look into: the numbers are torch's, and a checkpoint's network is the one that learns."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dlkit.data.dataset import open_dataset
from dlkit.data.images import read_image
from dlkit.engine import inside, prediction
from dlkit.engine.bundle import load_bundle
from dlkit.engine.checkpoint import load_checkpoint
from dlkit.engine.inside import Source
from dlkit.engine.layers import pictures_for
from dlkit.engine.one_step import one_step_of_run
from dlkit.errors import BundleError, ConfigError
from dlkit.runs import service
from dlkit.runs.records import Run
from tests.job_home import TINY, job_home, wait_for_end
from tests.small_learner import one_thread

PHOTO = Path(__file__).parents[1] / "dlkit" / "samples" / "photos" / "chelsea.jpg"
threads = pytest.fixture(autouse=True, scope="module")(one_thread)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of drawn pictures that has ended: its best epoch is its last, whose weights the last checkpoint has."""
    with job_home(tmp_path_factory.mktemp("inside") / "home"):
        yield wait_for_end(service.submit(TINY))


def kept(run: Run) -> Source:
    folder = service.run_folder(run.id)
    return Source(folder, "", str(load_bundle(folder / "model").about["epoch"]))


def newest(run: Run) -> Source:
    checkpoint = service.store().checkpoints(run.id)[0]
    return Source(service.run_folder(run.id), checkpoint.file, checkpoint.sha256)


def test_layers_of_the_imagenet_model_are_what_torch_makes_of_the_picture():
    image, bundle = read_image(PHOTO), prediction.imagenet_bundle()
    layers = inside.layers(Source())
    logits = bundle.model.eval()(pictures_for(bundle, [image])).detach()[0]
    seen, label = inside.look(Source(), image, "head"), int(logits.argmax())
    np.testing.assert_allclose(seen.outputs, logits, atol=1e-5)
    assert seen.arithmetic((label,)).value == pytest.approx(float(logits[label]), abs=1e-5)
    assert seen.probability(label).value == pytest.approx(float(logits.softmax(0)[label]), abs=1e-6)
    assert "cat" in inside.classes(Source())[label]
    assert inside.layers(Source()) is layers  # it stays open
    assert len(inside.statistics(Source(), image)) == len(layers)
    assert inside.square(Source(), image).size == (224, 224)
    filters = inside.look(Source(), image, "body.conv_stem").filters
    assert filters is not None
    assert torch.equal(torch.tensor(filters), bundle.model.body.conv_stem.weight)
    assert seen.filters is None


def test_network_of_a_checkpoint_is_the_one_that_is_kept_after_it(run: Run):
    image = open_dataset(TINY["dataset"]).val.read(0)
    best, last = (inside.look(source, image, "head").outputs for source in (kept(run), newest(run)))
    np.testing.assert_allclose(best, last, atol=1e-5)
    assert inside.classes(newest(run)) == inside.classes(kept(run))
    assert [vars(layer) for layer in inside.layers(newest(run))] == [vars(layer) for layer in inside.layers(kept(run))]


def test_step_is_that_of_the_checkpoint_and_names_what_learns(run: Run):
    source = newest(run)
    found = inside.step(source, "head.bias", 1)
    wanted = one_step_of_run(load_checkpoint(source.folder / source.checkpoint, source.sha256), "head.bias", 1)
    np.testing.assert_array_equal(found.update.delta, wanted.update.delta)
    assert found.learning == {"head.weight": (6, 1280), "head.bias": (6,)}


def test_what_is_gone_or_not_there_gets_a_sentence(run: Run, tmp_path: Path):
    with pytest.raises(BundleError, match="no saved model"):
        inside.layers(Source(tmp_path, "", "another"))
    with pytest.raises(BundleError, match="is gone"):
        inside.step(Source(tmp_path, "checkpoints/1.pt", "none"), "head.bias", 0)
    with pytest.raises(ConfigError, match="There is no layer called"):
        inside.look(Source(), read_image(PHOTO), "body.nothing")
