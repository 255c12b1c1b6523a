"""The store alone and under many processes: no run is lost, given twice, or written by a worker that is not its own."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from dlkit.errors import RunError
from dlkit.runs import migrations, tables
from dlkit.runs.records import Kind, Point, Progress, Run, Slot, State
from dlkit.runs.store import Store, open_store

ROOT = Path(__file__).parents[1]
CPU, TWO_CPUS = {Slot.CPU: ["cpu0"]}, {Slot.CPU: ["cpu0", "cpu1"]}
ENDS = (State.SUCCEEDED, State.STOPPED, State.CANCELLED, State.FAILED)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "home")


def add(store: Store, run_id: str = "a", needs: Slot = Slot.CPU, kind: Kind = Kind.FINETUNE) -> Run:
    return store.add_run(run_id, kind, f"Run {run_id}", {"epochs": 3}, needs, "ada")


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


def texts(store: Store, run_id: str = "a") -> list[tuple[str, str]]:
    return [(line.actor, line.text) for line in store.history(run_id)]


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
    assert second.sequence > first.sequence
    assert store.run("b") == second
    assert texts(store) == [("ada", "launched")]


def test_unknown_run_is_refused_everywhere(store):
    for ask in (store.run, store.delete_run, lambda run_id: store.wish(run_id, "stop", "ada")):
        with pytest.raises(RunError, match="There is no run 'nothing'"):
            ask("nothing")


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


def test_runs_are_found_by_the_beginning_of_their_id(store):
    for run_id in ("aa1", "aa2", "ab1"):
        add(store, run_id)
    assert [run.id for run in store.find_runs("aa")] == ["aa2", "aa1"]
    assert [run.id for run in store.find_runs("ab1")] == ["ab1"]
    assert store.find_runs("%") == store.find_runs("_") == store.find_runs("b") == []


def test_deleted_run_leaves_nothing_behind(store, tmp_path):
    run = started(store)
    store.beat(run.id, run.attempt, Progress(), [Point("val/loss", 1, 0.5, 2.0)])
    store.finish(run.id, run.attempt, State.SUCCEEDED, {})
    add(store, "b")
    store.delete_run("a")
    assert [run.id for run in store.list_runs()] == ["b"]
    assert store.history("a") == store.curve("a") == []
    assert len(store.history("b")) == 1


def test_active_run_cannot_be_deleted(store):
    run = started(store)
    with pytest.raises(RunError, match="Only a run that has ended can be deleted; this one is running"):
        store.delete_run("a")
    store.lose(run, "gone", is_final=False)
    with pytest.raises(RunError, match="this one is interrupted"):
        store.delete_run("a")


def test_times_are_utc_wherever_the_server_stands(store, tmp_path, monkeypatch):
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
    with sa.create_engine(f"sqlite:///{tmp_path}/home/store.sqlite3").connect() as connection:
        assert connection.scalar(sa.select(tables.runs.c.created_at)).endswith("+00:00")


def test_seconds_count_from_the_first_start_to_the_end(store):
    assert add(store).seconds is None
    run = store.claim(CPU)
    assert 0 <= run.seconds < 20
    store.finish(run.id, run.attempt, State.FAILED, {}, "why")
    run = store.run("a")
    assert run.seconds == (run.finished_at - run.started_at).total_seconds()


# The queue


def test_runs_are_claimed_in_the_order_of_the_queue(store):
    for run_id in ("c", "a", "b"):
        add(store, run_id)
    claimed = []
    while run := store.claim(CPU):
        claimed.append(run.id)
        store.finish(run.id, run.attempt, State.SUCCEEDED, {})
    assert claimed == ["c", "a", "b"]


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
    add(store, "a", Slot.GPU)
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


def test_active_runs_are_those_that_wait_or_run_oldest_first(store):
    ended(store, State.FAILED, "z")
    add(store, "c")
    add(store, "a")
    add(store, "b")
    store.lose(store.claim(CPU), "gone", is_final=False)
    store.claim(CPU)
    assert [(run.id, run.state) for run in store.active()] == [
        ("c", State.RUNNING),
        ("a", State.QUEUED),
        ("b", State.QUEUED),
    ]
    assert [run.id for run in store.running()] == ["c"]


def test_work_is_there_as_long_as_a_run_waits_or_runs(store):
    assert not store.has_work()
    add(store)
    assert store.has_work()
    run = store.claim(CPU)
    assert store.has_work()
    store.lose(run, "gone", is_final=False)
    assert store.has_work()
    run = store.claim(CPU)
    store.finish(run.id, run.attempt, State.FAILED, {}, "why")
    assert not store.has_work()


RACE = """
store, slots, claimed = dlkit.runs.store.open_store(Path(sys.argv[2])), {Slot.CPU: ["cpu0", "cpu1"]}, []
while store.has_work():
    run = store.claim(slots)
    taken = [other.slot for other in store.running()]
    assert len(taken) == len(set(taken)) <= 2, taken
    if run is not None:
        claimed.append([run.id, run.attempt])
        assert store.finish(run.id, run.attempt, State.SUCCEEDED, {})
print(json.dumps(claimed))
"""


def test_four_processes_share_sixty_runs_without_giving_one_twice(store, tmp_path):
    ids = [f"{number:02}" for number in range(60)]
    for run_id in ids:
        add(store, run_id)
    outputs = in_processes(RACE, 4, tmp_path / "home")
    claims = [tuple(claim) for printed in outputs for claim in json.loads(printed)]
    assert Counter(claims) == Counter((run_id, 1) for run_id in ids)
    assert {(run.state, run.slot) for run in store.list_runs()} == {(State.SUCCEEDED, None)}


# Fencing


def test_worker_of_the_attempt_may_write(store):
    run = started(store)
    assert store.bind("a", run.attempt, 4711, "boot:1")
    assert store.beat("a", run.attempt, Progress("training", 0.25, 9.0, 120.0), []) is None
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
    store.lose(run, "gone", is_final=False)
    assert store.claim(CPU).attempt == 2
    store.bind("a", 2, 4711, "boot:1")
    store.beat("a", 2, Progress(), [Point("val/loss", 1, 1.0, 0.5)])
    before, history = store.run("a"), store.history("a")
    assert not store.bind("a", attempt, 1, "boot:0")
    with pytest.raises(RunError, match="taken over"):
        store.beat("a", attempt, Progress("stale"), [Point("val/loss", 2, 2.0, 9.0)])
    assert not store.finish("a", attempt, State.FAILED, {"stale": True}, "stale")
    assert store.run("a") == before
    assert store.history("a") == history
    assert store.curve("a") == [Point("val/loss", 1, 1.0, 0.5)]


@pytest.mark.parametrize("state", ENDS)
def test_ended_run_takes_no_more_from_its_worker(store, state):
    before = ended(store, state)
    assert not store.bind("a", 1, 1, "boot:0")
    with pytest.raises(RunError, match="taken over or has ended"):
        store.beat("a", 1, Progress(), [])
    assert not store.finish("a", 1, State.SUCCEEDED, {})
    assert store.lose(before, "gone", is_final=False) is None
    assert store.run("a") == before


def test_failure_stands_in_the_run_and_in_its_history(store):
    run = started(store)
    store.finish("a", run.attempt, State.FAILED, {}, "The disk is full.")
    assert store.run("a").failure == "The disk is full."
    assert texts(store)[-1] == ("worker", "failed: The disk is full.")


# Wishes


@pytest.mark.parametrize(("wish", "state"), [("stop", State.STOPPED), ("cancel", State.CANCELLED)])
def test_waiting_run_ends_at_once(store, wish, state):
    add(store)
    run = store.wish("a", wish, "ada")
    assert (run.state, run.started_at, run.seconds) == (state, None, None)
    assert run.finished_at is not None
    assert store.claim(CPU) is None
    assert texts(store)[-1] == ("ada", f"asked to {wish}")


def test_interrupted_run_ends_at_once(store):
    run = started(store)
    store.lose(run, "gone", is_final=False)
    assert store.wish("a", "stop", "ada").state == State.STOPPED
    assert store.claim(CPU) is None


def test_running_run_learns_the_wish_at_its_next_beat(store):
    run = started(store)
    assert store.wish("a", "stop", "ada").state == State.RUNNING
    assert store.beat("a", run.attempt, Progress(), []) == "stop"
    assert store.wish("a", "cancel", "ada").wish == "cancel", "who stopped may still cancel"
    assert store.beat("a", run.attempt, Progress(), []) == "cancel"


def test_repeated_wish_is_noted_once(store):
    started(store)
    for _ in range(3):
        store.wish("a", "stop", "ada")
    assert texts(store).count(("ada", "asked to stop")) == 1


@pytest.mark.parametrize("state", ENDS)
def test_wish_for_an_ended_run_does_nothing(store, state):
    before, history = ended(store, state), store.history("a")
    assert store.wish("a", "cancel", "ada") == before
    assert store.history("a") == history


# Lost workers


def test_lost_run_waits_again_before_later_ones_and_keeps_its_start(store):
    run = started(store)
    add(store, "b")
    assert store.lose(run, "its worker died", is_final=False) == State.INTERRUPTED
    found = store.run("a")
    assert (found.state, found.slot, found.pid, found.process) == (State.INTERRUPTED, None, None, None)
    assert found.failure is None
    assert texts(store)[-1] == ("supervisor", "interrupted: its worker died")
    again = store.claim(CPU)
    assert (again.id, again.attempt, again.started_at) == ("a", 2, run.started_at)


def test_run_lost_for_the_last_time_fails_with_the_reason(store):
    run = started(store)
    assert store.lose(run, "its worker died", is_final=True) == State.FAILED
    found = store.run("a")
    assert (found.state, found.failure, found.slot) == (State.FAILED, "its worker died", None)
    assert found.finished_at is not None
    assert store.claim(CPU) is None


@pytest.mark.parametrize(("wish", "state"), [("stop", State.STOPPED), ("cancel", State.CANCELLED)])
@pytest.mark.parametrize("is_final", [False, True])
def test_lost_run_honours_the_wish(store, wish, state, is_final):
    before = started(store)  # a look from before the wish
    store.wish("a", wish, "ada")
    assert store.lose(before, "its worker died", is_final) == state
    found = store.run("a")
    assert (found.state, found.failure) == (state, None)
    assert found.finished_at is not None
    assert store.claim(CPU) is None


def test_run_is_lost_only_once(store):
    run = started(store)
    store.lose(run, "gone", is_final=False)
    store.claim(CPU)
    assert store.lose(run, "gone", is_final=True) is None
    assert store.run("a").state == State.RUNNING


# Curves and histories


def test_curve_is_read_in_increments(store):
    run = started(store)
    for step in (1, 2, 3):
        points = [Point("train/loss", step, step / 2, 1 / step), Point("val/loss", step, step / 2, 2 / step)]
        store.beat("a", run.attempt, Progress(), points)
    assert [point.step for point in store.curve("a")] == [1, 1, 2, 2, 3, 3]
    assert [point.step for point in store.curve("a", after_step=2)] == [3, 3]
    assert store.curve("a", after_step=3) == []
    assert store.curve("a", after_step=1, keys=["val/loss"]) == [
        Point("val/loss", 2, 1.0, 1.0),
        Point("val/loss", 3, 1.5, 2 / 3),
    ]


def test_step_before_training_is_part_of_the_curve(store):
    run = started(store)
    store.beat("a", run.attempt, Progress(), [Point("val/loss", 0, 0.0, 1.5)])
    assert [point.step for point in store.curve("a")] == [0]


def test_repeated_step_replaces_its_value(store):
    run = started(store)
    store.beat("a", run.attempt, Progress(), [Point("val/loss", 1, 0.5, 2.0), Point("val/loss", 2, 1.0, 1.0)])
    store.beat("a", run.attempt, Progress(), [Point("val/loss", 2, 1.0, 0.5)])
    assert [point.value for point in store.curve("a")] == [2.0, 0.5]


def test_new_attempt_begins_with_an_empty_curve_of_its_own(store):
    other = started(store, "b")
    store.beat("b", other.attempt, Progress(), [Point("val/loss", 1, 1.0, 7.0)])
    run = started(store)
    store.beat("a", run.attempt, Progress(), [Point("val/loss", 9, 1.0, 2.0)])
    store.lose(run, "gone", is_final=False)
    assert len(store.curve("a")) == 1, "the page goes on showing the old one until the new worker is there"
    store.bind("a", store.claim(TWO_CPUS).attempt, 1, "boot:1")
    assert store.curve("a") == []
    assert [point.value for point in store.curve("b")] == [7.0]


def test_history_keeps_the_order_and_the_actors(store):
    run = started(store)
    store.note("a", "worker", "fetched the weights")
    store.wish("a", "stop", "grace")
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


# The file


WRITE = """
store, run_id = dlkit.runs.store.open_store(Path(sys.argv[2])), f"{time.time_ns():x}"
store.add_run(run_id, Kind.FINETUNE, "x", {}, Slot.CPU, "ada")
for step in range(100):
    store.claim({Slot.CPU: [run_id]})
    store.note(run_id, "worker", f"step {step}")
    assert len(store.history(run_id)) >= step
print(run_id)
"""


def test_writers_at_once_wait_for_each_other(store, tmp_path):
    ids = [printed.strip() for printed in in_processes(WRITE, 3, tmp_path / "home")]
    for run_id in ids:
        assert [line.text for line in store.history(run_id) if line.actor == "worker"] == [
            f"step {step}" for step in range(100)
        ]


@pytest.fixture(params=["made at once", "migrated from nothing"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """The database after the store has opened it, by both ways to the newest form."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/store.sqlite3")
    if request.param == "migrated from nothing":
        with engine.begin() as connection:  # as alembic leaves it before the first migration
            connection.exec_driver_sql("create table alembic_version (version_num varchar(32) not null primary key)")
        engine.dispose()
    open_store(tmp_path)
    yield engine
    engine.dispose()


def test_file_has_the_tables_that_the_code_names(database):
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []
        assert context.get_current_revision() == migrations.HEAD
        assert sa.inspect(connection).get_pk_constraint("points")["constrained_columns"] == ["run_id", "key", "step"]


def test_migrated_file_is_used_like_a_new_one(database, tmp_path):
    store = open_store(tmp_path)
    run = started(store)
    store.beat("a", run.attempt, Progress("training"), [Point("val/loss", 1, 1.0, 0.5)])
    with database.connect() as connection:
        row = connection.execute(sa.select(tables.runs)).one()._asdict()
        again = tables.runs.insert().values(**{**row, "id": "b"})
        with pytest.raises(sa.exc.IntegrityError, match="sequence"):  # one place in the queue for each
            connection.execute(again)


def test_newest_migration_is_the_one_that_the_store_looks_for():
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_heads() == [migrations.HEAD]


def test_journal_is_a_write_ahead_log(database):
    with database.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


OPEN = """
dlkit.runs.store.open_store(Path(sys.argv[2])).list_runs()
print("alembic" in sys.modules)
"""


def test_store_of_this_version_is_opened_without_alembic(tmp_path):
    assert in_processes(OPEN, 1, tmp_path / "home") == ["False\n"], "nor is a new one made with it"
    assert in_processes(OPEN, 1, tmp_path / "home") == ["False\n"]


OPEN_MANY = """
for number in range(40):
    time.sleep(max(0, float(sys.argv[1]) + number / 20 - time.time()))
    dlkit.runs.store.open_store(Path(sys.argv[2]) / str(number)).list_runs()
"""


def test_four_processes_may_open_empty_folders_at_once(tmp_path):
    in_processes(OPEN_MANY, 4, tmp_path)
    assert all(open_store(tmp_path / str(number)).list_runs() == [] for number in range(40))


def test_runs_outlive_the_process_that_added_them(tmp_path):
    in_processes(WRITE, 1, tmp_path / "home")
    assert [run.state for run in open_store(tmp_path / "home").list_runs()] == [State.RUNNING]


@pytest.mark.parametrize("name", ["what?", "100%41", "a#b c", "ä&b=c"])
def test_folder_may_have_any_name(tmp_path, name):
    add(open_store(tmp_path / name))
    assert (tmp_path / name / "store.sqlite3").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"The data folder .*file/home cannot be made .* Set DLKIT_HOME"):
        open_store(tmp_path / "file" / "home")
