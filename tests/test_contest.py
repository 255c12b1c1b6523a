"""The arithmetic of the side-by-side benchmark on made-up rounds, and our own contestant on a few real pictures."""

import random
import shutil
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import finetune
from benchmarks.contest import (
    Outcome,
    Score,
    best_accuracy,
    contest_table,
    last_epoch_seconds,
    paired,
    seconds_of_best,
    seconds_per_epoch,
    seconds_to,
    step_seconds,
    values,
    written,
)
from benchmarks.contestants import NAME, Judge, Race, Reached, Skipped, run_ours
from benchmarks.finetune import outcome_of
from benchmarks.limits import MEASURES
from benchmarks.pictures import FLOWERS_MINI, class_folders, describe, pictures_of
from benchmarks.predict import rows
from benchmarks.processes import Ended, as_it_comes, as_worker, watched
from dlkit import machine
from dlkit.catalog.datasets import DATASETS
from dlkit.errors import DatasetError
from dlkit.jobs.supervisor import ALLOCATOR


def outcome(seconds: list[float], accuracies: list[float], peak: float = 100.0) -> Outcome:
    """Return the outcome of someone who is ready after two seconds."""
    scores = [
        Score(second, second - 2, epoch, accuracy, 0.5 / (epoch + 1) if epoch else None)
        for epoch, (second, accuracy) in enumerate(zip(seconds, accuracies, strict=True))
    ]
    return Outcome(tuple(scores), peak)


def few_pictures(folder: Path, each: int) -> Path:
    """Copy a few of the shipped flowers of each class."""
    for part in ("train", "val"):
        for place in sorted((FLOWERS_MINI / part).iterdir()):
            target = folder / part / place.name
            target.mkdir(parents=True)
            for picture in sorted(place.iterdir())[:each]:
                shutil.copy(picture, target)
    return folder


def test_time_to_a_target_is_that_of_the_first_score_that_reaches_it():
    seen = outcome([4, 10, 20, 30], [0.2, 0.85, 0.95, 0.9])
    assert [seconds_to(target)(seen) for target in (0.2, 0.9, 0.95, 0.96)] == [4, 20, 20, None]
    assert (best_accuracy(seen), seconds_of_best(seen)) == (0.95, 20)
    assert seconds_per_epoch(seen) == pytest.approx(28 / 3)
    assert (step_seconds(seen), last_epoch_seconds(seen)) == (0.125, 10)
    for measure in (seconds_to(0.5), best_accuracy, seconds_per_epoch, step_seconds, last_epoch_seconds):
        assert measure(Outcome()) is None


def test_last_epochs_of_partial_and_full_are_compared():
    rounds = {"partial": [outcome([9, 20, 23], [0.1] * 3)], "full": [outcome([9, 20, 32], [0.1] * 3)]}
    (row,) = [row for row in finetune.share_rows(rounds) if "last epoch" in row[0]]
    assert row[1:] == ["3.00", "12.00", "0.25 ×"]


def test_ratios_within_rounds_are_untouched_by_what_slows_a_whole_round_down():
    chance = random.Random(0)
    slowness = [chance.uniform(1, 5) for _ in range(7)]
    ours, theirs = [10 * slow for slow in slowness], [25 * slow for slow in slowness]
    assert paired(theirs, ours) == pytest.approx([2.5] * 7)
    assert statistics.median(theirs) / ours[0] != pytest.approx(2.5)
    assert paired([1.0, None, 3.0], [2.0, 2.0, None]) == [0.5]


def test_table_tells_what_was_reached_and_in_how_many_rounds():
    rounds = {
        "head": [outcome([3, 10], [0.2, 0.95]), outcome([3, 20], [0.2, 0.92])],
        "tutorial-full": [outcome([30], [0.95], 250), None],
        "fastai": [outcome([40], [0.5], 300), outcome([60], [0.6], 400)],
    }
    titles = {name: name.title() for name in rounds}
    lines = contest_table(rounds, "head", titles, 0.9).splitlines()
    assert lines[2].startswith("| Head | 15.0 (10.0–20.0) | 1.00 (1.00–1.00) × |")
    assert lines[3].startswith("| Tutorial-Full | 30.0, 1 of 2 rounds | 3.00 × |")
    assert lines[3].endswith("| 250, 1 of 2 rounds | 2.50 × |")
    assert lines[4].startswith("| Fastai | not reached | – | 0.550 (0.500–0.600) |")
    assert len({line.count(" | ") for line in lines}) == 1
    assert "GPU" not in lines[0]


def test_table_has_the_memory_of_a_gpu_where_one_was_used():
    ended = Ended(({"device_mib": None}, {"device_mib": 900.0}), 5000.0)
    lines = contest_table({"head": [outcome_of(ended)]}, "head", {"head": "Head"}, 0.9).splitlines()
    assert lines[0].endswith("| GPU's MiB |")
    assert lines[2].endswith("| 5000 | 1.00 × | 900 |")


def test_contest_on_a_gpu_is_refused_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(machine, "gpus", lambda: ())
    monkeypatch.setattr("sys.argv", ["finetune", "--device", "cuda"])
    assert finetune.main() == 2
    assert "this machine has no NVIDIA GPU" in capsys.readouterr().err


def test_missing_values_are_told():
    assert written([], 1) == written([None], 1) == "–"
    assert written([2.0, None, 4.0], 1, " ×") == "3.0 (2.0–4.0) ×, 2 of 3 rounds"
    assert values([None, outcome([3], [0.2])], best_accuracy) == [None, 0.2]


def test_peers_run_as_their_users_start_them_and_ours_as_the_supervisor_does(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not {*ALLOCATOR, "OMP_NUM_THREADS"} & as_it_comes().keys()
    assert ALLOCATOR.items() <= as_worker().items()


def test_forward_pass_is_measured_with_the_tuned_allocator_and_as_it_comes(monkeypatch):
    environments: dict[str, Any] = {}

    def watch(module: str, arguments: list[str], environment: dict[str, str], _: float) -> Ended:
        environments[arguments[0]] = environment
        return Ended(({"seconds": 2.0, "images": 10},), 0.0)

    monkeypatch.setattr(finetune, "watched", watch)
    given = SimpleNamespace(device="cpu", limit_minutes=1)
    rounds = {name: [finetune.limit(name, Path(), given, {})] for name in ("forward", "untuned-forward")}
    assert ALLOCATOR.items() <= environments["forward"].items()
    assert not ALLOCATOR.keys() & environments["untuned-forward"].keys()
    rounds["forward"][0] = {"seconds": 1.0}
    title = "bare forward pass: allocator as it comes / tuned"
    assert list(finetune.share_rows(rounds)) == [[title, "2.00", "1.00", "2.00 ×"]]
    assert finetune.LIMITS.keys() == MEASURES.keys()


def test_pictures_come_from_a_folder_or_a_zip_file(tmp_path):
    few_pictures(tmp_path / "inner" / "few", 2)
    packed = shutil.make_archive(str(tmp_path / "few"), "zip", tmp_path / "inner")
    for data in (tmp_path / "inner", Path(packed)):
        with class_folders(data) as folder:
            assert describe(folder) == "10 + 10 pictures of 5 classes"
            assert len(pictures_of(folder, "val")) == 10
    with pytest.raises(DatasetError, match="class folders"), class_folders(tmp_path):
        pass


def test_process_that_takes_too_long_is_ended_and_one_that_breaks_tells_why():
    cut = watched("benchmarks.contestants", ["head", str(FLOWERS_MINI)], as_it_comes(), 0)
    assert (cut.is_cut, cut.failure, cut.lines) == (True, "", ())
    broken = watched("benchmarks.contestants", ["nobody", "."], as_it_comes(), 60)
    assert not broken.is_cut
    assert "invalid choice: 'nobody'" in broken.failure


def test_our_contestant_takes_part(tmp_path):
    environment = {**as_worker(), "DLKIT_HOME": str(tmp_path / "home")}
    ended = watched("benchmarks.contestants", ["head", str(few_pictures(tmp_path / "few", 2))], environment, 300)
    assert ended.failure == ""
    seen = outcome_of(ended)
    assert [score.epoch for score in seen.scores] == list(range(11))
    assert seen.seconds is not None
    assert 0 < seen.scores[0].since_ready < seen.scores[0].seconds < seen.scores[-1].seconds <= seen.seconds
    assert seen.peak_mib > 100


def test_contestant_that_this_version_does_not_take_says_so(home, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, NAME, DATASETS["flowers-mini"])  # to be as it was afterwards
    with pytest.raises(Skipped, match="does not take it: Strategy"):
        run_ours({"strategy": "magic"}, Race(FLOWERS_MINI, "cpu", 0, tmp_path), Judge(print, 0.0, None, 0))


def test_contestant_is_ended_at_the_target_but_not_before_what_is_to_be_seen():
    lines: list[dict[str, object]] = []
    judge = Judge(lambda **line: lines.append(line), 0.0, 0.9, 2)
    judge.score(1, 0.95)
    with pytest.raises(Reached):
        judge.score(2, 0.5)
    assert [line["val_accuracy"] for line in lines] == [0.95, 0.5]


def test_answers_are_held_against_the_bare_passes_with_the_tuned_allocator():
    def result(ours: float, bare: float) -> dict[str, object]:
        return {"ours wall": ours, "ours cpu": ours, "bare wall": bare, "bare cpu": bare, "format": "float32, NCHW"}

    tuned = {"one": result(0.006, 0.005), "many": result(2.2, 2.0)}
    plain = {"one": result(0.01, 0.009), "many": result(3.0, 2.9)}
    found = rows({"tuned": [tuned], "as it comes": [plain]}, 500)
    assert found[0] == ["one picture, allocator tuned", "6.0", "5.0", "6.0", "5.0", "1.20 ×", "1.20 ×", "≤ 1.25 ×"]
    assert [row[-2:] for row in found] == [
        ["1.20 ×", "≤ 1.25 ×"],
        ["1.10 ×", "≤ 1.10 ×"],
        ["2.00 ×", "≤ 1.25 ×"],
        ["1.50 ×", "≤ 1.10 ×"],
    ]
