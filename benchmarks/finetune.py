"""Fine-tuning beside others: `python -m benchmarks.finetune [--data PATH] [--rounds N] [--only NAME …]`.

Each contestant, and each limit of the hardware, runs in a process of its own; one after another, in several rounds, so
that what else the machine does meets all of them. Ours run as the supervisor starts a worker, the others as their users
start them. Needs the packages of requirements-bench.txt for all of them.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.contest import (
    Outcome,
    Score,
    contest_table,
    last_epoch_seconds,
    paired,
    step_seconds,
    table,
    values,
    written,
)
from benchmarks.contestants import BATCH, CONTESTANTS
from benchmarks.machine import headline
from benchmarks.pictures import FLOWERS_MINI, class_folders, describe
from benchmarks.processes import Ended, Line, as_it_comes, as_worker, tuned, watched
from dlkit import machine
from dlkit.errors import DeviceError, DlkitError

#: what `benchmarks.limits` measures, in the words of the table; this process loads no torch
LIMITS = {
    "decode": "every picture decoded once, all cores",
    "forward": "bare forward pass over every picture",
    "untuned-forward": "bare forward pass over every picture, allocator as it comes",
    "step": f"bare training step, {BATCH} pictures",
    "tutorial-step": f"the tutorial loop's bare training step, {BATCH} pictures",
}
UNTUNED = ("untuned-forward", "tutorial-step")  # as users of other things start them
PEERS = ("fastai", "transformers", "accelerate")

Notes = dict[str, str]
Rounds = dict[str, list[Any]]


def outcome_of(ended: Ended) -> Outcome:
    """Read what a contestant has printed."""
    names = ("seconds", "since_ready", "epoch", "val_accuracy", "step_seconds")
    scores = tuple(Score(**{name: line[name] for name in names}) for line in ended.lines if "epoch" in line)
    end: Line = next((line for line in ended.lines if line.get("is_done")), {})
    device_mib = next((line["device_mib"] for line in ended.lines if line.get("device_mib")), None)
    return Outcome(scores, ended.peak_mib, end.get("seconds"), end.get("since_ready"), device_mib)


def contest(name: str, folder: Path, seed: int, given: argparse.Namespace, notes: Notes) -> Outcome | None:
    """Let one contestant run; None where it does not take part, which the notes then explain."""
    target = [] if given.to_the_end else ["--target", str(given.target)]
    arguments = [name, str(folder), "--device", given.device, "--seed", str(seed), *target]
    with TemporaryDirectory(prefix="home-") as home:
        environment = as_it_comes() if CONTESTANTS[name].settings is None else as_worker()
        environment["DLKIT_HOME"] = home
        ended = watched("benchmarks.contestants", arguments, environment, 60 * given.limit_minutes)
    skipped = next((line["skipped"] for line in ended.lines if "skipped" in line), "")
    if skipped or ended.failure:
        notes[CONTESTANTS[name].title] = f"skipped. {skipped}" if skipped else f"broke.\n\n```\n{ended.failure}\n```"
        return None
    return outcome_of(ended)


def limit(name: str, folder: Path, given: argparse.Namespace, notes: Notes) -> Line | None:
    """Measure one limit; None where that broke or took too long, which the notes then tell."""
    environment = as_it_comes() if name in UNTUNED else tuned()
    arguments = [name, str(folder), "--device", given.device]
    ended = watched("benchmarks.limits", arguments, environment, 60 * given.limit_minutes)
    if ended.failure or ended.is_cut:
        notes[LIMITS[name]] = "took too long." if ended.is_cut else f"broke.\n\n```\n{ended.failure}\n```"
        return None
    return ended.lines[0]


def race(folder: Path, given: argparse.Namespace, notes: Notes) -> Rounds:
    """Run all rounds, every second one in the reverse order; return for each name what each round gave."""
    names = [name for name in (*CONTESTANTS, *LIMITS) if not given.only or name in given.only]
    rounds: Rounds = {name: [None] * given.rounds for name in names}
    for number in range(given.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            if name in LIMITS:
                rounds[name][number] = limit(name, folder, given, notes)
            else:
                rounds[name][number] = contest(name, folder, number, given, notes)
            print(f"round {number + 1}, {name}: {_short(rounds[name][number])}", file=sys.stderr, flush=True)
            if given.json:  # after each: hours of measuring outlive an interruption
                given.json.write_text(json.dumps({"headline": headline(), "notes": notes, "rounds": raw(rounds)}))
    return rounds


def _short(result: Outcome | Line | None) -> str:
    if not isinstance(result, Outcome):
        return "nothing" if result is None else f"{result['seconds']:.2f} s"
    scores = [f"{score.val_accuracy:.3f} at {score.seconds:.0f} s" for score in result.scores]
    return ", ".join(scores) or "no score in time"


def limit_rows(rounds: Rounds) -> Iterator[list[str]]:
    """Yield what the hardware allows: how long it takes, pictures per second, and in which format."""
    for name, title in LIMITS.items():
        found = [line for line in rounds.get(name, []) if line]
        if found:
            rates = [line["images"] / line["seconds"] for line in found]
            formats = " or ".join(dict.fromkeys(line["format"] for line in found if "format" in line))
            yield [title, written([line["seconds"] for line in found], 2), written(rates, 0), formats or "–"]


def share_rows(rounds: Rounds) -> Iterator[list[str]]:
    """Yield how far ours is from what the hardware allows, and the tutorial loop from ours; only what was measured."""
    head, full, tutorial = (_outcomes(rounds, name) for name in ("head", "full", "tutorial-full"))
    decoding, passing = (_seconds(rounds, name) for name in ("decode", "forward"))
    least = [one + other if one and other else None for one, other in zip(decoding, passing, strict=True)]
    whole = values(head, lambda outcome: outcome.seconds)
    working = values(head, lambda outcome: outcome.since_ready)
    bare, theirs = _seconds(rounds, "step"), _seconds(rounds, "tutorial-step")
    partial = _outcomes(rounds, "partial")
    epochs, full_epochs = values(partial, last_epoch_seconds), values(full, last_epoch_seconds)
    steps, their_steps = values(full, step_seconds), values(tutorial, step_seconds)
    for what, upper, lower in (
        ("ours, head: whole run from the start of its process / (decode + forward pass)", whole, least),
        ("ours, head: from data and model ready to the end / (decode + forward pass)", working, least),
        ("bare forward pass: allocator as it comes / tuned", _seconds(rounds, "untuned-forward"), passing),
        ("ours, full: training step / bare step", steps, bare),
        ("last epoch with its validation: ours, partial / ours, full", epochs, full_epochs),
        (
            "training step: tutorial loop, all layers / ours, full (as many times the pictures per second)",
            their_steps,
            steps,
        ),
        ("bare step: the tutorial loop's / the quickest", theirs, bare),
        ("tutorial loop, all layers: training step / its own bare step", their_steps, theirs),
    ):
        if ratios := paired(upper, lower):
            yield [what, written(upper, 2), written(lower, 2), written(ratios, 2, " ×")]


def _outcomes(rounds: Rounds, name: str) -> list[Outcome | None]:
    return rounds.get(name) or [None] * _count(rounds)


def _seconds(rounds: Rounds, name: str) -> list[float | None]:
    return [line["seconds"] if line else None for line in rounds.get(name) or [None] * _count(rounds)]


def _count(rounds: Rounds) -> int:
    return len(next(iter(rounds.values())))


def report(rounds: Rounds, notes: Notes, target: float) -> str:
    """Return the tables, and under them who did not take part and why."""
    parts = []
    who = {name: outcomes for name, outcomes in rounds.items() if name in CONTESTANTS and any(outcomes)}
    if who:
        ours = next((name for name in who if CONTESTANTS[name].settings is not None), next(iter(who)))
        parts.append(contest_table(who, ours, {name: entry.title for name, entry in CONTESTANTS.items()}, target))
    if limits := list(limit_rows(rounds)):
        parts.append(table(["limit", "seconds", "pictures per second", "format"], limits))
    if shares := list(share_rows(rounds)):
        parts.append(table(["what", "the one, s", "the other, s", "ratio within a round"], shares))
    parts += [f"{what}: {note}" for what, note in notes.items()]
    return "\n\n".join(parts)


def versions(packages: Sequence[str]) -> str:
    """Name the packages with their versions."""

    def one(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} not installed"

    return ", ".join(map(one, packages))


def raw(rounds: Rounds) -> Rounds:
    """Return all that was measured as JSON can hold it."""

    def plain(result: Outcome | Line | None) -> Any:
        if not isinstance(result, Outcome):
            return result
        return {**vars(result), "scores": [vars(score) for score in result.scores]}

    return {name: [plain(result) for result in results] for name, results in rounds.items()}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=FLOWERS_MINI, help="class folders, or a zip file of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=(*CONTESTANTS, *LIMITS), metavar="NAME")
    parser.add_argument("--target", type=float, default=0.9, help="validation accuracy that ends a contestant")
    parser.add_argument("--to-the-end", action="store_true", help="end none for having reached the target")
    parser.add_argument("--limit-minutes", type=float, default=8, help="for each contestant and each limit")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write all that was measured to this file")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended on the way out
    notes: Notes = {}
    try:
        if given.device == "cuda" and not machine.gpus():
            raise DeviceError("The device cuda was asked for, and this machine has no NVIDIA GPU.")
        with class_folders(given.data) as folder:
            print(f"{headline()}, {versions(PEERS)}", f"load {os.getloadavg()[0]:.1f} before", sep="\n")
            print(f"{describe(folder)}; {given.rounds} rounds: median (minimum–maximum)\n", flush=True)
            rounds = race(folder, given, notes)
    except DlkitError as error:
        print(error, file=sys.stderr)
        return 2
    print(report(rounds, notes, given.target))
    print(f"\nload {os.getloadavg()[0]:.1f} after")
    return 0


if __name__ == "__main__":
    sys.exit(main())
