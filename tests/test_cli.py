"""The command line: what goes to stdout and to stderr, the exit codes, and every mistake that a user can make."""

import contextlib
import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import dlkit.__main__ as command_line
from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.datasets import DATASETS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.config import FinetuneConfig
from dlkit.runs import service
from dlkit.runs.artifacts import has_bundle
from dlkit.runs.records import Checkpoint, Failure, Kind, Point, Progress, Run, Slot, State, Wish
from dlkit.runs.store import Beat
from dlkit.settings import settings
from tests.archive_maker import picture, zipped
from tests.job_home import NEVER, TINY, job_home, processes, wait_for_end, wait_for_worker
from tests.test_estimate import measured

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "dlkit"]
FLOWER = str(next(iter(sorted((ROOT / "dlkit/samples/flowers_mini/val/sunflowers").glob("*.jpg")))))
TINY_FLAGS = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]
ROW_KEYS = {"run", "name", "state", "created_at", "failure"}


@dataclass(frozen=True)
class Answer:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout; fails where there is more, less, or NaN."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def dlkit(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process, on an empty data folder where nothing takes the runs."""
    monkeypatch.setattr(service, "ensure_supervisor", lambda: None)
    return lambda *arguments: call(capsys, *arguments)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> Answer:
    try:
        code = command_line.main(arguments)
    except SystemExit as end:  # argparse
        code = int(end.code or 0)
    return Answer(code, *capsys.readouterr())


def in_process(*arguments: str) -> Answer:
    """Run a command in a process of its own."""
    done = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=90)
    return Answer(done.returncode, done.stdout, done.stderr)


def refused(answer: Answer) -> str:
    """Check that a mistake was answered as one, and return the sentence."""
    assert answer.code == 2
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert len(answer.err.split()) >= 5, "a sentence, not a code"
    return answer.err


def train_in_vain(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """Return the sentence with which `train` refuses these flags; nothing may be queued."""
    sentence = refused(call(capsys, "train", *flags))
    assert service.store().list_runs() == []
    return sentence


# Imports


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a zip of two classes with twelve pictures each, one of them damaged, and a file that is none."""
    content = {f"pets/{name}/{number}.png": picture(number, side=64) for name in "ab" for number in range(12)}
    path = tmp_path / "photos.zip"
    path.write_bytes(zipped({**content, "pets/a/0.png": b"torn", "pets/notes.txt": b"hello"}))
    return path


def test_import_says_what_it_made_of_a_zip(dlkit, photos):
    done = dlkit("import", str(photos), "--name", "pets")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "pets: 2 classes, 19 images to learn from, 4 to be checked with.",
        "1 file holds no picture and was left out: pets/notes.txt.",
        "1 of 24 images holds no picture and was left out: pets/a/0.png.",
    ]
    assert dlkit("datasets", "--json").json[0]["name"] == "pets"
    assert dlkit("datasets", "delete", "pets").out == "pets deleted\n"
    assert "pets" not in DATASETS


def test_import_as_json_is_one_document(dlkit, photos):
    made = dlkit("import", str(photos), "--name", "pets", "--json").json
    assert (made["train"], made["val"], made["test"], made["classes"]) == (19, 4, 0, ["a", "b"])
    assert [one["names"] for one in made["left_out"]] == [["pets/notes.txt"], ["pets/a/0.png"]]


def test_plan_imports_nothing(dlkit, photos):
    table = dlkit("import", str(photos), "--name", "pets", "--plan").out
    assert "Layout: class folders; 24 images" in table
    assert dlkit("import", str(photos), "--name", "pets", "--plan", "--json").json["classes"]["a"] == {"all": 12}
    assert "pets" not in DATASETS


def test_folder_is_imported_with_a_label_file(dlkit, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(picture(number))
    table = tmp_path / "labels.csv"
    table.write_text("file;label\n" + "".join(f"{number}.png;{'=a' if number % 2 else 'b'}\n" for number in range(6)))
    made = dlkit("import", str(folder), "--name", "two", "--labels", str(table), "--json").json
    assert (made["classes"], made["train"], made["val"]) == (["=a", "b"], 4, 2)


@pytest.mark.parametrize(
    "flags",
    [
        ("nowhere.zip", "--name", "pets"),
        (str(ROOT), "--name", "a@b"),
        (str(ROOT), "--name", "flowers-mini"),
        (str(ROOT / "tests"), "--name", "pets"),
        (FLOWER, "--name", "pets"),
        (str(ROOT), "--name", "pets", "--labels", "nowhere.csv"),
        ("\0", "--name", "pets"),
        ("x" * 5000, "--name", "pets"),
    ],
)
def test_import_that_cannot_be_is_refused(dlkit, flags):
    refused(dlkit("import", *flags))
    assert "pets" not in DATASETS


@pytest.fixture
def pets(dlkit, photos) -> Any:
    """Import 23 pictures as pets; return how to run a command."""
    assert dlkit("import", str(photos), "--name", "pets").code == 0
    return dlkit


def test_set_is_edited_restored_and_its_versions_are_told(pets):
    edited = pets(
        *("datasets", "edit", "pets", "--relabel", "pets/a/1.png", "b", "--relabel", "pets/a/2.png", "b"),
        *("--move", "pets/b/1.png", "test", "--drop", "pets/b/2.png", "pets/b/3.png"),
        *("--rename", "a", "ant", "--seen", "1"),
    )
    assert edited.out == (
        "pets@2: 2 pictures moved to b; 1 picture moved to the test split; 2 pictures left out; "
        "class a renamed to ant.\n"
    )
    told = pets("datasets", "compare", "pets@1", "pets", "--json").json
    assert told["renamed"] == {"a": "ant"}
    assert told["counts"] == {"a": [11, 0], "ant": [0, 9], "b": [12, 12]}
    assert "Class a is called ant." in pets("datasets", "compare", "pets@1", "pets@2").out
    assert pets("datasets", "restore", "pets", "1", "--json").json["change"] == "As in version 1 again."
    assert pets("datasets", "compare", "pets@1", "pets@3").out == "Nothing is different.\n"
    rows = pets("datasets", "versions", "pets", "--json").json
    assert [(row["number"], row["based_on"], row["train"]) for row in rows][::2] == [(3, 2, 19), (1, None, 19)]
    assert "Imported from photos.zip." in pets("datasets", "versions", "pets").out
    assert pets("datasets", "edit", "pets", "--merge", "a", "b", "c", "--resplit", "0.3").code == 2
    assert pets("datasets", "edit", "pets", "--resplit", "0.5").out == (
        "pets@4: Split anew, 11 to learn from and 12 to be checked with.\n"
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("edit", "pets"),
        ("edit", "pets", "--drop", "nowhere.png"),
        ("edit", "pets", "--relabel", "pets/a/1.png", ""),
        ("edit", "pets", "--move", "pets/a/1.png", "elsewhere"),
        ("edit", "pets", "--rename", "x", "y"),
        ("edit", "pets", "--merge", "a"),
        ("edit", "pets", "--resplit", "nan"),
        ("edit", "pets", "--resplit", "many"),
        ("edit", "pets", "--drop", "pets/a/1.png", "--seen", "7"),
        ("edit", "flowers-mini", "--rename", "daisy", "y"),
        ("restore", "pets", "1"),
        ("restore", "pets", "first"),
        ("compare", "pets@1", "pets@2"),
        ("export", "flowers-mini", "x.zip"),
        ("export", "pets", "/nowhere/x.zip"),
        ("export", "pets", __file__),
        ("delete", "pets@1"),
        ("versions", "flowers-mini"),
        ("copy", "cifar-10", "mine"),
        ("copy", "pets", "shapes"),
    ],
)
def test_edit_that_cannot_be_is_refused(pets, flags):
    refused(pets("datasets", *flags))
    assert DATASETS["pets"].version == 1


def test_edit_of_an_old_version_is_refused_or_put_on_top(pets):
    pets("datasets", "edit", "pets", "--drop", "pets/a/1.png")
    flags = ("datasets", "edit", "pets", "--drop", "pets/a/1.png", "pets/a/2.png", "--seen", "1")
    assert "version 2 is the newest" in refused(pets(*flags))
    assert pets(*flags, "--on-top").out == "pets@3: 1 picture left out.\n"


def test_export_is_imported_again_and_more_is_added(pets, tmp_path):
    target = tmp_path / "out.zip"
    assert pets("datasets", "export", "pets", str(target), "--json").json["version"] == 1
    made = pets("import", str(target), "--name", "again", "--json").json
    assert (made["train"], made["val"], made["left_out"]) == (19, 4, [])
    more = tmp_path / "more.zip"
    more.write_bytes(zipped({f"c/{number}.png": picture(50 + number) for number in range(5)}))
    assert pets("import", str(more), "--into", "again").out.splitlines() == [
        "again: 3 classes, 23 images to learn from, 5 to be checked with.",
        "5 pictures were added from more.zip.",
    ]
    assert DATASETS["again"].version == 2
    assert pets("import", str(more), "--into", "pets", "--class", "a").out.splitlines()[1:] == [
        "5 pictures were added from more.zip."
    ]
    assert DATASETS["pets"].classes == 2
    for flags in (("--into", "shapes"), ("--name", "one", "--class", "a"), ("--into", "pets", "--class", "")):
        refused(pets("import", str(more), *flags))


def test_set_is_copied_under_its_licence(dlkit):
    assert dlkit("datasets", "copy", "shapes", "mine").out.startswith("mine: ")
    assert DATASETS["mine"].licence == DATASETS["shapes"].licence


def test_progress_of_an_import_is_shown_on_a_terminal_and_ctrl_c_keeps_nothing(dlkit, photos, monkeypatch):
    shown: list[str] = []

    def show(text: str, share: float) -> None:
        shown.append(text)
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(command_line, "_show_bar", show)
    assert dlkit("import", str(photos), "--name", "pets").code == 130
    assert shown == ["checking 8 of 24"]
    assert "pets" not in DATASETS
    assert not list((settings().data_folder / "datasets").glob(".*.importing"))


@pytest.mark.slow
def test_imported_set_is_trained_on_by_a_real_worker(photos, tmp_path):
    with job_home(tmp_path / "home"):
        assert in_process("import", str(photos), "--name", "my pets").code == 0
        flags = ("--image-size", "64", "--epochs", "1", "--augmentation", "none", "--json")
        trained = in_process("train", "--dataset", "my pets", *flags)
        assert trained.code == 0, trained.err
        run = service.find(trained.json["run"])
        assert run.config["dataset"] == "my pets@1"
        assert run.state == State.SUCCEEDED
        about = json.loads((service.run_folder(run.id) / "model" / "model.json").read_text())
        assert about["classes"] == ["a", "b"]
        assert about["about"]["dataset"]["name"] == "my pets@1"


# Catalogs


@pytest.mark.parametrize(
    ("command", "catalog", "keys"),
    [
        ("datasets", DATASETS, {"name", "title", "classes", "train_images", "val_images", "here", "licence"}),
        ("backbones", BACKBONES, {"name", "parameters", "gflops", "input_size", "imagenet_top1", "here", "licence"}),
        ("optimizers", OPTIMIZERS, {"name", "learning_rate", "settings", "summary", "paper"}),
    ],
)
def test_catalog_is_listed_as_text_and_as_json(dlkit, command, catalog, keys):
    listed = dlkit(command, "--json")
    assert (listed.code, listed.err) == (0, "")
    assert [row["name"] for row in listed.json] == list(catalog)
    assert all(keys <= row.keys() for row in listed.json)

    text = dlkit(command)
    assert (text.code, text.err) == (0, "")
    lines = text.out.splitlines()
    assert lines[0].split()[0] == "name"
    assert [line.split()[0] for line in lines[1:]] == list(catalog)


def test_lists_say_what_is_here(dlkit):
    here = {row["name"] for row in dlkit("datasets", "--json").json if row["here"]}
    assert here == {name for name, entry in DATASETS.items() if not entry.files}


def test_lists_load_no_torch(home):
    script = "import sys; from dlkit.__main__ import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", script, "backbones", "--json"]
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=60).returncode == 0


# One run, from training to prediction


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answer]:
    """What `train --json` answered; its data folder is the one in use."""
    with job_home(tmp_path_factory.mktemp("trained")):
        yield in_process("train", *TINY_FLAGS, "--json")


def test_train_answers_with_one_json_document(trained):
    assert (trained.code, trained.err) == (0, ""), "progress is for terminals"
    result = trained.json
    numbers = ("val_accuracy", "val_loss", "epochs", "seconds", "images_per_second")
    assert {*ROW_KEYS, *numbers} <= result.keys()
    assert result["state"] == "succeeded"
    assert result["failure"] is None
    assert result["epochs"] == TINY["epochs"]
    assert all(math.isfinite(result[name]) and result[name] > 0 for name in numbers)
    assert service.run(result["run"]).summary["val_accuracy"] == result["val_accuracy"]


def test_show_has_the_settings_and_the_events(trained, capsys):
    run_id = trained.json["run"]
    shown = call(capsys, "runs", "show", run_id[:8], "--json").json
    assert trained.json.items() <= shown.items()
    assert shown["config"].keys() == FinetuneConfig.model_fields.keys()
    assert TINY.items() <= shown["config"].items()
    assert [event["text"] for event in shown["events"]][::2] == ["launched", "succeeded"]
    assert shown["progress"]["share"] == 1.0

    text = call(capsys, "runs", "show", run_id)
    assert (text.code, text.err) == (0, "")
    assert f"validation accuracy {trained.json['val_accuracy']:.1%}" in text.out.splitlines()[0]
    assert "  image_size = 64" in text.out
    assert "worker: succeeded" in text.out


def test_list_shows_the_same_columns_whatever_came_last(trained, capsys):
    waiting = service.store().add_run("f" * 32, Kind.FINETUNE, "waiting", {}, Slot.GPU, "ada")
    lines = call(capsys, "runs").out.splitlines()
    assert lines[0].split() == ["run", "name", "state", "created_at", "val_accuracy", "seconds"]
    assert [line.split()[0] for line in lines[1:]] == [waiting.id, trained.json["run"]]
    assert f"{trained.json['val_accuracy']:.4g}" in lines[2].split()
    assert trained.json in call(capsys, "runs", "list", "--json").json
    service.cancel(waiting.id)


def test_run_predicts(trained, capsys):
    answer = call(capsys, "predict", trained.json["run"][:8], FLOWER, FLOWER, "--top-k", "3", "--json")
    assert (answer.code, answer.err) == (0, "")
    first, second = answer.json
    assert first == second
    assert first["file"] == FLOWER
    probabilities = [guess["probability"] for guess in first["top"]]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1.0001


def test_more_classes_than_there_are_gives_all(trained, capsys):
    top = call(capsys, "predict", trained.json["run"], FLOWER, "--top-k", "1000", "--json").json[0]["top"]
    assert len(top) == 6
    assert sum(guess["probability"] for guess in top) == pytest.approx(1, abs=1e-4)


def test_model_whose_folder_is_gone_is_said(trained, capsys):
    run_id = trained.json["run"]
    model = service.run_folder(run_id) / "model"
    shutil.move(model, model.with_name("moved"))
    try:
        assert "There is no saved model here" in refused(call(capsys, "predict", run_id, FLOWER))
    finally:
        shutil.move(model.with_name("moved"), model)
    assert has_bundle(model)


def test_imagenet_model_predicts_as_text_and_as_json(dlkit):
    answer = dlkit("predict", "imagenet", FLOWER, "--top-k", "2", "--json")
    top = answer.json[0]["top"]
    assert (answer.code, answer.err, len(top)) == (0, "", 2)
    lines = dlkit("predict", "imagenet", FLOWER, "--top-k", "2").out.splitlines()
    assert lines[0] == FLOWER
    assert lines[1].split() == [f"{top[0]['probability']:.1%}", *top[0]["label"].split()]


def test_layers_of_a_run_are_listed_with_what_they_made_of_a_picture(trained, capsys):
    rows = call(capsys, "layers", trained.json["run"], FLOWER, "--json").json
    assert rows[0]["name"] == "body.conv_stem"
    assert rows[0]["shape"] == [32, *[rows[0]["shape"][1]] * 2]
    assert rows[-1] | {"mean": 0, "deviation": 0, "least": 0, "largest": 0} == {
        "name": "head",
        "kind": "Linear",
        "call": 1,
        "shape": [6],
        "parameters": 6 * 1281,
        "multiply_adds": 6 * 1280,
        "field": rows[-2]["field"],
        "mean": 0,
        "deviation": 0,
        "least": 0,
        "largest": 0,
        "zeros": 0,
    }
    assert all(row["least"] <= row["mean"] <= row["largest"] for row in rows)
    lines = call(capsys, "layers", trained.json["run"], FLOWER).out.splitlines()
    assert len(lines) == len(rows) + 2
    assert lines[-1].startswith(f"{len(rows)} layers, 3,378,694 parameters")


def test_layers_refuses_what_is_no_picture_and_no_run(dlkit, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    assert "notes.jpg" in refused(dlkit("layers", "imagenet", str(tmp_path / "notes.jpg")))
    assert "There is no file" in refused(dlkit("layers", "imagenet", "nothing.jpg"))
    refused(dlkit("layers", "0000", FLOWER))


def test_step_of_a_run_is_told_line_by_line(trained, capsys):
    run_id = trained.json["run"]
    told = call(capsys, "step", run_id, "--parameter", "head.weight", "--index", "2,7", "--json").json
    assert (told["run"], told["parameter"], told["index"], told["rule"]) == (run_id, "head.weight", [2, 7], "adamw")
    assert told["step"] == service.run(run_id).summary["steps"] + 1
    assert told["after"] == told["given"]["w"] + told["delta"]
    assert told["lines"][-1]["name"] == "delta"
    assert told["given"].keys() >= {"w", "g", "rate", "m", "v", "beta1"}
    assert told["outputs"].keys() == {"mean", "deviation"}
    text = call(capsys, "step", run_id[:8], "--parameter", "head.weight", "--index", "2,7").out
    assert f"becomes {told['after']:.6g}." in text
    assert "beta1*m + (1 - beta1)*g" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--parameter", "head.weight", "--index", "6,0"), "has the shape (6, 1280); it has no weight at (6, 0)"),
        (("--parameter", "head.weight", "--index", "1,x"), "--index must be a whole number"),
        (("--parameter", "heat.weight", "--index", "0,0"), "Near to it: head.weight"),
        (("--parameter", "body.conv_stem.weight", "--index", "0"), "does not learn in this phase (head)"),
        (("--parameter", "head.bias", "--index", "0", "--batch", "999"), "there is no batch 999"),
    ],
)
def test_step_that_cannot_be_told_gets_a_sentence(trained, capsys, flags, words):
    assert words in refused(call(capsys, "step", trained.json["run"], *flags))


# Runs that nobody takes: the commands beside


def test_detached_run_is_listed_shown_and_stopped(dlkit):
    detached = dlkit("train", "--detach", "--name", "mine", "--json")
    assert (detached.code, detached.err) == (0, "")
    run_id = detached.json["run"]
    assert (detached.json["state"], detached.json["name"]) == ("queued", "mine")
    for listed in (dlkit("runs", "--json"), dlkit("runs", "list", "--json"), dlkit("runs", "--json", "list")):
        assert [row["run"] for row in listed.json] == [run_id]
    shown = dlkit("runs", "show", run_id[:6], "--json").json
    assert (shown["state"], shown["config"]["epochs"], shown["events"][0]["text"]) == ("queued", 10, "launched")
    stopped = dlkit("runs", "stop", run_id[:6], "--json")
    assert (stopped.code, stopped.json["state"]) == (0, "stopped")
    assert "it is stopped already" in refused(dlkit("runs", "stop", run_id))


def test_detached_run_is_said_in_a_line(dlkit):
    answer = dlkit("train", "--detach")
    assert re.fullmatch(r"[0-9a-f]{8} queued · Flowers \(mini\) · EfficientNet-Lite0 · head\n", answer.out)


def test_no_runs_is_an_empty_list(dlkit):
    assert dlkit("runs", "--json").json == []
    assert dlkit("runs").out == "nothing yet\n"


def test_every_setting_has_its_flag(dlkit):
    usage = dlkit("train", "--help").out
    assert all(f"--{name.replace('_', '-')} " in usage for name in FinetuneConfig.model_fields)


def test_every_flag_reaches_the_settings(dlkit):
    flags = ["--epochs", "3", "--strategy", "full", "--freeze-batchnorm", "false", "--learning-rate", "1e-3"]
    run_id = dlkit("train", *flags, "--detach", "--json").json["run"]
    wanted = {"epochs": 3, "strategy": "full", "freeze_batchnorm": False, "learning_rate": 1e-3}
    assert wanted.items() <= service.run(run_id).config.items()


def test_empty_text_means_not_given_where_a_setting_may_be_left_out(dlkit):
    run_id = dlkit("train", "--learning-rate", "", "--detach", "--json").json["run"]
    assert service.run(run_id).config["learning_rate"] == OPTIMIZERS["adamw"].learning_rate


def follow_to(dlkit: Any, monkeypatch: pytest.MonkeyPatch, state: State, failure: str | None) -> Answer:
    """Follow a run that ends so while the command looks."""

    def end() -> None:
        run = service.store().claim({Slot.CPU: ["cpu0"]})
        if run is not None:
            service.store().finish(run.id, run.attempt, state, {}, failure)

    monkeypatch.setattr(service, "ensure_supervisor", end)
    return dlkit("train", "--device", "cpu", "--json")


@pytest.mark.parametrize(
    ("state", "failure", "code"),
    [
        (State.SUCCEEDED, None, 0),
        (State.STOPPED, None, 0),
        (State.CANCELLED, None, 2),
        (State.FAILED, "The disk is full.", 2),
    ],
)
def test_exit_code_says_how_the_run_ended(dlkit, monkeypatch, state, failure, code):
    answer = follow_to(dlkit, monkeypatch, state, failure)
    assert (answer.code, answer.json["state"], answer.json["failure"]) == (code, state, failure)
    assert answer.err == (f"{failure}\n" if failure else "")


# Finding a learning rate

FOUND = {
    "rates": [1e-4, 1e-3, 1e-2],
    "losses": [2.0, 1.0, 3.0],
    "smoothed": [2.0, 1.5, 2.0],
    "suggestions": {"valley": 0.00281, "minimum": 1e-4},
    "note": "The curve has no point for: slide.",
}


def find_ending(
    dlkit: Any, monkeypatch: pytest.MonkeyPatch, *flags: str, state: State = State.SUCCEEDED, failure: str | None = None
) -> Answer:
    """Ask for a learning rate; the search ends so while the command looks."""

    def end() -> None:
        run = service.store().claim({Slot.CPU: ["cpu0"]})
        if run is not None:
            service.store().finish(run.id, run.attempt, state, {} if failure else FOUND, failure)

    monkeypatch.setattr(service, "ensure_supervisor", end)
    monkeypatch.setattr(command_line, "FOLLOW_SECONDS", 0)
    return dlkit("lr-find", "--device", "cpu", *flags)


def test_found_rates_are_one_json_document(dlkit, monkeypatch):
    answer = find_ending(dlkit, monkeypatch, "--json", "--batch-size", "16")
    assert (answer.code, answer.err, answer.json) == (0, "", FOUND)
    (run,) = service.store().list_runs(Kind.FIND)
    assert run.config["batch_size"] == 16
    assert dlkit("runs", "--json").json == [], "it is no training"


def test_found_rates_are_a_table_and_what_is_missing_a_sentence(dlkit, monkeypatch):
    answer = find_ending(dlkit, monkeypatch)
    head, valley, minimum, note = answer.out.splitlines()
    assert head.split()[:2] == ["suggestion", "learning_rate"]
    assert (valley.split()[:2], minimum.split()[:2]) == (["valley", "0.0028"], ["minimum/10", "0.0001"])
    assert note == FOUND["note"]


def test_nothing_found_is_a_sentence(dlkit, monkeypatch):
    monkeypatch.setitem(FOUND, "suggestions", {})
    assert find_ending(dlkit, monkeypatch).out == f"{FOUND['note']}\n"


def test_search_that_failed_is_a_sentence(dlkit, monkeypatch):
    answer = find_ending(
        dlkit, monkeypatch, "--json", state=State.FAILED, failure="The picture x.jpg is torn. Mend it."
    )
    assert refused(answer) == "The picture x.jpg is torn. Mend it.\n"


def test_search_for_wrong_settings_is_refused(dlkit):
    assert "Epochs (epochs) must be" in refused(dlkit("lr-find", "--epochs", "0"))
    assert service.store().list_runs() == []


# What a run will take

MEASURED_HERE = ("--image-size", "160", "--augmentation", "none", "--device", "cpu")


def estimated(dlkit: Any, monkeypatch: pytest.MonkeyPatch, *flags: str) -> Answer:
    """Ask what a run will take; where that is not known yet a worker measures it while the command looks."""

    def measure() -> None:
        run = service.store().claim({Slot.CPU: ["cpu0"]})
        if run is not None:
            measured()
            service.store().finish(run.id, run.attempt, State.SUCCEEDED, {})

    monkeypatch.setattr(service, "ensure_supervisor", measure)
    monkeypatch.setattr(command_line, "FOLLOW_SECONDS", 0)
    return dlkit("estimate", *MEASURED_HERE, *flags)


def test_estimate_measures_once_what_is_not_known(dlkit, monkeypatch):
    answer = estimated(dlkit, monkeypatch, "--json", "--strategy", "partial")
    told = answer.json
    assert (answer.code, answer.err, told["is_measured"]) == (0, "", True)
    assert [what for what, _ in told["phases"]] == ["start", "head", "last layers"]
    assert told["seconds"] == pytest.approx(sum(seconds for _, seconds in told["phases"]))
    assert [run.kind for run in service.store().list_runs()] == [Kind.MEASURE]
    assert estimated(dlkit, monkeypatch, "--json", "--strategy", "partial").json == told
    assert len(service.store().list_runs()) == 1


def test_estimate_is_a_table_and_what_it_rests_on(dlkit, monkeypatch):
    *table, basis = estimated(dlkit, monkeypatch, "--epochs", "3").out.splitlines()
    assert [line.split("  ")[0] for line in table] == ["what", "start", "head", "in all", "memory", "disk"]
    assert basis == "Measured on this machine."


def test_estimate_of_wrong_settings_is_refused(dlkit):
    assert "Epochs (epochs) must be" in refused(dlkit("estimate", "--epochs", "0"))
    assert service.store().list_runs() == []


def test_ctrl_c_cancels_a_search(dlkit, monkeypatch):
    def press(_: float) -> None:
        monkeypatch.setattr(time, "sleep", lambda _: None)
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", press)
    assert "The search for a learning rate was cancelled." in refused(dlkit("lr-find", "--device", "cpu"))
    assert [run.state for run in service.store().list_runs(Kind.FIND)] == [State.CANCELLED]


# Mistakes


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--dataset", "flowers"], "Data set (dataset) must be one of flowers-mini, "),
        (["--backbone", "vgg"], "Backbone (backbone) must be one of efficientnet-lite0, "),
        (["--optimizer", "adamx"], "Optimizer (optimizer) must be one of "),
        (["--strategy", "none"], "Strategy (strategy) must be one of head, partial, full, auto; got none."),
        (
            ["--strategy", "partial", "--unfreeze-from", "block3"],
            "must be one of last-half, last-third, last-quarter;",
        ),
        (["--views", "99"], "Views per picture (views) must be a whole number from 1 to 16; got 99."),
        (["--backbone", "vit-b-16", "--image-size", "160"], "takes pictures of 224 pixels only; got image_size 160."),
        (["--strategy", "auto", "--budget-minutes", "0"], "Minutes (budget_minutes) must be a number above 0 and"),
        (["--device", "tpu"], "Device (device) must be one of auto, cpu, cuda, mps; got tpu."),
        (["--name", "x" * 81], "Name (name) must be a text of at most 80 characters"),
        (["--freeze-batchnorm", "maybe", "--strategy", "full"], "must be true or false; got maybe."),
        (["--momentum", "0.9", "--optimizer", "adamw"], "momentum is not a setting of adamw"),
    ],
)
def test_wrong_choice_is_refused_with_the_right_ones(home, capsys, flags, sentence):
    assert sentence in train_in_vain(capsys, *flags)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "-inf", "", "many", "1e9", "1.5", "1" * 5000, "１２"])
def test_wrong_number_of_epochs_is_refused_with_the_range(home, capsys, value):
    sentence = train_in_vain(capsys, f"--epochs={value}")
    assert sentence.startswith("Epochs (epochs) must be a whole number from 1 to 1000; got ")
    assert sentence.endswith(" Try 10.\n")
    assert len(sentence) < 200


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast", "1e9", "0,001"])
def test_wrong_learning_rate_is_refused_with_the_range(home, capsys, value):
    sentence = train_in_vain(capsys, "--learning-rate", value)
    assert "Learning rate (learning_rate) must be a number from 1e-08 to 10; got " in sentence


def test_all_problems_are_said_at_once(home, capsys):
    sentence = train_in_vain(capsys, "--epochs", "0", "--dataset", "x", "--seed", "-1", "--dropout", "1")
    assert all(f"({name}) must be" in sentence for name in ("epochs", "dataset", "seed", "dropout"))


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_absent_device_is_refused(home, capsys, monkeypatch, device):
    monkeypatch.setattr(command_line.service.machine, "gpus", lambda: ())
    monkeypatch.setattr(sys, "platform", "linux")
    assert f"The device {device} was asked for, and this machine" in train_in_vain(capsys, "--device", device)


def test_prediction_on_an_absent_device_is_refused(dlkit, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "PyTorch finds no CUDA GPU here" in refused(dlkit("predict", "imagenet", FLOWER, "--device", "cuda"))


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "", "two", "1.5", "1001", "1e2", "²", "9" * 5000])
def test_wrong_top_k_is_refused(dlkit, value):
    sentence = refused(dlkit("predict", "imagenet", FLOWER, f"--top-k={value}"))
    assert sentence.startswith("--top-k must be a whole number from 1 to 1000; got ")


@pytest.mark.parametrize("name", ["missing.jpg", "x" * 300 + ".jpg", "", "."])
def test_missing_picture_is_said(dlkit, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert "There is no file" in refused(dlkit("predict", "imagenet", name))


@pytest.mark.parametrize("content", [b"not a picture", b"", b"\xff\xd8\xff\xe0 cut off"])
def test_file_that_is_no_picture_is_said(dlkit, tmp_path, content):
    path = tmp_path / "note.jpg"
    path.write_bytes(content)
    assert refused(dlkit("predict", "imagenet", str(path))).startswith("note.jpg ")
    answer = dlkit("predict", "imagenet", str(path), FLOWER, "--json")  # the others are answered
    assert (answer.code, [row["file"] for row in answer.json]) == (2, [FLOWER])
    assert answer.err.startswith("note.jpg ")


@pytest.mark.parametrize("arguments", [("runs", "show"), ("runs", "stop"), ("predict",)])
def test_run_that_is_not_there_or_not_the_only_one_is_said(dlkit, arguments):
    for run_id in ("ab" + "0" * 30, "ab" + "1" * 30):
        service.store().add_run(run_id, Kind.FINETUNE, "x", {}, Slot.CPU, "ada")
    pictures = (FLOWER,) if arguments == ("predict",) else ()
    for beginning, sentence in (("zz", "No run begins with 'zz'."), ("ab", "2 runs begin with 'ab'.")):
        assert sentence in refused(dlkit(*arguments, beginning, *pictures))
    assert [run.state for run in service.store().list_runs()] == [State.QUEUED] * 2


def test_run_without_a_model_cannot_predict(dlkit):
    run_id = dlkit("train", "--detach", "--json").json["run"]
    assert "There is no saved model here" in refused(dlkit("predict", run_id, FLOWER))


def test_unknown_name_cannot_be_fetched(dlkit):
    assert "'nothing'" in refused(dlkit("fetch", "nothing"))


@pytest.mark.parametrize(
    "arguments", [(), ("teach",), ("runs", "forget"), ("train", "--speed", "9"), ("predict",), ("predict", "imagenet")]
)
def test_unknown_words_are_answered_with_the_usage(dlkit, arguments):
    assert refused(dlkit(*arguments)).startswith("usage: python -m dlkit")


def test_data_folder_that_cannot_be_made_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DLKIT_HOME", str(tmp_path / "file" / "home"))
    settings.cache_clear()
    try:
        assert call(capsys, "runs") == Answer(0, "nothing yet\n", "")
        assert "Set DLKIT_HOME" in refused(call(capsys, "train", "--detach"))
    finally:
        settings.cache_clear()


def test_mistake_of_ours_keeps_its_traceback(dlkit, monkeypatch):
    monkeypatch.setattr(service, "submit", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dlkit("train")


# As a process: terminals, pipes and Ctrl-C


def test_mistake_ends_the_process_with_code_2(home):
    assert "must be one of" in refused(in_process("train", "--dataset", "nothing"))


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_has_seen_enough_is_no_error(home, unbuffered):
    """With a buffer the pipe breaks when Python flushes it at the very end."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [*COMMAND, "optimizers"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_head_gets_its_line(home):
    pipeline = f'"{sys.executable}" -m dlkit datasets --json | head -1'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", pipeline], cwd=ROOT, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"[\n", b"")


class Terminal:
    """A command whose stdin and stderr are a terminal; stdout is a pipe."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self._seen = ""
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=ROOT,
            stdin=theirs,
            stderr=theirs,
            stdout=subprocess.PIPE,
            text=True,
            # who starts the tests in the background ignores Ctrl-C, and a child would inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)
        os.set_blocking(self._ours, False)

    def wait_for(self, text: str) -> None:
        """Read on until this text has been shown since the last one."""
        deadline = time.monotonic() + 30
        while text not in self._seen:
            assert time.monotonic() < deadline, f"{text!r} is not in {self._seen!r}"
            time.sleep(0.02)
            try:
                self._seen += os.read(self._ours, 65536).decode(errors="replace")
            except BlockingIOError:
                continue
        self._seen = self._seen.partition(text)[2]

    def interrupt(self) -> None:
        """Press Ctrl-C, and wait for the question."""
        self.process.send_signal(signal.SIGINT)
        self.wait_for("[n] leave it running: ")

    def type(self, line: str) -> None:
        """Answer."""
        os.write(self._ours, f"{line}\n".encode())

    def end(self) -> Answer:
        """Return what came to stdout, and what was shown last."""
        out, _ = self.process.communicate(timeout=30)
        with contextlib.suppress(OSError):  # nothing more was shown, and the other side is closed
            self._seen += os.read(self._ours, 65536).decode(errors="replace")
        os.close(self._ours)
        return Answer(self.process.returncode, out, self._seen)


@pytest.fixture
def waiting_home(tmp_path: Path) -> Iterator[Path]:
    with job_home(tmp_path / "home") as folder:
        yield folder


def only_run() -> Run:
    (run,) = service.store().list_runs()
    return run


def test_ctrl_c_asks_whether_to_stop_or_to_leave(waiting_home):
    terminal = Terminal("fetch", NEVER, "--json")
    terminal.wait_for(f"waiting {NEVER}")
    terminal.interrupt()
    terminal.type("n")
    left = terminal.end()
    assert (left.code, left.json["state"]) == (0, "running")
    assert f"The run goes on: python -m dlkit runs show {only_run().id[:8]}" in left.err
    assert "Traceback" not in left.err
    assert only_run().state == State.RUNNING
    assert only_run().wish is None
    assert len(processes(waiting_home, "dlkit.jobs.worker")) == 1, "it outlives who asked for it"

    terminal = Terminal("fetch", NEVER, "--json")  # the same download again: followed, not queued a second time
    terminal.wait_for(f"waiting {NEVER}")
    terminal.interrupt()
    terminal.process.send_signal(signal.SIGINT)  # impatience leaves it running
    assert terminal.end().code == 0
    assert only_run().state == State.RUNNING

    terminal = Terminal("fetch", NEVER, "--json")
    terminal.wait_for(f"waiting {NEVER}")
    terminal.interrupt()
    terminal.type("y")
    stopped = terminal.end()
    assert (stopped.code, stopped.json["state"]) == (0, "stopped")
    assert only_run().state == State.STOPPED


@pytest.mark.parametrize("moment", ["run", "ensure_supervisor"])
def test_ctrl_c_is_heard_at_any_moment(dlkit, monkeypatch, moment):
    """Also while the command asks the store or starts a supervisor; without a terminal it means: stop."""
    ask, calls = getattr(service, moment), []

    def interrupted(*arguments: str) -> Any:
        calls.append(arguments)
        if len(calls) == 2:  # the first is that of the submission, or of the first look
            raise KeyboardInterrupt
        return ask(*arguments)

    monkeypatch.setattr(command_line, "FOLLOW_SECONDS", 0)
    monkeypatch.setattr(service, moment, interrupted)
    answer = dlkit("train", "--device", "cpu", "--json")
    assert (answer.code, answer.json["state"], answer.err) == (0, "stopped", "")


def test_ctrl_c_elsewhere_ends_quietly(dlkit, monkeypatch):
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "_print_rows", press)
    assert dlkit("datasets") == Answer(130, "", "")


def test_detached_run_goes_on_without_its_command(waiting_home):
    answer = in_process("train", "--dataset", NEVER, "--detach", "--json")
    assert answer.json["state"] in ("queued", "running")
    deadline = time.monotonic() + 30
    while only_run().pid is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert only_run().state == State.RUNNING


# The rest of a run's life


def test_cancelled_run_is_deleted_and_forgotten(dlkit):
    run = service.submit({})
    assert json.loads(dlkit("runs", "cancel", run.id, "--json").out)["state"] == "cancelled"
    assert dlkit("runs", "delete", run.id).code == 0
    assert dlkit("runs", "show", run.id).code == 2


def test_active_run_is_not_deleted(dlkit):
    answer = dlkit("runs", "delete", service.submit({}).id)
    assert answer.code == 2
    assert "Stop it first" in answer.err


def test_export_without_a_model_is_said(dlkit):
    answer = dlkit("runs", "export", service.submit({}).id)
    assert answer.code == 2
    assert "no saved model" in answer.err


def test_export_writes_the_model_as_a_zip(trained, tmp_path):
    run = json.loads(trained.out)["run"]
    target = tmp_path / "model.zip"
    assert in_process("runs", "export", run, "--output", str(target)).code == 0
    with zipfile.ZipFile(target) as archive:
        assert {"model.json", "README.txt"} < set(archive.namelist())
    answer = in_process("runs", "export", run, "--output", str(tmp_path / "no" / "model.zip"))
    assert (answer.code, "cannot be written" in answer.err) == (2, True)


# Steering a run


STEPS = tuple(Point("step/loss", step, step / 12, 1 / step) for step in range(1, 101))


def started(**values: Any) -> Run:
    """Return a run that is at work and has taken a hundred steps."""
    service.submit({"device": "cpu", **values})
    run = service.store().claim({Slot.CPU: ["cpu0"]})
    assert run is not None
    checkpoint = Checkpoint(1, run.attempt, 96, "checkpoints/1.pt", 10, "0" * 64)
    service.store().beat(run.id, run.attempt, Beat(Progress("training"), STEPS, 100, 5.0, (checkpoint,)))
    return service.run(run.id)


def finished(state: State, failure: str | None = None, kind: Failure | None = None) -> Run:
    run = started()
    service.store().finish(run.id, run.attempt, state, {}, failure, kind)
    return service.run(run.id)


def paused() -> Run:
    service.submit({"device": "cpu"})
    return service.pause(service.store().list_runs()[0].id)


#: verb and flags -> a run for which it holds, and what becomes of that: state, wish, changes
HOLDS: dict[tuple[str, ...], tuple[Any, State, Wish | None, dict[str, Any]]] = {
    ("pause",): (started, State.RUNNING, Wish.PAUSE, {}),
    ("stop",): (started, State.RUNNING, Wish.STOP, {}),
    ("cancel",): (started, State.RUNNING, Wish.CANCEL, {}),
    ("resume",): (paused, State.QUEUED, None, {}),
    ("retry",): (lambda: finished(State.CANCELLED), State.QUEUED, None, {}),
    ("retry", "--learning-rate", "1e-5"): (
        lambda: finished(State.FAILED, "It diverged.", Failure.DIVERGED),
        State.QUEUED,
        None,
        {"learning_rate": 1e-5},
    ),
    ("continue",): (lambda: finished(State.STOPPED), State.QUEUED, None, {}),
    ("continue", "--epochs", "3"): (lambda: finished(State.SUCCEEDED), State.QUEUED, None, {"epochs": 13}),
    ("change", "--learning-rate", "0.01", "--epochs", "12", "--augmentation", "strong", "--frozen", "false"): (
        started,
        State.RUNNING,
        None,
        {"learning_rate": 0.01, "epochs": 12, "augmentation": "strong", "frozen": False},
    ),
    ("priority", "high"): (lambda: service.submit({}), State.QUEUED, None, {}),
}


def of_run(run_id: str, words: tuple[str, ...]) -> list[str]:
    return ["runs", words[0], run_id, *words[1:]]


@pytest.mark.parametrize("words", HOLDS, ids=" ".join)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_verb_does_what_it_says(dlkit, words, as_json):
    make, state, wish, changes = HOLDS[words]
    run = make()
    answer = dlkit(*of_run(run.id[:10], words), *(["--json"] if as_json else []))
    assert (answer.code, answer.err) == (0, "")
    now = service.run(run.id)
    assert (now.state, now.wish) == (state, wish)
    assert {change.what: change.value for change in service.store().changes(run.id)} == changes
    if as_json:
        assert answer.json.keys() >= ROW_KEYS
        assert (answer.json["run"], answer.json["state"]) == (run.id, state)
    else:
        assert answer.out == f"{run.id[:8]} {state} · {run.name}\n"


@pytest.mark.parametrize("words", HOLDS, ids=" ".join)
def test_verb_of_a_run_that_is_not_there_is_refused(dlkit, words):
    assert "No run begins with 'ff'." in refused(dlkit(*of_run("ff", words), "--json"))


@pytest.mark.parametrize(
    ("words", "make", "sentence"),
    [
        (("pause",), paused, "This run cannot be paused any more: it is paused already."),
        (("pause",), lambda: finished(State.SUCCEEDED), "This run cannot be paused any more: it is succeeded already."),
        (("resume",), started, "This run cannot be resumed: it is running."),
        (("retry",), started, "This run cannot be tried again: it is running."),
        (
            ("retry", "--learning-rate", "1"),
            started,
            "This run cannot be tried again at another learning rate: it is running.",
        ),
        (
            ("retry", "--learning-rate", "fast"),
            lambda: finished(State.FAILED, "It diverged.", Failure.DIVERGED),
            "Learning rate (learning_rate) must be a number from 1e-08 to 10; got fast.",
        ),
        (("continue",), lambda: finished(State.SUCCEEDED), "epochs must be a new value"),
        (("continue",), lambda: service.cancel(service.submit({}).id), "has kept nothing to continue from"),
        (("continue", "--epochs", "many"), lambda: finished(State.STOPPED), "must be a whole number from 0 to 1000"),
        (("change",), started, "Say what to change: --learning-rate, --augmentation, --epochs, --frozen."),
        (("change", "--epochs", "3"), started, "of epochs a higher one; it is 10."),
        (("change", "--frozen", "perhaps"), started, "frozen must be true or false; got perhaps."),
        (("change", "--frozen", "true"), started, "The backbone is frozen already."),
        (("change", "--augmentation", "wild"), started, "(augmentation) must be one of"),
        (("change", "--epochs", "20"), lambda: finished(State.SUCCEEDED), "Only a run that goes on can be changed"),
        (("priority", "urgent"), started, "The priority must be low, normal or high; got urgent."),
        (("priority", "high"), lambda: finished(State.STOPPED), "Only a run that has not ended has a priority"),
        (("delete",), started, "Stop it first."),
    ],
)
def test_verb_that_does_not_hold_now_is_refused(dlkit, words, make, sentence):
    run = make()
    before = service.run(run.id), service.store().history(run.id), service.store().changes(run.id)
    assert sentence in refused(dlkit(*of_run(run.id, words), "--json"))
    assert (service.run(run.id), service.store().history(run.id), service.store().changes(run.id)) == before


def test_change_is_all_or_nothing(dlkit):
    run = started()
    refused(dlkit("runs", "change", run.id, "--learning-rate", "0.01", "--epochs", "3"))
    refused(dlkit("runs", "change", run.id, "--epochs", "30", "--augmentation", "wild"))
    assert service.store().changes(run.id) == []


def test_show_as_json_has_all_of_a_run_at_work(dlkit):
    run = started()
    service.change(run.id, "learning_rate", 0.01)
    service.pause(run.id)
    shown = dlkit("runs", "show", run.id, "--json").json
    expected = {"state": "running", "attempts": 1, "step": 100, "epoch": 100 / 12, "wish": "pause"}
    expected |= {"priority": "normal", "seconds_at_work": 5.0, "failure": None, "failure_kind": None}
    assert shown.items() >= expected.items()
    assert shown["progress"]["phase"] == "training"
    assert [point["step"] for point in shown["metrics"]] == list(range(81, 101))
    assert shown["metrics"][-1] == {"key": "step/loss", "step": 100, "epoch": 100 / 12, "value": 0.01}
    assert shown["changes"] == [{"number": 1, "what": "learning_rate", "value": 0.01, "step": None, "actor": "you"}]
    texts = ["launched", "started on cpu0, attempt 1", "asked for learning rate 0.01", "asked to pause"]
    assert [event["text"] for event in shown["events"]] == texts
    text = dlkit("runs", "show", run.id).out
    assert all(line in text for line in texts)


def test_show_names_a_failure(dlkit):
    run = finished(State.FAILED, "The loss is not a number.", Failure.DIVERGED)
    shown = dlkit("runs", "show", run.id, "--json").json
    assert (shown["state"], shown["failure"], shown["failure_kind"]) == ("failed", run.failure, "diverged")
    assert run.failure in dlkit("runs", "show", run.id).out.splitlines()


def test_queue_is_listed_in_its_order(dlkit):
    assert dlkit("runs", "queue", "--json").json == []
    assert dlkit("runs", "queue").out == "nothing yet\n"
    ids = {}
    for name, flags in (("a", []), ("b", ["--priority", "low"]), ("c", []), ("d", ["--priority", "high"])):
        ids[name] = dlkit("train", "--detach", "--json", "--device", "cpu", "--name", name, *flags).json["run"]
    rows = dlkit("runs", "queue", "--json").json
    assert [(row["place"], row["name"], row["priority"]) for row in rows] == [
        (1, "d", "high"),
        (2, "a", "normal"),
        (3, "c", "normal"),
        (4, "b", "low"),
    ]
    assert [row["run"] for row in rows] == [ids[name] for name in "dacb"]
    assert rows[0]["starts_in_seconds"] == 0
    dlkit("runs", "priority", ids["b"], "high")
    lines = dlkit("runs", "queue").out.splitlines()
    assert lines[0].split() == ["run", "place", "name", "priority", "starts_in_seconds"]
    assert [line.split()[2] for line in lines[1:]] == ["b", "d", "a", "c"]  # of two that are high the older one


def test_unknown_priority_of_a_launch_is_refused(home, capsys):
    assert "The priority must be low, normal or high; got soon." in train_in_vain(capsys, "--priority", "soon")


def test_duplicate_takes_the_settings_of_a_run_with_its_changes(dlkit):
    first = service.submit({"optimizer": "rmsprop", "momentum": 0.5, "epochs": 4, "image_size": 64, "name": "first"})
    service.change(first.id, "augmentation", "strong")
    second = dlkit("train", "--duplicate", first.id[:9], "--epochs", "6", "--detach", "--json").json["run"]
    config = service.run(second).config
    wanted = {"optimizer": "rmsprop", "momentum": 0.5, "epochs": 6, "image_size": 64, "augmentation": "strong"}
    assert config.items() >= wanted.items()
    same = {name for name in config if config[name] == first.config[name]}
    assert config.keys() - same == {"epochs", "augmentation", "name"}


def test_duplicate_that_cannot_be_is_refused(dlkit):
    first = service.submit({"optimizer": "rmsprop", "momentum": 0.5})
    assert "No run begins with 'ff'." in refused(dlkit("train", "--duplicate", "ff", "--detach"))
    assert "Epochs (epochs) must be" in refused(dlkit("train", "--duplicate", first.id, "--epochs", "0", "--detach"))
    sentence = refused(dlkit("train", "--duplicate", first.id, "--optimizer", "adamw", "--detach"))
    assert "momentum is not a setting of adamw" in sentence
    older = service.store().add_run(
        "e" * 32, Kind.FINETUNE, "older", {"strategy": "another version's"}, Slot.CPU, "you"
    )
    assert "of another version" in refused(dlkit("train", "--duplicate", older.id, "--detach"))
    assert len(service.store().list_runs()) == 2


def test_supervisor_in_the_foreground_ends_at_sigterm_and_leaves_its_worker(waiting_home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(service, "ensure_supervisor", lambda: None)
        run = service.submit_fetch("dataset", NEVER)
    process = subprocess.Popen([*COMMAND, "supervisor"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    worker = wait_for_worker(run)
    assert [found.pid for found in processes(waiting_home, "dlkit.jobs.supervisor")] == [], "this one is it"
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told.count("\n")) == (0, 1)
    assert told.startswith("supervising")
    assert worker.is_running()
    assert service.run(run.id).state == State.RUNNING
    service.stop(run.id)
    assert wait_for_end(run).state == State.STOPPED, "the worker hears it by itself"


def test_supervisor_in_the_foreground_ends_at_ctrl_c(waiting_home):
    terminal = Terminal("supervisor")
    terminal.wait_for("supervising")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == Answer(0, "", "; SIGTERM or Ctrl-C ends it, and leaves the runs running\r\n")
