"""A training that is interrupted and goes on, against one that never was: bit for bit, wherever the cut is.

Each cut goes the whole way: state, file, another model, another learner, with other threads and other random numbers.
"""

import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.schedules import SCHEDULES
from dlkit.config import learning_rates
from dlkit.engine import finetuning, pixels, training
from dlkit.engine.bundle import load_bundle
from dlkit.engine.checkpoint import load_checkpoint, save_checkpoint
from dlkit.engine.finetuning import Uncontrolled, finetune, make_learner
from dlkit.engine.learner import Learner
from dlkit.engine.training import train
from dlkit.runs.records import Change, Point
from dlkit.settings import child_environment
from tests.small_learner import (
    Planned,
    config_of,
    few_flowers,
    one_thread,
    same,
    small_learner,
    weights_of,
    wrong_answers,
)

Make = Callable[[], Learner]
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _one_thread():
    yield from one_thread()


@pytest.fixture(autouse=True)
def _every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report after each step, each group of features and each group of validation pictures."""
    monkeypatch.setattr(training, "REPORT_SECONDS", 0)
    monkeypatch.setattr(pixels, "EVALUATION_BATCH", 4)


class Run:
    """A training to its end, or cut at some of its reports: its points, its learner, and a file for each report."""

    def __init__(
        self,
        make: Make,
        folder: Path | None = None,
        cuts: Iterable[int] = (),
        batches: Iterable[int] = range(100),  # of an epoch that goes on: after how many of them to write a file
    ) -> None:
        self.points: list[Point] = []
        self.doing: list[str] = []
        self.saved: list[tuple[Callable[[], dict[str, Any]], int]] = []  # what reads the state, and how many points
        self.learner, cuts, number = make(), set(cuts), 0
        going = True
        while going:
            going = False
            for report in train(self.learner):
                number += 1
                self.points += report.points
                self.doing.append(report.progress.phase)
                if folder is not None and self.learner.batch in batches:
                    self.saved.append((on_disk(self.learner, folder), len(self.points)))
                if number in cuts:
                    assert folder is not None
                    self.learner, going = gone_on(make, self.saved[-1][0]()), True
                    break
        self.end = self.learner.state()  # now: the random numbers and the threads are the whole process's


def on_disk(learner: Learner, folder: Path) -> Callable[[], dict[str, Any]]:
    """Write a checkpoint now; return what reads it."""
    saved = save_checkpoint(learner.state(), folder, 1)
    return lambda: load_checkpoint(folder / saved.file, saved.sha256)


def gone_on(make: Make, state: dict[str, Any]) -> Learner:
    """Return a new learner that stands where the state was taken, in a process where all else is different."""
    torch.manual_seed(random.randrange(1000))
    torch.set_num_threads(2)
    learner = make()
    learner.restore(state)
    return learner


def differences(first: Any, second: Any, path: str = "") -> Iterator[str]:
    """Yield where two states are not equal to the bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.dtype != second.dtype or not torch.equal(first, second):
            yield path
    elif isinstance(first, dict) and isinstance(second, dict):
        for key in first.keys() | second.keys():
            yield from differences(first.get(key), second.get(key), f"{path}/{key}")
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        for place, pair in enumerate(zip(first, second, strict=True)):
            yield from differences(*pair, f"{path}/{place}")
    elif first != second or type(first) is not type(second):
        yield f"{path}: {first!r} and {second!r}"


def assert_equal(whole: Run, points: list[Point], learner: Learner, where: object = "") -> None:
    """Assert that a run came to the same end with the same curves, each point told once."""
    assert list(differences(whole.end, learner.state())) == [], where
    assert points == whole.points, where
    places = [(point.key, point.step) for point in points]
    assert len(places) == len(set(places)), where


def assert_resumes(make: Make, folder: Path, count: int | None = None, seed: int = 0) -> Run:
    """Run it whole; then go on from every report, or from `count` of them by chance, and compare."""
    whole = Run(make, folder)
    chosen = range(len(whole.saved))
    for number in chosen if count is None else random.Random(seed).sample(chosen, count):
        read, told = whole.saved[number]
        rest = Run(lambda: gone_on(make, read()))  # noqa: B023 - called at once
        assert_equal(whole, whole.points[:told] + rest.points, rest.learner, (number, whole.doing[number]))
    return whole


ALL_AT_ONCE = {
    "ema_decay": 0.8, "dropout": 0.3, "label_smoothing": 0.1, "class_weights": "balanced", "gradient_clipping": 0.5,
    "early_stopping": 2, "augmentation": "strong",
}  # fmt: skip
LEARNING_BATCHNORM = {"freeze_batchnorm": False, "mixing": "cutmix", "head_epochs": 1}

# Wherever it is cut


@pytest.mark.parametrize(
    "values",
    [
        {"strategy": "head", "epochs": 4, "views": 3},
        {"strategy": "full", "head_epochs": 2},
        {"strategy": "partial", "head_epochs": 2, "views": 3, "epochs": 3},
        {"strategy": "partial", "head_epochs": 1, **ALL_AT_ONCE, "freeze_batchnorm": False},
        {"strategy": "head", "epochs": 3, **ALL_AT_ONCE},
        {"strategy": "full", "optimizer": "muon", "schedule": "plateau", **ALL_AT_ONCE, **LEARNING_BATCHNORM},
    ],
)
def test_resumed_at_any_report_it_equals_the_whole_run_bit_for_bit(tmp_path, values):
    """In the middle of an epoch, of the features, of a validation, before the first step and after the last."""
    whole = assert_resumes(lambda: small_learner(**values), tmp_path)
    said = {doing.partition(":")[0] for doing in whole.doing}
    assert said == {"checking", "training", "computing features"}
    reads = [read()["position"] for read, _ in whole.saved]
    assert {position["step"] for position in reads} == set(range(whole.learner.step + 1))
    assert any(position["batch"] == 4 for position in reads), "some are after an epoch's last step and before its end"


@pytest.mark.parametrize("strategy", ["head", "full"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on_with_its_own_memory(tmp_path, strategy, optimizer):
    values = {"strategy": strategy, "optimizer": optimizer, "ema_decay": 0.5, "dropout": 0.2}
    values |= {"head_epochs": 1, "freeze_batchnorm": False} if strategy == "full" else {}
    assert_resumes(lambda: small_learner(**values), tmp_path, 3, len(optimizer))


def test_an_optimizers_own_settings_survive(tmp_path):
    values = {"optimizer": "rmsprop", "momentum": 0.6, "smoothing": 0.7, "epsilon": 1e-3, "weight_decay": 0.1}
    assert_resumes(lambda: small_learner(**values), tmp_path, 4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_goes_on_where_it_was(tmp_path, schedule):
    """With answers that are wrong the validation loss rises, so that the plateau counts epochs and drops."""
    values = {"strategy": "full", "schedule": schedule, "epochs": 5, "head_epochs": 2, "early_stopping": 4}
    whole = assert_resumes(lambda: small_learner(wrong_answers(), **values), tmp_path, 5)
    if schedule == "plateau":
        assert whole.learner.plateau.factor < 1


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_patience_is_not_forgotten(tmp_path, strategy):
    """It counts on where it was: early stopping ends the run in the same epoch, wherever it was cut."""
    values = {"strategy": strategy, "epochs": 9, "early_stopping": 3, "schedule": "constant"}
    values |= {"head_epochs": 6} if strategy == "full" else {}
    whole = assert_resumes(lambda: small_learner(wrong_answers(), **values), tmp_path, 8)
    assert whole.learner.phase_epoch < 9


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("strategy", ["head", "partial", "full"])
def test_resumed_in_reduced_precision(tmp_path, strategy, precision):
    assert_resumes(lambda: small_learner(strategy=strategy, precision=precision, dropout=0.1), tmp_path, 4)


def test_resumed_again_and_again(tmp_path):
    """Each step of it is done in another learner, each from the file of the one before."""
    values = {"strategy": "full", "optimizer": "nadam", **ALL_AT_ONCE, **LEARNING_BATCHNORM}
    whole = Run(lambda: small_learner(**values))
    chain = Run(lambda: small_learner(**values), tmp_path, range(1, 500, 9))
    assert_equal(whole, chain.points, chain.learner)


def test_threads_are_those_it_began_with(tmp_path):
    torch.set_num_threads(2)
    whole = Run(lambda: small_learner(epochs=1), tmp_path)
    read, told = whole.saved[9]
    torch.set_num_threads(1)
    learner = small_learner(epochs=1)
    learner.restore(read())
    assert torch.get_num_threads() == 2
    rest = Run(lambda: learner)
    assert_equal(whole, whole.points[:told] + rest.points, rest.learner)


# On real photographs

PHOTOS = {
    "strategy": "full", "epochs": 1, "head_epochs": 1, "freeze_batchnorm": False, "optimizer": "adamw", **ALL_AT_ONCE,
}  # fmt: skip


def photo_learner(**values: Any) -> Learner:
    """Return a learner of the real network on twenty flowers."""
    return make_learner(config_of(**PHOTOS, **values), few_flowers())


def mixup_learner() -> Learner:
    return photo_learner(mixing="mixup")


@cache
def mixup_run() -> Run:
    """Return a whole run that several tests compare with, with files of the middles of its two epochs."""
    return Run(mixup_learner, Path(mkdtemp()), batches=[2])


def test_real_network_resumes_bit_for_bit():
    """With all that draws at random: strong augmentation, mixing, dropout, and BatchNorm that learns."""
    whole = mixup_run()
    for read, told in (whole.saved[0], whole.saved[-1]):
        rest = Run(lambda: gone_on(mixup_learner, read()))  # noqa: B023 - called at once
        assert_equal(whole, whole.points[:told] + rest.points, rest.learner)


def test_real_network_resumes_bit_for_bit_in_bfloat16_and_with_cutmix(tmp_path):
    def make() -> Learner:
        return photo_learner(mixing="cutmix", precision="bfloat16")

    whole = Run(make, tmp_path, batches=[2])
    read, told = whole.saved[-1]
    rest = Run(lambda: gone_on(make, read()))
    assert_equal(whole, whole.points[:told] + rest.points, rest.learner)


def test_pictures_that_are_decoded_anew_each_time_change_nothing(monkeypatch):
    """Threads decode them in any order, and none is kept."""
    monkeypatch.setattr(
        finetuning, "settings", lambda: SimpleNamespace(cache_mb=0, cache_disk_mb=0, data_folder=Path())
    )
    whole = mixup_run()
    read, told = whole.saved[0]
    rest = Run(lambda: gone_on(mixup_learner, read()))
    assert not rest.learner.train._squares.has(slice(None)).any()
    assert_equal(whole, whole.points[:told] + rest.points, rest.learner)


def test_strategy_head_on_photos_computes_the_same_features_again(tmp_path):
    values = {"augmentation": "strong", "views": 2, "epochs": 3, "dropout": 0.2}
    assert_resumes(lambda: make_learner(config_of(**values), few_flowers()), tmp_path, 3, 1)


CHILD = """
import sys, torch
from pathlib import Path
from dlkit.engine import pixels, training
from dlkit.engine.checkpoint import load_checkpoint, save_checkpoint
from tests.test_resume import Run, mixup_learner

pixels.EVALUATION_BATCH = 4
path, sha256, folder = sys.argv[1:]
learner = mixup_learner()
learner.restore(load_checkpoint(Path(path), sha256))
rest = Run(lambda: learner)
saved = save_checkpoint(learner.state(), Path(folder), 2)
torch.save([[point.key, point.step, point.epoch, point.value] for point in rest.points], Path(folder) / "points.pt")
print(saved.file, saved.sha256)
"""


def test_another_process_goes_on_as_this_one_would(tmp_path):
    whole = mixup_run()
    read, told = whole.saved[-1]
    saved = save_checkpoint(read(), tmp_path, 1)
    arguments = [str(tmp_path / saved.file), saved.sha256, str(tmp_path / "there")]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=ROOT, env=child_environment(), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    file, sha256 = child.stdout.split()
    rest = torch.load(tmp_path / "there" / "points.pt", weights_only=True)
    ended = load_checkpoint(tmp_path / "there" / file, sha256)
    assert list(differences({**ended, **whole.end}, ended)) == []
    assert whole.points[:told] + [Point(*values) for values in rest] == whole.points


# Changes while it goes on


class Steered:
    """Makes learners that are all steered by one plan, and by the record of what took effect when."""

    def __init__(self, plan: dict[int, tuple[str, Any]], make: Make) -> None:
        self.steering, self._make = Planned(plan), make

    def __call__(self) -> Learner:
        learner = self._make()
        learner.steering = self.steering
        return learner


def strengths(learner: Learner) -> list[int]:
    """Note how strong the augmentation was at each batch of training pictures that was asked for."""
    asked, real = [], learner.train.batch

    def batch(*arguments: Any) -> torch.Tensor:
        asked.append(learner.train.strength)
        return real(*arguments)

    learner.train.batch = batch
    return asked


FULL = {"strategy": "full", "epochs": 3, "head_epochs": 1}
PLANS = [
    pytest.param({"epochs": 3}, {5: ("learning_rate", 0.05)}, id="rate in the head"),
    pytest.param(FULL, {6: ("learning_rate", 0.0003)}, id="rate in all layers"),
    pytest.param({"epochs": 3}, {5: ("augmentation", "strong")}, id="augmentation in the head"),
    pytest.param({"epochs": 3}, {4: ("augmentation", "none")}, id="no augmentation in the head"),
    pytest.param(FULL, {7: ("augmentation", "medium")}, id="augmentation in all layers"),
    pytest.param({"epochs": 2}, {5: ("epochs", 4)}, id="epochs of the head"),
    pytest.param(FULL, {2: ("epochs", 4)}, id="epochs, wished during the head's"),
    pytest.param(FULL, {9: ("epochs", 5)}, id="epochs of all layers"),
    pytest.param({"epochs": 4}, {5: ("frozen", False)}, id="unfreezing the head"),
    pytest.param({"epochs": 4}, {0: ("frozen", False)}, id="unfreezing before the first step"),
    pytest.param({**FULL, "head_epochs": 3}, {5: ("frozen", False)}, id="unfreezing the head early"),
    pytest.param(FULL, {2: ("frozen", True), 9: ("frozen", False)}, id="freezing and unfreezing"),
    pytest.param(
        {**FULL, **ALL_AT_ONCE, **LEARNING_BATCHNORM, "optimizer": "adam", "schedule": "plateau"},
        {
            2: ("augmentation", "light"), 5: ("frozen", True), 6: ("learning_rate", 0.01), 7: ("epochs", 5),
            11: ("frozen", False), 13: ("augmentation", "none"), 14: ("learning_rate", 0.001),
        },
        id="all of them",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("values", "plan"), PLANS)
def test_resumed_before_or_after_a_change_it_equals_the_run_that_made_it(tmp_path, values, plan):
    """The changes are on record with their steps; a run that goes on from before them makes them again."""
    make = Steered(plan, lambda: small_learner(**values))
    whole = Run(make, tmp_path)
    assert len(make.steering.on_record) == len(plan)
    for number, (read, told) in list(enumerate(whole.saved))[:: 2 if len(plan) == 1 else 3]:
        rest = Run(lambda: gone_on(make, read()))  # noqa: B023 - called at once
        assert_equal(whole, whole.points[:told] + rest.points, rest.learner, (number, whole.doing[number]))
    assert len(make.steering.on_record) == len(plan), "nothing is made up"


def rates_of(run: Run) -> list[float]:
    return [point.value for point in run.points if point.key == "learning_rate"]


@pytest.mark.parametrize("step", [0, 1, 4, 6])
def test_another_rate_counts_from_the_next_step_on(step):
    run = Run(Steered({step: ("learning_rate", 0.0123)}, lambda: small_learner(schedule="cosine")))
    before, after = config_of(schedule="cosine"), config_of(schedule="cosine", learning_rate=0.0123)
    assert rates_of(run) == learning_rates(before, 2, 4, range(step)) + learning_rates(after, 2, 4, range(step, 8))
    assert run.learner.config == after


@pytest.mark.parametrize("step", [1, 4, 6])
def test_more_epochs_stretch_the_schedule_from_the_next_step_on(step):
    run = Run(Steered({step: ("epochs", 5)}, lambda: small_learner(schedule="cosine")))
    config = config_of(schedule="cosine", epochs=5)
    assert rates_of(run) == learning_rates(config, 2, 4, range(step)) + learning_rates(config, 5, 4, range(step, 20))
    assert (run.learner.epoch, run.learner.config) == (5, config)


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_another_augmentation_is_seen_from_the_next_step_on(strategy):
    """Of all layers each picture anew, of the head the features of all views anew."""
    values = {"full": {"epochs": 3, "head_epochs": 0}, "head": {"epochs": 4, "views": 2}}[strategy]
    learner = small_learner(strategy=strategy, **values)
    asked, learner.steering = strengths(learner), Planned({6: ("augmentation", "strong")})
    Run(lambda: learner)
    assert asked[:6] == [1] * 6, "light"
    assert set(asked[6:]) == {3}, "strong"
    rest = {"full": 6, "head": 2 + 2}[strategy]  # of the head's view: what of it is still to come, twice
    assert len(asked) == 6 + rest, "and nothing else"


def body_after_each_step(learner: Learner) -> list[tuple[int, dict[str, torch.Tensor]]]:
    """Train; return the body's weights and buffers whenever a step was done."""
    seen: list[tuple[int, dict[str, torch.Tensor]]] = []
    for _ in train(learner):
        if not seen or learner.step > seen[-1][0]:
            seen.append((learner.step, weights_of(learner.model.body)))
    return seen


def test_freezing_and_unfreezing_take_effect_at_the_next_epoch():
    """Wished after 5 and 10 steps of 4 an epoch: the backbone stands still in steps 9 to 12, BatchNorm with it."""
    learner = small_learner(strategy="full", head_epochs=0, epochs=4, freeze_batchnorm=False, weight_decay=0.1)
    learner.steering = Planned({5: ("frozen", True), 10: ("frozen", False)})
    bodies = body_after_each_step(learner)
    still = [step for (_, old), (step, new) in pairwise(bodies) if same(old, new)]
    assert still == [9, 10, 11, 12]
    moved = [step for (_, old), (step, new) in pairwise(bodies) if step not in still]
    assert all(not torch.equal(dict(bodies)[step]["0.weight"], dict(bodies)[step - 1]["0.weight"]) for step in moved)
    assert [change.step for change in learner.steering.on_record] == [8, 12]


def test_unfreezing_the_head_gives_all_layers_the_epochs_that_are_left():
    learner = small_learner(epochs=5, schedule="cosine")
    learner.steering = Planned({6: ("frozen", False)})
    run = Run(lambda: learner)
    assert learner.phases == [("head", 2), ("full", 3)]
    assert (learner.epoch, learner.step) == (5, 20)
    config = learner.config
    assert rates_of(run) == learning_rates(config, 5, 4, range(8)) + learning_rates(config, 3, 4, range(12))
    assert learner.trained is learner.model


def test_unfreezing_the_head_of_a_full_run_leaves_out_its_other_epochs():
    learner = small_learner(strategy="full", head_epochs=5, epochs=2)
    learner.steering = Planned({3: ("frozen", False)})
    Run(lambda: learner)
    assert learner.phases == [("head", 1), ("full", 2)]
    assert learner.epoch == 3


def test_unfreezing_in_the_last_epoch_of_the_head_is_remembered_for_more_epochs(tmp_path):
    """There is nothing left for all layers to learn; when somebody asks for more, they do."""
    make = Steered({7: ("frozen", False)}, lambda: small_learner(epochs=2))
    ended = Run(make, tmp_path)
    assert ended.learner.epoch == 2
    make.steering.on_record.append(Change(2, "epochs", 4, 8, "user"))
    rest = Run(lambda: gone_on(make, on_disk(ended.learner, tmp_path)()))
    assert rest.learner.phases == [("head", 2), ("full", 2)]
    assert rest.learner.epoch == 4


@pytest.mark.parametrize("values", [{"epochs": 2}, {"strategy": "full", "head_epochs": 1, "ema_decay": 0.7}])
def test_run_that_has_ended_goes_on_for_more_epochs_as_if_they_had_been_asked_for_before(tmp_path, values):
    ended = Run(lambda: small_learner(**values), tmp_path)
    last = ended.learner.step
    make = Steered({last: ("epochs", 4)}, lambda: small_learner(**values))
    rest = Run(lambda: gone_on(make, on_disk(ended.learner, tmp_path)()))
    assert rest.learner.epoch == ended.learner.epoch + 2
    whole = Run(Steered({last: ("epochs", 4)}, lambda: small_learner(**values)))
    assert_equal(whole, ended.points + rest.points, rest.learner)


def test_run_that_stopped_early_goes_on_for_more_epochs(tmp_path):
    """Its patience begins anew with them."""

    def make() -> Learner:
        return small_learner(wrong_answers(), epochs=20, early_stopping=2, schedule="constant")

    ended = Run(make, tmp_path)
    assert ended.learner.epoch == 3
    steered = Steered({12: ("epochs", 25)}, make)
    rest = Run(lambda: gone_on(steered, on_disk(ended.learner, tmp_path)()))
    assert rest.learner.epoch == 5
    whole = Run(Steered({12: ("epochs", 25)}, make))
    assert_equal(whole, ended.points + rest.points, rest.learner)


def test_more_epochs_do_not_revive_a_head_that_has_stopped_early():
    """They are for all layers."""
    values = {"strategy": "full", "head_epochs": 9, "epochs": 2, "early_stopping": 1, "schedule": "constant"}
    usual = Run(lambda: small_learner(wrong_answers(), **values)).learner
    last = next(number for number in range(1, 9) if 4 * number == usual.step - 4 * usual.phase_epoch)
    more = Run(Steered({4 * last: ("epochs", 3)}, lambda: small_learner(wrong_answers(), **values))).learner
    assert more.epoch - more.phase_epoch == last


def test_run_that_has_ended_and_is_resumed_ends_at_once(tmp_path):
    ended = Run(lambda: small_learner(), tmp_path)
    rest = Run(lambda: gone_on(small_learner, ended.saved[-1][0]()))
    assert rest.points == []
    assert_equal(ended, ended.points, rest.learner)


# A whole run


class Leave(Uncontrolled):
    """Wishes for an end after so many events."""

    def __init__(self, after: int) -> None:
        self.left = after

    @property
    def wish(self) -> str:
        self.left -= 1
        return "pause" if self.left < 0 else ""


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("after", [0, 3, 9, 13])
def test_run_that_was_paused_ends_with_the_model_and_the_summary_of_one_that_was_not(tmp_path, monkeypatch, after):
    monkeypatch.setattr(finetuning, "open_dataset", lambda name: few_flowers())
    config = config_of(epochs=3, augmentation="strong", dropout=0.3, learning_rate=0.02)
    whole = list(finetune(config, tmp_path / "whole"))
    first = list(finetune(config, tmp_path / "cut", Leave(after)))
    saved = first[-1].checkpoint
    state = load_checkpoint(tmp_path / "cut" / saved.file, saved.sha256)
    second = list(finetune(config, tmp_path / "cut", Uncontrolled(), state, 2, 100.0))
    points = [point for event in first + second for point in event.points]
    assert points == [point for event in whole for point in event.points]
    summary = dict(second[-1].summary)
    assert summary["seconds"] > 100
    for measured in ("seconds", "images_per_second", "memory_mb"):
        del summary[measured]
    assert summary.items() <= whole[-1].summary.items()
    models = [load_bundle(tmp_path / name / "model") for name in ("whole", "cut")]
    assert same(*(model.model.state_dict() for model in models))
    assert models[0].about == models[1].about
