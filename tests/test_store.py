"""The store alone and under many processes: no run is lost, given twice, or written by a worker that is not its own.

What is promised of the store is promised of both databases: each test of the fixture `store` runs on a file and on a
PostgreSQL of its own.
"""

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from dlkit.errors import RunError, StoreError
from dlkit.runs import migrations, tables
from dlkit.runs import store as store_module
from dlkit.runs.records import (
    ACTIVE,
    ENDED,
    EPOCH_KEYS,
    WISHED,
    Change,
    Checkpoint,
    Failure,
    Kind,
    Point,
    Priority,
    Progress,
    Run,
    Slot,
    State,
    Wish,
)
from dlkit.runs.store import ADVISORY_LOCK, Beat, Store, in_words, open_store
from tests.postgres import Server, postgres

ROOT = Path(__file__).parents[1]
CPU, TWO_CPUS = {Slot.CPU: ["cpu0"]}, {Slot.CPU: ["cpu0", "cpu1"]}
BOTH = ("a file", "PostgreSQL")
#: lower than any test comes to: a run that is lost is taken up again
MANY = 99


@dataclass(frozen=True)
class Home:
    """Where a store lies: what `open_store` takes."""

    folder: Path
    url: str = ""

    def open(self) -> Store:
        """Return the store as another process sees it: nothing is remembered from the last time."""
        open_store.cache_clear()
        return open_store(self.folder, self.url)

    @contextmanager
    def database(self) -> Iterator[sa.Engine]:
        """The database below the store."""
        file = sa.URL.create("sqlite", database=str(self.folder / "store.sqlite3"))
        url = sa.make_url(self.url).set(drivername="postgresql+psycopg") if self.url else file
        engine = sa.create_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL that all tests of this file share."""
    with postgres() as server:
        yield server


@pytest.fixture
def new_database(server: Server) -> Iterator[Callable[[], str]]:
    """Make an empty database, for one test."""
    yield server.new_database
    server.drop_databases()


@pytest.fixture(params=BOTH)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A place for a store, in either database; there is none yet."""
    is_file = request.param == "a file"
    return Home(tmp_path / "home", "" if is_file else request.getfixturevalue("new_database")())


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    store = home.open()
    yield store
    store._engine.dispose()


def add(store: Store, run_id: str = "a", needs: Slot = Slot.CPU, kind: Kind = Kind.FINETUNE, **more: Any) -> Run:
    return store.add_run(run_id, kind, f"Run {run_id}", {"epochs": 3}, needs, "ada", **more)


def started(store: Store, run_id: str = "a") -> Run:
    """Add a run and claim it; the queue must be empty."""
    add(store, run_id)
    run = store.claim(TWO_CPUS)
    assert run is not None
    assert run.id == run_id
    return run


def ended(store: Store, state: State, run_id: str = "a") -> Run:
    run = started(store, run_id)
    assert store.finish(run.id, run.attempt, state, {"val_accuracy": 0.5})
    return store.run(run.id)


def paused(store: Store, run_id: str = "a") -> Run:
    run = started(store, run_id)
    store.wish(run.id, Wish.PAUSE, "ada")
    assert store.finish(run.id, run.attempt, State.PAUSED, {})
    return store.run(run.id)


def short_of_room(store: Store, run_id: str = "a") -> Run:
    run = started(store, run_id)
    assert store.finish(run_id, run.attempt, State.PAUSED, {}, "Disk full.", Failure.DISK, awaits_bytes=5_000_000_000)
    return store.run(run_id)


def in_state(store: Store, state: State, run_id: str = "a") -> Run:
    """Bring a new run into a state."""
    if state == State.QUEUED:
        return add(store, run_id)
    if state == State.RUNNING:
        return started(store, run_id)
    if state == State.PAUSED:
        return paused(store, run_id)
    if state == State.INTERRUPTED:
        store.lose(started(store, run_id), "gone", MANY)
        return store.run(run_id)
    return ended(store, state, run_id)


def texts(store: Store, run_id: str = "a") -> list[tuple[str, str]]:
    return [(line.actor, line.text) for line in store.history(run_id)]


def beat(store: Store, run: Run, *points: Point, step: int = 0, checkpoints: tuple[Checkpoint, ...] = ()) -> Any:
    return store.beat(run.id, run.attempt, Beat(Progress(), points, step, None, checkpoints))


def loss(step: int, value: float = 1.0) -> Point:
    return Point("val/loss", step, step / 2, value)


def checkpoint(number: int, attempt: int = 1) -> Checkpoint:
    return Checkpoint(number, attempt, 10 * number, f"checkpoints/{number}.pt", 6_000_000_000, f"{number:064x}")


def in_processes(script: str, count: int, *arguments: object) -> list[str]:
    """Run a script in `count` processes that begin it at the same moment; return what each printed."""
    wait = "import sys, time; time.sleep(max(0, float(sys.argv[1]) - time.time()))\n"
    imports = "import json; from pathlib import Path; import dlkit.runs.store; from dlkit.runs.records import *\n"
    start = time.time() + (2 if count > 1 else 0)  # the imports take half a second
    command = [sys.executable, "-c", imports + wait + script, str(start), *map(str, arguments)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    assert all(errors == "" for _, errors in outputs), outputs
    return [printed for printed, _ in outputs]


# Runs


def test_new_run_waits_at_the_end_of_the_queue(store):
    first, second = add(store, "a"), add(store, "b", Slot.GPU)
    assert (first.state, first.needs, first.attempt, first.slot, first.wish) == (State.QUEUED, Slot.CPU, 0, None, None)
    assert (first.config, first.name, first.kind) == ({"epochs": 3}, "Run a", Kind.FINETUNE)
    assert (first.priority, first.step, first.fruitless, first.worked) == (Priority.NORMAL, 0, 0, None)
    assert second.sequence > first.sequence
    assert second.place > first.place
    assert store.run("b") == second
    assert texts(store) == [("ada", "launched")]


def test_unknown_run_is_refused_everywhere(store):
    asks = [
        store.run,
        store.delete_run,
        lambda run_id: store.wish(run_id, Wish.STOP, "ada"),
        lambda run_id: store.requeue(run_id, "resume", ENDED, "ada"),
        lambda run_id: store.set_priority(run_id, Priority.HIGH, "ada"),
        lambda run_id: store.add_change(run_id, "epochs", 9, "ada"),
        lambda run_id: store.apply_change(run_id, 1, Change(1, "epochs", 9, None, "ada"), 1),
    ]
    for ask in asks:
        with pytest.raises(RunError, match="There is no run 'nothing'"):
            ask("nothing")
    run = replace(add(store), id="nothing")
    assert store.lose(run, "gone", MANY) is None
    assert not store.bind("nothing", 1, 1, "boot:1")
    assert not store.finish("nothing", 1, State.SUCCEEDED, {})
    store.requeue_where_room(run, "room")
    assert len(store.list_runs()) == 1


def test_same_id_cannot_be_added_twice(store):
    add(store)
    with pytest.raises(sa.exc.IntegrityError):
        add(store)
    assert texts(store) == [("ada", "launched")]


def test_newest_runs_are_listed_first_and_by_kind(store):
    add(store, "a")
    add(store, "b", Slot.NETWORK, Kind.FETCH)
    add(store, "c")
    assert [run.id for run in store.list_runs()] == ["c", "b", "a"]
    assert [run.id for run in store.list_runs(Kind.FINETUNE)] == ["c", "a"]
    assert [run.id for run in store.list_runs(limit=1)] == ["c"]
    assert [run.id for run in store.list_runs(limit=1, offset=1)] == ["b"]
    assert (store.count_runs(Kind.FINETUNE), store.count_runs(Kind.FETCH)) == (2, 1)


def test_runs_are_found_by_the_beginning_of_their_id(store):
    for run_id in ("aa1", "aa2", "ab1"):
        add(store, run_id)
    assert [run.id for run in store.find_runs("aa")] == ["aa2", "aa1"]
    assert [run.id for run in store.find_runs("ab1")] == ["ab1"]
    assert store.find_runs("%") == store.find_runs("_") == store.find_runs("b") == []


def test_deleted_run_leaves_nothing_behind_in_any_table(store, home):
    for run_id in ("a", "b"):
        run = started(store, run_id)
        store.add_change(run_id, "epochs", 9, "ada")
        beat(store, run, loss(1), checkpoints=(checkpoint(1),))
        store.finish(run_id, run.attempt, State.FAILED, {}, "why")

    def count() -> dict[str, list[int]]:
        with home.database() as engine, engine.connect() as connection:
            named = {table.name: table.c.get("run_id", table.c[0]) for table in tables.metadata.sorted_tables}
            return {
                name: [
                    connection.scalar(sa.select(sa.func.count()).where(column == run_id)) or 0 for run_id in ("a", "b")
                ]
                for name, column in named.items()
            }

    before = count()
    assert set(before) == {"runs", "points", "happenings", "changes", "checkpoints"}
    assert all(of_a >= 1 and of_a == of_b for of_a, of_b in before.values())
    store.delete_run("a")
    assert count() == {name: [0, of_b] for name, (_, of_b) in before.items()}
    assert [run.id for run in store.list_runs()] == ["b"]
    assert store.history("a") == store.curve("a") == store.changes("a") == store.checkpoints("a") == []


@pytest.mark.parametrize("state", ACTIVE)
def test_active_run_cannot_be_deleted(store, state):
    in_state(store, state)
    with pytest.raises(RunError, match=f"Only a run that has ended can be deleted; this one is {state}"):
        store.delete_run("a")
    assert store.run("a").state == state


@pytest.mark.parametrize("state", [*ENDED, State.PAUSED])
def test_run_that_has_ended_or_is_paused_can_be_deleted(store, state):
    in_state(store, state)
    store.delete_run("a")
    assert store.list_runs() == []


def test_times_are_utc_wherever_the_server_stands(store, home, monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        run = ended(store, State.SUCCEEDED)
    finally:
        monkeypatch.undo()
        time.tzset()
    times = [run.created_at, run.started_at, run.finished_at, run.beat_at, *(line.at for line in store.history("a"))]
    for moment in times:
        assert moment.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - moment) < timedelta(seconds=20)
    with home.database() as engine, engine.connect() as connection:
        assert connection.scalar(sa.select(tables.runs.c.created_at)).endswith("+00:00")


def test_seconds_at_work_are_what_the_worker_counts(store):
    assert add(store).seconds is None
    run = store.claim(CPU)
    assert 0 <= run.seconds < 20, "by the clock as long as the worker has told nothing"
    store.beat("a", 1, Beat(worked=70.5))
    store.beat("a", 1, Beat())
    assert store.run("a").seconds == 70.5
    store.finish("a", run.attempt, State.FAILED, {}, "why")
    assert store.run("a").seconds == 70.5


# One submission, one run


def test_token_gives_one_run_for_two_submissions(store):
    first = add(store, "a", token="form 1")
    assert add(store, "b", token="form 1") == first
    assert add(store, "c", token="form 2").id == "c"
    assert (add(store, "d").id, add(store, "e").id) == ("d", "e"), "no token is not one token"
    assert texts(store).count(("ada", "launched")) == 1
    assert store.history("b") == []


SUBMIT = """
store = dlkit.runs.store.open_store(Path(sys.argv[2]), sys.argv[3])
for number in range(10):
    run_id = f"{time.time_ns():x}"
    print(store.add_run(run_id, Kind.FINETUNE, "x", {}, Slot.CPU, "ada", token=f"form {number}").id)
"""


def test_four_processes_that_submit_the_same_forms_get_the_same_runs(store, home):
    outputs = in_processes(SUBMIT, 4, home.folder, home.url)
    assert len(set(outputs)) == 1
    assert sorted(outputs[0].split()) == sorted(run.id for run in store.list_runs())
    assert len(store.list_runs()) == 10


# The queue


def test_runs_are_claimed_in_the_order_of_the_queue(store):
    for run_id in ("c", "a", "b"):
        add(store, run_id)
    claimed = []
    while run := store.claim(CPU):
        claimed.append(run.id)
        store.finish(run.id, run.attempt, State.SUCCEEDED, {})
    assert claimed == ["c", "a", "b"]


def test_priority_goes_before_the_place_and_equals_go_by_their_place(store):
    add(store, "normal 1")
    add(store, "low", priority=Priority.LOW)
    add(store, "high 1", priority=Priority.HIGH)
    add(store, "high 2", priority=Priority.HIGH)
    add(store, "normal 2")
    order = ["high 1", "high 2", "normal 1", "normal 2", "low"]
    assert [run.id for run in store.active()] == order
    for run_id in order:
        run = store.claim(CPU)
        assert run.id == run_id
        store.finish(run.id, run.attempt, State.SUCCEEDED, {})


def test_priority_of_a_waiting_run_can_be_changed(store):
    for run_id in ("a", "b", "c"):
        add(store, run_id)
    assert store.set_priority("c", Priority.HIGH, "grace").priority == Priority.HIGH
    assert store.set_priority("a", Priority.LOW, "grace").version == store.run("a").version
    store.set_priority("a", Priority.LOW, "grace")
    assert [run.id for run in store.active()] == ["c", "b", "a"]
    assert texts(store).count(("grace", "priority low")) == 1, "what changes nothing is not noted"


@pytest.mark.parametrize("state", ENDED)
def test_ended_run_has_no_priority(store, state):
    before = ended(store, state)
    with pytest.raises(RunError, match=f"Only a run that has not ended has a priority; this one is {state}"):
        store.set_priority("a", Priority.HIGH, "ada")
    assert store.run("a") == before


def test_claim_takes_a_free_slot_of_the_right_kind(store):
    add(store, "gpu1", Slot.GPU)
    add(store, "cpu1")
    add(store, "cpu2")
    add(store, "gpu2", Slot.GPU)
    slots = {Slot.CPU: ["cpu0"], Slot.GPU: ["gpu0", "gpu1"]}
    claimed = [store.claim(slots) for _ in range(4)]
    assert [(run.id, run.slot) for run in claimed[:3]] == [("gpu1", "gpu0"), ("cpu1", "cpu0"), ("gpu2", "gpu1")]
    assert claimed[3] is None, "cpu2 must wait for the only slot of its kind"
    store.finish("cpu1", 1, State.SUCCEEDED, {})
    assert store.claim(slots).slot == "cpu0"


def test_run_whose_kind_of_slot_is_not_there_does_not_hold_up_the_others(store):
    add(store, "a", Slot.GPU, priority=Priority.HIGH)
    add(store, "b")
    assert store.claim(CPU).id == "b"
    assert store.run("a").state == State.QUEUED
    assert store.claim({}) is None


def test_claimed_run_is_running_with_a_new_attempt(store):
    run = started(store)
    assert (run.state, run.attempt, run.slot, run.pid) == (State.RUNNING, 1, "cpu0", None)
    assert run.started_at is not None
    assert run.beat_at is not None
    assert texts(store)[-1] == ("supervisor", "started on cpu0, attempt 1")


def test_active_runs_are_those_that_run_and_then_those_that_wait_as_they_go(store):
    ended(store, State.FAILED, "z")
    paused(store, "y")
    add(store, "c")
    add(store, "a")
    add(store, "b")
    store.lose(store.claim(CPU), "gone", MANY)
    store.claim(CPU)
    assert [(run.id, run.state) for run in store.active()] == [
        ("c", State.RUNNING),
        ("a", State.QUEUED),
        ("b", State.QUEUED),
    ]
    assert [run.id for run in store.running()] == ["c"]
    store.set_priority("b", Priority.HIGH, "ada")
    assert [run.id for run in store.active()] == ["c", "b", "a"], "who runs is not overtaken"


def test_work_is_there_as_long_as_a_run_waits_or_runs(store):
    assert not store.has_work()
    add(store)
    assert store.has_work()
    run = store.claim(CPU)
    assert store.has_work()
    store.lose(run, "gone", MANY)
    assert store.has_work()
    run = store.claim(CPU)
    store.finish(run.id, run.attempt, State.FAILED, {}, "why")
    assert not store.has_work()
    paused(store, "b")
    assert not store.has_work(), "a paused run waits for its user"


RACE = """
store, slots, claimed = dlkit.runs.store.open_store(Path(sys.argv[2]), sys.argv[3]), {Slot.CPU: ["cpu0", "cpu1"]}, []
while store.has_work():
    run = store.claim(slots)
    if run is None:
        time.sleep(0.01)
        continue
    since = time.monotonic()
    claimed.append([run.id, run.attempt, run.slot, since, time.monotonic()])
    assert store.finish(run.id, run.attempt, State.SUCCEEDED, {})
print(json.dumps(claimed))
"""


def test_four_processes_share_five_hundred_runs_without_giving_one_twice(store, home):
    """500 runs, 4 claimers, 2 slots: 0 double claims, 0 slots given to two runs, 0 slots that stay taken."""
    ids = [f"{number:03}" for number in range(500)]
    with home.database() as engine, engine.begin() as connection:  # one transaction instead of 500
        rows = [first_row(run_id, number, "queued") for number, run_id in enumerate(ids, start=1)]
        connection.execute(tables.runs.insert(), [{**row, "place": row["sequence"]} for row in rows])
    outputs = in_processes(RACE, 4, home.folder, home.url)
    claims = [claim for printed in outputs for claim in json.loads(printed)]
    assert Counter((run_id, attempt) for run_id, attempt, *_ in claims) == Counter((run_id, 1) for run_id in ids)
    for slot in ("cpu0", "cpu1"):  # by a clock that all processes of a machine share
        spans = sorted((since, until) for *_, name, since, until in claims if name == slot)
        assert spans, "both slots are used"
        assert all(until <= since for (_, until), (since, _) in pairwise(spans))
    assert {(run.state, run.slot) for run in store.list_runs()} == {(State.SUCCEEDED, None)}


# Fencing


def test_worker_of_the_attempt_may_write(store):
    run = started(store)
    assert store.bind("a", run.attempt, 4711, "boot:1")
    assert store.beat("a", run.attempt, Beat(Progress("training", 0.25, 9.0, 120.0))) == (None, [])
    found = store.run("a")
    assert (found.pid, found.process) == (4711, "boot:1")
    assert found.progress == Progress("training", 0.25, 9.0, 120.0)
    assert store.finish("a", run.attempt, State.SUCCEEDED, {"val_accuracy": 0.75})
    found = store.run("a")
    assert (found.state, found.slot, found.pid, found.process) == (State.SUCCEEDED, None, None, None)
    assert found.summary == {"val_accuracy": 0.75}
    assert texts(store)[-1] == ("worker", "succeeded")


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_stale_worker_writes_nothing(store, attempt):
    run = started(store)
    store.add_change("a", "learning_rate", 0.5, "ada")
    store.lose(run, "gone", MANY)
    assert store.claim(CPU).attempt == 2
    store.bind("a", 2, 4711, "boot:1")
    store.beat("a", 2, Beat(points=(loss(1),), step=1, checkpoints=(checkpoint(1),)))

    def look() -> list[Any]:
        return [ask("a") for ask in (store.run, store.history, store.curve, store.changes, store.checkpoints)]

    before = look()
    assert not store.bind("a", attempt, 1, "boot:0")
    stale = Beat(Progress("stale"), (loss(2, 9.0),), 2, 99.0, (checkpoint(2, attempt),))
    with pytest.raises(RunError, match="taken over"):
        store.beat("a", attempt, stale)
    for change in (store.changes("a")[0], Change(0, "micro_batch", 4, None, "worker")):
        with pytest.raises(RunError, match="taken over"):
            store.apply_change("a", attempt, change, 0)
    assert not store.finish("a", attempt, State.FAILED, {"stale": True}, "stale")
    assert look() == before


@pytest.mark.parametrize("state", [*ENDED, State.PAUSED, State.INTERRUPTED])
def test_run_that_is_not_running_takes_nothing_from_its_old_worker(store, state):
    before = in_state(store, state)
    assert not store.bind("a", 1, 1, "boot:0")
    with pytest.raises(RunError, match="taken over or has ended"):
        store.beat("a", 1, Beat())
    assert not store.finish("a", 1, State.SUCCEEDED, {})
    assert store.lose(before, "gone", MANY) is None
    assert store.run("a") == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_that_is_none_does_not_hold_up_the_others(store, value):
    """SQLite has no NaN and JSON no infinity: a worker that insisted on them would never end."""
    run = started(store)
    points = (Point("val/loss", 1, 0.5, value), Point("val/loss", 2, 1.0, 0.25))
    store.beat(run.id, run.attempt, Beat(Progress("training", 0.5, value), points))
    assert store.curve(run.id) == [Point("val/loss", 2, 1.0, 0.25)]
    assert store.run(run.id).progress == Progress("training", 0.5, None)
    assert store.finish(run.id, run.attempt, State.FAILED, {"val_loss": value, "epochs": 2}, "it diverged")
    assert store.run(run.id).summary == {"val_loss": None, "epochs": 2}


def test_failure_of_any_letters_is_written(store):
    run = started(store)
    assert store.finish(run.id, run.attempt, State.FAILED, {}, "the file a\0b is 😀 torn")
    assert store.run(run.id).failure == "the file ab is 😀 torn"
    store.note(run.id, "a" * 200, "b\0c")
    assert store.history(run.id)[-1].text == "bc"


def test_cancel_that_comes_with_the_last_step_holds(store):
    """The worker says that it has succeeded, and has not heard the wish."""
    run = started(store)
    store.wish(run.id, Wish.CANCEL, "ada")
    assert store.finish(run.id, run.attempt, State.SUCCEEDED, {"epochs": 3}) == State.CANCELLED
    assert store.run(run.id).state == State.CANCELLED


def test_failure_stands_in_the_run_and_in_its_history(store):
    run = started(store)
    store.finish("a", run.attempt, State.FAILED, {}, "The data is torn.", Failure.DATA)
    found = store.run("a")
    assert (found.failure, found.failure_kind) == ("The data is torn.", Failure.DATA)
    assert texts(store)[-1] == ("worker", "failed: The data is torn.")


# Wishes


@pytest.mark.parametrize("wish", Wish)
@pytest.mark.parametrize("state", [State.QUEUED, State.INTERRUPTED])
def test_run_that_waits_obeys_at_once(store, state, wish):
    in_state(store, state)
    run = store.wish("a", wish, "ada")
    assert (run.state, run.wish) == (WISHED[wish], None)
    assert (run.finished_at is None) == (wish == Wish.PAUSE)
    assert store.claim(CPU) is None
    assert texts(store)[-1] == ("ada", f"asked to {wish}")


@pytest.mark.parametrize("wish", [Wish.STOP, Wish.CANCEL])
def test_paused_run_ends_at_once(store, wish):
    paused(store)
    run = store.wish("a", wish, "ada")
    assert (run.state, run.wish) == (WISHED[wish], None)
    assert run.finished_at is not None


def test_paused_run_cannot_pause_again(store):
    before = paused(store)
    with pytest.raises(RunError, match="This run cannot be paused any more: it is paused already"):
        store.wish("a", Wish.PAUSE, "ada")
    assert store.run("a") == before


def test_running_run_learns_the_wish_at_its_next_beat(store):
    run = started(store)
    for wish in Wish:  # the stronger after the weaker
        assert store.wish("a", wish, "ada").state == State.RUNNING
        assert beat(store, run)[0] == wish


@pytest.mark.parametrize(
    ("first", "second"), [(Wish.STOP, Wish.PAUSE), (Wish.CANCEL, Wish.PAUSE), (Wish.CANCEL, Wish.STOP)]
)
def test_weaker_wish_does_not_replace_a_stronger_one(store, first, second):
    started(store)
    before, history = store.wish("a", first, "ada"), store.history("a")
    with pytest.raises(RunError, match=f"This run cannot be {WISHED[second]} any more: it was asked to {first}"):
        store.wish("a", second, "grace")
    assert store.run("a") == before
    assert store.history("a") == history


def test_repeated_wish_is_noted_once(store):
    started(store)
    for _ in range(3):
        store.wish("a", Wish.STOP, "ada")
    assert texts(store).count(("ada", "asked to stop")) == 1


@pytest.mark.parametrize("wish", Wish)
@pytest.mark.parametrize("state", ENDED)
def test_wish_for_an_ended_run_is_refused(store, state, wish):
    before, history = ended(store, state), store.history("a")
    with pytest.raises(RunError, match=f"This run cannot be {WISHED[wish]} any more: it is {state} already"):
        store.wish("a", wish, "ada")
    assert store.run("a") == before
    assert store.history("a") == history


def test_of_two_tabs_the_first_wins_and_the_other_is_told(store):
    seen = started(store).version
    store.wish("a", Wish.PAUSE, "ada", seen)
    with pytest.raises(RunError, match="This run has changed meanwhile: it is running, and was asked to pause"):
        store.wish("a", Wish.STOP, "grace", seen)
    store.finish("a", 1, State.PAUSED, {})
    seen = store.run("a").version
    store.requeue("a", "resume", [State.PAUSED], "ada", seen)
    with pytest.raises(RunError, match="This run has changed meanwhile: it is queued"):
        store.requeue("a", "resume", [State.PAUSED], "grace", seen)
    with pytest.raises(RunError, match="changed meanwhile"):
        store.add_change("a", "epochs", 9, "grace", seen=seen)
    assert [actor for actor, _ in texts(store)].count("grace") == 0


def test_version_grows_with_state_and_wish_and_with_nothing_else(store):
    versions = [add(store).version]
    run = store.claim(CPU)
    versions.append(run.version)
    store.bind("a", 1, 1, "boot:1")
    beat(store, run, loss(1), step=1)
    store.set_priority("a", Priority.HIGH, "ada")
    store.add_change("a", "epochs", 9, "ada")
    assert store.run("a").version == versions[-1], "what a worker tells does not take the buttons from a page"
    versions.append(store.wish("a", Wish.PAUSE, "ada").version)
    store.finish("a", 1, State.PAUSED, {})
    versions.append(store.run("a").version)
    versions.append(store.requeue("a", "resume", [State.PAUSED], "ada").version)
    assert versions == sorted(set(versions))


VOTE = """
store = dlkit.runs.store.open_store(Path(sys.argv[2]), sys.argv[3])
from dlkit.errors import RunError
won = []
for number in range(20):
    try:
        store.wish(f"{number:02}", Wish.STOP, "ada", seen=0)
        won.append(number)
    except RunError as error:
        assert "changed meanwhile: it is stopped" in str(error), error
print(json.dumps(won))
"""


def test_of_four_processes_that_ask_at_once_one_wins(store, home):
    for number in range(20):
        add(store, f"{number:02}")
    outputs = in_processes(VOTE, 4, home.folder, home.url)
    assert sorted(number for printed in outputs for number in json.loads(printed)) == list(range(20))


# Back into the queue


def test_resumed_run_goes_to_the_end_of_the_queue(store):
    paused(store, "a")
    add(store, "b")
    run = store.requeue("a", "resume", [State.PAUSED], "ada")
    assert (run.state, run.wish, run.attempt) == (State.QUEUED, None, 1)
    assert texts(store)[-1] == ("ada", "asked to resume")
    assert [run.id for run in store.active()] == ["b", "a"]
    assert [store.claim(TWO_CPUS).id for _ in range(2)] == ["b", "a"]


def test_run_that_is_tried_again_has_nothing_of_its_failure(store):
    run = started(store)
    store.finish("a", run.attempt, State.FAILED, {}, "why", Failure.BUG)
    run = store.requeue("a", "retry", [State.FAILED], "ada")
    assert (run.state, run.failure, run.failure_kind, run.finished_at) == (State.QUEUED, None, None, None)
    assert store.claim(CPU).attempt == 2


@pytest.mark.parametrize("state", [state for state in State if state != State.PAUSED])
def test_only_what_is_allowed_is_queued_again(store, state):
    before, history = in_state(store, state), store.history("a")
    with pytest.raises(RunError, match=f"This run cannot be resumed: it is {state}"):
        store.requeue("a", "resume", [State.PAUSED], "ada")
    assert store.run("a") == before
    assert store.history("a") == history


def test_pause_that_is_withdrawn_before_the_worker_met_it_never_was(store):
    run = started(store)
    store.wish("a", Wish.PAUSE, "ada")
    again = store.requeue("a", "resume", [State.PAUSED], "ada")
    assert (again.state, again.wish, again.attempt) == (State.RUNNING, None, run.attempt)
    assert beat(store, run)[0] is None
    assert store.finish("a", run.attempt, State.SUCCEEDED, {})
    assert store.run("a").state == State.SUCCEEDED


def test_worker_that_pauses_after_the_wish_was_withdrawn_is_followed_by_another(store):
    run = started(store)
    store.wish("a", Wish.PAUSE, "ada")
    assert beat(store, run)[0] == Wish.PAUSE
    store.requeue("a", "resume", [State.PAUSED], "ada")
    assert store.finish("a", run.attempt, State.PAUSED, {})
    assert store.run("a").state == State.INTERRUPTED
    assert store.claim(CPU).attempt == 2


def test_stronger_wish_that_comes_while_the_worker_pauses_is_met(store):
    run = started(store)
    store.wish("a", Wish.PAUSE, "ada")
    beat(store, run)
    store.wish("a", Wish.CANCEL, "ada")
    store.finish("a", run.attempt, State.PAUSED, {})
    found = store.run("a")
    assert (found.state, found.wish) == (State.CANCELLED, None)
    assert found.finished_at is not None


def test_only_a_pause_is_withdrawn(store):
    started(store)
    store.wish("a", Wish.STOP, "ada")
    with pytest.raises(RunError, match="This run cannot be resumed: it is running"):
        store.requeue("a", "resume", [State.PAUSED], "ada")
    assert store.run("a").wish == Wish.STOP


@pytest.mark.parametrize("wish", Wish)
def test_wish_holds_although_the_worker_leaves_before_it_hears_of_it(store, wish):
    run = started(store)
    store.wish("a", wish, "ada")
    store.finish("a", run.attempt, State.INTERRUPTED, {})
    assert store.run("a").state == WISHED[wish]


# Room on the disk


def test_run_that_waits_for_room_goes_on_when_there_is_room(store):
    add(store, "z")
    store.wish("z", Wish.PAUSE, "ada")
    run = short_of_room(store)
    assert (run.state, run.failure, run.failure_kind) == (State.PAUSED, "Disk full.", Failure.DISK)
    assert (run.awaits_bytes, run.finished_at) == (5_000_000_000, None)
    assert store.has_work(), "the supervisor must stay to look for room"
    assert [found.id for found in store.awaiting_room()] == ["a"], "who was paused by the user does not wait for room"
    add(store, "b")
    store.requeue_where_room(run, "there is room again")
    found = store.run("a")
    assert (found.state, found.awaits_bytes, found.failure, found.failure_kind) == (State.QUEUED, None, None, None)
    assert texts(store)[-1] == ("supervisor", "there is room again")
    assert [found.id for found in store.active()] == ["a", "b"], "it has not lost its place"
    assert store.awaiting_room() == []


@pytest.mark.parametrize("wish", [Wish.STOP, Wish.CANCEL])
def test_run_that_waits_for_room_can_be_ended(store, wish):
    run = short_of_room(store)
    found = store.wish("a", wish, "ada")
    assert (found.awaits_bytes, found.failure, found.failure_kind) == (None, None, None)
    assert not store.has_work()
    store.requeue_where_room(run, "there is room again")
    assert store.run("a").state == WISHED[wish]


def test_run_that_waits_for_room_can_be_resumed_at_once(store):
    run = short_of_room(store)
    again = store.requeue("a", "resume", [State.PAUSED], "ada")
    assert (again.state, again.awaits_bytes, again.failure) == (State.QUEUED, None, None)
    store.requeue_where_room(run, "there is room again")
    assert store.run("a") == again


@pytest.mark.parametrize("wish", Wish)
def test_wish_holds_although_the_disk_is_full(store, wish):
    run = started(store)
    store.wish("a", wish, "ada")
    store.finish("a", run.attempt, State.PAUSED, {}, "Disk full.", Failure.DISK, awaits_bytes=1)
    found = store.run("a")
    assert (found.state, found.awaits_bytes) == (WISHED[wish], None), "room alone must not let it go on"


# Lost workers


def test_lost_run_waits_again_before_later_ones_and_keeps_its_start(store):
    run = started(store)
    add(store, "b")
    assert store.lose(run, "its worker died", MANY) == State.INTERRUPTED
    found = store.run("a")
    assert (found.state, found.slot, found.pid, found.process) == (State.INTERRUPTED, None, None, None)
    assert found.failure is None
    assert texts(store)[-1] == ("supervisor", "interrupted: its worker died (attempt 1 of 99 without a new step)")
    again = store.claim(CPU)
    assert (again.id, again.attempt, again.started_at) == ("a", 2, run.started_at)


def test_run_that_comes_to_no_new_step_again_and_again_fails(store):
    add(store)
    states = [store.lose(store.claim(CPU), "its worker died", 3) for _ in range(3)]
    assert states == [State.INTERRUPTED, State.INTERRUPTED, State.FAILED]
    found = store.run("a")
    assert found.failure == "its worker died (attempt 3 of 3 without a new step)"
    assert (found.state, found.failure_kind, found.slot) == (State.FAILED, Failure.CRASHES, None)
    assert found.finished_at is not None
    assert store.claim(CPU) is None


def test_run_that_comes_further_is_taken_up_again_however_often_its_worker_dies(store):
    add(store)
    for step in range(1, 10):
        run = store.claim(CPU)
        beat(store, run, step=step)
        assert store.lose(run, "its worker died", 2) == State.INTERRUPTED
        assert texts(store)[-1] == ("supervisor", "interrupted: its worker died")
    run = store.claim(CPU)
    beat(store, run, step=9)  # what it had been at before is not new
    assert store.lose(run, "its worker died", 2) == State.INTERRUPTED
    assert store.lose(store.claim(CPU), "its worker died", 2) == State.FAILED


def test_new_step_between_two_crashes_begins_the_count_anew(store):
    add(store)
    for steps in (0, 5, 0):
        run = store.claim(CPU)
        beat(store, run, step=steps)
        assert store.lose(run, "its worker died", 2) == State.INTERRUPTED
    assert store.lose(store.claim(CPU), "its worker died", 2) == State.FAILED


def test_failed_run_that_is_tried_again_may_crash_as_often_again(store):
    add(store)
    while store.lose(store.claim(CPU), "its worker died", 2) != State.FAILED:
        pass
    store.requeue("a", "retry", [State.FAILED], "ada")
    assert store.lose(store.claim(CPU), "its worker died", 2) == State.INTERRUPTED


@pytest.mark.parametrize("wish", Wish)
@pytest.mark.parametrize("attempts", [1, MANY])
def test_lost_run_honours_the_wish(store, wish, attempts):
    before = started(store)  # a look from before the wish
    store.wish("a", wish, "ada")
    assert store.lose(before, "its worker died", attempts) == WISHED[wish]
    found = store.run("a")
    assert (found.state, found.failure, found.wish) == (WISHED[wish], None, None)
    assert (found.finished_at is None) == (wish == Wish.PAUSE)
    assert store.claim(CPU) is None


def test_run_is_lost_only_once(store):
    run = started(store)
    store.lose(run, "gone", MANY)
    store.claim(CPU)
    assert store.lose(run, "gone", 1) is None
    assert store.run("a").state == State.RUNNING


# Changes


def test_change_reaches_the_worker_and_waits_until_it_is_applied(store):
    run = started(store)
    store.add_change("a", "learning_rate", 0.25, "ada")
    store.add_change("a", "frozen", True, "grace")
    asked = [Change(1, "learning_rate", 0.25, None, "ada"), Change(2, "frozen", True, None, "grace")]
    assert store.changes("a") == asked
    assert beat(store, run) == (None, asked)
    assert texts(store)[-2:] == [("ada", "asked for learning rate 0.25"), ("grace", "asked for a frozen backbone")]
    assert store.apply_change("a", 1, asked[0], 40) == replace(asked[0], step=40)
    assert store.changes("a") == [replace(asked[0], step=40), asked[1]]
    assert texts(store)[-1] == ("worker", "learning rate 0.25 from step 41 on")


def test_change_takes_with_it_what_was_beyond_its_step(store):
    run, other = started(store), started(store, "b")
    beat(store, run, *map(loss, range(1, 8)), step=7)
    beat(store, other, *map(loss, range(1, 8)), step=7)
    change = store.add_change("a", "learning_rate", 0.25, "ada") and store.changes("a")[0]
    store.apply_change("a", 1, change, 4)
    assert [point.step for point in store.curve("a")] == [1, 2, 3, 4]
    assert store.run("a").step == 4
    assert [point.step for point in store.curve("b")] == list(range(1, 8))
    assert store.run("b").step == 7


def test_steps_after_a_change_count_as_new_ones(store):
    run = started(store)
    beat(store, run, step=50)
    store.lose(run, "gone", 2)
    run = store.claim(CPU)
    store.add_change("a", "learning_rate", 0.25, "ada")
    store.apply_change("a", run.attempt, store.changes("a")[0], 20)
    beat(store, run, step=30)
    assert (store.run("a").step, store.run("a").mark) == (30, 20)
    assert store.lose(run, "gone", 1) == State.INTERRUPTED


def test_change_of_the_training_itself_gets_a_number_that_no_other_has(store):
    started(store)
    store.add_change("a", "epochs", 9, "ada")
    made = store.apply_change("a", 1, Change(0, "micro_batch", 8, None, "worker"), 3, "the memory was full")
    assert made == Change(2, "micro_batch", 8, 3, "worker")
    assert store.changes("a") == [Change(1, "epochs", 9, None, "ada"), made]
    assert texts(store)[-1] == ("worker", "the memory was full")


@pytest.mark.parametrize("state", ENDED)
def test_ended_run_is_changed_only_where_that_queues_it_again(store, state):
    before, history = ended(store, state), store.history("a")
    with pytest.raises(RunError, match=f"Only a run that goes on can be changed; this one is {state}"):
        store.add_change("a", "epochs", 9, "ada", [other for other in State if other != state])
    assert (store.run("a"), store.history("a"), store.changes("a")) == (before, history, [])
    assert store.add_change("a", "epochs", 9, "ada", [state]).state == State.QUEUED
    assert [change.value for change in store.changes("a")] == [9]


@pytest.mark.parametrize("wish", [Wish.STOP, Wish.CANCEL])
def test_run_that_is_about_to_end_is_not_changed(store, wish):
    started(store)
    store.wish("a", wish, "ada")
    with pytest.raises(RunError, match=f"Only a run that goes on can be changed; this one is {wish}"):
        store.add_change("a", "epochs", 9, "ada")
    assert store.changes("a") == []


@pytest.mark.parametrize("state", [State.QUEUED, State.PAUSED, State.INTERRUPTED])
def test_run_that_waits_or_stands_keeps_a_change_for_later_and_its_place(store, state):
    before = in_state(store, state)
    run = store.add_change("a", "augmentation", "strong", "ada")
    assert (run.state, run.place) == (state, before.place)
    assert [change.step for change in store.changes("a")] == [None]


def test_more_epochs_that_come_during_the_last_step_are_still_learnt(store):
    run = started(store)
    store.add_change("a", "epochs", 9, "ada")
    assert store.finish("a", run.attempt, State.SUCCEEDED, {"val_accuracy": 0.5})
    found = store.run("a")
    assert (found.state, found.finished_at) == (State.INTERRUPTED, None)
    run = store.claim(CPU)
    store.apply_change("a", run.attempt, store.changes("a")[0], 12)
    store.finish("a", run.attempt, State.SUCCEEDED, {})
    assert store.run("a").state == State.SUCCEEDED, "what has been applied does not keep it from its end"


def test_stop_after_a_wish_for_more_epochs_holds(store):
    run = started(store)
    store.add_change("a", "epochs", 9, "ada")
    store.wish("a", Wish.STOP, "ada")
    store.finish("a", run.attempt, State.SUCCEEDED, {})
    assert store.run("a").state == State.STOPPED


def test_other_changes_that_came_too_late_do_not_keep_a_run_from_its_end(store):
    run = started(store)
    store.add_change("a", "learning_rate", 0.5, "ada")
    store.finish("a", run.attempt, State.SUCCEEDED, {})
    assert store.run("a").state == State.SUCCEEDED


def test_changes_are_said_in_words():
    assert in_words("frozen", True) == "a frozen backbone"
    assert in_words("frozen", False) == "a backbone that learns"
    assert in_words("micro_batch", 4) == "at most 4 pictures at a time"
    assert in_words("learning_rate", 1e-5) == "learning rate 1e-05"
    assert in_words("epochs", 12) == "epochs 12"


# Checkpoints


def test_checkpoints_are_listed_newest_first_and_forgotten_by_number(store):
    run, other = started(store), started(store, "b")
    beat(store, run, checkpoints=(checkpoint(1), checkpoint(2)))
    beat(store, run, checkpoints=(checkpoint(3),))
    beat(store, other, checkpoints=(checkpoint(1),))
    assert store.checkpoints("a") == [checkpoint(3), checkpoint(2), checkpoint(1)]
    store.forget_checkpoints("a", [1, 3, 7])
    assert store.checkpoints("a") == [checkpoint(2)]
    store.forget_checkpoints("a", [])
    assert store.checkpoints("b") == [checkpoint(1)]


def test_beat_is_written_whole_or_not_at_all(store):
    run = started(store)
    beat(store, run, loss(1), step=1, checkpoints=(checkpoint(1),))
    before = store.run("a")
    torn = replace(checkpoint(3), sha256=None)
    with pytest.raises(sa.exc.IntegrityError):
        beat(store, run, loss(2), step=2, checkpoints=(checkpoint(2), torn))
    assert store.checkpoints("a") == [checkpoint(1)]
    assert [point.step for point in store.curve("a")] == [1]
    assert store.run("a") == before


def test_checkpoints_outlive_the_end_and_the_next_attempt(store):
    run = started(store)
    beat(store, run, loss(1), step=1, checkpoints=(checkpoint(1),))
    store.finish("a", run.attempt, State.STOPPED, {})
    store.requeue("a", "continue", [State.STOPPED], "ada")
    again = store.claim(CPU)
    assert store.checkpoints("a") == [checkpoint(1)]
    assert (again.step, again.mark) == (1, 1)


# Curves and histories


def test_curve_is_read_in_increments(store):
    run = started(store)
    for step in (1, 2, 3):
        points = [Point("train/loss", step, step / 2, 1 / step), Point("val/loss", step, step / 2, 2 / step)]
        beat(store, run, *points)
    assert [point.step for point in store.curve("a")] == [1, 1, 2, 2, 3, 3]
    assert [point.step for point in store.curve("a", after_step=2)] == [3, 3]
    assert store.curve("a", after_step=3) == []
    assert store.curve("a", after_step=1, keys=["val/loss"]) == [
        Point("val/loss", 2, 1.0, 1.0),
        Point("val/loss", 3, 1.5, 2 / 3),
    ]


def test_thinned_curve_keeps_every_nth_step_and_every_epoch(store):
    run = started(store)
    steps = [Point("step/loss", step, step / 10, 1.0) for step in range(1, 31)]
    epochs = [Point(key, step, step / 10, 1.0) for key in EPOCH_KEYS for step in (0, 7, 14, 21, 28)]
    beat(store, run, *steps, *epochs)
    thin = store.curve("a", every=10)
    assert [point.step for point in thin if point.key == "step/loss"] == [10, 20, 30]
    assert Counter(point.key for point in thin) == Counter({"step/loss": 3, **dict.fromkeys(EPOCH_KEYS, 5)})
    assert [point.step for point in thin] == sorted(point.step for point in thin)
    assert [point.step for point in store.curve("a", 10, ["step/loss"], every=10)] == [20, 30]
    assert len(store.curve("a")) == 50


def test_step_before_training_is_part_of_the_curve(store):
    run = started(store)
    beat(store, run, Point("val/loss", 0, 0.0, 1.5))
    assert [point.step for point in store.curve("a")] == [0]


def test_repeated_step_replaces_its_value(store):
    run = started(store)
    beat(store, run, loss(1, 2.0), loss(2, 1.0))
    beat(store, run, loss(2, 0.5), loss(2, 0.25))
    assert [point.value for point in store.curve("a")] == [2.0, 0.25]


def test_new_attempt_goes_on_with_the_curve_of_the_last(store):
    run = started(store)
    beat(store, run, loss(1, 2.0), loss(2, 1.0), step=2)
    store.lose(run, "gone", MANY)
    again = store.claim(CPU)
    store.bind("a", again.attempt, 1, "boot:1")
    assert [point.value for point in store.curve("a")] == [2.0, 1.0]
    beat(store, again, loss(2, 1.0), loss(3, 0.5), step=3)
    assert [(point.step, point.value) for point in store.curve("a")] == [(1, 2.0), (2, 1.0), (3, 0.5)]


def test_step_of_a_run_is_the_furthest_that_any_attempt_has_come_to(store):
    run = started(store)
    beat(store, run, step=20)
    beat(store, run, step=10)
    store.lose(run, "gone", MANY)
    again = store.claim(CPU)
    beat(store, again, step=15)
    assert (store.run("a").step, store.run("a").mark) == (20, 20)


def test_history_keeps_the_order_and_the_actors(store):
    run = started(store)
    store.note("a", "worker", "fetched the weights")
    store.wish("a", Wish.STOP, "grace")
    store.finish("a", run.attempt, State.STOPPED, {})
    assert texts(store) == [
        ("ada", "launched"),
        ("supervisor", "started on cpu0, attempt 1"),
        ("worker", "fetched the weights"),
        ("grace", "asked to stop"),
        ("worker", "stopped"),
    ]
    moments = [line.at for line in store.history("a")]
    assert moments == sorted(moments)


def test_clock_that_is_set_back_an_hour_changes_no_order(store, monkeypatch):
    run = started(store)
    beat(store, run, loss(1), step=1)
    add(store, "b")
    monkeypatch.setattr(store_module, "now", lambda: datetime.now(UTC) - timedelta(hours=1))
    store.note("a", "worker", "after the clock was set back")
    beat(store, run, loss(2), step=2)
    add(store, "c")
    store.finish("a", run.attempt, State.SUCCEEDED, {})
    assert [text for _, text in texts(store)][-2:] == ["after the clock was set back", "succeeded"]
    assert [point.step for point in store.curve("a")] == [1, 2]
    assert [found.id for found in store.list_runs()] == ["c", "b", "a"]
    assert [store.claim(TWO_CPUS).id for _ in range(2)] == ["b", "c"]
    assert store.run("a").finished_at < store.run("a").started_at, "the clock was set back indeed"
    assert store.run("a").seconds >= 0


# Many writers at once


WRITE = """
store, run_id = dlkit.runs.store.open_store(Path(sys.argv[2]), sys.argv[3]), f"{time.time_ns():x}"
store.add_run(run_id, Kind.FINETUNE, "x", {}, Slot.CPU, "ada")
for step in range(100):
    store.claim({Slot.CPU: [run_id[:16]]})
    store.note(run_id, "worker", f"step {step}")
    assert len(store.history(run_id)) >= step
print(run_id)
"""


def test_writers_at_once_wait_for_each_other(store, home):
    ids = [printed.strip() for printed in in_processes(WRITE, 3, home.folder, home.url)]
    for run_id in ids:
        assert [line.text for line in store.history(run_id) if line.actor == "worker"] == [
            f"step {step}" for step in range(100)
        ]


def test_runs_outlive_the_process_that_added_them(home):
    in_processes(WRITE, 1, home.folder, home.url)
    assert [run.state for run in home.open().list_runs()] == [State.RUNNING]


def test_threads_of_one_process_share_a_store(store):
    """Streamlit serves each session in a thread of its own."""
    failures = []

    def use(name: str) -> None:
        try:
            for number in range(20):
                add(store, f"{name}{number}")
                assert store.run(f"{name}{number}").name == f"Run {name}{number}"
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(run.sequence for run in store.list_runs()) == list(range(1, 81))


@contextmanager
def write_lock(home: Home) -> Iterator[None]:
    """Hold what a writer needs, as another process that hangs would."""
    if home.url:
        with home.database() as engine, engine.begin() as connection:
            connection.execute(sa.text(f"select pg_advisory_xact_lock({ADVISORY_LOCK})"))
            yield
        return
    with closing(sqlite3.connect(home.folder / "store.sqlite3", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def test_store_that_is_held_locked_can_be_read_and_says_why_it_cannot_be_written(home, monkeypatch):
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.2)
    store = home.open()
    before = add(store)
    with write_lock(home):
        assert store.run("a") == before
        assert home.open().list_runs() == [before], "nor does one who comes now wait"
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"The store cannot be used just now: .*lock.*\.$"):
            add(store, "b")
        assert time.monotonic() - began < 5
    assert add(store, "b").state == State.QUEUED
    assert [run.id for run in store.list_runs()] == ["b", "a"]


def test_connection_that_the_server_has_ended_is_made_anew(new_database, tmp_path):
    home = Home(tmp_path, new_database())
    store = home.open()
    add(store)
    with home.database() as engine, engine.connect() as connection:
        others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
        connection.execute(sa.text(f"{others} and pid <> pg_backend_pid()"))
    assert add(store, "b").id == "b"
    assert len(store.list_runs()) == 2


# Where the store lies


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("not a url", "DLKIT_DATABASE_URL must be postgresql://user:password@host/database. It is not."),
        ("postgresql://host:port/runs", "DLKIT_DATABASE_URL must be postgresql://user:password@host/database."),
        ("mysql://root@localhost/runs", "DLKIT_DATABASE_URL must begin with postgresql://"),
        ("sqlite:///runs.sqlite3", "DLKIT_DATABASE_URL must begin with postgresql://"),
        ("postgresql://ada:secret@127.0.0.1:1/runs", "The store cannot be used just now: .*refused"),
    ],
)
def test_database_that_cannot_be_used_is_said_in_a_sentence(tmp_path, url, sentence):
    with pytest.raises(StoreError, match=sentence) as raised:
        open_store(tmp_path, url)
    assert str(raised.value).endswith(".")
    assert "secret" not in str(raised.value)
    assert list(tmp_path.iterdir()) == [], "nor is a file made instead"


def test_database_that_is_missing_is_said_in_a_sentence(tmp_path, new_database):
    url = sa.make_url(new_database()).set(database="missing")
    with pytest.raises(StoreError, match='database "missing" does not exist'):
        open_store(tmp_path, url.render_as_string(hide_password=False))


def test_postgres_without_its_driver_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r'pip install "psycopg\[binary\]"'):
        open_store(tmp_path, "postgresql://localhost/driverless")


def test_two_databases_of_one_server_are_two_stores(new_database, tmp_path):
    add(Home(tmp_path, new_database()).open())
    assert Home(tmp_path, new_database()).open().list_runs() == []


OPEN = """
dlkit.runs.store.open_store(Path(sys.argv[2]), sys.argv[3]).list_runs()
print("alembic" in sys.modules)
"""


def test_store_of_this_version_is_opened_without_alembic(home):
    assert in_processes(OPEN, 1, home.folder, home.url) == ["False\n"], "nor is a new one made with it"
    assert in_processes(OPEN, 1, home.folder, home.url) == ["False\n"]


OPEN_MANY = """
urls, count = json.loads(sys.argv[3]), int(sys.argv[4])
for number in range(count):
    time.sleep(max(0, float(sys.argv[1]) + number / 20 - time.time()))
    dlkit.runs.store.open_store(Path(sys.argv[2]) / str(number), urls[number % len(urls)]).list_runs()
"""


def test_four_processes_may_open_empty_folders_at_once(tmp_path):
    in_processes(OPEN_MANY, 4, tmp_path, '[""]', 40)
    assert all(open_store(tmp_path / str(number)).list_runs() == [] for number in range(40))


def test_four_processes_may_open_empty_databases_at_once(tmp_path, new_database):
    urls = [new_database() for _ in range(10)]
    in_processes(OPEN_MANY, 4, tmp_path, json.dumps(urls), len(urls))
    assert all(Home(tmp_path, url).open().list_runs() == [] for url in urls)


@pytest.mark.parametrize("name", ["what?", "100%41", "a#b c", "ä&b=c"])
def test_folder_may_have_any_name(tmp_path, name):
    add(open_store(tmp_path / name))
    assert (tmp_path / name / "store.sqlite3").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_file_that_is_no_store_is_said_in_a_sentence(tmp_path):
    (tmp_path / "store.sqlite3").write_bytes(b"This is not a database. " * 99)
    with pytest.raises(StoreError, match="The store cannot be used just now: file is not a database"):
        open_store(tmp_path)


# A folder that cannot be written


def write_everything(store: Store) -> Iterator[Callable[[], Any]]:
    """Yield all that writes, called with what it takes."""
    run, beat = run_of_no_store(), Beat()
    yield lambda: add(store, "new")
    yield lambda: store.wish("a", Wish.STOP, "ada")
    yield lambda: store.requeue("a", "resume", [State.PAUSED], "ada")
    yield lambda: store.set_priority("a", Priority.HIGH, "ada")
    yield lambda: store.add_change("a", "epochs", 9, "ada")
    yield lambda: store.delete_run("a")
    yield lambda: store.forget_checkpoints("a", [1])
    yield lambda: store.claim(CPU)
    yield lambda: store.lose(run, "gone", 1)
    yield lambda: store.requeue_where_room(run, "room")
    yield lambda: store.bind("a", 1, 1, "boot:1")
    yield lambda: store.beat("a", 1, beat)
    yield lambda: store.apply_change("a", 1, Change(0, "micro_batch", 1, None, "worker"), 1)
    yield lambda: store.finish("a", 1, State.SUCCEEDED, {})
    yield lambda: store.note("a", "ada", "note")


def run_of_no_store() -> Run:
    """Return a run that is in no store."""
    moment = datetime.now(UTC)
    start = (State.RUNNING, {}, Slot.CPU, None, 1, Priority.NORMAL, 1, 1, 0, None, None, None, 0, 0, 0, None)
    return Run("a", Kind.FINETUNE, "Run a", *start, moment, None, None, None)


def expect_readable_only(store: Store, folder: Path) -> None:
    before = store.list_runs()
    for write in write_everything(store):
        with pytest.raises(StoreError) as raised:
            write()
        assert str(raised.value) == (
            f"The data folder {folder} can only be read, so nothing can be launched or changed. "
            "Set DLKIT_HOME to a folder that can be written."
        )
    assert store.list_runs() == before
    assert store.unwritable == folder


@pytest.fixture
def only_readable(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Put a copy of a folder where not even root can write: on a file system that is mounted so."""
    place = tmp_path / "mounted"
    place.mkdir()

    def mount(*arguments: str) -> None:
        done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"This test mounts a file system, which this user may not: {done.stderr.strip()}")

    def put(folder: Path) -> Path:
        shutil.copytree(folder, place / "home")
        mount("-o", "remount,ro")
        return place / "home"

    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("This test mounts a file system, which only root may, on Linux.")
    mount("-t", "tmpfs", "none")
    yield put
    open_store.cache_clear()
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_store_on_a_disk_that_is_mounted_to_be_read_can_be_read(tmp_path, only_readable):
    store = open_store(tmp_path / "home")
    before = ended(store, State.SUCCEEDED)
    store._engine.dispose()
    folder = only_readable(tmp_path / "home")
    store = open_store(folder)
    assert store.list_runs() == [before]
    assert len(store.history("a")) == 3
    assert not store.has_work()
    expect_readable_only(store, folder)


def test_what_stands_in_the_write_ahead_log_only_is_read_there_too(tmp_path, only_readable):
    """As after a crash that left the disk read only: the rows are not in the file itself yet."""
    store = open_store(tmp_path / "home")
    before = ended(store, State.SUCCEEDED)
    assert (tmp_path / "home" / "store.sqlite3-wal").stat().st_size > 0
    folder = only_readable(tmp_path / "home")  # the store is open still
    assert open_store(folder).list_runs() == [before]


def test_disk_that_is_mounted_to_be_read_and_has_no_store_gives_an_empty_one(tmp_path, only_readable):
    (tmp_path / "home").mkdir()
    folder = only_readable(tmp_path / "home")
    assert open_store(folder).list_runs() == []
    expect_readable_only(open_store(folder), folder)


@pytest.mark.parametrize("has_store", [True, False])
def test_folder_of_another_user_can_be_read(tmp_path, monkeypatch, has_store):
    """As the tests may run as root, who may write everywhere, the system's answer is replaced."""
    folder = tmp_path / "home"
    folder.mkdir()
    before = [ended(Home(folder).open(), State.SUCCEEDED)] if has_store else []
    open_store.cache_clear()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    assert open_store(folder).list_runs() == before
    expect_readable_only(open_store(folder), folder)
    assert (folder / "store.sqlite3").exists() == has_store
    open_store.cache_clear()


def test_folder_that_cannot_be_made_gives_an_empty_store(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "home"
    assert open_store(folder).list_runs() == []
    expect_readable_only(open_store(folder), folder)


def test_threads_may_read_a_store_that_cannot_be_written(tmp_path, monkeypatch):
    for number in range(50):
        add(Home(tmp_path).open() if number == 0 else open_store(tmp_path), f"{number:02}")
    open_store.cache_clear()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    store, counts = open_store(tmp_path), []
    readers = [
        threading.Thread(target=lambda: counts.extend(len(store.list_runs()) for _ in range(30))) for _ in range(4)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert counts == [50] * 120
    open_store.cache_clear()


# The form of the store, and older ones


def first_row(run_id: str, sequence: int, state: str, **more: Any) -> dict[str, Any]:
    """Return a run as the first version wrote it."""
    row = {
        "id": run_id,
        "kind": "finetune",
        "name": f"Run {run_id}",
        "state": state,
        "config": {"epochs": 3},
        "needs": "cpu",
        "slot": None,
        "sequence": sequence,
        "attempt": 0,
        "wish": None,
        "pid": None,
        "process": None,
        "created_at": "2025-01-02T03:04:05.678+00:00",
        "started_at": None,
        "finished_at": None,
        "beat_at": None,
        "progress": {},
        "summary": {},
        "failure": None,
    }
    assert set(more) <= set(row)
    return row | more


STARTED = {"attempt": 1, "started_at": "2025-01-02T03:05:00.000+00:00", "beat_at": "2025-01-02T03:06:00.000+00:00"}
ENDED_THEN = {**STARTED, "finished_at": "2025-01-02T03:07:30.000+00:00"}
FIRST_ROWS = [
    first_row("e", 1, "succeeded", **ENDED_THEN, summary={"val_accuracy": 0.5}),
    first_row("d", 2, "failed", **ENDED_THEN, failure="its worker died"),
    first_row("z", 3, "queued"),
    first_row(
        "c", 4, "running", **STARTED, slot="cpu0", pid=4711, process="boot:1", wish="stop", progress={"phase": "x"}
    ),
    first_row("b", 5, "queued"),
    first_row("a", 6, "interrupted", **STARTED),
]


def as_the_first_version_left_it(home: Home) -> None:
    """Make the first form of the store, and write what that version wrote."""
    home.folder.mkdir(exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with home.database() as engine, engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        then = sa.MetaData()
        then.reflect(connection)
        runs, points, happenings = (then.tables[name] for name in ("runs", "points", "happenings"))
        assert {column.name for column in runs.columns} == set(FIRST_ROWS[0])
        connection.execute(runs.insert(), FIRST_ROWS)
        curve = [{"run_id": "e", "key": "val/loss", "step": step, "epoch": step / 2, "value": 1.0} for step in range(4)]
        connection.execute(points.insert(), curve)
        for text in ("launched", "succeeded"):
            row = {"run_id": "e", "at": "2025-01-02T03:04:05.678+00:00", "actor": "you", "text": text}
            connection.execute(happenings.insert().values(row))


@pytest.fixture
def first(home: Home) -> Iterator[Store]:
    """A store that the first version has written, opened by this one."""
    as_the_first_version_left_it(home)
    store = home.open()
    yield store
    store._engine.dispose()


def test_every_run_of_the_first_version_is_kept(first):
    found = {run.id: run for run in first.list_runs()}
    assert [(run.id, run.state) for run in reversed(first.list_runs())] == [
        (row["id"], State(row["state"])) for row in FIRST_ROWS
    ]
    for run in found.values():
        assert (run.config, run.priority, run.version, run.step, run.fruitless) == ({"epochs": 3}, 0, 0, 0, 0)
        assert (run.failure_kind, run.awaits_bytes, run.worked) == (None, None, None)
        assert first.checkpoints(run.id) == first.changes(run.id) == []
    assert (found["e"].summary, found["e"].seconds) == ({"val_accuracy": 0.5}, 150.0)
    assert found["d"].failure == "its worker died"
    assert (found["c"].wish, found["c"].pid, found["c"].slot) == (Wish.STOP, 4711, "cpu0")
    assert found["c"].progress == Progress("x")
    assert first.curve("e") == [Point("val/loss", step, step / 2, 1.0) for step in range(4)]
    assert texts(first, "e") == [("you", "launched"), ("you", "succeeded")]


def test_queue_of_the_first_version_keeps_its_order_before_what_is_new(first):
    add(first, "new")
    assert [run.id for run in first.active()] == ["c", "z", "b", "a", "new"]
    assert first.lose(first.run("c"), "gone", MANY) == State.STOPPED
    for run_id in ("z", "b", "a", "new"):
        run = first.claim(CPU)
        assert run.id == run_id
        assert first.finish(run.id, run.attempt, State.SUCCEEDED, {})


def test_worker_of_the_first_version_is_still_the_one_of_its_run(first):
    assert first.beat("c", 1, Beat(step=5)) == (Wish.STOP, [])
    assert first.finish("c", 1, State.STOPPED, {})


def test_history_of_the_first_version_goes_on(first):
    first.note("e", "ada", "looked at again")
    assert [text for _, text in texts(first, "e")] == ["launched", "succeeded", "looked at again"]
    first.requeue("d", "retry", [State.FAILED], "ada")
    assert first.run("d").state == State.QUEUED


def test_four_processes_may_bring_one_store_up_to_date_at_once(home):
    as_the_first_version_left_it(home)
    in_processes(OPEN, 4, home.folder, home.url)
    assert len(home.open().list_runs()) == len(FIRST_ROWS)


@pytest.fixture(params=["made at once", "migrated from nothing", "migrated from the first form"])
def database(request: pytest.FixtureRequest, home: Home) -> Iterator[sa.Engine]:
    """The database after the store has opened it, by each way to the newest form."""
    home.folder.mkdir()
    if request.param == "migrated from the first form":
        as_the_first_version_left_it(home)
    with home.database() as engine:
        if request.param == "migrated from nothing":
            with engine.begin() as connection:  # as alembic leaves it before the first migration
                connection.exec_driver_sql("create table alembic_version (version_num varchar(32) primary key)")
        home.open()
        yield engine


def test_database_has_the_tables_that_the_code_names(database):
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True, "compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        assert context.get_current_revision() == migrations.HEAD
        inspector = sa.inspect(connection)
        assert inspector.get_pk_constraint("points")["constrained_columns"] == ["run_id", "key", "step"]
        assert inspector.get_pk_constraint("changes")["constrained_columns"] == ["run_id", "number"]
        assert inspector.get_pk_constraint("checkpoints")["constrained_columns"] == ["run_id", "number"]


def test_migrated_store_is_used_like_a_new_one(database, home):
    store = open_store(home.folder, home.url)
    for run in store.list_runs():
        if run.is_active:
            store.wish(run.id, Wish.CANCEL, "ada")
        if run.state == State.RUNNING:
            store.lose(run, "gone", 1)
        store.delete_run(run.id)
    run = started(store)
    store.add_change("a", "epochs", 9, "ada")
    beat(store, run, loss(1), step=1, checkpoints=(checkpoint(1),))
    with database.connect() as connection:
        row = connection.execute(sa.select(tables.runs)).one()._asdict()
        again = tables.runs.insert().values(**{**row, "id": "b"})
        with pytest.raises(sa.exc.IntegrityError, match="sequence"):  # one place in the list for each
            connection.execute(again)


def test_store_of_a_newer_version_is_left_alone_and_said(home):
    store = home.open()
    add(store)
    with home.database() as engine, engine.begin() as connection:
        connection.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(StoreError, match="The store has the form '9999', which this version does not know: a newer"):
        home.open()
    with home.database() as engine, engine.connect() as connection:
        assert connection.scalar(sa.text("select version_num from alembic_version")) == "9999"
        assert connection.scalar(sa.select(tables.runs.c.id)) == "a"


def test_newest_migration_is_the_one_that_the_store_looks_for():
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_heads() == [migrations.HEAD]


def test_journal_of_the_file_is_a_write_ahead_log(tmp_path):
    open_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "store.sqlite3")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# What a reviewer found


def test_older_change_does_not_come_after_a_newer_one_of_its_kind(store):
    """The attempt that made the older one at step 120 was killed; the next stands at step 100."""
    run = started(store)
    for what, value in (("learning_rate", 0.01), ("augmentation", "none"), ("learning_rate", 0.0005)):
        store.add_change(run.id, what, value, "ada")
    first, second, third = store.changes(run.id)
    store.apply_change(run.id, run.attempt, first, 120)
    store.apply_change(run.id, run.attempt, second, 130)
    store.apply_change(run.id, run.attempt, third, 100)
    assert [change.step for change in store.changes(run.id)] == [100, 130, 100]


def test_worker_that_has_shown_life_meanwhile_is_not_lost(store):
    run = started(store)
    store.beat(run.id, run.attempt, Beat(step=1))
    assert store.lose(run, "it was silent", 3, is_alive=True) is None
    assert store.run(run.id).state == State.RUNNING
    assert store.lose(store.run(run.id), "it was silent", 3, is_alive=True) == State.INTERRUPTED


def test_worker_that_has_begun_meanwhile_is_not_lost(store):
    run = started(store)
    assert store.bind(run.id, run.attempt, 4711, "boot:1")
    assert store.lose(run, "it never began", 3) is None
    assert store.run(run.id).state == State.RUNNING


def test_beat_whose_answer_was_lost_is_told_again(store):
    run = started(store)
    beat = Beat(
        step=3, points=(Point("val/loss", 3, 1.0, 0.5),), checkpoints=(Checkpoint(1, 1, 3, "a.pt", 9, "0" * 64),)
    )
    store.beat(run.id, run.attempt, beat)
    store.beat(run.id, run.attempt, beat)
    assert (len(store.checkpoints(run.id)), len(store.curve(run.id))) == (1, 1)


def test_pause_that_meets_a_full_disk_promises_no_room(store):
    run = started(store)
    store.wish(run.id, Wish.PAUSE, "ada")
    assert store.finish(run.id, run.attempt, State.PAUSED, {}, "Disk full.", Failure.DISK, 10**9) == State.PAUSED
    left = store.run(run.id)
    assert (left.awaits_bytes, left.failure, left.failure_kind) == (None, None, None)


def test_cancelled_run_begins_anew(store):
    run = started(store)
    store.beat(run.id, run.attempt, Beat(step=5000, points=(Point("val/loss", 5000, 9.0, 0.5),)))
    store.wish(run.id, Wish.CANCEL, "ada")
    store.finish(run.id, run.attempt, State.CANCELLED, {})
    again = store.requeue(run.id, "retry", (State.CANCELLED,), "ada")
    assert (again.step, again.mark, store.curve(run.id)) == (0, 0, [])


def test_run_that_is_to_go_next_goes_before_others_of_high_priority(store):
    for run_id in "abc":
        add(store, run_id)
    for run_id in "bc":
        store.set_priority(run_id, Priority.HIGH, "ada")
    assert [run.id for run in store.active()] == ["c", "b", "a"]


def test_option_that_postgres_does_not_know_is_a_sentence(new_database, tmp_path):
    url = sa.make_url(new_database()).update_query_dict({"foo": "bar"})
    with pytest.raises(StoreError, match="must be postgresql://"):
        open_store(tmp_path, url.render_as_string(hide_password=False))
