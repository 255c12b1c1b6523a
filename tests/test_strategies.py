"""The strategies that go deeper than the head: where a network is cut, what learns, and what the time allows."""

import copy
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dlkit.catalog.backbones import BACKBONES
from dlkit.config import AUTO_HEAD_EPOCHS, AUTO_MIXING, SHARES, backbone_rates, first_phases, parse
from dlkit.engine import auto, device, steps
from dlkit.engine.auto import go_deeper, measure_phase
from dlkit.engine.finetuning import make_learner
from dlkit.engine.learner import FULL, HEAD, PARTIAL
from dlkit.engine.model import build, parameter_count
from dlkit.engine.phases import DEPTHS, begin_phase, rate_groups
from dlkit.engine.pixels import shuffled_batches
from dlkit.engine.stages import cut
from dlkit.engine.training import train
from dlkit.errors import ConfigError
from dlkit.evidence import Format
from dlkit.runs.records import Change
from tests.small_learner import (
    CPU,
    Planned,
    config_of,
    few_flowers,
    points_of,
    same,
    small_learner,
    values_of,
    weights_of,
    wrong_answers,
)

SMALLEST = {"swin-t": 224, "vit-b-16": 224, "tiny-vit-5m": 224}  # of the others 64 pixels are enough


@pytest.fixture(scope="module")
def flowers():
    return few_flowers()


# Where a network is cut


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_can_be_cut_and_its_halves_are_the_whole(name):
    entry = BACKBONES[name]
    body, images = build(entry, 5).body.eval(), torch.randn(1, 3, *[SMALLEST.get(name, 64)] * 2)
    halves = cut(body, images, "last-third")
    with torch.no_grad():
        assert torch.equal(halves.tail(halves.front(images)), body(images))
    assert 0 < halves.share <= SHARES["last-third"]
    inside = {id(parameter) for parameter in body.parameters()}
    assert {id(parameter) for parameter in halves.tail.parameters()} < inside, "shared, not copied"
    names = dict(body.named_parameters()).keys()
    assert dict(halves.tail.named_parameters()).keys() < names


def test_deeper_stage_has_more_of_the_network():
    body, images = build(BACKBONES["resnet18"], 5).body.eval(), torch.randn(1, 3, 64, 64)
    sizes = [parameter_count(cut(body, images, stage).tail) for stage in ("last-quarter", "last-half")]
    assert sizes[0] < sizes[1]


def test_network_that_cannot_be_cut_is_refused_with_advice():
    class Whimsical(nn.Module):
        def forward(self, images):
            return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))

    for network in (Whimsical(), nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())):
        with pytest.raises(ConfigError, match=r"cannot learn in part: .*Choose the strategy full or head"):
            cut(network, torch.randn(1, 3, 4, 4), "last-third")


# What learns, and how fast


def test_first_phases():
    assert first_phases(config_of(strategy="head", epochs=4)) == [(HEAD, 4)]
    assert first_phases(config_of(strategy="partial", epochs=4)) == [(HEAD, 3), (PARTIAL, 4)]
    assert first_phases(config_of(strategy="full", epochs=4, head_epochs=0)) == [(FULL, 4)]
    assert first_phases(parse({"strategy": "auto"})) == [(HEAD, AUTO_HEAD_EPOCHS)]


def test_earlier_layers_learn_at_smaller_rates():
    model = build(BACKBONES["resnet18"], 5)
    groups = rate_groups(model, model.body, 0.2, 0.5)
    assert [group["rate_factor"] for group in groups] == [1.0, 0.2, 0.1, 0.05, 0.025]
    in_order = [id(parameter) for group in groups[:0:-1] for parameter in group["params"]]
    assert in_order == [id(parameter) for parameter in model.body.parameters()]
    assert len(groups) == DEPTHS + 1
    tail = cut(model.body.eval(), torch.randn(1, 3, 64, 64), "last-half").tail
    of_tail = rate_groups(model, tail, 0.2, 0.5)
    assert [group["rate_factor"] for group in of_tail] == [1.0, 0.2, 0.1]


def test_layers_learn_more_slowly_where_all_of_them_do():
    for values, kind, wanted in (
        ({"strategy": "partial"}, PARTIAL, (0.5, 0.7)),
        ({"strategy": "full"}, FULL, (0.1, 0.5)),
        ({"strategy": "auto"}, PARTIAL, (0.5, 0.7)),
        ({"strategy": "auto"}, FULL, (0.1, 0.5)),
        ({"strategy": "full", "backbone_rate_factor": 0.3}, FULL, (0.3, 0.5)),
    ):
        config = parse(values)
        assert backbone_rates(config, kind) == backbone_rates(config.resolved(), kind) == wanted


@pytest.mark.parametrize("is_frozen", [True, False])
def test_partial_learns_the_last_layers_and_nothing_else(flowers, is_frozen):
    config = config_of(strategy="partial", head_epochs=1, epochs=1, freeze_batchnorm=is_frozen)
    learner = make_learner(config, flowers)
    before = weights_of(learner.model)
    reports = list(train(learner))
    moved = {name for name, now in weights_of(learner.model).items() if not torch.equal(now, before[name])}
    tail = {f"body.{name}" for name in learner.trained.layers.state_dict()}
    statistics = {name for name in tail if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    wanted = (tail - statistics if is_frozen else tail) | {"head.weight", "head.bias"}
    assert moved == wanted
    assert {report.progress.phase for report in reports} >= {"training: head", "training: last layers"}
    assert learner.model_to_keep() is learner.model


def test_one_partial_step_equals_plain_torch(flowers):
    values: dict[str, Any] = {"optimizer": "sgd", "schedule": "constant", "learning_rate": 0.01, "weight_decay": 0.001}
    values |= {"backbone_rate_factor": 0.1, "layer_rate_decay": 1}
    config = config_of(strategy="partial", head_epochs=0, epochs=1, batch_size=20, **values)
    learner = make_learner(config, flowers)
    model = copy.deepcopy(learner.model).eval()
    reports = list(train(learner))

    tail = cut(model.body, torch.randn(1, 3, config.image_size, config.image_size), "last-third").tail
    groups = [{"params": model.head.parameters()}, {"params": tail.parameters(), "lr": 0.01 * 0.1}]
    sgd = torch.optim.SGD(groups, lr=0.01, weight_decay=0.001)
    batch = shuffled_batches(20, 20, 0, 0)[0]
    labels = learner.train.labels[batch]
    loss = functional.cross_entropy(model(learner.train.batch(batch, None, CPU)), labels, label_smoothing=0.1)
    loss.backward()
    sgd.step()
    assert values_of(reports, "step/loss") == [pytest.approx(loss.item(), rel=1e-5)]
    for name, weight in learner.model.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 6, 7, 7), (8, 9, 4)])  # of a convolution's front, and of a transformer's
def test_mixup_of_what_is_kept_blends_it_in_the_shares_of_the_labels(shape, monkeypatch):
    learner = small_learner(strategy="partial", mixing="mixup", mixing_alpha=1.0, head_epochs=0)
    rows, seen = torch.randn(shape), []

    class Tokens(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.append(inputs)
            return inputs.flatten(1)[:, : learner.classes].clone().requires_grad_()

    phase = begin_phase(learner)
    monkeypatch.setattr(phase, "module", Tokens())
    monkeypatch.setattr(phase, "inputs", lambda indices, epoch: rows)
    assert phase.mixing == ("mixup", 1.0)
    steps.gradients(learner, phase, np.arange(8), 1)
    other = rows.roll(1, 0)
    share = ((seen[0] - other) * (rows - other)).sum() / (rows - other).square().sum()
    assert 0 < share < 1
    torch.testing.assert_close(seen[0], share * rows + (1 - share) * other)


def test_auto_mixes_and_smooths_beyond_the_head():
    config = config_of(strategy="auto")
    assert (config.mixing_in_use, config.label_smoothing) == (AUTO_MIXING, 0.1)
    learner = small_learner(strategy="auto")
    learner.phases, mixings = [(HEAD, 1), (PARTIAL, 1), (FULL, 1)], []
    for learner.place in range(3):
        mixings.append(begin_phase(learner).mixing)
    assert mixings == [("none", 0.0), AUTO_MIXING, AUTO_MIXING]


def test_each_picture_passes_the_front_once_a_view():
    learner = small_learner(strategy="partial", head_epochs=0, epochs=5, views=2)
    list(train(learner))
    asked = learner.train.asked
    assert {view for view, _ in asked} == {None, 1}
    assert len(asked) == len(set(asked)) == 2 * 25


def test_averaged_last_layers_are_put_into_the_model_that_is_kept():
    learner = small_learner(strategy="partial", head_epochs=1, epochs=2, ema_decay=0.5)
    list(train(learner))
    kept, averaged = learner.model_to_keep(), learner.kept()
    assert kept is not learner.model
    assert same(weights_of(kept.head), weights_of(averaged.head))
    assert not torch.equal(kept.head.weight, learner.model.head.weight)
    mine = kept.body.state_dict()
    assert all(torch.equal(mine[name], weight) for name, weight in averaged.layers.state_dict().items())


def test_format_of_the_features_is_the_one_that_was_chosen(flowers):
    exact, quick = make_learner(config_of(epochs=1), flowers), make_learner(config_of(epochs=1), flowers)
    quick.formats = {"features": Format("bfloat16", folded=True)}
    losses = [values_of(list(train(learner)), "val/loss") for learner in (exact, quick)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in quick.model.parameters())


@pytest.mark.parametrize(("free", "is_resident"), [(0, False), (3e5, False), (1e9, True)])
def test_pictures_are_kept_on_a_device_that_has_room_for_them(flowers, monkeypatch, free, is_resident):
    monkeypatch.setattr(device, "spare_bytes", lambda device: free)
    learner = make_learner(config_of(strategy="full", epochs=1), flowers)
    assert bool(learner.train._squares.resident_bytes) is is_resident
    assert bool(learner.validation._squares.resident_bytes) is is_resident


def test_steps_of_all_layers_are_compiled_where_that_is_asked_for_and_the_model_stays_the_same(monkeypatch):
    compiled: list[nn.Module] = []
    really_compile = torch.compile

    def compile_(model: nn.Module) -> Any:
        compiled.append(model)
        return really_compile(model, backend="eager")  # traced as on a GPU, and computed by the same kernels as ever

    monkeypatch.setattr(torch, "compile", compile_)
    values = {"strategy": "full", "head_epochs": 1, "ema_decay": 0.5, "freeze_batchnorm": False}
    plain, quick = (small_learner(compile=asked, **values) for asked in (False, True))
    points = [points_of(list(train(learner))) for learner in (plain, quick)]
    assert compiled == [quick.model]
    assert points[0] == points[1]
    assert quick.state()["weights"].keys() == plain.state()["weights"].keys()


def test_what_comes_from_the_processor_goes_to_cuda_through_pinned_memory(monkeypatch):
    told: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: told.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, **options: told.append((device.type, options)))
    for name in ("cuda", "cpu"):
        device.upload(torch.zeros(2), torch.device(name))
    assert told == ["pinned", ("cuda", {"non_blocking": True}), ("cpu", {})]


# What the time allows


class Timed:
    """Stands in for `measure_phase`: what a phase takes once and for an epoch."""

    def __init__(self, **seconds: tuple[float, float | None]) -> None:
        self.seconds = seconds

    def __call__(self, learner: Any, kind: str) -> tuple[float, float]:
        once, epoch = self.seconds[kind]
        assert epoch is not None, "measured in vain"
        return once, epoch


@pytest.mark.parametrize(
    ("minutes", "partial", "full", "plan"),
    [
        (3, (1, 12), (12, 70), [(PARTIAL, 12)]),
        (10, (17, 12), (12, 70), [(PARTIAL, 4), (FULL, 7)]),
        (60, (1, 1), (1, 3), [(PARTIAL, 4), (FULL, 10)]),
        (1, (1, 1), (1, 30), [(PARTIAL, 12)]),
        (2, (17, 12), (12, None), [(PARTIAL, 8)]),  # an epoch of all layers takes three times as long at least
        (0.3, (17, 12), (12, None), []),
    ],
)
def test_auto_goes_as_deep_as_the_time_allows_and_says_so(monkeypatch, minutes, partial, full, plan):
    learner = small_learner(strategy="auto", budget_minutes=minutes)
    learner.steering = Planned()
    learner.phase_epoch = AUTO_HEAD_EPOCHS
    monkeypatch.setattr(auto, "measure_phase", Timed(partial=partial, full=full))
    go_deeper(learner)
    assert learner.phases == [(HEAD, AUTO_HEAD_EPOCHS), *plan]
    (note,) = learner.steering.notes
    assert ("neither fits into the time" in note) == (not plan)
    assert "an epoch of the last layers takes about" in note


def test_auto_trains_the_plan_and_keeps_to_it_when_it_goes_on(monkeypatch):
    monkeypatch.setattr(auto, "measure_phase", Timed(partial=(1, 3), full=(1, 14)))
    learner = small_learner(strategy="auto", budget_minutes=2)
    learner.steering = Planned()
    reports = list(train(learner))
    kinds = [kind for kind, _ in learner.phases]
    assert kinds == [HEAD, PARTIAL, FULL]
    assert learner.epoch == sum(epochs for _, epochs in learner.phases)
    shares = [report.progress.share for report in reports]
    assert shares == sorted(shares)

    monkeypatch.setattr(auto, "measure_phase", lambda *_: pytest.fail("it was measured again"))
    again = small_learner(strategy="auto", budget_minutes=2)
    again.steering = Planned(on_record=tuple(learner.steering.on_record))
    list(train(again))
    assert same(weights_of(again.model), weights_of(learner.model))


@pytest.mark.parametrize("minutes", [1e-6, 0.001, 0.01])
def test_budget_that_is_too_small_for_anything_still_trains_an_epoch_and_says_so(minutes):
    learner = small_learner(strategy="auto", budget_minutes=minutes)
    learner.steering = Planned()
    reports = list(train(learner))
    assert learner.epoch >= 1
    assert len([report for report in reports if report.scores]) == learner.epoch + 1
    assert learner.phases[0][1] == learner.epoch or minutes > 1e-6
    assert learner.steering.notes


def test_features_that_take_half_of_the_time_do_not_end_the_head(monkeypatch):
    """Before the first epoch everything is computed once, which is no measure of the next."""
    learner = small_learner(strategy="auto", budget_minutes=0.05)
    learner.steering, body = Planned(), learner.model.body
    monkeypatch.setattr(auto, "measure_phase", Timed(partial=(0, 100), full=(0, 100)))
    body.register_forward_pre_hook(lambda *_: time.sleep(0.1))
    list(train(learner))
    assert learner.phases == [(HEAD, AUTO_HEAD_EPOCHS)]


def test_epoch_of_all_layers_is_not_begun_where_it_would_not_fit(monkeypatch):
    monkeypatch.setattr(auto, "measure_phase", Timed(partial=(1, 1), full=(1, 15)))
    learner = small_learner(strategy="auto", budget_minutes=1)
    learner.steering = Planned()
    for report in train(learner):
        if report.scores and learner.place == 1:
            learner.seconds_before = 46
    assert learner.phases == [(HEAD, AUTO_HEAD_EPOCHS), (PARTIAL, 4)]
    assert "the time is up" in learner.steering.notes[-1]


def test_early_stopping_of_the_head_is_not_the_end_of_auto(monkeypatch):
    monkeypatch.setattr(auto, "measure_phase", Timed(partial=(0, 1), full=(0, 1e6)))
    learner = small_learner(wrong_answers(), strategy="auto", budget_minutes=60, early_stopping=1)
    learner.steering = Planned()
    list(train(learner))
    assert [kind for kind, _ in learner.phases] == [HEAD, PARTIAL]
    assert learner.phases[0][1] < AUTO_HEAD_EPOCHS


def test_memory_that_is_too_small_for_all_layers_leaves_auto_with_what_fits(monkeypatch):
    """What is measured is tried in smaller parts; where not one picture fits, it counts as too slow."""
    learner = small_learner(strategy="auto", budget_minutes=60)
    learner.steering, real = Planned(), steps.gradients

    def gradients(one: Any, phase: Any, *rest: Any) -> Any:
        if phase.title == "all layers":
            raise torch.OutOfMemoryError
        return real(one, phase, *rest)

    monkeypatch.setattr(steps, "gradients", gradients)
    list(train(learner))
    assert learner.phases == [(HEAD, AUTO_HEAD_EPOCHS), (PARTIAL, 12)]
    assert learner.micro_batch >= 8


def test_freezing_and_unfreezing_the_head_of_auto_decides_nothing(monkeypatch):
    monkeypatch.setattr(auto, "measure_phase", Timed(partial=(0, 1), full=(0, 1e6)))
    learner = small_learner(strategy="auto", budget_minutes=60)
    learner.steering = Planned({2: ("frozen", True), 9: ("frozen", False)})
    list(train(learner))
    assert learner.phases == [(HEAD, AUTO_HEAD_EPOCHS), (PARTIAL, 12)]


def test_plan_of_an_attempt_that_was_killed_does_not_replace_a_later_one():
    learner = small_learner(strategy="auto")
    learner.apply(Change(7, "plan", [["head", 3], ["partial", 2]], 10, "worker"))
    learner.apply(Change(5, "plan", [["head", 12], ["full", 9]], 48, "worker"))
    assert learner.phases == [(HEAD, 3), (PARTIAL, 2)]


def test_auto_that_is_slower_than_it_thought_ends_in_time(monkeypatch):
    monkeypatch.setattr(auto, "measure_phase", Timed(partial=(0, 1), full=(0, 100)))
    learner = small_learner(strategy="auto", budget_minutes=1)
    learner.steering = Planned()
    for report in train(learner):
        if report.scores and learner.place == 1:
            learner.seconds_before = 59.99999  # the clock says that nearly all is used up
    assert [kind for kind, _ in learner.phases] == [HEAD, PARTIAL]
    assert learner.phases[1][1] < 12
    assert "the time is up" in learner.steering.notes[-1]


def test_more_epochs_of_an_ended_auto_run_are_not_ended_by_the_time():
    learner = small_learner(strategy="auto", budget_minutes=1e-6)
    learner.steering = Planned()
    list(train(learner))
    done = learner.epoch
    state = copy.deepcopy(learner.state())
    more = small_learner(strategy="auto", budget_minutes=1e-6)
    more.restore(state)
    more.steering = Planned({learner.step: ("more", 3)}, tuple(learner.steering.on_record))
    list(train(more))
    assert more.epoch == done + 3


@pytest.mark.parametrize("kind", [HEAD, PARTIAL, FULL])
def test_measuring_leaves_no_trace(kind):
    learner, untouched = (small_learner(strategy="auto", dropout=0.5, freeze_batchnorm=False) for _ in range(2))
    random = torch.get_rng_state()
    once, epoch = measure_phase(learner, kind)
    assert epoch > 0
    assert (once > 0) == (kind != FULL)
    assert torch.equal(torch.get_rng_state(), random)
    assert same(weights_of(learner.model), weights_of(untouched.model))
    assert all(parameter.grad is None for parameter in learner.model.parameters())
    plan = [(HEAD, 2), (PARTIAL, 2), (FULL, 1)]
    for one in (learner, untouched):
        one.phases = list(plan)
        list(train(one))
    assert same(weights_of(learner.model), weights_of(untouched.model))
    assert np.isfinite(epoch)
