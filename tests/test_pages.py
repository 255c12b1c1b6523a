"""Every page in every state, as its script draws it: Streamlit's AppTest runs the pages without a browser."""

import csv
import io
import itertools
import json
import re
import secrets
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit
from PIL import Image
from streamlit.testing.v1 import AppTest

from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.datasets import DATASETS, OFFICIAL
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.schedules import SCHEDULES
from dlkit.config import FinetuneConfig, describe, parse, settings_in_use
from dlkit.data.dataset import open_dataset
from dlkit.data.images import image_digest
from dlkit.data.importing import import_pictures, open_source
from dlkit.data.plans import make_plan
from dlkit.data.split import FileSplit
from dlkit.errors import ConfigError, ImageError, StoreError
from dlkit.estimate import by_strategy
from dlkit.figures.curves import MOST_POINTS
from dlkit.runs import artifacts, service
from dlkit.runs.records import Change, Checkpoint, Failure, Kind, Point, Priority, Progress, Run, Slot, State, Wish
from dlkit.runs.store import Beat, Store, open_store
from dlkit.settings import settings
from dlkit.words import duration, escape_markdown
from pages.parts import launch as launching
from pages.parts import steering, warmth
from pages.parts.forms import RATES
from pages.parts.kept import Kept
from tests.archive_maker import picture, zipped
from tests.live_server import REPOSITORY
from tests.test_estimate import SIZE, measured
from tests.test_store import only_readable  # noqa: F401
from tests.test_words import NAMES

PAGES = ("home", "data", "train", "runs", "predict", "descent")
FLOWERS = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
NUMBERS = [name for name in FinetuneConfig.model_fields if describe(name).kind in (int, float)]
KINDS = (("head", "none"), ("full", "mixup"), ("partial", "none"), ("auto", "none"))  # strategy and mixing
BASIC = {"dataset", "backbone", "strategy", "optimizer", "learning_rate", "epochs"}
ENSURE_SUPERVISOR = service.ensure_supervisor
STRANGE_RUNS = ["", "../../etc", "0" * 32, "a" * 10_000, "<script>alert(1)</script>", "\x00", "None", "g" * 32]


@pytest.fixture(autouse=True)
def _no_processes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained or fetched here, and nothing is loaded before it is asked for."""
    monkeypatch.setenv("DLKIT_WARM_UP", "0")
    settings.cache_clear()
    monkeypatch.setattr(service, "ensure_supervisor", lambda: None)


def opened(page: str, **parameters: str) -> AppTest:
    """Return a page as a link opens it."""
    app = AppTest.from_file(REPOSITORY / "pages" / "shell.py", default_timeout=60)
    app.switch_page(f"{page}.py")
    for name, value in parameters.items():
        app.query_params[name] = value
    return sound(app.run())


def sound(app: AppTest) -> AppTest:
    """Assert that the page has no exception."""
    assert not app.exception, app.exception[0].stack_trace
    return app


def errors(app: AppTest) -> list[str]:
    """Return the error boxes as they are read."""
    return [plain(box.value) for box in app.error]


def plain(text: str) -> str:
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text).replace("\u200b", "")


def title(app: AppTest) -> str:
    return plain(app.title[0].value)


def texts(app: AppTest) -> str:
    """Return all text that the page writes."""
    elements = [*app.title, *app.subheader, *app.markdown, *app.caption, *app.info, *app.error, *app.success]
    return plain("\n".join(str(element.value) for element in elements))


# Runs in every state, without a training


def queue(name: str = "", **values: Any) -> Run:
    return service.submit({"name": name, **values})


def ended(state: State, failure: str | None = None, run: Run | None = None) -> Run:
    """Return a run that took a hundred steps and ended like this."""
    run = running(run)
    summary = {"val_accuracy": 0.8564, "val_loss": 0.41, "images_per_second": 120.0, "device": "cpu"}
    service.store().finish(run.id, run.attempt, state, {} if failure else summary, failure)
    return service.run(run.id)


def running(run: Run | None = None) -> Run:
    run = run or queue()
    claimed = service.store().claim({slot: [f"{slot}0"] for slot in Slot})
    assert claimed is not None
    assert claimed.id == run.id
    points = [Point("val/accuracy", step, step / 50, step / 200) for step in (0, 50, 100)]
    steps = range(1, 101)
    points += [Point(key, step, step / 50, 1 / step) for key in ("step/loss", "learning_rate") for step in steps]
    beat = Beat(Progress("training: head", 0.5, 7.0, 120.0), tuple(points), max(point.step for point in points))
    service.store().beat(claimed.id, claimed.attempt, beat)
    return claimed


def with_results(run: Run, model: Path, right: int = 90) -> Run:
    """Give a run a saved model, and what that said of a hundred validation pictures."""
    folder = service.run_folder(run.id)
    shutil.copytree(model, folder / "model")
    labels = open_dataset("flowers-mini").val.labels[:100]
    called = np.where(np.arange(len(labels)) < right, labels, (labels + 1) % 5)
    probabilities = np.full((len(labels), 5), 0.05, np.float32)
    probabilities[np.arange(len(labels)), called] = 0.8
    artifacts.Validation(labels, probabilities).save(folder / "validation.npz")
    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved model of five flowers whose head has learned nothing."""
    from dlkit.engine.bundle import Bundle, save_bundle
    from dlkit.engine.model import pretrained
    from dlkit.engine.preprocess import preprocessing_of

    entry, folder = BACKBONES["efficientnet-lite0"], tmp_path_factory.mktemp("model")
    learnt = {"name": "flowers-mini", "fingerprint": open_dataset("flowers-mini").fingerprint}
    about = {"name": "Five flowers", "dataset": learnt}
    save_bundle(Bundle(pretrained(entry, 5), entry.name, tuple(FLOWERS), preprocessing_of(entry, 96), about), folder)
    return folder


def make_state(state: str, model: Path) -> Run:
    """Return a run in the named state; the newest one, where that takes several."""
    if state == "queued":
        return queue()
    if state == "running":
        return running()
    if state == "running, with results":
        return with_results(running(), model)
    if state == "failed":
        return ended(State.FAILED, "Training diverged: the loss was not a finite number at step 3.")
    if state == "its folder is gone":
        run = with_results(ended(State.SUCCEEDED), model)
        shutil.rmtree(service.run_folder(run.id))
        return run
    run = ended(State(state))
    return run if state == "cancelled" else with_results(run, model)


STATES = ["queued", "running", "running, with results", "failed", "its folder is gone"] + [
    str(state) for state in (State.SUCCEEDED, State.STOPPED, State.CANCELLED)
]


def link_of(run: Run) -> dict[str, str]:
    config = service.config_of(run)
    assert config is not None
    return {"level": "expert", **{name: str(value) for name, value in config.changes().items()}}


@pytest.mark.parametrize("page", PAGES)
def test_page_is_sound_where_nothing_has_run(page: str) -> None:
    app = opened(page)
    assert len(app.title) == 1
    assert not app.error


@pytest.mark.parametrize("state", STATES)
def test_pages_are_sound_whatever_state_a_run_is_in(state: str, model: Path) -> None:
    run = make_state(state, model)
    for page in PAGES:
        assert not opened(page).error
    for tab in ("Live", "Results", "Mistakes", "Settings", "History"):
        app = opened("runs", run=run.id, tab=tab)
        assert title(app) == run.name
        assert (errors(app) != []) is (state == "failed")


def test_failed_run_tells_why() -> None:
    run = ended(State.FAILED, "Training diverged: the loss was not a finite number at step 3.")
    assert errors(opened("runs", run=run.id)) == [run.failure]


def test_running_run_shows_its_curves_and_can_be_stopped() -> None:
    run = running()
    app = opened("runs", run=run.id)
    figures = [chart.proto.spec for chart in app.get("plotly_chart")]
    assert any("Loss (nats)" in figure for figure in figures)
    assert {"stop", "cancel"} <= {button.key for button in app.button}
    assert "delete" not in {button.key for button in app.button}
    sound(app.button(key="stop").click().run())
    assert service.run(run.id).wish == "stop"


def test_queued_run_is_cancelled_at_once_and_can_be_deleted() -> None:
    run = queue()
    app = opened("runs", run=run.id)
    app = sound(app.button(key="cancel").click().run())
    assert service.run(run.id).state == State.CANCELLED
    sound(app.button(key="delete").click().run())
    assert service.store().list_runs() == []


def test_run_of_a_download_has_a_page_too() -> None:
    run = service.submit_fetch("dataset", far_dataset())
    assert title(opened("runs", run=run.id)) == run.name
    running(run)
    for page in PAGES:
        opened(page)
    assert title(opened("runs", run=run.id)) == run.name


def far_dataset() -> str:
    return next(entry.name for entry in DATASETS.values() if entry.download_mb)


def test_results_show_the_matrix_and_the_pictures_behind_a_cell(model: Path) -> None:
    run = with_results(ended(State.SUCCEEDED), model)
    app = opened("runs", run=run.id, tab="Results")
    assert ("Right", "90 of 100") in [(metric.label, metric.value) for metric in app.metric]
    cells = app.selectbox[0]
    assert re.fullmatch(r"\w+ called \w+: \d+", cells.options[0])
    assert cells.options[0].split()[0] != cells.options[0].split()[2].rstrip(":")  # the mistakes come first
    for place in range(len(cells.options)):
        app = sound(app.selectbox[0].select_index(place).run())
        number = int(cells.options[place].split(": ")[1])
        assert len(app.image) == min(number, 12)


def test_mistakes_are_the_wrong_pictures_only(model: Path) -> None:
    run = with_results(ended(State.SUCCEEDED), model, right=97)
    app = opened("runs", run=run.id, tab="Mistakes")
    assert len(app.image) == 3
    faultless = with_results(ended(State.SUCCEEDED), model, right=100)
    assert opened("runs", run=faultless.id, tab="Mistakes").success


def test_many_runs_are_shown_in_pages() -> None:
    for number in range(45):
        queue(f"run {number}")
    app = opened("runs")
    shown = re.findall(r"run \d+", "\n".join(plain(found.label) for found in app.get("page_link")))
    waiting, listed = shown[:5], shown[5:]
    assert waiting == [f"run {number}" for number in range(5)]  # the queue, the first first
    assert listed == [f"run {number}" for number in range(44, 24, -1)]
    assert "and 40 more" in texts(app)


def test_hostile_names_of_runs_are_escaped_on_every_page() -> None:
    runs = [queue(name[:80]) for name in NAMES]
    app = opened("runs")
    labels = [found.label for found in app.get("page_link")]
    assert {escape_markdown(run.name) for run in runs[-20:]} <= set(labels)
    for run in runs:
        app.query_params["run"] = run.id
        assert sound(app.run()).title[0].value == escape_markdown(run.name)
    labels = [metric.label for metric in opened("home").metric]
    assert {escape_markdown(run.name) for run in runs[-4:]} <= set(labels)


# Links from strangers


@pytest.mark.parametrize("text", STRANGE_RUNS)
@pytest.mark.parametrize("page", ["runs", "predict"])
def test_stale_link_says_so_and_shows_what_there_is(page: str, text: str) -> None:
    queue("the only run")
    app = opened(page, **{"run" if page == "runs" else "model": text})
    (problem,) = errors(app)
    assert len(problem) < 300
    assert "script" not in app.title[0].value
    if page == "runs":
        assert "the only run" in [found.label for found in app.get("page_link")]
    else:
        assert app.selectbox(key="model").value == "imagenet"


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("data", "dataset"),
        ("train", "dataset"),
        ("train", "backbone"),
        ("train", "strategy"),
        ("train", "optimizer"),
        ("train", "schedule"),
        ("train", "augmentation"),
    ],
)
@pytest.mark.parametrize("text", ["nonsense", "", "<script>", "x" * 10_000, "../../etc", "None"])
def test_choice_that_is_not_there_is_named_and_the_default_is_shown(page: str, name: str, text: str) -> None:
    app = opened(page, level="expert", **{name: text})
    (problem,) = errors(app)
    assert f"There is no {describe(name).title.lower()} called" in problem
    assert len(problem) < 500
    if page == "train":
        assert app.session_state[name] == FinetuneConfig.model_fields[name].default
        assert not app.button(key="launch").disabled


@pytest.mark.parametrize("page", PAGES)
def test_page_ignores_parameters_that_mean_nothing(page: str) -> None:
    strange = {"level": "wizard", "sample": "Dog", "top_k": "99", "tab": "Nowhere", "source": "?", "x" * 50: "<b>"}
    strange |= {"freeze_batchnorm": "maybe", "rate_slider": "7", "view": "-1", "split": "test"}
    opened(page, **strange)


def test_data_set_with_a_link_to_a_split_that_is_not_there_shows_the_training_pictures() -> None:
    app = opened("data", dataset="flowers-mini", split="test")
    assert "There is no split called" in errors(app)[0]
    assert app.session_state["split"] == "train"


def test_choice_survives_the_address_of_a_moment_ago() -> None:
    app = opened("train")
    sound(app.selectbox(key="optimizer").set_value("sgd").run())
    assert app.query_params["optimizer"] in ("sgd", ["sgd"])
    del app.query_params["optimizer"]  # a browser that has not heard of it yet
    sound(app.text_input(key="epochs").set_value("3").run())
    assert app.selectbox(key="optimizer").value == "sgd"
    assert app.query_params["optimizer"] in ("sgd", ["sgd"])


# The form


def form_of(app: AppTest) -> dict[str, Any]:
    """Return the settings that the page shows, with what they hold."""
    widgets = [*app.selectbox, *app.segmented_control, *app.text_input, *app.toggle]
    return {widget.key: widget.value for widget in widgets if widget.key in FinetuneConfig.model_fields}


def given(form: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in form.items() if value != ""}


def test_basic_shows_six_settings() -> None:
    assert set(form_of(opened("train"))) == BASIC
    assert {name for name in FinetuneConfig.model_fields if describe(name).is_basic} == BASIC | {"budget_minutes"}


def test_auto_asks_for_minutes_instead_of_epochs() -> None:
    app = opened("train", strategy="auto")
    assert set(form_of(app)) == BASIC - {"epochs"} | {"budget_minutes"}
    assert "2" in [metric.value for metric in app.metric if metric.label == "Minutes"]
    sound(app.text_input(key="budget_minutes").set_value("10").run())
    assert "10" in [metric.value for metric in app.metric if metric.label == "Minutes"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_expert_shows_every_setting_in_use_and_no_other(optimizer: str) -> None:
    app = opened("train", level="expert", optimizer=optimizer)
    pairs = [*itertools.product(KINDS[:2], SCHEDULES), *((kind, "one-cycle") for kind in KINDS[2:])]
    for (strategy, mixing), schedule in pairs:
        choices = {"optimizer": optimizer, "strategy": strategy, "schedule": schedule, "mixing": mixing}
        for name, choice in choices.items():
            app.session_state[name] = choice
        form = form_of(sound(app.run()))
        assert set(form) == set(settings_in_use(choices)), choices
        assert not app.error, choices


def test_both_levels_mean_the_same_run() -> None:
    forms = [form_of(opened("train", level=level)) for level in ("basic", "expert")]
    first, second = (parse(given(form)).resolved() for form in forms)
    assert first == second == FinetuneConfig().resolved()


@pytest.mark.parametrize(
    ("strategy", "augmentation", "views"), [("head", "light", 1), ("partial", "light", 2), ("auto", "none", 1)]
)
def test_empty_field_shows_what_it_stands_for(strategy: str, augmentation: str, views: int) -> None:
    choices = {"strategy": strategy, "augmentation": augmentation, "backbone": "vit-b-16"}
    app = opened("train", level="expert", **choices)
    defaults = parse(choices).resolved()
    shown = {field.key: field.placeholder for field in app.text_input if field.key in FinetuneConfig.model_fields}
    assert (shown["views"], shown["image_size"], shown["name"]) == (str(views), "224", defaults.name)
    assert parse({**choices, **shown}) == defaults


@pytest.mark.parametrize("name", NUMBERS)
def test_nonsense_in_a_number_stays_there_is_explained_and_is_not_launched(name: str) -> None:
    app = page_with(name)
    for text in ("0", "-1", "nan", "inf", "9" * 5000, "abc", "1e-3; rm", "1,5"):
        sound(app.text_input(key=name).set_value(text).run())
        assert app.text_input(key=name).value == text
        problems = problems_of(form_of(app))
        assert errors(app) == ([plain("\n\n".join(problems))] if problems else [])
        assert app.button(key="launch").disabled is bool(problems)
        assert text == "0" or describe(name).title in problems[0]
        assert all(len(problem) < 300 for problem in problems)
    sound(app.text_input(key=name).set_value("").run())
    assert not app.error
    assert not app.button(key="launch").disabled


def page_with(name: str) -> AppTest:
    """Open the training page with choices that use this setting."""
    for optimizer, (strategy, mixing), schedule in itertools.product(OPTIMIZERS, KINDS, SCHEDULES):
        choices = {"optimizer": optimizer, "strategy": strategy, "schedule": schedule, "mixing": mixing}
        if name in settings_in_use(choices):
            return opened("train", level="expert", **choices)
    raise AssertionError(f"no choices use {name}")


def problems_of(form: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        parse(given(form))
    except ConfigError as error:
        return error.problems
    return ()


def test_every_problem_of_the_form_is_shown_at_once() -> None:
    app = opened("train")
    app.text_input(key="epochs").set_value("many")
    sound(app.text_input(key="learning_rate").set_value("fast").run())
    (box,) = errors(app)
    assert "Learning rate" in box
    assert "Epochs" in box


def test_image_size_that_the_backbone_cannot_take_is_explained() -> None:
    fixed = next(entry for entry in BACKBONES.values() if entry.fixed_size)
    app = opened("train", level="expert", backbone=fixed.name, image_size="64")
    assert fixed.title in errors(app)[0]
    assert app.button(key="launch").disabled


# The learning rate: a field and a slider that say the same


@pytest.mark.parametrize("rate", RATES)
def test_slider_fills_the_field(rate: float) -> None:
    app = opened("train", learning_rate="5" if rate < 5 else "1")
    sound(app.select_slider[0].set_value(rate).run())
    assert float(app.text_input(key="learning_rate").value) == rate
    assert app.select_slider[0].value == rate


@pytest.mark.parametrize(
    ("text", "near"),
    [("0.0007", 0.0005), ("0.0009", 0.001), ("1e-7", 1e-6), ("10", 5.0), ("0.05", 0.05), (" 0.02 ", 0.02)],
)
def test_field_moves_the_slider_to_the_nearest_rate(text: str, near: float) -> None:
    app = opened("train")
    sound(app.text_input(key="learning_rate").set_value(text).run())
    assert app.select_slider[0].value == near
    assert app.text_input(key="learning_rate").value == text


def test_slider_stays_where_it_is_while_the_field_is_no_number() -> None:
    app = opened("train", learning_rate="0.05")
    for text in ("abc", "-1", "0", "nan", "inf", "1e999"):
        sound(app.text_input(key="learning_rate").set_value(text).run())
        assert app.select_slider[0].value == 0.05


def test_slider_starts_where_a_link_says() -> None:
    assert opened("train", learning_rate="5").select_slider[0].value == 5.0


def test_slider_may_go_back_to_where_it_started() -> None:
    app = opened("train", learning_rate="0.05")
    for rate in (0.1, 0.05, 0.1):
        sound(app.select_slider[0].set_value(rate).run())
        assert float(app.text_input(key="learning_rate").value) == rate


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_empty_field_means_the_optimizers_own_rate(optimizer: str) -> None:
    app = opened("train", optimizer=optimizer)
    assert app.text_input(key="learning_rate").value == ""
    assert float(app.text_input(key="learning_rate").placeholder) == OPTIMIZERS[optimizer].learning_rate
    assert app.select_slider[0].value == pytest.approx(OPTIMIZERS[optimizer].learning_rate, rel=0.5)


# What a run will take

MEASURED_HERE = {"level": "expert", "image_size": "160", "augmentation": "none"}


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def captions(app: AppTest) -> str:
    return "\n".join(plain(caption.value) for caption in app.caption)


def card(app: AppTest) -> dict[str, str]:
    """Return the figures of the pre-flight card by their names."""
    found = (re.fullmatch(r":gray\[(.+)\]  \n\*\*(.+)\*\*", text.value) for text in app.markdown)
    return {match[1]: match[2] for match in found if match}


def test_nothing_measured_is_a_dash_and_a_button_that_measures() -> None:
    app = opened("train")
    assert (card(app)["Time"], card(app)["Memory"]) == ("–", "–")
    assert card(app)["Disk"].startswith("≈")
    assert "Nothing was measured on this machine yet." in captions(app)
    sound(app.button(key="measure").click().run())
    (run,) = service.store().list_runs()
    assert (run.kind, run.config["backbone"], run.state) == (Kind.MEASURE, "efficientnet-lite0", State.QUEUED)
    assert "measure" not in {button.key for button in app.button}
    sound(app.button(key=f"cancel_{run.id}").click().run())
    assert not sound(app.run()).button(key="measure").disabled


def test_what_was_measured_is_shown_for_each_strategy() -> None:
    measured()
    app = opened("train", **MEASURED_HERE, epochs="7")
    assert card(app)["Time"].startswith("≈")
    assert card(app)["Memory"].startswith("≈")
    (line,) = [line for line in captions(app).splitlines() if line.startswith("head about")]
    assert [part.split()[0] for part in line.split(" · ")] == ["head", "partial", "full", "auto"]
    assert "Measured on this machine." in captions(app)
    assert "measure" not in {button.key for button in app.button}
    head = card(app)["Time"]
    sound(app.segmented_control[1].set_value("full").run())
    assert card(app)["Time"] != head


def test_figures_of_the_chosen_strategy_are_shown_while_the_others_are_still_measured() -> None:
    run = service.submit_measure({"image_size": SIZE, "strategy": "full"})
    app = opened("train", **MEASURED_HERE)
    assert card(app)["Time"] == "–"
    measured()
    sound(app.run())
    assert card(app)["Time"].startswith("≈")
    assert f"cancel_{run.id}" in {button.key for button in app.button}


def test_measuring_that_failed_says_why_and_is_offered_again() -> None:
    run = service.submit_measure({"image_size": SIZE})
    assert service.store().claim({Slot.CPU: ["cpu0"]}) is not None
    service.store().finish(run.id, 1, State.FAILED, {}, "One picture is too much.", Failure.MEMORY)
    app = opened("train", **MEASURED_HERE)
    assert [plain(error.value) for error in app.error] == ["One picture is too much."]
    assert not app.button(key="measure").disabled


def test_estimate_costs_a_rerun_a_few_milliseconds() -> None:
    measured()
    config = parse({"image_size": 160, "augmentation": "none", "strategy": "full"}).resolved()
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        by_strategy(config)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.010


def test_page_without_a_plan_estimates_nothing() -> None:
    assert "Memory" not in card(opened("train", epochs="0"))


def test_run_shows_its_estimate_beside_what_it_took() -> None:
    run = running()
    told = {"estimate": {"seconds": 14.0, "memory_mb": 612.0, "is_measured": True}, "memory_mb": 655.0}
    told["formats"] = {"features": "bfloat16, channels_last", "training": "float32"}
    service.store().finish(run.id, run.attempt, State.SUCCEEDED, told)
    table = opened("runs", run=run.id, tab="Settings").dataframe[1].value
    values = dict(zip(table["result"], table["value"], strict=True))
    assert values["memory against estimate"] == "655 MB, estimated about 610 MB"
    assert values["time against estimate"].endswith(", estimated about 14 s")
    assert "estimate" not in values
    assert values["formats"] == "features: bfloat16, channels_last; training: float32"


# Finding a learning rate

CURVE = {
    "rates": [1e-6, 1e-4, 1e-2, 1.0],
    "losses": [2.0, 1.9, 0.9, 4.0],
    "smoothed": [2.0, 1.95, 1.4, 2.7],
    "suggestions": {"valley": 0.00281, "slide": 1.23e-5, "minimum": 0.001, "steepest": 0.00391},
    "note": "",
}


def searched(state: State = State.SUCCEEDED, failure: str | None = None, **values: Any) -> Run:
    """Return a search for a learning rate that has ended so."""
    run = service.submit_find(values)
    claimed = service.store().claim({slot: [f"{slot}0"] for slot in Slot})
    assert claimed is not None
    service.store().finish(run.id, claimed.attempt, state, CURVE if state == State.SUCCEEDED else {}, failure)
    return service.run(run.id)


def uses(app: AppTest) -> list[str]:
    return [button.label for button in app.button if str(button.key).startswith("use_")]


def test_search_is_asked_for_followed_and_cancelled() -> None:
    app = opened("train", batch_size="16", level="expert")
    sound(app.button(key="find_rate").click().run())
    (run,) = service.store().list_runs()
    assert (run.kind, run.config["batch_size"], run.state) == (Kind.FIND, 16, State.QUEUED)
    assert "find_rate" not in {button.key for button in app.button}
    sound(app.button(key=f"cancel_{run.id}").click().run())
    assert service.run(run.id).state == State.CANCELLED
    assert not sound(app.run()).button(key="find_rate").disabled
    assert uses(app) == []


def test_search_cannot_be_asked_for_with_wrong_settings() -> None:
    assert opened("train", epochs="0").button(key="find_rate").disabled


@pytest.mark.parametrize(("name", "text"), [("valley", "0.0028"), ("slide", "1.2e-05"), ("minimum", "0.001")])
def test_suggested_rate_fills_the_field_and_moves_the_slider(name: str, text: str) -> None:
    searched()
    app = opened("train", learning_rate="0.5")
    assert uses(app)[0] == "Use 0.0028 (valley)"
    sound(app.button(key=f"use_{name}").click().run())
    assert app.text_input(key="learning_rate").value == text
    assert app.select_slider[0].value == min(RATES, key=lambda rate: abs(np.log(rate / float(text))))
    assert app.query_params["learning_rate"] in (text, [text])
    assert uses(app), "the curve holds for every rate"
    assert not app.warning
    sound(app.select_slider[0].set_value(0.1).run())
    assert app.text_input(key="learning_rate").value == "0.1"


def test_curve_of_such_settings_is_there_whoever_made_it_and_others_are_not() -> None:
    searched(batch_size=16)
    searched(State.SUCCEEDED)
    for parameters in ({}, {"epochs": "3", "learning_rate": "1"}, {"level": "expert", "batch_size": "16"}):
        assert len(uses(opened("train", **parameters))) == 4
    assert uses(opened("train", optimizer="sgd")) == []


def test_curve_of_other_settings_says_what_has_changed() -> None:
    app = opened("train", optimizer="sgd")
    sound(app.button(key="find_rate").click().run())
    running = service.store().claim({slot: [f"{slot}0"] for slot in Slot})
    assert running is not None
    service.store().finish(running.id, running.attempt, State.SUCCEEDED, CURVE)
    assert not sound(app.run()).warning
    assert len(uses(app)) == 4
    sound(app.selectbox(key="optimizer").set_value("momentum").run())
    assert "these settings have changed: Optimizer" in app.warning[0].value
    sound(app.selectbox(key="optimizer").set_value("sgd").run())
    assert not app.warning


def test_search_that_failed_says_why_and_may_be_asked_for_again() -> None:
    app = opened("train")
    sound(app.button(key="find_rate").click().run())
    running = service.store().claim({slot: [f"{slot}0"] for slot in Slot})
    assert running is not None
    service.store().finish(running.id, running.attempt, State.FAILED, {}, "The picture is torn. Mend it.")
    assert errors(sound(app.run())) == ["The picture is torn. Mend it."]
    assert not app.button(key="find_rate").disabled


def test_curve_that_suggests_nothing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CURVE, "suggestions", {})
    monkeypatch.setitem(CURVE, "note", "The loss fell nowhere. A larger batch size makes it less noisy.")
    searched()
    app = opened("train")
    assert [plain(box.value) for box in app.info] == [CURVE["note"]]
    assert uses(app) == []


def test_session_whose_search_was_removed_goes_on() -> None:
    app = opened("train", optimizer="sgd")
    sound(app.button(key="find_rate").click().run())
    (run,) = service.store().list_runs()
    service.cancel(run.id)
    service.delete(run.id)
    assert not sound(app.run()).button(key="find_rate").disabled
    assert not app.error


@pytest.mark.parametrize("state", ["queued", "succeeded", "cancelled", "failed"])
def test_search_is_in_no_list_and_has_a_page(state: str) -> None:
    if state == "queued":
        run = service.submit_find({})
    else:
        run = searched(State(state), "The picture is torn. Mend it." if state == "failed" else None)
    assert "Nothing has run yet" in texts(opened("runs"))
    app = opened("runs", run=run.id)
    assert title(app) == run.name
    assert len(app.get("plotly_chart")) == (state == "succeeded")
    assert errors(app) == ([run.failure] if state == "failed" else [])
    assert errors(opened("predict", model=run.id))


# Launching, and launching again

CONFIGS = [
    {},
    {"optimizer": "sgd", "weight_decay": 0.01, "learning_rate": 0.002},  # adamw's defaults, not sgd's
    {"optimizer": "rmsprop", "momentum": 0.5, "smoothing": 0.9},
    {"optimizer": "adam", "beta1": 0.8, "epsilon": 1e-5, "seed": 7, "device": "cpu"},
    {"optimizer": "muon", "schedule": "constant", "epochs": 1},
    {"schedule": "step", "decay": 0.5, "decay_epochs": 2},
    {"schedule": "plateau", "patience": 0},
    {"schedule": "warm-up-linear", "rise": 0.3},  # one-cycle's default, not its own
    {"dataset": "fashion-mnist-mini", "image_size": 224},  # the flowers' default, not its own
    {"dataset": "fashion-mnist-mini", "backbone": "efficientnet-lite0", "batch_size": 64, "label_smoothing": 0.1},
    {
        "strategy": "full",
        "freeze_batchnorm": False,
        "mixing": "cutmix",
        "mixing_alpha": 1.0,
        "head_epochs": 0,
        "backbone_rate_factor": 0.3,
        "class_weights": "balanced",
        "augmentation": "strong",
        "dropout": 0.2,
        "gradient_clipping": 1.0,
        "ema_decay": 0.99,
        "early_stopping": 3,
    },
]


@pytest.mark.parametrize("values", CONFIGS, ids=str)
def test_launch_stores_what_the_form_shows_and_opens_the_run(values: dict[str, Any]) -> None:
    app = opened("train", level="expert", **{name: str(value) for name, value in values.items()})
    form = form_of(app)
    assert not app.error
    sound(app.button(key="launch").click().run())
    (run,) = service.store().list_runs()
    expected = parse(values).resolved()
    assert parse(given(form)).resolved() == expected
    assert run.config == expected.model_dump(mode="json")
    assert app.query_params["run"] in (run.id, [run.id])
    assert title(app) == run.name


@pytest.mark.parametrize("values", CONFIGS, ids=str)
def test_launching_again_repeats_the_run(values: dict[str, Any]) -> None:
    first = service.submit(values)
    app = opened("train", **link_of(first))
    assert not app.error
    sound(app.button(key="launch").click().run())
    second, _ = service.store().list_runs()
    assert second.config == first.config


def test_launching_again_fills_changed_fields_only() -> None:
    run = service.submit({"optimizer": "sgd", "learning_rate": 0.05})
    assert link_of(run) == {"level": "expert", "optimizer": "sgd", "learning_rate": "0.05"}


def test_run_of_an_older_catalog_still_has_its_page() -> None:
    config = {**FinetuneConfig().resolved().model_dump(), "dataset": "gone", "optimizer": "lion", "schedule": "zigzag"}
    run = service.store().add_run(secrets.token_hex(16), Kind.FINETUNE, "old", config, Slot.CPU, "you")
    running(run)
    service.store().finish(run.id, 1, State.SUCCEEDED, {})
    for page in PAGES:
        opened(page)
    for tab in ("Live", "Results", "Mistakes", "Settings", "History"):
        assert title(opened("runs", run=run.id, tab=tab)) == "old"


def test_run_can_be_launched_from_the_start_page() -> None:
    app = opened("home")
    sound(app.button(key="train_sample").click().run())
    (run,) = service.store().list_runs()
    assert run.config == FinetuneConfig().resolved().model_dump(mode="json")
    assert title(app) == run.name


def test_device_that_is_not_here_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlkit import machine

    here = machine.describe()
    monkeypatch.setattr(machine, "describe", lambda: type(here)(**{**vars(here), "gpus": (), "has_mps": False}))
    app = opened("train", level="expert", device="mps")
    sound(app.button(key="launch").click().run())
    assert "The device mps was asked for" in errors(app)[0]
    assert service.store().list_runs() == []


def test_plan_shows_the_schedule_and_the_steps() -> None:
    app = opened("train", level="expert", strategy="full", epochs="4", head_epochs="1", batch_size="50")
    entry = DATASETS["flowers-mini"]
    steps = -(-entry.train_images // 50) * 5
    assert ("Steps", str(steps)) in [(metric.label, metric.value) for metric in app.metric]


# The first visit


def test_first_visit_loads_no_torch() -> None:
    code = (
        "import sys; from streamlit.testing.v1 import AppTest; "
        "app = AppTest.from_file(sys.argv[1], default_timeout=60).run(); "
        "[app.switch_page(f'{page}.py').run() for page in ('data', 'train', 'runs', 'predict', 'home')]; "
        "sys.exit(1 if app.exception else 2 if 'torch' in sys.modules else 0)"
    )
    shell = str(REPOSITORY / "pages" / "shell.py")
    assert subprocess.run([sys.executable, "-c", code, shell], cwd=REPOSITORY, check=False).returncode == 0


# Classifying


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo() -> Image.Image:
    return Image.open(REPOSITORY / "dlkit" / "samples" / "photos" / "chelsea.jpg").convert("RGB").resize((90, 60))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo(), "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.new("P", (40, 40), colour) for colour in (1, 2, 3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def translucent() -> bytes:
    image = photo().quantize(16)
    return encoded(image, "PNG", transparency=bytes(range(16)))


def huge_header() -> bytes:
    """Return a PNG that says it has 100,000 × 100,000 pixels and has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def deep() -> bytes:
    return encoded(Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)), "PNG")


GOOD_FILES = {
    "plain.jpg": lambda: encoded(photo(), "JPEG"),
    "one-pixel.png": lambda: encoded(Image.new("RGB", (1, 1)), "PNG"),
    "print.jpg": lambda: encoded(photo().convert("CMYK"), "JPEG"),
    "deep.png": deep,
    "turned.jpg": turned,
    "palette.png": translucent,
    "moving.gif": animated,
    "photo.webp": lambda: encoded(photo(), "WEBP"),
    "[click](https://evil.example).jpg": lambda: encoded(photo(), "JPEG"),
}
BAD_FILES = {
    "text.jpg": lambda: b"this is no picture",
    "empty.jpg": lambda: b"",
    "cut.jpg": lambda: encoded(photo().resize((300, 300)), "JPEG")[:2000],
    "huge.png": huge_header,
    "drawing.png": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "long.png": lambda: encoded(Image.new("RGB", (2000, 1)), "PNG"),
    ":material/delete:<b>.jpg": lambda: b"no",
}


def with_files(app: AppTest, files: Mapping[str, bytes]) -> AppTest:
    uploads = [(name, data, "image/jpeg") for name, data in files.items()]
    return sound(app.file_uploader(key="photos").set_value(uploads).run())


def test_classify_page_waits_for_a_picture() -> None:
    assert "the answer appears here" in opened("predict").info[0].value


@pytest.mark.parametrize("name", GOOD_FILES)
def test_good_picture_gets_an_answer(name: str) -> None:
    app = with_files(opened("predict"), {name: GOOD_FILES[name]()})
    assert not app.error
    assert len(app.get("html")) == 1
    assert f"{name}: " in texts(app)


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_picture_gets_one_sentence(name: str) -> None:
    app = with_files(opened("predict"), {name: BAD_FILES[name]()})
    (problem,) = errors(app)
    assert problem.startswith(name)
    assert problem.endswith(".")
    assert len(app.get("html")) == 0


def test_bad_pictures_do_not_keep_the_good_ones_from_their_answers() -> None:
    files = {name: make() for name, make in {**GOOD_FILES, **BAD_FILES}.items()}
    app = with_files(opened("predict"), files)
    assert len(errors(app)) == len(BAD_FILES)
    assert list(app.dataframe[0].value["file"]) == list(GOOD_FILES)


def test_start_page_answers_a_photo_and_explains_a_bad_file() -> None:
    app = opened("home")
    app = sound(app.file_uploader(key="photo").set_value(("a.jpg", encoded(photo(), "JPEG"), "image/jpeg")).run())
    if any(button.key == "classify" for button in app.button):
        app = sound(app.button(key="classify").click().run())
    assert len(app.get("html")) == 1
    app = sound(app.file_uploader(key="photo").set_value(("b.jpg", b"no picture", "image/jpeg")).run())
    assert errors(app)[0].startswith("b.jpg is not a picture")


def test_model_of_a_run_names_its_classes(model: Path) -> None:
    run = with_results(ended(State.SUCCEEDED), model)
    app = opened("predict", model=run.id)
    assert app.selectbox(key="model").value == run.id
    app = with_files(app, {"a.jpg": encoded(photo(), "JPEG")})
    (html,) = app.get("html")
    assert all(flower in html.proto.body for flower in FLOWERS)
    shares = [float(share) for share in re.findall(r"width:([\d.]+)%\"></div>", html.proto.body)]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("name", ["model.json", "*.safetensors"])
def test_damaged_model_is_a_sentence(name: str, model: Path) -> None:
    run = with_results(ended(State.SUCCEEDED), model)
    (file,) = (service.run_folder(run.id) / "model").glob(name)
    file.write_bytes(b"damaged")
    app = opened("predict", model=run.id)
    app = with_files(app, {"a.jpg": encoded(photo(), "JPEG")}) if app.get("file_uploader") else app
    assert len(errors(app)) == 1
    for page in ("home", "runs"):
        opened(page)
    opened("runs", run=run.id, tab="Results")


def test_number_of_classes_to_name_is_kept(model: Path) -> None:
    app = with_files(opened("predict", top_k="3"), {"a.jpg": encoded(photo(), "JPEG")})
    assert app.get("html")[0].proto.body.count("<b>") == 3


def test_table_of_many_is_safe_in_a_spreadsheet(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["=1+1.jpg", "+a.jpg", "-a.jpg", "@a.jpg", "a;=1+1.jpg", 'a",=1.jpg', "plain.jpg"]
    given: list[str] = []
    monkeypatch.setattr(streamlit, "download_button", lambda label, data, *_, **__: given.append(data))
    app = with_files(opened("predict"), dict.fromkeys(names, encoded(photo(), "JPEG")))
    table = app.dataframe[0].value
    assert list(table["file"]) == names
    assert table["picture"].str.startswith("data:image/jpeg;base64,").all()
    assert table["probability 1"].between(0, 1).all()
    text = given[-1]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["file"].removeprefix("'") for row in rows] == names
    assert [float(row["probability 1"]) for row in rows] == pytest.approx(list(table["probability 1"]))
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    # where the semicolon divides, the quotes still hold the cell together
    assert '"a;=1+1.jpg",' in text
    assert not any(cell.startswith("=") for row in csv.reader(io.StringIO(text), delimiter=";") for cell in row)


def noises(count: int) -> dict[str, bytes]:
    """Return pictures that nobody has seen before."""
    generator = np.random.default_rng()
    pixels = (generator.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(count))
    return {f"{place}.png": encoded(Image.fromarray(values), "PNG") for place, values in enumerate(pixels)}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures the engine was asked for, call by call."""
    from dlkit.engine import prediction

    counts: list[int] = []
    predict_many = prediction.predict_many

    def counting(source: Path | None, pictures: Iterator[Any], top_k: int) -> Iterator[Any]:
        counts.append(len(pictures := list(pictures)))
        return predict_many(source, pictures, top_k)

    monkeypatch.setattr(prediction, "predict_many", counting)
    return counts


def test_what_is_known_is_not_looked_at_again(asked: list[int]) -> None:
    files = noises(5)
    app = with_files(opened("predict"), files)
    sound(app.slider(key="top_k").set_value(10).run())
    assert len(app.dataframe[0].value.columns) == 2 + 2 * 10
    more = {**noises(3), "again.png": files["1.png"]}
    app = with_files(app, {**{f"new {name}": data for name, data in more.items()}, **files})
    assert list(app.dataframe[0].value["file"]) == [*(f"new {name}" for name in more), *files]
    other = with_files(opened("predict"), files)  # another visitor
    assert list(other.dataframe[0].value["file"]) == list(files)
    assert asked == [5, 4]


def test_model_that_is_saved_anew_is_asked_anew(asked: list[int], model: Path) -> None:
    run = with_results(ended(State.SUCCEEDED), model)
    files = noises(3)
    with_files(opened("predict", model=run.id), files)
    with_files(opened("predict", model=run.id), files)
    assert asked == [3]
    from dlkit.engine.bundle import load_bundle, save_bundle

    bundle = load_bundle(service.run_folder(run.id) / "model")
    bundle.model.head.bias.data += 1
    save_bundle(bundle, service.run_folder(run.id) / "model")
    with_files(opened("predict", model=run.id), files)
    assert asked == [3, 3]


def test_stopped_work_shows_what_is_known_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlkit.engine import prediction

    files = noises(6)
    keys = tuple(f"upload {image_digest(data)} {name}" for name, data in files.items())
    predict_many, pressed = prediction.predict_many, []

    def pressing_stop(*arguments: Any) -> Iterator[Any]:
        for place, answer in enumerate(predict_many(*arguments)):
            if place == 4 and not pressed:
                pressed.append(True)
                streamlit.session_state["halted"] = artifacts.IMAGENET, keys
                streamlit.rerun()
            yield answer

    monkeypatch.setattr(prediction, "predict_many", pressing_stop)
    app = with_files(opened("predict"), files)
    assert "Stopped after 4 of 6 pictures." in texts(app)
    assert list(app.dataframe[0].value["file"]) == list(files)[:4]
    app = sound(app.button(key="go_on").click().run())
    assert list(app.dataframe[0].value["file"]) == list(files)
    assert not any(button.key in ("halt", "go_on") for button in app.button)


def test_table_is_filtered_by_class_and_confidence_and_the_file_with_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr(streamlit, "download_button", lambda label, data, *_, **__: given.append(data))
    run = with_results(ended(State.SUCCEEDED), model)
    folder = REPOSITORY / "dlkit" / "samples" / "flowers_mini" / "val"
    files = {path.name: path.read_bytes() for name in FLOWERS for path in sorted((folder / name).iterdir())[:2]}
    app = with_files(opened("predict", model=run.id), files)
    table = app.dataframe[0].value
    called = table["class 1"].iloc[0]
    app = sound(app.multiselect[0].set_value([called]).run())
    assert set(app.dataframe[0].value["class 1"]) == {called}
    count = (table["class 1"] == called).sum()
    assert f"{count} of 10 pictures" in texts(app)
    assert len(list(csv.DictReader(io.StringIO(given[-1])))) == len(app.dataframe[0].value) == count
    app = sound(app.multiselect[0].set_value([]).run())
    sure = next(slider for slider in app.slider if slider.label == "Confidence")
    middle = round(100 * table["probability 1"].median())
    app = sound(sure.set_value((0, middle)).run())
    assert len(app.dataframe[0].value) == (table["probability 1"] <= middle / 100).sum()
    app = sound(next(slider for slider in app.slider if slider.label == "Confidence").set_value((0, 0)).run())
    assert "0 of 10 pictures" in texts(app)


def test_many_files_that_are_no_pictures_do_not_bury_the_page() -> None:
    app = with_files(opened("predict"), {f"{place}.jpg": b"no" for place in range(13)})
    assert len(app.error) == 10
    assert app.expander[0].label == "3 more files could not be read"
    assert "12.jpg is not a picture" in texts(app)
    assert not app.dataframe


def test_what_is_kept_for_all_sessions_is_bounded() -> None:
    kept = Kept[int](2)
    assert [kept.put(name, number) for number, name in enumerate("ab")] == [0, 1]
    assert kept.get("a") == 0
    kept.put("c", 2)
    assert [kept.get(name) for name in "abc"] == [0, None, 2]


def test_model_whose_data_set_is_gone_still_classifies(model: Path) -> None:
    for name in (far_dataset(), "gone"):
        run = with_results(ended(State.SUCCEEDED), model)
        description = service.run_folder(run.id) / "model" / "model.json"
        description.write_text(description.read_text().replace('"flowers-mini"', f'"{name}"'))
        app = with_files(opened("predict", model=run.id), {"a.jpg": encoded(photo(), "JPEG")})
        assert not app.error
        assert len(app.get("html")) == 1


def test_samples_of_the_own_data_set_are_offered(model: Path) -> None:
    run = with_results(ended(State.SUCCEEDED), model)
    app = opened("predict", model=run.id)
    pills = {group.key: group for group in app.pills}
    assert {"photo_samples", "class_samples"} <= set(pills)
    app = sound(pills["class_samples"].set_value([0, 4]).run())
    assert len(app.dataframe[0].value) == 6


def test_picture_of_a_data_set_that_is_mended_gets_its_answer(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_results(ended(State.SUCCEEDED), model)
    app = opened("predict", model=run.id)
    with monkeypatch.context() as patch:
        patch.setattr(FileSplit, "read", refused)
        app = sound(app.pills(key="class_samples").set_value([1]).run())
        assert errors(app) == ["damaged.jpg is damaged."] * 3
    app = sound(app.run())
    assert not app.error
    assert len(app.dataframe[0].value) == 3


def refused(split: FileSplit, index: int) -> Image.Image:
    raise ImageError("damaged.jpg is damaged.")


# Data


def test_gallery_shows_every_data_set() -> None:
    app = opened("data")
    for entry in DATASETS.values():
        assert entry.title in texts(app)


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_data_set_has_a_page(name: str) -> None:
    app = opened("data", dataset=name)
    assert title(app) == DATASETS[name].title
    assert not app.error


EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def evil_set(tmp_path: Path) -> str:
    """Import a data set that is called like its classes, and return its name."""
    labels = (EVIL, "[a](https://evil.example) **b** :red[c] $x$", "=1+1")
    folder = tmp_path / "photos"
    for number in range(len(labels)):
        (folder / str(number)).mkdir(parents=True)
        for place in range(3):
            (folder / str(number) / f"{place}.png").write_bytes(picture(10 * number + place, side=64))
    rows = "".join(f'{number}/{place}.png;"{label}"\n' for number, label in enumerate(labels) for place in range(3))
    with open_source(folder) as source:
        for _ in import_pictures(source, make_plan(source, rows.encode()), EVIL):
            pass
    return EVIL


@pytest.mark.parametrize("tab", ["Look", "Class balance", "What the model sees"])
def test_imported_set_has_a_page_on_which_names_are_names(evil_set: str, tab: str) -> None:
    app = opened("data", dataset=evil_set, tab=tab)
    assert title(app) == EVIL
    assert not app.error
    assert EVIL not in "\n".join(str(element.value) for element in [*app.title, *app.markdown, *app.caption])
    for chart in app.get("plotly_chart"):
        assert "&lt;img" in chart.proto.spec
        assert "<img" not in chart.proto.spec.replace("\\u003c", "<")


def test_imported_set_is_in_the_gallery_and_can_be_chosen_for_a_run(evil_set: str) -> None:
    assert EVIL in texts(opened("data"))
    app = opened("train", dataset=evil_set)
    assert app.selectbox(key="dataset").value == EVIL
    assert not app.error


def test_link_to_a_version_of_a_data_set_is_followed(evil_set: str) -> None:
    app = opened("train", dataset=f"{evil_set}@1")
    assert not app.error
    assert app.selectbox(key="dataset").value == f"{evil_set}@1"
    app.button(key="launch").click().run()
    assert service.store().list_runs()[0].config["dataset"] == f"{evil_set}@1"


def test_set_that_was_imported_anew_by_the_same_name_is_not_the_one_before(evil_set: str, tmp_path: Path) -> None:
    opened("data", dataset=evil_set)
    service.delete_dataset(evil_set)
    content = {
        f"{label}/{number}.png": picture(90 + number, side=32) for label in ("new", "other") for number in (0, 1)
    }
    (tmp_path / "new.zip").write_bytes(zipped(content))
    with open_source(tmp_path / "new.zip") as source:
        for _ in import_pictures(source, make_plan(source), evil_set):
            pass
    app = opened("data", dataset=evil_set)
    assert "other" in texts(app)
    assert "red[c]" not in texts(app)


def test_run_names_its_version_and_shows_no_pictures_of_another_set_by_that_name(evil_set: str, model: Path) -> None:
    run = queue(dataset=evil_set)
    shutil.copytree(model, service.run_folder(run.id) / "model")
    path = service.run_folder(run.id) / "model" / "model.json"
    description = json.loads(path.read_text())
    probabilities = np.full((3, 5), 0.2, np.float32)
    artifacts.Validation(np.array([1, 2, 3]), probabilities).save(service.run_folder(run.id) / "validation.npz")
    for fingerprint, is_same in ((open_dataset(evil_set).fingerprint, True), ("of another set", False)):
        learnt = {"name": f"{evil_set}@1", "fingerprint": fingerprint}
        path.write_text(json.dumps({**description, "about": {"name": "x", "dataset": learnt}}))
        app = opened("runs", run=run.id, tab="Mistakes")
        assert ("no longer on this machine" in texts(app)) is not is_same
    assert f"{evil_set}@1" in str(opened("runs", run=run.id, tab="Settings").dataframe[0].value.values)


@pytest.mark.parametrize("tab", ["Look", "Class balance", "What the model sees"])
@pytest.mark.parametrize("name", ["flowers-mini", "fashion-mnist-mini"])
def test_tabs_of_a_data_set_are_sound(name: str, tab: str) -> None:
    for split in ("train", "val"):
        assert not opened("data", dataset=name, tab=tab, split=split).error


def test_balance_shows_the_counts_of_both_splits() -> None:
    app = opened("data", dataset="flowers-mini", tab="Class balance")
    (chart,) = app.get("plotly_chart")
    for flower in FLOWERS:
        assert flower in chart.proto.spec


def test_what_the_model_sees_follows_the_choices() -> None:
    app = opened("data", dataset="flowers-mini", tab="What the model sees", augmentation="strong", mixing="mixup")
    assert app.session_state["augmentation"] == "strong"
    assert len(app.image) >= 1
    sound(app.slider(key="view").set_value(9).run())


def test_data_set_that_is_far_is_fetched_on_a_click() -> None:
    name = far_dataset()
    app = opened("data", dataset=name)
    app = sound(app.button(key=f"fetch_{name}").click().run())
    (run,) = service.store().list_runs()
    assert run.config == {"what": "dataset", "name": name}
    app = opened("data", dataset=name)
    sound(app.button(key=f"cancel_{run.id}").click().run())
    assert service.run(run.id).state == State.CANCELLED


def test_failed_download_says_why_and_can_be_tried_again() -> None:
    name = far_dataset()
    run = running(service.submit_fetch("dataset", name))
    service.store().finish(run.id, 1, State.FAILED, {}, "The server does not answer.")
    app = opened("data", dataset=name)
    assert errors(app) == ["The server does not answer."]
    assert app.button(key=f"fetch_{name}")


# The frame


def test_frame_counts_what_runs_and_links_to_it() -> None:
    run = running()
    queue()
    app = opened("data")
    assert "1 running · 1 queued" in "\n".join(caption.value for caption in app.sidebar.caption)
    assert run.name in [plain(found.label) for found in app.sidebar.get("page_link")]
    assert duration(7) in "\n".join(plain(str(bar.proto.text)) for bar in app.sidebar.get("progress"))


@pytest.fixture(autouse=True)
def _settings_are_read_anew() -> Iterator[None]:
    yield
    settings.cache_clear()


# What a review found


def test_damaged_data_set_does_not_take_the_gallery_down(monkeypatch: pytest.MonkeyPatch) -> None:
    (settings().folder("datasets", "eurosat") / ".index.json").write_text("not JSON")
    app = opened("data")
    assert len(app.get("page_link")) >= len(DATASETS)
    assert errors(opened("data", dataset="eurosat"))


def test_run_of_another_version_keeps_its_page() -> None:
    store = service.store()
    store.add_run("a" * 32, Kind.FINETUNE, "older", {"strategy": "of another version"}, Slot.CPU, "you")
    store.wish("a" * 32, "cancel", "you")
    opened("runs")
    for tab in ("Live", "Results", "Mistakes", "Settings", "History"):
        sound(opened("runs", run="a" * 32, tab=tab))


def test_button_of_a_run_that_another_tab_deleted_is_answered_with_a_sentence() -> None:
    run = queue()
    app = opened("runs", run=run.id)
    service.cancel(run.id)
    service.delete(run.id)
    app = app.button(key="stop").click().run()
    assert not app.exception
    assert errors(app)


def test_link_with_an_expert_setting_opens_the_expert_form() -> None:
    app = opened("train", batch_size="64")
    assert app.text_input(key="batch_size").value == "64"


def test_home_offers_the_photo_when_the_warm_up_has_failed() -> None:
    warmth.warming.clear()
    app = opened("home")
    assert app.file_uploader(key="photo")


# Steering a run: the buttons of each state

VERBS = {"pause", "resume", "stop", "cancel", "retry", "next", "slower", "delete"}
FAILED = {f"failed: {kind}": kind for kind in Failure}


def with_checkpoint(run: Run) -> Run:
    checkpoint = Checkpoint(1, run.attempt, 100, "checkpoints/1.pt", 10, "0" * 64)
    service.store().beat(run.id, run.attempt, Beat(step=100, checkpoints=(checkpoint,)))
    return run


def left(
    run: Run, state: State, text: str | None = None, kind: Failure | None = None, bytes_: int | None = None
) -> Run:
    """Leave a running run as its worker would."""
    assert service.store().finish(run.id, run.attempt, state, {}, text, kind, bytes_)
    return service.run(run.id)


def in_state(name: str) -> Run:
    """Return a run as its name says: a state, perhaps with a wish, a failure or the reason of a pause."""
    if name == "queued":
        return queue()
    run = with_checkpoint(running(queue()))
    state, _, rest = name.partition(": ")
    if state == "running" and rest:
        return {"pause": service.pause, "stop": service.stop, "cancel": service.cancel}[rest](run.id)
    if state == "running":
        return run
    if state == "interrupted":
        service.store().lose(run, "its worker is gone", 3)
        return service.run(run.id)
    if name == "paused":
        service.pause(run.id)
    if name == "paused: disk full":
        return left(run, State.PAUSED, "The disk is full: 1 GB is needed.", Failure.DISK, 10**15)
    if state == "failed":
        return left(run, State.FAILED, f"It is {rest}.", Failure(rest))
    return left(run, State(state))


#: state -> the buttons that it has, and the forms
OFFERED: dict[str, set[str]] = {
    "queued": {"pause", "stop", "cancel", "next", "Change"},
    "running": {"pause", "stop", "cancel", "Change"},
    "running: pause": {"resume", "stop", "cancel", "Change"},
    "running: stop": {"cancel"},
    "running: cancel": set(),
    "paused": {"resume", "stop", "cancel", "Change", "delete"},
    "paused: disk full": {"resume", "stop", "cancel", "Change", "delete"},
    "interrupted": {"pause", "stop", "cancel", "next", "Change"},
    "succeeded": {"Continue", "delete"},
    "stopped": {"Continue", "delete"},
    "cancelled": {"retry", "delete"},
    **{name: {"retry", "delete"} for name in FAILED},
    "failed: diverged": {"retry", "slower", "delete"},
}
#: what a button makes of a run in the state: its state and what it was asked
DONE: dict[tuple[str, str], tuple[State, Wish | None]] = {
    ("queued", "pause"): (State.PAUSED, None),
    ("queued", "stop"): (State.STOPPED, None),
    ("queued", "cancel"): (State.CANCELLED, None),
    ("queued", "next"): (State.QUEUED, None),
    ("running", "pause"): (State.RUNNING, Wish.PAUSE),
    ("running", "stop"): (State.RUNNING, Wish.STOP),
    ("running", "cancel"): (State.RUNNING, Wish.CANCEL),
    ("running: pause", "resume"): (State.RUNNING, None),
    ("running: pause", "stop"): (State.RUNNING, Wish.STOP),
    ("running: pause", "cancel"): (State.RUNNING, Wish.CANCEL),
    ("running: stop", "cancel"): (State.RUNNING, Wish.CANCEL),
    ("interrupted", "pause"): (State.PAUSED, None),
    ("interrupted", "stop"): (State.STOPPED, None),
    ("interrupted", "cancel"): (State.CANCELLED, None),
    ("interrupted", "next"): (State.INTERRUPTED, None),
    ("cancelled", "retry"): (State.QUEUED, None),
    ("failed: diverged", "slower"): (State.QUEUED, None),
    **{(name, "retry"): (State.QUEUED, None) for name in FAILED},
    **{
        (paused, verb): (state, None)
        for paused in ("paused", "paused: disk full")
        for verb, state in (("resume", State.QUEUED), ("stop", State.STOPPED), ("cancel", State.CANCELLED))
    },
}


def offered(app: AppTest) -> set[str]:
    """Return the keys of the page's buttons, and the labels of what sends a form."""
    keys = {button.key for button in app.button if button.key in VERBS}
    return keys | {button.label for button in app.button if button.key not in VERBS}


def form_button(app: AppTest, label: str) -> Any:
    (button,) = (button for button in app.button if button.label == label and button.key not in VERBS)
    return button


@pytest.mark.parametrize("name", [name for name in OFFERED if name not in FAILED or name in list(FAILED)[:2]])
def test_state_has_its_buttons_and_each_does_what_it_says(name: str) -> None:
    run = in_state(name)
    app = opened("runs", run=run.id)
    assert offered(app) == OFFERED[name]
    for key in sorted(OFFERED[name] & VERBS - {"delete"}):
        one = in_state(name) if key != sorted(OFFERED[name] & VERBS)[0] else run
        app = opened("runs", run=one.id)
        version = one.version
        app = sound(app.button(key=key).click().run())
        now = service.run(one.id)
        assert (now.state, now.wish) == DONE[name, key], key
        assert now.version > version or key == "next"
        assert not app.error or now.failure
        assert service.store().history(one.id)[-1].actor == "you"
        assert f"{now.state}" in texts(app)
        assert offered(app) != OFFERED[name], "the page has been drawn anew"
        if now.state in (State.RUNNING, State.QUEUED, State.INTERRUPTED):  # out of the way of the next one
            cleared(one)


def cleared(run: Run) -> None:
    """End a run without its worker, so that it holds no place in the queue."""
    store = service.store()
    if service.run(run.id).state == State.RUNNING:
        left(service.run(run.id), State.STOPPED)
    else:
        store.wish(run.id, Wish.STOP, "test")


@pytest.mark.parametrize("name", ["paused", "succeeded", "failed: diverged"])
def test_deleted_run_is_gone_and_the_list_is_shown(name: str) -> None:
    run = in_state(name)
    app = sound(opened("runs", run=run.id).button(key="delete").click().run())
    assert service.store().list_runs() == []
    assert title(app) == "Runs"
    assert not app.error
    assert "run" not in app.query_params


def test_run_that_goes_first_is_not_asked_again() -> None:
    first, second = queue("first"), queue("second")
    app = sound(opened("runs", run=second.id).button(key="next").click().run())
    assert "next" not in offered(app)
    assert [waiting.run.id for waiting in service.queue()] == [second.id, first.id]
    captions = "\n".join(caption.value for caption in opened("runs").caption)
    assert captions.count("goes first") == 1


def test_ended_run_without_checkpoints_cannot_be_continued() -> None:
    run = left(running(queue()), State.SUCCEEDED)
    assert offered(opened("runs", run=run.id)) == {"delete"}


# Two tabs


def finished_elsewhere(run: Run) -> Run:
    return left(service.run(run.id), State.SUCCEEDED)


#: the state that a tab has drawn, what happens elsewhere, and what is pressed in the tab
STALE = [
    ("running", lambda run: service.stop(run.id), ("pause", "stop")),
    ("running", lambda run: service.pause(run.id), ("pause", "cancel")),
    ("running", finished_elsewhere, ("stop", "Change")),
    ("running: pause", lambda run: service.resume(run.id), ("resume",)),
    ("queued", running, ("stop",)),
    ("queued", lambda run: service.cancel(run.id), ("cancel", "next", "Change")),
    ("paused", lambda run: service.resume(run.id), ("resume", "stop", "delete")),
    ("paused", lambda run: service.stop(run.id), ("resume",)),
    ("failed: diverged", lambda run: service.retry(run.id), ("retry", "slower", "delete")),
    ("succeeded", lambda run: service.go_on(run.id, 3), ("Continue",)),
    ("stopped", lambda run: service.go_on(run.id, 0), ("Continue",)),
]


def pressed(app: AppTest, key: str) -> AppTest:
    """Press a button of the page as it was drawn; a form is sent with something to send."""
    if key == "Change":
        next(field for field in app.text_input if field.label == "Learning rate").set_value("0.123")
    button = app.button(key=key) if key in VERBS else form_button(app, key)
    return sound(button.click().run())


@pytest.mark.parametrize(("drawn", "elsewhere", "key"), [(*case[:2], key) for case in STALE for key in case[2]])
def test_stale_tab_is_told_and_does_nothing(drawn: str, elsewhere: Any, key: str) -> None:
    run = in_state(drawn)
    app = opened("runs", run=run.id)
    elsewhere(run)
    store = service.store()
    now = store.run(run.id), store.history(run.id), store.changes(run.id)
    app = pressed(app, key)
    (problem,) = errors(app)
    assert re.search("changed meanwhile|Only a run that|cannot", problem)
    assert (store.run(run.id), store.history(run.id), store.changes(run.id)) == now
    assert now[0].state in texts(app), "it shows the run as it is"


@pytest.mark.parametrize(
    ("drawn", "key"),
    [("queued", "pause"), ("queued", "Change"), ("paused", "resume"), ("paused", "delete"), ("succeeded", "Continue")],
)
def test_tab_of_a_run_that_was_deleted_elsewhere_is_told(drawn: str, key: str) -> None:
    run = in_state(drawn)
    app = opened("runs", run=run.id)
    if run.is_active:
        service.cancel(run.id)
    service.delete(run.id)
    app = pressed(app, key)
    assert "There is no run" in errors(app)[0]
    assert title(app) == "Runs"
    assert service.store().list_runs() == []


def test_refusal_is_not_shown_for_another_run() -> None:
    first, second = in_state("paused"), queue("second")
    app = opened("runs", run=first.id)
    service.resume(first.id)
    app = pressed(app, "resume")
    assert errors(app)
    app.query_params["run"] = second.id
    assert not errors(sound(app.run()))


# Launching twice


def launch_again(app: AppTest, **values: str) -> AppTest:
    """Go back to the form in the same session and launch."""
    app.query_params.clear()
    app = sound(app.switch_page("train.py").run())
    for name, value in values.items():
        app.text_input(key=name).set_value(value)
    return sound(app.button(key="launch").click().run())


def test_two_clicks_make_one_run_and_other_settings_another(monkeypatch: pytest.MonkeyPatch) -> None:
    app = launch_again(opened("train"))
    app = launch_again(app)
    (run,) = service.store().list_runs()
    assert title(app) == run.name
    app = launch_again(app, epochs="3")
    assert len(service.store().list_runs()) == 2
    launch_again(opened("train"))  # another visitor
    assert len(service.store().list_runs()) == 3
    monkeypatch.setattr(launching, "DOUBLE_CLICK_SECONDS", 0)
    launch_again(app, epochs="3")  # the same on purpose, later
    assert len(service.store().list_runs()) == 4


# The forms


def change_form(app: AppTest, **values: Any) -> AppTest:
    """Fill the form and send it."""
    labels = {"rate": "Learning rate", "epochs": "Epochs", "augmentation": "Augmentation"}
    for name, value in values.items():
        if name == "learns":
            app.checkbox[0].set_value(value)
            continue
        kind = app.selectbox if name == "augmentation" else app.text_input
        next(field for field in kind if field.label == labels[name]).set_value(value)
    return sound(form_button(app, "Change").click().run())


def asked_of(run: Run) -> dict[str, Any]:
    return {change.what: change.value for change in service.store().changes(run.id)}


@pytest.mark.parametrize("name", ["queued", "running", "paused: disk full"])
def test_change_form_writes_what_differs(name: str) -> None:
    run = in_state(name)
    app = opened("runs", run=run.id)
    app = change_form(app)
    assert asked_of(run) == {}, "nothing differs"
    app = change_form(app, rate="0.005")
    assert asked_of(run) == {"learning_rate": 0.005}
    app = change_form(app, augmentation="strong", epochs="25", learns=True)
    wanted = {"learning_rate": 0.005, "augmentation": "strong", "epochs": 25, "frozen": False}
    assert asked_of(run) == wanted
    assert len(service.store().changes(run.id)) == 4
    fields = {field.label: field.value for field in [*app.text_input, *app.selectbox, *app.checkbox]}
    assert fields == {
        "Learning rate": "0.005",
        "Epochs": "25",
        "Augmentation": "strong",
        "The backbone learns too": True,
    }
    app = change_form(app, learns=False)
    assert asked_of(run) == {**wanted, "frozen": True}
    assert not app.error or run.failure


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rate": "fast"}, "Learning rate (learning_rate) must be a number from 1e-08 to 10; got fast."),
        ({"rate": ""}, "Learning rate (learning_rate) must be a number"),
        ({"rate": "nan"}, "Learning rate (learning_rate) must be a number"),
        ({"epochs": "5"}, "epochs must be a new value, of epochs a higher one; it is 10."),
        ({"epochs": "many"}, "Epochs (epochs) must be a whole number from 1 to 1000; got many."),
        ({"epochs": "1001", "rate": "0.5"}, "Epochs (epochs) must be a whole number"),
        ({"epochs": "9", "rate": "0.5", "learns": True}, "epochs must be a new value"),
        ({"epochs": "20", "rate": "-1"}, "Learning rate (learning_rate) must be a number"),
    ],
    ids=str,
)
def test_change_that_does_not_hold_is_a_sentence_and_changes_nothing(values: dict[str, Any], sentence: str) -> None:
    run = in_state("running")
    app = change_form(opened("runs", run=run.id), **values)
    (problem,) = errors(app)
    assert sentence in problem
    assert asked_of(run) == {}
    assert not [line for line in service.store().history(run.id) if line.actor == "you" and line.text != "launched"]
    for name, label in (("rate", "Learning rate"), ("epochs", "Epochs")):
        if name in values:
            assert next(field for field in app.text_input if field.label == label).value == values[name]
    app = change_form(app, rate="0.5", epochs="30", learns=False)
    assert not app.error
    assert asked_of(run) == {"learning_rate": 0.5, "epochs": 30}


def test_change_form_keeps_what_another_tab_has_changed() -> None:
    run = in_state("running")
    app = opened("runs", run=run.id)
    service.change(run.id, "learning_rate", 0.005)
    app = change_form(app, augmentation="strong")
    assert asked_of(run) == {"learning_rate": 0.005, "augmentation": "strong"}
    assert app.text_input[0].value == "0.005"


@pytest.mark.parametrize(
    ("state", "epochs", "planned"), [("succeeded", "7", 17), ("succeeded", None, 15), ("stopped", "3", 13)]
)
def test_continue_form_queues_the_run_for_more_epochs(state: str, epochs: str | None, planned: int) -> None:
    run = in_state(state)
    app = opened("runs", run=run.id)
    if epochs is not None:
        app.text_input[0].set_value(epochs)
    app = sound(form_button(app, "Continue").click().run())
    assert not app.error
    assert service.run(run.id).state == State.QUEUED
    assert service.current_config(service.run(run.id)).epochs == planned


def test_stopped_run_is_continued_to_its_planned_end() -> None:
    run = in_state("stopped")
    app = opened("runs", run=run.id)
    assert app.text_input[0].value == "0"
    sound(form_button(app, "Continue").click().run())
    assert (service.run(run.id).state, asked_of(run)) == (State.QUEUED, {})


@pytest.mark.parametrize("epochs", ["", "many", "1000", "0"])
def test_wrong_number_of_more_epochs_is_a_sentence(epochs: str) -> None:
    run = in_state("succeeded")
    app = opened("runs", run=run.id)
    app.text_input[0].set_value(epochs)
    app = sound(form_button(app, "Continue").click().run())
    (problem,) = errors(app)
    assert problem.endswith(".")
    assert service.run(run.id).state == State.SUCCEEDED
    assert asked_of(run) == {}


# What went wrong


@pytest.mark.parametrize("name", FAILED)
def test_failure_has_its_name_its_advice_and_its_button(name: str) -> None:
    run = in_state(name)
    app = opened("runs", run=run.id)
    (problem,) = errors(app)
    kind = FAILED[name]
    named = "" if kind in (Failure.DIVERGED, Failure.DISK) else f"**{kind.value.capitalize()}.** "
    assert problem == f"{named}It is {kind}. {steering.ADVICE[kind]}"
    labels = {button.key: button.label for button in app.button}
    assert offered(app) == OFFERED[name]
    assert labels["retry"] == "Try again"
    assert labels.get("slower") == (
        f"Start again at a learning rate of {service.config_of(run).rate / 10:g}" if kind == Failure.DIVERGED else None
    )


def test_diverged_run_goes_on_at_a_tenth_of_the_rate() -> None:
    run = in_state("failed: diverged")
    app = sound(opened("runs", run=run.id).button(key="slower").click().run())
    assert not app.error
    assert asked_of(run) == {"learning_rate": pytest.approx(service.config_of(run).rate / 10)}
    assert service.run(run.id).state == State.QUEUED


def test_run_that_waits_for_room_says_so() -> None:
    app = opened("runs", run=in_state("paused: disk full").id)
    (warning,) = app.warning
    assert plain(warning.value).startswith("The disk is full: 1 GB is needed. It goes on by itself")
    assert not app.error


# The queue


def test_queue_shows_places_and_expected_starts() -> None:
    for _ in range(2):  # earlier runs tell how long one takes
        run = running(queue())
        service.store().beat(run.id, run.attempt, Beat(worked=100.0))
        service.store().finish(run.id, run.attempt, State.SUCCEEDED, {"epochs": 10})
    busy = running(queue("busy"))
    waiting = [queue(f"waiting {number}") for number in range(3)]
    assert len({run.needs for run in waiting}) == 1
    app = opened("runs")
    labels = [plain(found.label) for found in app.main.get("page_link")]
    assert labels[:3] == [f"{place}. waiting {place - 1}" for place in (1, 2, 3)]
    captions = [caption.value for caption in app.main.caption if "start" in caption.value]
    assert captions == [f"starts in {duration(seconds)}" for seconds in (7, 107, 207)]
    (bar,) = opened("runs", run=waiting[1].id).main.get("progress")
    assert plain(bar.proto.text) == f"queued: place 2, it starts in about {duration(107)}"
    service.store().beat(busy.id, busy.attempt, Beat(Progress("starting")))
    app = opened("runs")
    captions = [caption.value for caption in app.main.caption if "start" in caption.value]
    assert captions == ["its start is not known yet"] * 3


# The live view


def charts(app: AppTest) -> list[str]:
    return [chart.proto.spec for chart in app.get("plotly_chart")]


def known_points(app: AppTest, run: Run) -> list[Point]:
    return app.session_state[f"points_{run.id}"][1]


def learned(run: Run, steps: range, value: float = 1.0) -> None:
    """Write what a worker writes for these steps."""
    keys = ("step/loss", "step/gradient_norm", "learning_rate")
    points = tuple(Point(key, step, step / 50, value / step) for step in steps for key in keys)
    service.store().beat(run.id, run.attempt, Beat(Progress("training"), points, steps[-1]))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the pages read of curves: after which step, and how many points."""
    seen: list[tuple[int, int]] = []
    curve = Store.curve

    def noted(store: Store, run_id: str, after_step: int = -1, **options: Any) -> list[Point]:
        points = curve(store, run_id, after_step, **options)
        seen.append((after_step, len(points)))
        return points

    monkeypatch.setattr(Store, "curve", noted)
    return seen


def test_curves_are_read_in_increments(reads: list[tuple[int, int]]) -> None:
    run = running(queue())
    app = opened("runs", run=run.id)
    ((after, count),) = reads
    assert (after, count) == (-1, 203)
    sound(app.run())
    assert reads[1] == (99, 3), "what may still come to the last step"
    learned(run, range(101, 111))
    service.store().beat(run.id, 1, Beat(points=(Point("val/accuracy", 100, 2.0, 0.75),), step=110))
    sound(app.run())
    assert reads[2] == (99, 3 + 30)
    assert [point.value for point in known_points(app, run) if point.key == "val/accuracy"] == [0, 0.25, 0.75]
    assert ("Validation accuracy", "75.0 %") in [(metric.label, metric.value) for metric in app.metric]
    assert charts(app) == charts(opened("runs", run=run.id))


def test_curves_of_a_long_run_are_thin_and_the_same_in_every_tab(reads: list[tuple[int, int]]) -> None:
    run = running(queue())
    early = opened("runs", run=run.id)
    with service.store()._write() as connection:
        for key in ("step/loss", "step/gradient_norm", "learning_rate"):
            connection.exec_driver_sql(
                "with recursive n(i) as (select 101 union all select i + 1 from n where i < 100000) "
                "insert into points (run_id, key, step, epoch, value) select ?, ?, i, i / 50.0, 1.0 / i from n",
                (run.id, key),
            )
    service.store().beat(run.id, 1, Beat(Progress("training"), (Point("val/loss", 100_000, 2000.0, 0.1),), 100_000))
    reads.clear()
    late = opened("runs", run=run.id)
    sound(early.run())
    assert charts(early) == charts(late)
    counts = Counter(point.key for point in known_points(late, run))
    assert all(1000 < counts[key] <= MOST_POINTS for key in ("step/loss", "learning_rate"))
    assert all(count < 10_000 for _, count in reads)
    assert all(len(spec) < 300_000 for spec in charts(late))
    reads.clear()
    learned(run, range(100_001, 100_201))
    sound(early.run())
    ((_, count),) = reads
    assert count < 20
    assert charts(early) == charts(opened("runs", run=run.id))


def test_resumed_run_shows_its_latest_numbers_not_those_of_its_pause() -> None:
    run = running(queue())
    service.pause(run.id)
    service.store().finish(run.id, 1, State.PAUSED, {"val_accuracy": 0.4, "val_loss": 0.9, "images_per_second": 3.0})
    shown = {metric.label: metric.value for metric in opened("runs", run=run.id).metric}
    assert (shown["Validation accuracy"], shown["Validation loss"]) == ("40.0 %", "0.900")
    again = running(service.resume(run.id))
    points = (Point("val/accuracy", 150, 3.0, 0.75), Point("val/loss", 150, 3.0, 0.25))
    service.store().beat(run.id, again.attempt, Beat(Progress("training", images_per_second=50.0), points, 150))
    shown = {metric.label: metric.value for metric in opened("runs", run=run.id).metric}
    assert (shown["Validation accuracy"], shown["Validation loss"]) == ("75.0 %", "0.250")
    assert shown["Pictures per second"] == "50.0"


def test_next_attempt_draws_its_own_curve() -> None:
    run = running(queue())
    app = opened("runs", run=run.id)
    service.store().lose(run, "gone", 3)
    again = service.store().claim({slot: [f"{slot}0"] for slot in Slot})
    learned(again, range(51, 91), value=9.0)
    sound(app.run())
    losses = {point.step: point.value for point in known_points(app, run) if point.key == "step/loss"}
    assert losses[60] == 9 / 60
    assert charts(app) == charts(opened("runs", run=run.id))


def test_change_that_shortens_the_curve_does_so_in_every_tab() -> None:
    run = running(queue())
    app = opened("runs", run=run.id)
    service.store().apply_change(run.id, 1, Change(0, "micro_batch", 8, None, "worker"), 60)
    sound(app.run())
    assert max(point.step for point in known_points(app, run)) == 60
    learned(run, range(61, 71), value=5.0)
    sound(app.run())
    losses = {point.step: point.value for point in known_points(app, run) if point.key == "step/loss"}
    assert losses[65] == 5 / 65
    assert max(losses) == 70
    assert charts(app) == charts(opened("runs", run=run.id))
    assert "at most 8 pictures at a time" in charts(app)[0]


def test_changes_that_took_effect_stand_on_the_curves() -> None:
    run = running(queue())
    service.change(run.id, "learning_rate", 0.005)
    app = opened("runs", run=run.id)
    assert not any("learning rate 0.005" in spec for spec in charts(app)), "not yet"
    (change,) = service.store().changes(run.id)
    service.store().apply_change(run.id, 1, change, 100)
    loss, accuracy, rate = charts(sound(app.run()))
    assert "learning rate 0.005" in loss
    assert "learning rate 0.005" in rate
    assert "learning rate 0.005" not in accuracy
    shape = json.loads(loss)["layout"]["shapes"][0]
    assert shape["x0"] == shape["x1"] == 2.0


def test_history_tells_every_action_with_its_actor_and_the_end_of_the_log() -> None:
    run = running(queue())
    service.pause(run.id, actor="ada")
    service.resume(run.id)
    service.change(run.id, "learning_rate", 0.005, actor="bob")
    (change,) = service.store().changes(run.id)
    service.store().apply_change(run.id, 1, change, 100)
    service.prioritise(run.id, Priority.HIGH)
    service.stop(run.id)
    left(run, State.STOPPED)
    folder = service.run_folder(run.id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").write_text("\n".join(f"line {number}" for number in range(100)))
    app = opened("runs", run=run.id, tab="History")
    lines = [
        plain(found.value) for found in app.main.markdown if re.match(r"`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`", found.value)
    ]
    assert [re.sub(r"^`.*?` ", "", line) for line in lines] == [
        "you: launched",
        "supervisor: started on gpu0, attempt 1" if run.needs == Slot.GPU else "supervisor: started on cpu0, attempt 1",
        "ada: asked to pause",
        "you: asked to resume",
        "bob: asked for learning rate 0.005",
        "worker: learning rate 0.005 from step 101 on",
        "you: priority high",
        "you: asked to stop",
        "worker: stopped",
    ]
    (log,) = app.code
    assert log.value.splitlines() == [f"line {number}" for number in range(60, 100)]


# Stores that cannot be used


def test_data_folder_that_can_only_be_read_shows_all_and_launches_nothing(
    only_readable: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
) -> None:
    done, active = in_state("succeeded"), in_state("running")
    service.store()._engine.dispose()
    open_store.cache_clear()
    folder = only_readable(home)
    monkeypatch.setenv("DLKIT_HOME", str(folder))
    monkeypatch.setattr(service, "ensure_supervisor", ENSURE_SUPERVISOR)
    settings.cache_clear()
    for page in PAGES:
        app = opened(page)
        assert ["The data folder can only be read" in found.value for found in app.sidebar.warning] == [True]
        assert not app.error
    for run in (done, active):
        for tab in ("Live", "Results", "Mistakes", "Settings", "History"):
            app = opened("runs", run=run.id, tab=tab)
            assert title(app) == run.name
            assert not app.error, errors(app)
    for page, key in (("home", "train_sample"), ("train", "launch")):
        app = sound(opened(page).button(key=key).click().run())
        assert "can only be read, so nothing can be launched" in errors(app)[0]
    app = pressed(opened("runs", run=active.id), "stop")
    assert "can only be read" in errors(app)[0]
    far = far_dataset()
    app = sound(opened("data", dataset=far).button(key=f"fetch_{far}").click().run())
    assert "can only be read" in errors(app)[0]


@pytest.mark.parametrize("method", ["_read", "active", "list_runs", "curve", "history"])
def test_store_that_cannot_be_used_just_now_is_a_box(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = in_state("running")

    def fail(*_: object, **__: object) -> None:
        raise StoreError("The store cannot be used just now: database is locked.")

    monkeypatch.setattr(Store, method, fail)
    boxes = []
    for page in PAGES if method in ("_read", "active") else ("home", "runs"):
        boxes += errors(opened(page))
    boxes += errors(opened("runs", run=run.id, tab="History"))
    assert set(boxes) == {"The store cannot be used just now: database is locked."}


@pytest.mark.parametrize("key", ["pause", "stop", "Change"])
def test_store_that_cannot_be_written_just_now_is_a_box(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = in_state("running")
    app = opened("runs", run=run.id)

    def fail(*_: object, **__: object) -> None:
        raise StoreError("The store cannot be used just now: disk full.")

    monkeypatch.setattr(Store, "_write", fail)
    assert errors(pressed(app, key)) == ["The store cannot be used just now: disk full."]
