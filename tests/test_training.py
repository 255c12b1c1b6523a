"""The training loop against torch written by hand, on a few real photographs and on a network of a few weights."""

import copy
import math
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dlkit.catalog.augmentations import MIXINGS
from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.config import learning_rates, parse
from dlkit.data.dataset import Dataset
from dlkit.data.split import FileSplit
from dlkit.engine import finetuning, pixels, training
from dlkit.engine.bundle import load_bundle
from dlkit.engine.finetuning import Event, Uncontrolled, finetune, make_learner
from dlkit.engine.learner import Learner, Room
from dlkit.engine.model import BATCHNORM_LAYERS, pretrained
from dlkit.engine.phases import Features
from dlkit.engine.pixels import seeded, shuffled_batches
from dlkit.engine.prediction import predict
from dlkit.engine.training import Report, scores_of, train
from dlkit.errors import DatasetError, DivergedError
from dlkit.runs.artifacts import read_validation
from tests.small_learner import (
    CPU,
    UNEVEN,
    Squares,
    config_of,
    few_flowers,
    first_batch,
    one_thread,
    points_of,
    same,
    small_learner,
    steps_of,
    values_of,
    weights_of,
    wrong_answers,
)

LITE0 = BACKBONES["efficientnet-lite0"]


@pytest.fixture(autouse=True)
def _one_thread():
    yield from one_thread()


# What is trained


@pytest.fixture(scope="module")
def flowers() -> Dataset:
    return few_flowers()


# What is decoded ahead


class Foreseen(Squares):
    """Pictures that remember which batches were asked for unexpectedly, and which were expected in vain."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.coming, self.unexpected, self.in_vain, self.last = [], [], [], [0]

    def expect(self, batches: list[np.ndarray]) -> None:
        """Take note of them."""
        self.in_vain += self.coming
        self.coming = [batch.tolist() for batch in batches]

    def batch(self, indices: np.ndarray, view: int | None, device: torch.device) -> torch.Tensor:
        """Return the pictures; only the next batch is an expected one.

        The example that shows the shapes is not, nor again the first batch where it turns out to be beyond the room.
        """
        batch = indices.tolist()
        if self.coming[:1] == [batch]:
            self.coming.pop(0)
        elif batch not in ([0], self.last):
            self.unexpected.append(batch)
        self.last = batch
        return super().batch(indices, view, device)


@pytest.mark.parametrize(
    ("values", "room"),
    [
        *product(({"views": 1}, {"views": 2}, {"strategy": "full"}), (0, 200, 900, 1e6)),
        ({"strategy": "partial", "views": 2}, 1e6),
    ],
)
def test_every_picture_is_expected_before_it_is_asked_for_and_none_in_vain(monkeypatch, values, room):
    """In the first look and in later ones, of pictures to learn from and to check with, kept or beyond the room."""
    monkeypatch.setattr(pixels, "EVALUATION_BATCH", 4)
    usual = small_learner(Squares([0, 1, 2] * 5, 2), epochs=3, **values)
    learner = small_learner(Foreseen([0, 1, 2] * 5, 2), epochs=3, **values)
    learner.train, learner.room, usual.room = Foreseen(UNEVEN, 1), Room(room), Room(room)
    assert points_of(list(train(learner))) == points_of(list(train(usual)))
    for part in (learner.train, learner.validation):
        assert part.unexpected + part.in_vain + part.coming == []


@pytest.mark.parametrize("end", ["done", "stopped", "left", "damaged"])
def test_nothing_is_decoded_any_more_when_a_run_is_over(flowers, every_step, tmp_path, monkeypatch, end):
    """Neither threads nor pictures that wait for one are left, run after run in one process."""
    monkeypatch.setattr(finetuning, "open_dataset", lambda name: flowers)
    control, before = Uncontrolled(), set(threading.enumerate())
    events = finetune(config_of(strategy="full", head_epochs=0, batch_size=2), tmp_path, control)
    if end == "damaged":
        monkeypatch.setattr(FileSplit, "read", damaged)
    with suppress(DatasetError):
        for event in events:
            if event.step == 1 and end == "left":
                break
            control.wish = "stop" if event.step == 1 and end == "stopped" else ""
    events.close()
    assert set(threading.enumerate()) <= before


def damaged(split: FileSplit, index: int) -> Image.Image:
    raise OSError("damaged")


# Reports


@pytest.mark.parametrize(("strategy", "epochs"), [("head", [2]), ("full", [3, 2])])
def test_reports_tell_every_step_once_and_the_scores_before_and_after_each_epoch(flowers, strategy, epochs):
    learner = make_learner(config_of(strategy=strategy), flowers)
    seen = []
    for report in train(learner):
        seen.append((report, learner.epoch))
    reports = [report for report, _ in seen]
    steps, ends = list(range(1, 3 * sum(epochs) + 1)), list(range(0, 3 * sum(epochs) + 1, 3))
    assert [epoch for report, epoch in seen if report.scores] == list(range(sum(epochs) + 1))
    assert next(report for report in reports if report.points).scores, "the first points are the untrained head's"
    assert steps_of(reports, "step/loss") == steps_of(reports, "learning_rate") == steps
    assert steps_of(reports, "step/gradient_norm") == steps
    assert steps_of(reports, "val/loss") == steps_of(reports, "val/accuracy") == ends
    assert steps_of(reports, "train/loss") == steps_of(reports, "train/accuracy") == ends[1:]
    assert all(point.epoch == pytest.approx(point.step / 3) for report in reports for point in report.points)
    assert (learner.step, learner.epoch) == (steps[-1], sum(epochs))


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step", "warm-up-linear"])
def test_learning_rate_follows_the_schedule_anew_in_each_phase(schedule):
    learner = small_learner(strategy="full", schedule=schedule, head_epochs=2, epochs=4)
    reports = list(train(learner))
    config = learner.config
    assert values_of(reports, "learning_rate") == (
        learning_rates(config, 2, 4, range(8)) + learning_rates(config, 4, 4, range(16))
    )
    phases = {report.progress.phase for report in reports}
    assert {phase for phase in phases if phase.startswith("training")} == {"training: head", "training: all layers"}


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_progress_only_grows_to_the_whole_and_time_left_is_never_negative(every_step, strategy):
    progress = [report.progress for report in train(small_learner(strategy=strategy, epochs=5))]
    shares = [one.share for one in progress]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert all(one.seconds_left is None or one.seconds_left >= 0 for one in progress)
    assert progress[0].seconds_left is None
    assert progress[-1].seconds_left == 0
    assert progress[-1].images_per_second > 0


def test_train_loss_is_the_mean_over_the_epochs_pictures(every_step):
    learner = small_learner(epochs=1)
    reports = list(train(learner))
    sizes = [len(batch) for batch in shuffled_batches(25, 8, 0, 0)]
    assert sizes == [7, 6, 6, 6]
    (mean,) = values_of(reports, "train/loss")
    assert mean == pytest.approx(np.average(values_of(reports, "step/loss"), weights=sizes), rel=1e-12)


def test_scores_equal_sklearns_and_torchs(flowers):
    learner = make_learner(config_of(epochs=1), flowers)
    for scores in (report.scores for report in train(learner) if report.scores):
        assert scores.probabilities.shape == (10, 5)
        assert scores.accuracy == pytest.approx(accuracy_score(flowers.val.labels, scores.probabilities.argmax(1)))
        shares = scores.probabilities.astype(float) / scores.probabilities.sum(1, keepdims=True, dtype=float)
        assert scores.loss == pytest.approx(log_loss(flowers.val.labels, shares), rel=1e-5)
    with torch.no_grad():
        logits = learner.model.eval()(learner.validation.batch(np.arange(10), None, CPU))
    assert scores.loss == pytest.approx(functional.cross_entropy(logits, learner.validation.labels).item(), rel=1e-5)
    assert torch.allclose(logits.softmax(1), torch.from_numpy(scores.probabilities), atol=1e-6)


def test_stopping_to_ask_leaves_the_model_as_it_is(every_step):
    learner = small_learner(epochs=50)
    reports = train(learner)
    for _ in range(6):
        next(reports)
    before = weights_of(learner.model)
    reports.close()
    assert same(weights_of(learner.model), before)
    assert 0 < learner.step < 50 * 4


# The head


def test_strategy_head_leaves_the_body_bit_for_bit(flowers):
    learner = make_learner(config_of(optimizer="muon", dropout=0.2), flowers)
    body, head = weights_of(learner.model.body), weights_of(learner.model.head)
    list(train(learner))
    assert same(weights_of(learner.model.body), body)
    assert not any(parameter.requires_grad for parameter in learner.model.body.parameters())
    assert not any(torch.equal(head[name], now) for name, now in weights_of(learner.model.head).items())


@pytest.mark.parametrize("view", [None, 0, 1])
def test_kept_features_equal_the_forward_pass(flowers, view):
    learner = make_learner(config_of(), flowers)
    pixels = learner.validation if view is None else learner.train
    learner.model.eval()
    features, indices = Features(learner, pixels, learner.model.body, torch.float32), np.array([3, 0, 7])
    with torch.no_grad():
        expected = learner.model.body(pixels.batch(indices, view or None, CPU))
    torch.testing.assert_close(features.of(indices, view), expected, rtol=0, atol=1e-5)
    more = features.of(np.array([7, 5, 3]), view)
    assert torch.allclose(more[[0, 2]], expected[[2, 0]], atol=1e-5)
    with torch.no_grad():
        alone = learner.model.body(pixels.batch(np.array([5]), view or None, CPU))[0]
    assert torch.allclose(more[1], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "views"),
    [
        ({"views": 3}, {None, 1, 2}),
        ({"augmentation": "none", "views": 3}, {None, 1, 2}),
        ({"augmentation": "none"}, {None}),
    ],
)
def test_each_picture_passes_the_backbone_once_a_view(values, views):
    learner = small_learner(epochs=7, **values)
    list(train(learner))
    asked = learner.train.asked
    assert len(asked) == len(set(asked)) == len(views) * 25
    assert {view for view, _ in asked} == views
    assert sorted(learner.validation.asked) == [(None, index) for index in range(15)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_the_head_at_its_own_rate(name):
    reports = list(train(small_learner(optimizer=name, epochs=12, batch_size=4, schedule="constant")))
    losses = values_of(reports, "val/loss")
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]


# One step by hand


def bn_evaluates(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, BATCHNORM_LAYERS):
            layer.eval()


@pytest.mark.parametrize("is_frozen", [True, False])
def test_one_step_of_all_layers_equals_plain_torch_bit_for_bit(flowers, is_frozen):
    config = config_of(
        strategy="full", optimizer="sgd", schedule="constant", learning_rate=0.01, head_epochs=0, epochs=1,
        batch_size=20, label_smoothing=0, freeze_batchnorm=is_frozen, backbone_rate_factor=0.25, layer_rate_decay=1,
        weight_decay=0.001,
    )  # fmt: skip
    learner = make_learner(config, flowers)
    reports = list(train(learner))

    model = pretrained(LITE0, 5, seed=0).to(memory_format=torch.channels_last).train()
    if is_frozen:
        bn_evaluates(model)
    sgd = torch.optim.SGD(
        [{"params": model.head.parameters()}, {"params": model.body.parameters(), "lr": 0.01 * 0.25}],
        lr=0.01,
        weight_decay=0.001,
    )
    batch = first_batch(learner)
    loss = functional.cross_entropy(model(learner.train.batch(batch, 0, CPU)), learner.train.labels[batch])
    loss.backward()
    sgd.step()
    assert values_of(reports, "step/loss") == [loss.item()]
    assert same(weights_of(learner.model), weights_of(model))


@pytest.mark.parametrize("is_frozen", [True, False])
def test_batchnorm_statistics_stay_while_they_are_frozen_and_move_while_not(flowers, is_frozen):
    learner = make_learner(config_of(strategy="full", head_epochs=1, epochs=1, freeze_batchnorm=is_frozen), flowers)
    before = {name: buffer.clone() for name, buffer in learner.model.named_buffers()}
    list(train(learner))
    moved = [name for name, buffer in learner.model.named_buffers() if not torch.equal(buffer, before[name])]
    assert len(moved) == (0 if is_frozen else len(before))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("balance", ["none", "balanced"])
def test_first_loss_has_sklearns_class_weights_and_torchs_label_smoothing(smoothing, balance):
    learner = small_learner(epochs=1, label_smoothing=smoothing, class_weights=balance)
    model, batch = copy.deepcopy(learner.model).eval(), first_batch(learner)
    reports = list(train(learner))
    weights = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=np.array(UNEVEN))).float()
    with torch.no_grad():
        expected = functional.cross_entropy(
            model(learner.train.batch(batch, 0, CPU)),
            learner.train.labels[batch],
            weight=weights if balance == "balanced" else None,
            label_smoothing=smoothing,
        )
    assert values_of(reports, "step/loss")[0] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_mixed_batch_is_learnt_with_its_shared_labels(mixing):
    mixed = {"mixing": mixing, "mixing_alpha": 0.7, "label_smoothing": 0}
    learner = small_learner(strategy="full", head_epochs=0, class_weights="balanced", **mixed)
    model, batch = copy.deepcopy(learner.model).train(), first_batch(learner)
    bn_evaluates(model)
    reports = list(train(learner))
    with seeded(0, 0, len(batch)):
        mix = MIXINGS[mixing].build(3, 0.7)
        images, shares = mix(learner.train.batch(batch, 0, CPU), learner.train.labels[batch])
    weights = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=np.array(UNEVEN))).float()
    expected = functional.cross_entropy(model(images), shares, weight=weights)
    assert values_of(reports, "step/loss")[0] == pytest.approx(expected.item(), rel=1e-6)
    assert not values_of(reports, "train/accuracy")
    assert len(values_of(reports, "train/loss")) == 2


@pytest.mark.parametrize("largest", [0.0, 0.01, 1000.0])
def test_gradient_clipping_bounds_the_norm_of_all_gradients_together(largest):
    learner = small_learner(
        strategy="full", optimizer="sgd", learning_rate=1.0, schedule="constant", head_epochs=0, epochs=1,
        batch_size=25, gradient_clipping=largest, label_smoothing=0, backbone_rate_factor=1, layer_rate_decay=1,
    )  # fmt: skip
    model, batch = copy.deepcopy(learner.model).train(), first_batch(learner)
    bn_evaluates(model)
    before = [parameter.clone() for parameter in learner.model.parameters()]
    reports = list(train(learner))
    functional.cross_entropy(model(learner.train.batch(batch, 0, CPU)), learner.train.labels[batch]).backward()
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters()))
    moved = math.sqrt(
        sum(
            float((old - new).detach().square().sum())
            for old, new in zip(before, learner.model.parameters(), strict=True)
        )
    )
    assert norm > 0.01
    assert values_of(reports, "step/gradient_norm") == [pytest.approx(norm, rel=1e-5)], "the norm before it is clipped"
    assert moved == pytest.approx(min(norm, largest) if largest else norm, rel=1e-4)


# Averages


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_averaged_weights_follow_their_recursion_and_are_the_ones_that_are_scored(every_step, strategy):
    learner = small_learner(
        strategy=strategy, ema_decay=0.8, epochs=3, **({"freeze_batchnorm": False} if strategy == "full" else {})
    )
    expected: dict[str, torch.Tensor] = {}
    trained, step, reports = None, 0, []
    for report in train(learner):
        reports.append(report)
        if learner.trained is not trained:  # averaging begins anew with each phase
            trained, expected = learner.trained, {}
        if learner.step > step:
            step = learner.step
            for name, weight in learner.trained.named_parameters():
                old = expected.get(name, weight)
                expected[name] = 0.8 * old.detach() + 0.2 * weight.detach()
    averaged = dict(learner.average.module.named_parameters())
    assert averaged.keys() == expected.keys()
    assert all(torch.allclose(averaged[name], expected[name], atol=1e-6) for name in expected)
    assert not any(torch.equal(averaged[name], weight) for name, weight in learner.trained.named_parameters())
    assert learner.kept() is learner.average.module
    kept = learner.model_to_keep().eval()
    assert torch.equal(kept.head.weight, averaged["weight" if strategy == "head" else "head.weight"])
    with torch.no_grad():
        logits = kept(learner.validation.batch(np.arange(len(learner.validation)), None, CPU))
    scores = scores_of(logits, learner.validation.labels)
    assert scores.loss == pytest.approx(reports[-1].scores.loss, rel=1e-6)
    if strategy == "full":  # its BatchNorm statistics are those of the network in training
        assert all(torch.equal(*pair) for pair in zip(kept.buffers(), learner.model.buffers(), strict=True))


def test_without_averaging_the_trained_weights_are_kept():
    learner = small_learner(strategy="full")
    list(train(learner))
    assert learner.model_to_keep() is learner.model


# Randomness


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_seed_decides_every_weight(flowers, strategy):
    extra = {"mixing": "cutmix", "head_epochs": 1} if strategy == "full" else {}
    trained = []
    for seed in (3, 3, 4):
        learner = make_learner(
            config_of(strategy=strategy, epochs=1, dropout=0.3, augmentation="strong", seed=seed, **extra), flowers
        )
        torch.manual_seed(len(trained))  # whatever was drawn before
        list(train(learner))
        trained.append(weights_of(learner.model))
    assert same(trained[0], trained[1])
    assert not torch.equal(trained[0]["head.weight"], trained[2]["head.weight"])


# Ends


def test_early_stopping_ends_after_the_epochs_without_a_lower_loss():
    learner = small_learner(wrong_answers(), epochs=30, early_stopping=2, schedule="constant")
    reports = list(train(learner))
    assert learner.epoch == 3
    assert values_of(reports, "val/loss") == sorted(values_of(reports, "val/loss"))


def test_early_stopping_of_the_head_goes_on_with_all_layers():
    learner = small_learner(wrong_answers(), strategy="full", head_epochs=20, epochs=1, early_stopping=1)
    reports = list(train(learner))
    phases = [report.progress.phase for report in reports if report.points]
    assert phases[0] == "training: head"
    assert phases[-1] == "training: all layers"
    assert learner.epoch < 20
    assert reports[-1].progress.share == pytest.approx(1)


def test_without_early_stopping_all_epochs_are_run():
    learner = small_learner(wrong_answers(), epochs=8)
    list(train(learner))
    assert learner.epoch == 8


@pytest.mark.parametrize("patience", [0, 2])
def test_plateau_lowers_the_rate_as_torchs_scheduler_does(patience):
    learner = small_learner(
        wrong_answers(), epochs=9, schedule="plateau", patience=patience, decay=0.5, learning_rate=0.004
    )
    reports = list(train(learner))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.004)
    oracle, expected = ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, eps=0), []
    for loss in values_of(reports, "val/loss")[1:]:
        expected += [optimizer.param_groups[0]["lr"]] * 4
        oracle.step(loss)
    assert values_of(reports, "learning_rate") == pytest.approx(expected)
    assert expected[-1] < 0.004


def diverging(learner: Learner) -> DivergedError:
    with pytest.raises(DivergedError) as caught:
        list(train(learner))
    return caught.value


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_too_high_a_rate_ends_with_the_step_and_advice(strategy):
    """With this decay each step multiplies the weights by 1 - 10 = -9, and a loss of two such layers ends soon."""
    values = {"optimizer": "sgd", "learning_rate": 10, "weight_decay": 1, "schedule": "constant", "epochs": 30}
    learner = small_learner(strategy=strategy, **values, **({"head_epochs": 0} if strategy == "full" else {}))
    text = str(diverging(learner))
    assert "Try a learning rate of 1, or gradient clipping of 1." in text
    named = int(text.partition("at step ")[2].partition(".")[0])
    assert named == (learner.step if "the validation loss" in text else learner.step + 1)
    assert 3 < learner.step < 60
    assert learner.is_finite(), "the weights are those from before the step"


def test_step_that_is_named_is_the_first_whose_loss_is_not_a_number():
    learner = small_learner(epochs=3, batch_size=5)
    fourth = shuffled_batches(25, 5, 0, 0)[3]
    learner.train.images[fourth[0], 0, 0, 0] = math.nan
    assert "at step 4." in str(diverging(learner))
    assert learner.step == 3


def test_weights_that_are_not_numbers_end_it_before_the_first_step():
    learner = small_learner()
    with torch.no_grad():
        learner.model.head.weight[0, 0] = math.nan
    assert "at step 0." in str(diverging(learner))
    assert learner.step == 0


def test_last_step_that_blows_up_the_weights_ends_in_an_error_and_not_in_a_model():
    learner = small_learner(epochs=1, batch_size=32, optimizer="sgd", learning_rate=10, schedule="constant")
    learner.train.images *= 1e15
    learner.validation.images *= 1e25
    assert "the validation loss was not a finite number at step 1." in str(diverging(learner))


# A whole run


@pytest.fixture
def short(flowers: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "open_dataset", lambda name: flowers)


@pytest.mark.usefixtures("short", "home")
@pytest.mark.parametrize("values", [{"strategy": "head", "epochs": 4}, {"strategy": "full", "ema_decay": 0.5}])
def test_best_epoch_is_kept_and_predicts_what_was_validated(flowers, tmp_path, values):
    events = list(finetune(config_of(learning_rate=0.01, **values), tmp_path))
    curves = {
        key: [point.value for event in events for point in event.points if point.key == key][1:]
        for key in ("val/accuracy", "val/loss")
    }
    scores = list(zip(curves["val/accuracy"], [-loss for loss in curves["val/loss"]], strict=True))
    best = max(range(len(scores)), key=scores.__getitem__)
    summary, bundle, validation = events[-1].summary, load_bundle(tmp_path / "model"), read_validation(tmp_path)
    assert (summary["best_epoch"], summary["epochs"]) == (best + 1, len(scores))
    assert (summary["val_accuracy"], summary["val_loss"]) == (scores[best][0], -scores[best][1])
    assert {key: bundle.about[key] for key in ("epoch", "val_accuracy", "val_loss")} == {
        "epoch": best + 1, "val_accuracy": scores[best][0], "val_loss": -scores[best][1],
    }  # fmt: skip
    assert parse(bundle.about["config"]) == config_of(learning_rate=0.01, **values)
    assert (validation.labels == flowers.val.labels).all()
    guesses = predict(tmp_path / "model", [flowers.val.read(index) for index in range(10)], 5, "cpu")
    for row, top in zip(validation.probabilities, guesses, strict=True):
        assert {guess.label: guess.probability for guess in top} == pytest.approx(
            dict(zip(flowers.classes, row.tolist(), strict=True)), abs=1e-5
        )


class Stop(Uncontrolled):
    """Wishes for an end from a certain event on."""

    def __init__(self, after: int) -> None:
        self.events: list[Event] = []
        self._after = after

    @property
    def wish(self) -> str:
        return "stop" if len(self.events) > self._after else ""


@pytest.mark.usefixtures("short", "home")
def test_wish_to_stop_keeps_the_model_so_far(tmp_path):
    control = Stop(4)
    for event in finetune(config_of(epochs=500), tmp_path, control):
        control.events.append(event)
    assert 0 < event.summary["epochs"] < 500
    assert load_bundle(tmp_path / "model").about["epoch"] == event.summary["best_epoch"]
    assert event.checkpoint.step == event.summary["steps"]


@pytest.mark.usefixtures("short", "home")
def test_wish_to_stop_before_the_first_epoch_still_keeps_a_model(tmp_path):
    events = list(finetune(config_of(), tmp_path, Stop(-1)))
    assert events[-1].summary["best_epoch"] == 0
    assert events[-1].summary["val_accuracy"] is None
    assert load_bundle(tmp_path / "model").classes
    assert read_validation(tmp_path) is None


@pytest.mark.usefixtures("short", "home")
def test_diverged_run_keeps_the_best_model_before_it(tmp_path, monkeypatch):
    real_train = training.train

    def poisoned(learner: Learner) -> Iterator[Report]:
        for report in real_train(learner):
            yield report
            if learner.epoch == 2 and report.scores:
                with torch.no_grad():
                    learner.model.head.bias[0] = math.nan

    monkeypatch.setattr(finetuning, "train", poisoned)
    with pytest.raises(DivergedError, match="at step 7"):
        list(finetune(config_of(epochs=5), tmp_path))
    assert load_bundle(tmp_path / "model").about["epoch"] in (1, 2)
