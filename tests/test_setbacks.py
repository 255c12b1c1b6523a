"""What goes wrong in mid-training: too little memory, numbers that are none, a picture that cannot be read.

Whatever it is, the learner stands where it stood before the step, and what was done is not lost.
"""

import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlkit.data.dataset import Dataset
from dlkit.data.split import FileSplit
from dlkit.engine import device, finetuning, pixels, steps, training
from dlkit.engine.bundle import load_bundle
from dlkit.engine.checkpoint import load_checkpoint
from dlkit.engine.finetuning import Event, finetune
from dlkit.engine.learner import Learner
from dlkit.engine.pixels import Pixels, shuffled_batches
from dlkit.engine.rows import Resident, Room
from dlkit.engine.training import Report, train
from dlkit.errors import DatasetError, DivergedError, MemoryFullError
from dlkit.runs.records import Change
from tests.small_learner import (
    UNEVEN,
    Planned,
    Squares,
    config_of,
    few_flowers,
    one_thread,
    points_of,
    same,
    small_learner,
    steps_of,
    values_of,
    weights_of,
)
from tests.test_resume import differences

SIXTY_FOUR = UNEVEN * 2 + [0, 1, 2] * 4 + [0, 0]
CPU_TEXT = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to …"


@pytest.fixture(autouse=True)
def _one_thread():
    yield from one_thread()


class Backward(torch.autograd.Function):
    """Passes all through, and fails on the way back where there are more than `most` pictures."""

    @staticmethod
    def forward(context: Any, inputs: torch.Tensor, most: int) -> torch.Tensor:
        context.most = most
        return inputs.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        _allocate(len(gradient), context.most)
        return gradient, None


def _allocate(pictures: int, most: int, error: Callable[[], Exception] = torch.OutOfMemoryError) -> None:
    if pictures > most:
        raise error()


def room_for(learner: Learner, most: int, where: str = "forward", error: Any = torch.OutOfMemoryError) -> None:
    """Let the body, and the head, take only so many pictures at a time."""
    for module in (learner.model.body, learner.model.head):
        if where == "forward":
            module.register_forward_pre_hook(lambda _, given: _allocate(len(given[0]), most, error))
        else:
            module.register_forward_hook(lambda _, given, output: Backward.apply(output, most))


def one_batch(**values: Any) -> Learner:
    """Return a learner with an epoch of one step of 64 pictures, after which the weights show the gradient."""
    values = {"optimizer": "sgd", "learning_rate": 1.0, "schedule": "constant", "epochs": 1, **values}
    values |= {"head_epochs": 0, "backbone_rate_factor": 1} if values.get("strategy") == "full" else {}
    learner = small_learner(labels=SIXTY_FOUR, batch_size=64, **values)
    learner.steering = Planned()
    return learner


def halved(pictures: int, most: int) -> list[int]:
    """Return the sizes of the parts that are tried after so many pictures were too many."""
    return [] if pictures <= most else [-(-pictures // 2), *halved(-(-pictures // 2), most)]


# Too little memory


@pytest.mark.parametrize("strategy", ["head", "full"])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_step_of_64_pictures_learns_the_same_however_few_of_them_fit(strategy, where):
    """For each number from 64 to 1: the gradient is the whole batch's, and on record is what was changed and why."""
    whole = one_batch(strategy=strategy)
    expected = list(train(whole))
    before = weights_of(one_batch(strategy=strategy).model)
    for most in range(64, 0, -1):
        learner = one_batch(strategy=strategy)
        room_for(learner, most, where)
        reports = list(train(learner))
        assert learner.step == 1
        for key in ("step/loss", "step/gradient_norm", "val/loss", "train/accuracy"):
            assert values_of(reports, key) == pytest.approx(values_of(expected, key), rel=1e-4), (most, key)
        for name, weight in weights_of(learner.model).items():
            assert torch.allclose(weight, whole.model.state_dict()[name], rtol=1e-4, atol=1e-6), (most, name)
        assert not torch.equal(learner.model.head.weight, before["head.weight"])
        assert learner.micro_batch <= most
        notes, changes = learner.steering.notes, learner.steering.on_record
        first = 15 if where == "forward" and most < 15 else 64  # the first check has 15 pictures
        assert [change.value for change in changes] == halved(first, most)
        assert [change.what for change in changes] == ["micro_batch"] * len(notes)
        if first == 64 and most < 64:
            assert notes[0] == (
                "out of memory with 64 pictures at a time: from step 1 on at most 32, whose gradients are added up, so "
                "that a step still learns from 64"
            )


@pytest.mark.parametrize("most", [40, 20, 5, 1])
@pytest.mark.parametrize(
    "values",
    [
        {"class_weights": "balanced"},
        {"label_smoothing": 0.2},
        {"class_weights": "balanced", "label_smoothing": 0.2},
        {"class_weights": "balanced", "label_smoothing": 0.2, "mixing": "mixup", "strategy": "full"},
        {"class_weights": "balanced", "label_smoothing": 0.1, "mixing": "cutmix", "strategy": "full"},
        {"class_weights": "balanced", "gradient_clipping": 0.01, "strategy": "full", "optimizer": "adamw"},
    ],
)
def test_loss_is_the_whole_batchs_with_weights_smoothing_and_mixed_labels(most, values):
    """A mean over a part would weigh its pictures otherwise: the parts' sums are divided by the whole's weight."""
    whole, learner = one_batch(**values), one_batch(**values)
    room_for(learner, most)
    expected, reports = list(train(whole)), list(train(learner))
    assert values_of(reports, "step/loss") == pytest.approx(values_of(expected, "step/loss"), rel=1e-5)
    norms = (values_of(some, "step/gradient_norm") for some in (reports, expected))
    assert next(norms) == pytest.approx(next(norms), rel=1e-4)
    for name, weight in weights_of(learner.model).items():
        assert torch.allclose(weight, whole.model.state_dict()[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(("strategy", "when"), [("head", "features"), ("full", "validation")])
def test_memory_may_run_out_where_nothing_is_learnt(strategy, when):
    """Sixty validation pictures are more than 25 in training: only they are divided."""
    learner = small_learner(Squares([0, 1, 2] * 20, 2), strategy=strategy, batch_size=25, epochs=2)
    usual = small_learner(Squares([0, 1, 2] * 20, 2), strategy=strategy, batch_size=25, epochs=2)
    learner.steering = Planned()
    room_for(learner, 30)
    reports, expected = list(train(learner)), list(train(usual))
    assert [change.value for change in learner.steering.on_record] == [30], when
    for key in ("val/loss", "step/loss"):
        assert values_of(reports, key) == pytest.approx(values_of(expected, key), rel=1e-5)
    assert same(weights_of(learner.model), weights_of(usual.model)), "what is learnt is not divided"


def test_batchnorm_that_learns_from_fewer_pictures_is_owned_up_to():
    learner = one_batch(strategy="full", freeze_batchnorm=False)
    room_for(learner, 20)
    list(train(learner))
    assert learner.steering.notes[-1] == (
        "out of memory with 32 pictures at a time: from step 1 on at most 16, whose gradients are added up, so that a "
        "step still learns from 64; BatchNorm takes its mean and variance from 16 pictures now, so they are noisier"
    )


@pytest.mark.parametrize("values", [{"freeze_batchnorm": True}, {"freeze_batchnorm": False, "batch_size": 16}])
def test_nothing_is_said_of_batchnorm_where_it_is_not_concerned(values):
    """It is frozen, or only the validation's pictures are more than fit."""
    learner = small_learner(
        Squares([0, 1, 2] * 20, 2), SIXTY_FOUR, strategy="full", epochs=1, **{"batch_size": 64, **values}
    )
    learner.steering = Planned()
    room_for(learner, 30)
    list(train(learner))
    assert learner.steering.notes
    assert "BatchNorm" not in learner.steering.notes[-1]


@pytest.mark.parametrize("strategy", ["head", "full"])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_one_picture_that_does_not_fit_ends_it_with_a_sentence(strategy, where):
    learner = one_batch(strategy=strategy)
    room_for(learner, 0, where)
    before = weights_of(learner.model)
    with pytest.raises(MemoryFullError, match="The memory of the CPU is not enough for one picture at a time"):
        list(train(learner))
    assert same(weights_of(learner.model), before)
    assert learner.steering.on_record[-1].value == 1


@pytest.mark.parametrize("error", [lambda: RuntimeError(CPU_TEXT), MemoryError, torch.OutOfMemoryError])
def test_every_way_of_saying_so_is_understood(error):
    learner = one_batch(strategy="full")
    room_for(learner, 10, error=error)
    list(train(learner))
    assert learner.micro_batch == 8


def test_mps_and_cublas_are_understood_too():
    assert device.is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 18.02 GB, …)"))
    assert device.is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"))


@pytest.mark.parametrize("error", [lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError])
def test_every_other_error_is_let_through(error):
    learner = one_batch(strategy="full")
    room_for(learner, 10, error=error)
    with pytest.raises((RuntimeError, ValueError)):
        list(train(learner))
    assert learner.steering.on_record == []


class Once:
    """Room for everything but once: the step whose number it is asks in vain, after it has drawn and moved."""

    def __init__(self, learner: Learner, step: int, least: int) -> None:
        self._learner, self._step, self._least = learner, step, least
        learner.model.head.register_forward_hook(self)

    def __call__(self, module: nn.Module, given: Any, output: torch.Tensor) -> None:
        if self._learner.step == self._step and module.training and len(output) > self._least:
            raise torch.OutOfMemoryError


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_step_that_was_tried_in_vain_leaves_no_trace(every_step, strategy):
    """Dropout has drawn and BatchNorm has moved by then: a run that meets the change on record takes the same steps."""
    values = {"strategy": strategy, "dropout": 0.5, "epochs": 3, "ema_decay": 0.9, "augmentation": "strong"}
    values |= {"freeze_batchnorm": False, "head_epochs": 0, "mixing": "mixup"} if strategy == "full" else {}
    tried, replay = small_learner(**values), small_learner(**values)
    tried.steering = Planned()
    Once(tried, 6, 3)
    reports = list(train(tried))
    assert [(change.value, change.step) for change in tried.steering.on_record] == [(3, 6)] or strategy == "head"
    end = tried.state()  # now: the random numbers are the whole process's
    replay.steering = Planned(on_record=tuple(tried.steering.on_record))
    again = list(train(replay))
    assert list(differences(end, replay.state())) == []
    assert points_of(again) == points_of(reports)


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_resumed_after_memory_ran_out_it_equals_the_run_in_which_it_did(every_step, tmp_path, strategy):
    """Also the features that were computed before are computed in smaller parts again, so that none depends on when."""
    values = {"strategy": strategy, "dropout": 0.5, "epochs": 3, "augmentation": "strong"}
    whole = small_learner(**values)
    whole.steering = Planned()
    Once(whole, 6, 3)
    points, states = [], []
    for report in train(whole):
        points += report.points
        saved = finetuning.save_checkpoint(whole.state(), tmp_path, 1)
        states.append((saved, len(points)))
    end = whole.state()
    for saved, told in states[::2]:
        rest = small_learner(**values)
        rest.steering = Planned(on_record=tuple(whole.steering.on_record))
        rest.restore(load_checkpoint(tmp_path / saved.file, saved.sha256))
        assert points_of(list(train(rest))) == points[told:], saved.file
        assert list(differences(end, rest.state())) == [], saved.file


def test_features_that_are_computed_anew_because_of_a_step_are_reported_group_by_group(every_step):
    """So a wish is met after one group of them; what was tried has left no trace by then."""
    learner, places = small_learner(dropout=0.5, epochs=3), []
    learner.steering = Planned()
    Once(learner, 6, 3)
    for report in train(learner):
        if report.progress.phase.startswith("computing features") and learner.step == 6:
            places.append((report.progress.phase, learner.micro_batch, report.points))
    assert places == [(f"computing features: {done} of 19 pictures", 3, ()) for done in (7, 13, 19)]


def test_step_with_pictures_beyond_the_room_learns_from_parts_of_one_size(every_step):
    """The memory runs out when half of a batch, of which nothing is kept, is computed; what is kept is outdated then.

    Here the number of pictures in a pass shows in the features, so a run that meets the change on record is the oracle.
    """
    passes = count()

    def body(_: nn.Module, given: Any, features: torch.Tensor) -> torch.Tensor:
        if next(passes) == 30:
            raise torch.OutOfMemoryError
        return features + 0.01 * len(given[0])

    def run(*on_record: Change) -> tuple[Learner, list[Report]]:
        learner = small_learner(epochs=8)
        learner.model.body.register_forward_hook(body)
        learner.steering, learner.room = Planned(on_record=on_record), Room(600)
        return learner, list(train(learner))

    learner, reports = run()
    (change,) = learner.steering.on_record
    assert change.step % learner.batches, "in mid-epoch"
    replay, again = run(change)
    assert points_of(again)[-30:] == points_of(reports)[-30:]
    assert same(weights_of(replay.model), weights_of(learner.model))


@pytest.mark.parametrize("strategy", ["head", "partial"])
def test_what_is_kept_on_the_device_is_the_same_and_leaves_it_where_memory_runs_out(strategy):
    """The step is then taken again with as many pictures as before."""
    values, full = {"strategy": strategy, "views": 2, "epochs": 3}, [torch.OutOfMemoryError]
    elsewhere, resident, evicted = (small_learner(**values) for _ in range(3))
    for learner in (resident, evicted):
        learner.room, learner.steering = Room(resident=Resident(torch.device("cpu"), 1e9)), Planned()
    on_device: list[int] = []

    def look(*_: Any) -> None:
        on_device.append(sum(rows.resident_bytes for rows in evicted.room.resident._tenants))
        if evicted.step == 5 and full:
            raise full.pop()

    evicted.model.head.register_forward_hook(look)
    points = [points_of(list(train(learner))) for learner in (elsewhere, resident, evicted)]
    assert points[0] == points[1] == points[2]
    assert on_device[0] > 0 == on_device[-1]
    assert evicted.steering.on_record == []
    assert evicted.micro_batch == 64


@pytest.mark.parametrize("failing", [2, 9])
def test_features_are_all_computed_in_parts_of_one_size(monkeypatch, failing):
    """The memory runs out in the middle of them, of the checked or the learnt ones: those before are computed again."""
    monkeypatch.setattr(pixels, "EVALUATION_BATCH", 5)
    learner = small_learner(views=2)
    learner.steering = Planned()
    sizes: list[int] = []

    def body(_: nn.Module, given: Any) -> None:
        sizes.append(len(given[0]))
        if len(sizes) == failing:
            raise torch.OutOfMemoryError

    learner.model.body.register_forward_pre_hook(body)
    list(train(learner))
    (change,) = learner.steering.on_record
    assert max(sizes[failing:]) == change.value
    assert sum(sizes[failing:]) >= (25 + 25 + 15 if failing == 2 else 15), "nothing of another size is used again"


# Numbers that are none


def poisoned(strategy: str, kind: str, step: int, **values: Any) -> Learner:
    """Return a learner whose step number `step` has a loss, or only gradients, that are no numbers."""
    values |= {"head_epochs": 0, "freeze_batchnorm": False} if strategy == "full" else {}
    learner = small_learner(strategy=strategy, epochs=3, dropout=0.3, ema_decay=0.9, **values)
    head, real = learner.model.head, learner.model.head.forward

    class Burst(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, logits: torch.Tensor) -> torch.Tensor:
            return logits.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.inf

    def forward(features: torch.Tensor) -> torch.Tensor:
        logits = real(features)
        if learner.step != step - 1 or not head.training:
            return logits
        return logits * math.nan if kind == "loss" else Burst.apply(logits)

    head.forward = forward
    return learner


class Narrow(torch.autograd.Function):
    """Passes all through; on the way back what is above `largest` overflows."""

    @staticmethod
    def forward(context: Any, logits: torch.Tensor, largest: float) -> torch.Tensor:
        context.largest = largest
        return logits.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient.where(gradient.abs() <= context.largest, math.inf), None


def in_float16(largest: float = math.inf) -> Learner:
    """Return a learner that computes in float16, with dropout, and gradients at the head of at most `largest`."""
    values = {"strategy": "full", "head_epochs": 0, "freeze_batchnorm": False, "dropout": 0.3, "gradient_clipping": 1.0}
    learner = small_learner(precision="float16", **values)
    learner.model.head.register_forward_hook(lambda _, given, logits: Narrow.apply(logits, largest))
    return learner


def test_float16_is_scaled_and_what_is_told_of_the_gradients_is_not():
    half, exact = in_float16(), small_learner(strategy="full", head_epochs=0, dropout=0.3, gradient_clipping=1.0)
    exact.config = exact.config.model_copy(update={"freeze_batchnorm": False})
    norms = [values_of(list(train(learner)), "step/gradient_norm") for learner in (half, exact)]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)
    assert half.scaler.get_scale() == 2**16
    assert exact.scaler.get_scale() == 1


def test_gradients_that_overflow_float16_are_no_divergence_but_taken_again_at_half_the_scale():
    """Dropout has drawn and BatchNorm has moved by then; a power of two changes no digit."""
    calm, narrow = in_float16(), in_float16(largest=2**10)
    reports = points_of(list(train(calm)))
    assert points_of(list(train(narrow))) == reports
    assert narrow.scaler.get_scale() < 2**16
    assert same(weights_of(narrow.model), weights_of(calm.model))


def test_gradients_that_overflow_at_every_scale_are_a_divergence():
    learner = in_float16(largest=0)
    before = weights_of(learner.model)
    with pytest.raises(DivergedError, match="the gradients were not finite"):
        list(train(learner))
    assert learner.scaler.get_scale() == steps.LEAST_SCALE
    assert same(weights_of(learner.model), before)
    with pytest.raises(DivergedError):  # whoever goes on all the same meets the same
        list(train(learner))


def test_memory_that_runs_out_when_float16s_gradients_are_unscaled_already(monkeypatch):
    learner, full, norm_of = in_float16(), [torch.OutOfMemoryError], nn.utils.get_total_norm

    def norm(gradients: Any) -> torch.Tensor:
        if learner.step == 2 and full:
            raise full.pop()
        return norm_of(gradients)

    monkeypatch.setattr(nn.utils, "get_total_norm", norm)
    learner.steering = Planned()
    list(train(learner))
    assert [change.what for change in learner.steering.on_record] == ["micro_batch"]
    assert learner.scaler.get_scale() == 2**16


def test_loss_that_is_no_number_is_a_divergence_in_float16_at_once():
    learner = in_float16()
    learner.model.head.register_forward_hook(lambda _, given, logits: logits * (math.nan if learner.step else 1))
    with pytest.raises(DivergedError, match="the loss was not a finite number"):
        list(train(learner))
    assert learner.scaler.get_scale() == 2**16


@pytest.mark.parametrize("strategy", ["head", "full"])
@pytest.mark.parametrize(("kind", "words"), [("loss", "the loss was not"), ("gradients", "the gradients were not")])
@pytest.mark.parametrize("step", [1, 3, 6])
def test_step_whose_numbers_are_none_is_not_taken(monkeypatch, strategy, kind, words, step):
    """Weights, averages, BatchNorm, optimizer and random numbers are to the bit those from before the step."""
    learner, calm = poisoned(strategy, kind, step), poisoned(strategy, kind, 1000)
    reports: list[Report] = []
    with pytest.raises(DivergedError, match=f"{words} .*finite.* at step {step}"):
        reports.extend(train(learner))
    left = learner.state()
    assert steps_of(reports, "step/loss") == list(range(1, step)), "what was measured before is told"
    monkeypatch.setattr(training, "REPORT_SECONDS", 0)
    for report in train(calm):
        if report.points and calm.step == step - 1 and calm.batch == (step - 1) % 4:
            break
    assert list(differences(left, calm.state())) == []
    assert all(parameter.grad is None for parameter in learner.trained.parameters())


@pytest.fixture
def flowers(monkeypatch: pytest.MonkeyPatch, home: Path) -> Dataset:
    found = few_flowers()
    monkeypatch.setattr(finetuning, "open_dataset", lambda name: found)
    return found


def until_it_fails(kind: type[Exception], config: Any, folder: Path, **rest: Any) -> tuple[list[Event], Exception]:
    events: list[Event] = []
    try:
        for event in finetune(config, folder, **rest):
            events.append(event)
    except kind as error:
        return events, error
    raise AssertionError("it did not fail")


def test_run_that_diverges_leaves_a_checkpoint_of_the_step_before_and_its_best_model(flowers, tmp_path, monkeypatch):
    """And goes on from there at another rate, without the steps before being taken again."""
    config = config_of(strategy="full", head_epochs=1, epochs=2, freeze_batchnorm=False)
    real = steps.gradients

    def gradients(learner: Learner, *rest: Any) -> tuple[float, float, float]:
        loss, norm, right = real(learner, *rest)
        return (math.nan if learner.step == 7 and learner.config.rate > 0.001 else loss), norm, right

    monkeypatch.setattr(steps, "gradients", gradients)
    events, error = until_it_fails(DivergedError, config, tmp_path)
    assert "at step 8." in str(error)
    saved = events[-1].checkpoint
    assert (saved.step, events[-1].step) == (7, 7)
    assert "before step 8" in events[-1].progress.phase
    points = [point for event in events for point in event.points]
    assert [point.step for point in points if point.key == "step/loss"] == list(range(1, 8))
    assert load_bundle(tmp_path / "model").about["epoch"] in (1, 2)
    state = load_checkpoint(tmp_path / saved.file, saved.sha256)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["weights"].values())

    class Gentler(Planned):
        wish = ""

    rest = list(finetune(config, tmp_path, Gentler({7: ("learning_rate", 0.0005)}), state, 2))
    assert rest[-1].summary["steps"] == 9
    more = [point.step for event in rest for point in event.points if point.key == "step/loss"]
    assert more == [8, 9]


def test_run_that_diverges_in_its_first_epoch_keeps_the_model_from_before(flowers, tmp_path, monkeypatch):
    real = steps.gradients

    def gradients(learner: Learner, *rest: Any) -> tuple[float, float, float]:
        return (math.nan, 1.0, 0.0) if learner.step == 2 else real(learner, *rest)

    monkeypatch.setattr(steps, "gradients", gradients)
    events, _ = until_it_fails(DivergedError, config_of(), tmp_path)
    assert events[-1].checkpoint.step == 2
    about = load_bundle(tmp_path / "model").about
    assert (about["epoch"], about["val_accuracy"]) == (0, None)


def test_last_step_that_blew_up_the_weights_leaves_no_checkpoint_of_them(flowers, tmp_path, monkeypatch):
    """Its weights are numbers, and what they say is not: going on from them would end at once."""
    real = training.scores_of
    seen = iter(range(10))
    monkeypatch.setattr(
        training, "scores_of", lambda *given: real(*given) if next(seen) < 2 else training.Scores(math.inf, 0, None)
    )
    events, error = until_it_fails(DivergedError, config_of(epochs=3), tmp_path)
    assert "the validation loss was not a finite number at step 6" in str(error)
    assert not any(event.checkpoint for event in events)
    assert load_bundle(tmp_path / "model").about["epoch"] == 1


# Pictures that cannot be read


class Spoiled(FileSplit):
    """A split one of whose pictures cannot be read any more."""

    def read(self, index: int) -> Any:
        if index == 5:
            raise OSError("Input/output error")
        return super().read(index)


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_picture_that_cannot_be_read_is_named_and_what_was_done_is_kept(flowers, tmp_path, monkeypatch, strategy):
    """It goes on from there once the picture is mended, to the same end as if nothing had been."""
    config = config_of(strategy=strategy, epochs=2, **({"head_epochs": 0} if strategy == "full" else {}))
    expected = list(finetune(config, tmp_path / "whole"))
    names = flowers.train.names
    split = Spoiled(flowers.train.labels, flowers.train.folder, names)
    spoiled = Dataset(flowers.name, flowers.classes, split, flowers.val, "spoiled")
    monkeypatch.setattr(finetuning, "open_dataset", lambda name: spoiled)
    events, error = until_it_fails(DatasetError, config, tmp_path / "run")
    place = next(n for n, group in enumerate(shuffled_batches(20, 8, 0, 0)) if 5 in group)
    assert str(error).startswith(f"The picture {names[5]} must be readable: Input/output error")
    told = [point for event in events for point in event.points]
    assert [point.step for point in told if point.key == "step/loss"] == list(range(1, place + 1))
    assert place > 0, "else there is nothing to keep"
    saved = events[-1].checkpoint
    assert saved.step == place
    monkeypatch.setattr(finetuning, "open_dataset", lambda name: flowers)
    state = load_checkpoint(tmp_path / "run" / saved.file, saved.sha256)
    rest = list(finetune(config, tmp_path / "run", state=state, attempt=2))
    told += [point for event in rest for point in event.points]
    assert told == [point for event in expected for point in event.points]


def test_damaged_file_is_named(tmp_path):
    flowers = few_flowers()
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    split = FileSplit(np.zeros(1, int), tmp_path, ("bad.jpg",))
    pixels = Pixels(split, finetuning.make_learner(config_of(), flowers).train._preprocessing, None, 0, Room(1e6), 2)
    with pytest.raises(DatasetError, match=r"The picture bad\.jpg must be readable: .* Mend or remove it"):
        pixels.batch(np.array([0]), None, torch.device("cpu"))
