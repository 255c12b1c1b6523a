"""The estimate before a run: its arithmetic on costs that are made up, and a real job that measures them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dlkit import evidence, machine
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.config import FinetuneConfig, later_phases, parse
from dlkit.engine.speed import place_of
from dlkit.estimate import END_SECONDS, Estimate, against, by_strategy, estimate
from dlkit.evidence import FEATURES, TRAINING, Choice
from dlkit.runs import service
from dlkit.runs.records import State
from dlkit.settings import settings
from tests.job_home import TINY, job_home, wait_for_end

SIZE = 160  # at which an EfficientNet-Lite0 is shown pictures whose short side is 183 pixels
START = {"seconds": 4.0, "memory_mb": 500.0, "copy": 0.0}
COSTS = {
    "head": {"once": 0.01, "step": 0.0, "check": 0.0, "learnt": 6400.0, "kept_bytes": 5120.0, "forward_bytes": 1e6},
    "partial": {"once": 0.006, "step": 0.02, "check": 0.004, "learnt": 1e6, "kept_bytes": 4e4, "forward_bytes": 1e6},
    "full": {"once": 0.0, "step": 0.05, "check": 0.01, "learnt": 3e6, "kept_bytes": 0.0, "forward_bytes": 0.0},
}
FIXED = {"head": 0.001, "partial": 0.0, "full": 0.1}
BEGIN = {"head": 0.3, "partial": 0.5, "full": 0.7}
SAVED = {"head": 0.0, "partial": 1e7, "full": 5e7}


@pytest.fixture(autouse=True)
def _quiet_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores without a GPU, three of which a worker has: decoding hides behind the network."""
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(machine, "gpus", lambda: ())
    monkeypatch.setattr(machine, "describe", lambda: machine.Machine(4, 16.0, (), False))


def config_of(**values: Any) -> FinetuneConfig:
    return parse({"dataset": "flowers-mini", "image_size": SIZE, "augmentation": "none", **values})


def measured(where: str | None = None) -> None:
    """Remember costs as if they had been measured here."""
    costs: dict[str, dict[str, float]] = {
        evidence.start_with("efficientnet-lite0"): START,
        evidence.pictures_of("flowers-mini", 183): {"decode": 0.001},
        evidence.augmenting("none", SIZE): {"seconds": 0.001},
        evidence.augmenting("light", SIZE): {"seconds": 0.002},
    }
    for kind, found in COSTS.items():
        name = evidence.phase_of(kind, "efficientnet-lite0", SIZE, "auto", "last-third")
        costs[name] = found | {
            "begin": BEGIN[kind],
            "step_fixed": FIXED[kind],
            "saved_bytes": SAVED[kind],
            "fixed_bytes": 7e6,
        }
    where = where or evidence.worker_place("auto")
    evidence.remember_costs({evidence.key_of(what, where): numbers for what, numbers in costs.items()})


def rated(backbone: str = "efficientnet-lite0", size: int = SIZE, features: float = 100, training: float = 20) -> None:
    """Remember rates as a training leaves them."""
    for task, rate in ((FEATURES, features), (TRAINING, training)):
        key = evidence.key_of(evidence.task_of(task, backbone, size), evidence.worker_place("cpu"))
        evidence.remember(key, Choice(rates={str(Choice().format): rate}))


def seconds_of(told: Estimate) -> dict[str, float]:
    return dict(told.phases)


# What was measured


def test_head_is_one_pass_over_the_pictures_and_many_small_steps():
    measured()
    told = estimate(config_of(epochs=10), train=1000, val=100)
    once = 1000 * 0.011 + 100 * (0.011 + 0.001)  # nothing is decoded ahead of the first check
    steps = 10 * (32 + 2 / 3) * 0.001
    assert seconds_of(told) == pytest.approx({"start": 4 + END_SECONDS, "head": 0.3 + once + steps})
    assert told.seconds == pytest.approx(4 + END_SECONDS + 0.3 + once + steps)
    assert (told.is_measured, told.basis) == (True, "Measured on this machine.")


def test_each_view_is_one_more_pass_but_not_beyond_the_epochs():
    measured()
    plain, three, capped = (
        estimate(config_of(augmentation="light", views=views, epochs=epochs), 1000, 100).seconds
        for views, epochs in ((1, 10), (3, 10), (16, 1))
    )
    assert three - plain == pytest.approx(2 * 1000 * (0.01 + 0.002))
    assert capped < plain


def test_last_layers_learn_on_what_is_kept_once_and_all_layers_see_every_picture_in_every_epoch():
    measured()
    partial = seconds_of(estimate(config_of(strategy="partial", epochs=5), 1000, 100))
    assert partial["last layers"] == pytest.approx(0.5 + 1100 * 0.007 + 5 * (1000 * 0.02 + 100 * 0.004))
    full = seconds_of(estimate(config_of(strategy="full", epochs=5), 1000, 100))
    assert full["all layers"] == pytest.approx(0.7 + 5 * (1000 * 0.051 + 32 * 0.1 + 100 * 0.011))
    assert full["head"] == pytest.approx(partial["head"])


def test_smaller_batches_pay_for_more_steps():
    measured()
    large, small = (estimate(config_of(strategy="full", batch_size=size), 1000, 100).seconds for size in (100, 10))
    assert small - large == pytest.approx(10 * 90 * 0.1, rel=0.02)


def test_more_pictures_than_can_be_kept_are_decoded_in_every_epoch(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 1)  # nothing goes on beside anything
    measured()
    config = config_of(strategy="full", epochs=5)
    before = estimate(config, 1000, 100).seconds
    monkeypatch.setenv("DLKIT_CACHE_MB", "1")
    monkeypatch.setenv("DLKIT_CACHE_DISK_MB", "0")
    settings.cache_clear()
    assert estimate(config, 1000, 100).seconds > before + 4 * 1000 * 0.001 * 0.9


def test_decoding_hides_behind_the_network_where_there_is_a_core_for_it(monkeypatch):
    measured()
    hidden = seconds_of(estimate(config_of(epochs=1), 1000, 0))["head"]
    assert hidden == pytest.approx(0.3 + 1000 * 0.011, rel=0.01)


def test_auto_takes_what_its_plan_takes_and_not_more_than_its_time():
    measured()
    for minutes in (0.3, 1.0, 2.0, 60.0):
        told = estimate(config_of(strategy="auto", budget_minutes=minutes), 1000, 100)
        assert told.seconds < max(60 * minutes, 20) + START["seconds"] + END_SECONDS + 10
    titles = [what for what, _ in told.phases]
    assert titles == ["start", "head", "measuring", "last layers", "all layers"]
    assert told.seconds < 20 * 60, "ten epochs of all layers are the most"


def test_plan_of_auto_has_all_layers_only_where_three_epochs_fit():
    assert later_phases(100, 10, 5, 20) == [("partial", 4), ("full", 3)]
    assert later_phases(80, 10, 5, 20) == [("partial", 12)]
    assert later_phases(14, 10, 5, 20) == []


def test_memory_is_the_process_the_weights_the_pictures_and_the_largest_step():
    measured()
    head, views = (estimate(config_of(views=count), 1000, 100) for count in (1, 2))
    weights = 3 * 4 * 4_652_008 / 1e6
    pictures, kept = 3 * (1000 * 183**2 + 100 * 160**2) / 1e6, 1100 * 5120 / 1e6
    assert head.memory_mb == pytest.approx(500 + weights + kept + 4 * 3 * 6400 / 1e6 + 64 * 1 + 7)
    assert views.memory_mb - head.memory_mb == pytest.approx(pictures + 1000 * 5120 / 1e6), "one view keeps no pictures"
    small, large = (estimate(config_of(strategy="full", batch_size=size), 1000, 100).memory_mb for size in (32, 256))
    assert large - small == pytest.approx((256 - 32) * 50)


def test_weights_that_learn_need_what_the_optimizer_remembers():
    measured()
    lean, rich = (estimate(config_of(strategy="full", optimizer=name)).memory_mb for name in ("sgd", "adamw"))
    assert rich - lean == pytest.approx(2 * 4 * 3.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_remembers_what_its_entry_says(name):
    weight = torch.nn.Parameter(torch.zeros(40, 30))
    bias = torch.nn.Parameter(torch.zeros(1200))
    made = OPTIMIZERS[name].build([{"params": [weight, bias]}], 0.1, OPTIMIZERS[name].settings)
    weight.grad, bias.grad = torch.ones(40, 30), torch.ones(1200)
    for optimizer in made:
        optimizer.step()
    kept = [
        sum(value.numel() for value in state.values() if torch.is_tensor(value) and value.numel() > 1)
        for optimizer in made
        for state in optimizer.state.values()
    ]
    assert max(kept, default=0) == 1200 * OPTIMIZERS[name].remembers


def test_memory_of_a_gpu_has_what_lies_there_where_it_fits(monkeypatch):
    pictures, kept = 3 * (1000 * 183**2 + 100 * 160**2) / 1e6, 2100 * 4e4 / 1e6
    found = {}
    for free in (0.001, 0.18, 0.22, 0.36, 0.40):
        monkeypatch.setattr(machine, "gpus", lambda free=free: (machine.Gpu(0, "H100", 80.0, 80.0 - free),))
        measured()
        found[free] = estimate(config_of(strategy="partial", views=2), 1000, 100).memory_mb
    more = [found[free] - found[0.001] for free in sorted(found)]
    assert more == pytest.approx([0, kept, pictures, pictures, pictures + kept])


def test_disk_of_auto_has_what_its_last_layers_learn_from(monkeypatch):
    measured()
    monkeypatch.setenv("DLKIT_CACHE_MB", "2")
    settings.cache_clear()
    head, auto = (estimate(config_of(strategy=strategy), 1000, 100).disk_mb for strategy in ("head", "auto"))
    assert auto - head > 0.9 * 1100 * (4e4 - 5120) / 1e6


def test_disk_has_what_the_memory_does_not_hold(monkeypatch):
    measured()
    before, room = estimate(config_of(views=2), 90_000, 100), service.room_needed(config_of().resolved()) / 1e6
    assert before.disk_mb == pytest.approx(room + 3 * (90_000 * 183**2 + 100 * 160**2) / 1e6 - 1024)
    assert estimate(config_of(), 90_000, 100).disk_mb == pytest.approx(room), "one view keeps no pictures"
    monkeypatch.setenv("DLKIT_CACHE_DISK_MB", "0")
    settings.cache_clear()
    assert estimate(config_of(views=2), 90_000, 100).disk_mb == pytest.approx(room, rel=0.1)


def test_what_does_not_fit_is_said_with_what_to_change(monkeypatch):
    measured()
    assert estimate(config_of(strategy="full")).notes == ()
    (note,) = estimate(config_of(strategy="full", batch_size=512)).notes
    assert note.startswith("A run needs about 26 GB of memory, and 16 GB are here. Choose a batch size below 512, ")
    monkeypatch.setattr("dlkit.files.free_bytes", lambda _: 10_000_000)
    (note,) = estimate(config_of()).notes
    assert "10 MB are free" in note


def test_pictures_that_are_not_here_are_not_in_the_time():
    (note,) = estimate(config_of(dataset="cifar-10")).notes
    assert note == "170 MB of pictures are fetched first, which is not in this time."


# What was not measured


def test_nothing_is_told_where_nothing_was_measured():
    told = estimate(config_of())
    assert (told.seconds, told.memory_mb, told.is_measured) == (None, None, False)
    assert told.basis == "Nothing was measured on this machine yet."
    assert told.disk_mb > 0


def test_rates_alone_give_a_rough_time():
    rated()
    told = estimate(config_of(strategy="full", epochs=10), 1000, 100)
    assert (told.memory_mb, told.is_measured) == (None, False)
    assert told.basis.startswith("Rough")
    assert seconds_of(told)["all layers"] == pytest.approx(10 * (1000 / 20 + 100 / 100), rel=0.1)


def test_another_network_is_scaled_by_its_arithmetic_from_the_nearest():
    rated("resnet50", 224, features=30, training=5)
    rated("mobilenet-v3-small", 224, features=900, training=200)
    told = seconds_of(estimate(config_of(backbone="resnet18", image_size=224), 10_000, 0))["head"]
    assert told == pytest.approx(10_000 * 1.814 / 4.089 / 30, rel=0.2)


def test_what_was_measured_elsewhere_does_not_count():
    measured("cpu, another processor, 3 threads, torch 1.0")
    assert estimate(config_of()).seconds is None


def test_a_setting_that_changes_the_costs_is_not_measured():
    measured()
    rated()
    assert estimate(config_of()).is_measured
    for other in ({"image_size": 128}, {"precision": "float32"}, {"augmentation": "light", "dataset": "shapes"}):
        assert not estimate(config_of(**other)).is_measured
    assert estimate(config_of(strategy="partial")).is_measured
    assert not estimate(config_of(strategy="partial", unfreeze_from="last-half")).is_measured


def test_pictures_that_are_not_here_are_read_as_quickly_as_usual_and_it_is_said():
    measured()
    told = estimate(config_of(dataset="cifar-10"))
    assert told.is_measured
    assert told.basis.endswith("Reading its pictures, which are not here, is taken as usual.")


def test_start_of_a_cold_worker_says_nothing_of_a_warm_one(monkeypatch):
    measured()
    monkeypatch.setenv("DLKIT_WARM_WORKER", "1")
    settings.cache_clear()
    assert not estimate(config_of()).is_measured


def test_damaged_evidence_tells_nothing():
    measured()
    path = settings().folder() / evidence.COSTS_FILE
    for text in ("", "{", "[]", '{"a": 7}', '{"a": {"b": "x"}}'):
        path.write_text(text)
        assert estimate(config_of()).seconds is None


# In words


def test_each_strategy_has_its_estimate_and_leaves_out_what_it_does_not_use():
    measured()
    found = by_strategy(config_of(strategy="full", epochs=5, head_epochs=1, mixing="mixup").resolved())
    assert list(found) == ["head", "partial", "full", "auto"]
    assert found["head"].seconds < found["partial"].seconds < found["full"].seconds


def test_run_is_told_against_its_estimate():
    summary = {"memory_mb": 900.0, "estimate": {"seconds": 14.0, "memory_mb": 812.0, "is_measured": True}}
    run = SimpleNamespace(seconds=13.24, summary=summary)
    assert against(run) == {
        "time against estimate": "13 s, estimated about 14 s",
        "memory against estimate": "900 MB, estimated about 810 MB",
    }
    assert against(SimpleNamespace(seconds=None, summary={})) == {}
    assert against(SimpleNamespace(seconds=1.0, summary={"estimate": {"seconds": None, "memory_mb": None}})) == {}


# The job that measures


def test_key_of_a_measurement_is_the_same_with_and_without_torch(home, monkeypatch):
    monkeypatch.setenv("DLKIT_WORKER_THREADS", str(torch.get_num_threads()))
    settings.cache_clear()
    assert evidence.worker_place("cpu") == place_of(torch.device("cpu"))


def test_job_measures_what_a_run_then_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.undo()
    with job_home(tmp_path):
        config = parse({**TINY, "device": "cpu"})
        asked = service.submit_measure(config)
        assert service.latest_measure(config) == asked
        job = wait_for_end(asked)
        assert job.state == State.SUCCEEDED, service.log_tail(job.id)
        told = estimate(config)
        assert told.is_measured
        run = wait_for_end(service.submit(config))
        assert run.summary["estimate"] == {
            "seconds": told.seconds,
            "memory_mb": told.memory_mb,
            "is_measured": True,
        }
        assert 0.3 < told.seconds / run.seconds < 3, "not more than a busy machine would explain"
        assert 0.6 < told.memory_mb / run.summary["memory_mb"] < 1.6
        assert set(against(run)) == {"time against estimate", "memory against estimate"}
