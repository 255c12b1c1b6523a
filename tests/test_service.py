"""What a person may do with a run, in every state it can be in: what is allowed is done, the rest is refused in words.

The store is real; nobody takes the runs from the queue, as no supervisor is started here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dlkit import files, machine
from dlkit.catalog.backbones import BACKBONES
from dlkit.config import parse
from dlkit.errors import ConfigError, DiskFullError, RunError, UnknownChoice
from dlkit.runs import service, tables
from dlkit.runs.records import Checkpoint, Failure, Kind, Priority, Progress, Run, Slot, State, Wish
from dlkit.runs.store import Beat, Store
from dlkit.settings import settings

SLOTS = {Slot.CPU: ["cpu0", "cpu1", "cpu2"], Slot.NETWORK: ["network0"]}
CONFIG = {"dataset": "shapes", "image_size": 64, "epochs": 4, "device": "cpu"}
NOTHING = "0" * 32
#: what the tests call the states of a run; a running one may be about to leave
STATES = [*State, "pausing", "stopping", "cancelling"]


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep supervisors from being started, and GPUs from being seen; the list counts who would have been started."""
    started: list[str] = []
    monkeypatch.setattr(service, "ensure_supervisor", lambda: started.append("supervisor"))
    monkeypatch.setattr(machine, "gpus", lambda: ())
    return started


@pytest.fixture
def store(home: Path) -> Store:
    return service.store()


def submit(**values: Any) -> Run:
    return service.submit({**CONFIG, **values})


def claim(store: Store, run: Run) -> Run:
    """Start this run, whatever else waits."""
    store.set_priority(run.id, Priority.HIGH, "test")
    found = store.claim(SLOTS)
    assert found is not None
    assert found.id == run.id
    return store.set_priority(run.id, Priority.NORMAL, "test")


def in_state(store: Store, state: str, **values: Any) -> Run:
    """Return a new run in one of STATES; one that has been at work has a checkpoint, and files in its folder."""
    run = submit(**values)
    if state == State.QUEUED:
        return run
    attempt = claim(store, run).attempt
    store.beat(run.id, attempt, Beat(step=8, checkpoints=(Checkpoint(1, 1, 7, "checkpoints/1.pt", 9, "0" * 64),)))
    for name in ("model", "checkpoints"):
        (service.run_folder(run.id) / name).mkdir(parents=True)
        (service.run_folder(run.id) / name / "1.pt").write_bytes(b"weights")
    (service.run_folder(run.id) / "log.txt").write_text("a log")
    if state in ("pausing", "stopping", "cancelling"):
        wish = {"pausing": Wish.PAUSE, "stopping": Wish.STOP, "cancelling": Wish.CANCEL}[state]
        return store.wish(run.id, wish, "ada")
    if state == State.INTERRUPTED:
        store.lose(store.run(run.id), "gone", 99)
    elif state == State.PAUSED:
        store.wish(run.id, Wish.PAUSE, "ada")
        store.finish(run.id, attempt, State.PAUSED, {})
    elif state != State.RUNNING:
        failure = ("Training diverged.", Failure.DIVERGED) if state == State.FAILED else (None, None)
        store.finish(run.id, attempt, State(state), {"val_accuracy": 0.5}, *failure)
    return store.run(run.id)


def name_of(run: Run) -> str:
    """Return the state of a run as STATES has it."""
    leaving = {Wish.PAUSE: "pausing", Wish.STOP: "stopping", Wish.CANCEL: "cancelling", None: run.state}
    return leaving[run.wish]


def rows(home: Path, without: str = "") -> dict[str, list[tuple[Any, ...]]]:
    """Return all that the store has of all runs, or of all but one."""
    engine = sa.create_engine(f"sqlite:///{home}/store.sqlite3")
    with engine.connect() as connection:
        found = {
            table.name: [
                tuple(row)
                for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))
                if without not in (getattr(row, "run_id", None), row[0])
            ]
            for table in tables.metadata.sorted_tables
        }
    engine.dispose()
    return found


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Every verb in every state

GOES_ON = [State.QUEUED, State.RUNNING, State.PAUSED, State.INTERRUPTED, "pausing"]

#: what each verb makes of the states in which it is allowed
VERBS: dict[str, tuple[Callable[[str], Any], dict[str, str]]] = {
    "pause": (
        service.pause,
        {"queued": "paused", "interrupted": "paused", "running": "pausing", "pausing": "pausing"},
    ),
    "stop": (
        service.stop,
        dict.fromkeys(("queued", "interrupted", "paused"), "stopped")
        | dict.fromkeys(("running", "pausing", "stopping"), "stopping"),
    ),
    "cancel": (
        service.cancel,
        dict.fromkeys(("queued", "interrupted", "paused"), "cancelled")
        | dict.fromkeys(("running", "pausing", "stopping", "cancelling"), "cancelling"),
    ),
    "resume": (service.resume, {"paused": "queued", "pausing": "running"}),
    "retry": (service.retry, {"failed": "queued", "cancelled": "queued"}),
    "retry at a rate": (lambda run_id: service.retry(run_id, learning_rate=1e-4), {"failed": "queued"}),
    "go on": (
        lambda run_id: service.go_on(run_id, 3),
        {state: state for state in GOES_ON} | {"stopped": "queued", "succeeded": "queued"},
    ),
    "change": (
        lambda run_id: service.change(run_id, "learning_rate", 0.01),
        {state: state for state in GOES_ON},
    ),
    "prioritise": (
        lambda run_id: service.prioritise(run_id, Priority.LOW),
        {state: state for state in [*GOES_ON, "stopping", "cancelling"]},
    ),
    "delete": (service.delete, dict.fromkeys(("paused", "succeeded", "stopped", "cancelled", "failed"), "")),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", VERBS)
def test_verb_does_what_the_state_allows_and_touches_no_other_run(store, home, verb, state):
    do, allowed = VERBS[verb]
    others = [in_state(store, other) for other in (State.FAILED, State.RUNNING, State.PAUSED, State.QUEUED)]
    run = in_state(store, state)
    beside = rows(home, without=run.id)
    files_beside = {other.id: contents(service.run_folder(other.id)) for other in others}
    everything, own_files = rows(home), contents(service.run_folder(run.id))
    if state in allowed:
        do(run.id)
        found = [other for other in store.list_runs() if other.id == run.id]
        assert [name_of(other) for other in found] == ([allowed[state]] if allowed[state] else [])
    else:
        named = {"pausing": "running|pause", "stopping": "running|stop", "cancelling": "running|cancel"}
        with pytest.raises(RunError, match=named.get(state, state)):
            do(run.id)
        assert rows(home) == everything, "what is refused changes nothing"
        assert contents(service.run_folder(run.id)) == own_files
    assert rows(home, without=run.id) == beside
    assert {other.id: contents(service.run_folder(other.id)) for other in others} == files_beside


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("run_id", [NOTHING, "", "../../etc/passwd", "A" * 32, "0" * 31])
def test_verb_for_a_run_that_is_not_there_is_refused(store, verb, run_id):
    with pytest.raises(RunError, match=r"There is no run|A run's id is 32 letters and digits"):
        VERBS[verb][0](run_id)


@pytest.mark.parametrize("verb", ["pause", "stop", "cancel", "resume", "retry", "retry at a rate"])
def test_verb_of_a_page_that_shows_an_older_state_is_refused(store, home, verb):
    """Two tabs: both have seen the run as it was, one was quicker."""
    verbs: dict[str, tuple[str, Callable[..., Any]]] = {
        "pause": (State.RUNNING, service.pause),
        "stop": (State.RUNNING, service.stop),
        "cancel": (State.RUNNING, service.cancel),
        "resume": (State.PAUSED, service.resume),
        "retry": (State.FAILED, service.retry),
        "retry at a rate": (State.FAILED, lambda *given, **more: service.retry(*given, **more, learning_rate=0.1)),
    }
    state, do = verbs[verb]
    run = in_state(store, state)
    before = rows(home)
    with pytest.raises(RunError, match=f"This run has changed meanwhile: it is {state}. Look again, then decide"):
        do(run.id, seen=run.version - 1)
    assert rows(home) == before
    do(run.id, seen=run.version)
    assert store.run(run.id).version > run.version
    with pytest.raises(RunError):
        do(run.id, seen=run.version - 1)


def test_verbs_that_queue_a_run_see_to_it_that_somebody_takes_it(store, calls):
    def count(do: Callable[[], Any]) -> int:
        calls.clear()
        do()
        return len(calls)

    assert count(lambda: submit()) == 1
    for state, do in [
        (State.PAUSED, service.resume),
        (State.FAILED, service.retry),
        (State.FAILED, VERBS["retry at a rate"][0]),
        (State.SUCCEEDED, VERBS["go on"][0]),
    ]:
        run = in_state(store, state)
        assert count(lambda do=do, run=run: do(run.id)) >= 1
    run = in_state(store, State.PAUSED)
    assert count(lambda: service.change(run.id, "learning_rate", 0.5)) == 0, "a paused run needs nobody"


# What a verb does to the files


@pytest.mark.parametrize("state", [State.PAUSED, State.SUCCEEDED, State.STOPPED, State.CANCELLED, State.FAILED])
def test_deleted_run_leaves_no_folder(store, state):
    run = in_state(store, state)
    assert service.run_folder(run.id).exists()
    service.delete(run.id)
    assert not service.run_folder(run.id).exists()


def test_cancelled_run_that_waited_keeps_its_log_alone(store):
    run = in_state(store, State.INTERRUPTED)
    service.cancel(run.id)
    assert [path.name for path in service.run_folder(run.id).iterdir()] == ["log.txt"]
    assert store.checkpoints(run.id) == []


@pytest.mark.parametrize("verb", ["pause", "stop"])
def test_run_that_is_paused_or_stopped_keeps_its_files(store, verb):
    run = in_state(store, State.INTERRUPTED)
    before = contents(service.run_folder(run.id))
    VERBS[verb][0](run.id)
    assert contents(service.run_folder(run.id)) == before
    assert len(store.checkpoints(run.id)) == 1


# Changes


@pytest.mark.parametrize(
    ("what", "value", "sentence"),
    [
        ("learning_rate", "-1", r"\(learning_rate\) must be a number from 1e-08 to 10"),
        ("learning_rate", "fast", r"\(learning_rate\) must be a number from 1e-08 to 10"),
        ("learning_rate", "nan", r"\(learning_rate\) must be a number from 1e-08 to 10"),
        ("learning_rate", "", "learning_rate must be a new value"),
        ("augmentation", "wild", r"\(augmentation\) must be one of none, light"),
        ("epochs", 4, "epochs must be a new value, of epochs a higher one; it is 4"),
        ("epochs", "3", "epochs must be a new value, of epochs a higher one; it is 4"),
        ("epochs", 1001, r"\(epochs\) must be a whole number from 1 to 1000"),
        ("epochs", "many", r"\(epochs\) must be a whole number from 1 to 1000"),
        ("frozen", "perhaps", "frozen must be true or false; got perhaps"),
        ("frozen", None, "frozen must be true or false; got None"),
    ],
)
def test_change_that_does_not_hold_is_said_in_a_sentence(store, home, what, value, sentence):
    run = in_state(store, State.RUNNING)
    before = rows(home)
    with pytest.raises(ConfigError, match=sentence) as raised:
        service.change(run.id, what, value)
    assert str(raised.value).endswith(".")
    assert rows(home) == before


@pytest.mark.parametrize("what", ["batch_size", "backbone", "micro_batch", "", "x" * 500])
def test_what_cannot_be_changed_is_said(store, what):
    run = in_state(store, State.RUNNING)
    with pytest.raises(RunError, match="learning_rate, augmentation, epochs, frozen can be changed") as raised:
        service.change(run.id, what, 1)
    assert len(str(raised.value)) < 200


def test_download_cannot_be_changed_nor_go_on(store):
    run = service.submit_fetch("dataset", "shapes")
    with pytest.raises(RunError, match="can be changed"):
        service.change(run.id, "learning_rate", 0.1)
    with pytest.raises(RunError, match="has kept nothing to continue from"):
        service.go_on(run.id, 3)


def test_change_is_recorded_as_a_value_and_is_part_of_the_settings(store):
    run = in_state(store, State.RUNNING)
    for what, text in [("learning_rate", "0.25"), ("augmentation", "strong"), ("epochs", "9")]:
        service.change(run.id, what, text, "ada")
    assert [(change.what, change.value, change.step, change.actor) for change in store.changes(run.id)] == [
        ("learning_rate", 0.25, None, "ada"),
        ("augmentation", "strong", None, "ada"),
        ("epochs", 9, None, "ada"),
    ]
    now = service.current_config(store.run(run.id))
    assert (now.learning_rate, now.augmentation, now.epochs) == (0.25, "strong", 9)
    assert service.config_of(store.run(run.id)).epochs == 4, "what was launched stays on record"
    with pytest.raises(ConfigError, match="it is 9"):
        service.change(run.id, "epochs", 8)


@pytest.mark.parametrize(("strategy", "first", "word"), [("head", "false", "learns"), ("full", "true", "is frozen")])
def test_backbone_is_frozen_and_let_learn_in_turn(store, strategy, first, word):
    run = in_state(store, State.RUNNING, strategy=strategy)
    second = {"true": "false", "false": "true"}[first]
    with pytest.raises(RunError, match=f"The backbone {'is frozen' if second == 'true' else 'learns'} already"):
        service.change(run.id, "frozen", second)
    service.change(run.id, "frozen", first)
    with pytest.raises(RunError, match=f"The backbone {word} already"):
        service.change(run.id, "frozen", first)
    service.change(run.id, "frozen", second)
    assert [change.value for change in store.changes(run.id)] == [first == "true", second == "true"]


def test_failed_run_is_tried_again_at_another_rate(store):
    run = in_state(store, State.FAILED)
    again = service.retry(run.id, "ada", learning_rate="0.0005")
    assert (again.state, again.failure, again.failure_kind) == (State.QUEUED, None, None)
    assert [(change.what, change.value) for change in store.changes(run.id)] == [("learning_rate", 0.0005)]
    assert len(store.checkpoints(run.id)) == 1, "it goes on from there"


def test_failed_run_is_not_tried_again_at_a_rate_that_does_not_hold(store, home):
    run = in_state(store, State.FAILED)
    before = rows(home)
    with pytest.raises(ConfigError, match="must be a number from"):
        service.retry(run.id, learning_rate="0")
    assert rows(home) == before


def test_diverged_run_goes_on_from_before_the_step_that_went_wrong(store):
    """The weights at that step give the same loss again, at whatever rate."""
    run = claim(store, submit())
    files = [Checkpoint(number, 1, step, f"checkpoints/{step}.pt", 9, "0" * 64) for number, step in ((1, 7), (2, 9))]
    store.beat(run.id, run.attempt, Beat(step=9, checkpoints=tuple(files)))
    store.finish(run.id, run.attempt, State.FAILED, {}, "Training diverged.", Failure.DIVERGED)
    failed = store.run(run.id)
    assert service.last_good_checkpoint(failed) == files[0]
    with pytest.raises(ConfigError):
        service.retry(run.id, learning_rate="much")
    with pytest.raises(RunError, match="has changed meanwhile"):
        service.retry(run.id, seen=failed.version - 1, learning_rate=1e-4)
    assert store.checkpoints(run.id) == files[::-1]
    service.retry(run.id, seen=failed.version, learning_rate=1e-4)
    assert store.checkpoints(run.id) == files[:1]


def test_failed_run_of_another_kind_goes_on_where_it_was_at_another_rate(store):
    run = claim(store, submit())
    newest = Checkpoint(1, 1, 9, "checkpoints/9.pt", 9, "0" * 64)
    store.beat(run.id, run.attempt, Beat(step=9, checkpoints=(newest,)))
    store.finish(run.id, run.attempt, State.FAILED, {}, "The picture is torn.", Failure.DATA)
    service.retry(run.id, learning_rate=1e-4)
    assert store.checkpoints(run.id) == [newest]


# More epochs


@pytest.mark.parametrize("state", [State.STOPPED, State.SUCCEEDED])
def test_ended_run_learns_for_more_epochs(store, state):
    run = in_state(store, state)
    assert service.go_on(run.id, "3").state == State.QUEUED
    assert [(change.what, change.value) for change in store.changes(run.id)] == [("epochs", 7)]
    service.go_on(run.id, 2)
    assert service.current_config(store.run(run.id)).epochs == 9


def test_stopped_run_may_learn_what_was_planned(store):
    run = in_state(store, State.STOPPED)
    assert service.go_on(run.id, 0).state == State.QUEUED
    assert store.changes(run.id) == []
    assert store.history(run.id)[-1].text == "asked to continue"


@pytest.mark.parametrize("epochs", [-1, 1001, "many", "", "2.5"])
def test_epochs_that_are_no_number_of_epochs_are_refused(store, home, epochs):
    run = in_state(store, State.STOPPED)
    before = rows(home)
    with pytest.raises(ConfigError, match="Epochs to continue for must be a whole number from 0 to 1000"):
        service.go_on(run.id, epochs)
    assert rows(home) == before


def test_no_more_epochs_for_a_run_that_has_learnt_all(store):
    run = in_state(store, State.SUCCEEDED)
    with pytest.raises(ConfigError, match="of epochs a higher one; it is 4"):
        service.go_on(run.id, 0)
    with pytest.raises(ConfigError, match=r"\(epochs\) must be a whole number from 1 to 1000"):
        service.go_on(run.id, 1000)
    assert store.run(run.id) == run


def test_run_that_has_kept_nothing_cannot_go_on(store):
    run = in_state(store, State.STOPPED)
    service.discard(run.id)
    with pytest.raises(RunError, match="This run has kept nothing to continue from"):
        service.go_on(run.id, 3)
    assert store.run(run.id) == run


# Submitting


def test_submission_with_the_same_token_is_the_same_run(store, home):
    first = service.submit(CONFIG, "ada", token="form 1")
    assert service.submit({**CONFIG, "epochs": 9}, "grace", token="form 1") == first
    assert service.submit(CONFIG, "ada", token="form 2").id != first.id
    assert len(store.list_runs()) == 2


def test_submission_has_the_priority_that_was_asked(store):
    submit()
    high = service.submit(CONFIG, priority=Priority.HIGH)
    assert service.queue()[0].run.id == high.id


@pytest.mark.parametrize("values", [{"epochs": 0}, {"backbone": "nothing"}, {"colour": "red"}])
def test_submission_that_does_not_hold_leaves_no_run(store, calls, values):
    with pytest.raises(ConfigError):
        submit(**values)
    assert store.list_runs() == calls == []


def test_download_that_waits_or_goes_on_is_not_queued_twice(store):
    first = service.submit_fetch("dataset", "cifar-10")
    assert service.submit_fetch("dataset", "cifar-10") == first
    assert service.submit_fetch("backbone", "resnet18").id != first.id
    with pytest.raises(UnknownChoice):
        service.submit_fetch("dataset", "nothing")


def test_run_without_room_is_refused_before_it_is_a_run(store, calls, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda folder: 1_000_000)
    with pytest.raises(DiskFullError, match=r"Disk full: 1 MB free, .* MB needed\. Make room\.") as raised:
        submit()
    assert store.list_runs() == calls == []
    assert raised.value.free == 1_000_000
    monkeypatch.setattr(files, "free_bytes", lambda folder: raised.value.needed)
    assert submit().state == State.QUEUED, "what was said to be needed is enough"


def test_room_is_asked_for_what_learns(store, monkeypatch):
    def needed(**values: Any) -> int:
        monkeypatch.setattr(files, "free_bytes", lambda folder: 0)
        with pytest.raises(DiskFullError) as raised:
            submit(**values)
        return int(raised.value.needed)

    weights = 4 * BACKBONES["efficientnet-lite0"].parameters
    head, full, averaged = needed(), needed(strategy="full"), needed(strategy="full", ema_decay=0.9)
    assert 2 * weights < head < 3 * weights, "two models; a head is small"
    assert full > 11 * weights, "and three times the weights with what Adam keeps of them"
    assert averaged > full + 3 * weights


# The queue


def remember(store: Store, seconds_per_epoch: float, **values: Any) -> None:
    """Leave a run that succeeded, of as many epochs as CONFIG has, at so many seconds for each."""
    run = submit(**values)
    attempt = claim(store, run).attempt
    epochs = run.config["epochs"]
    store.beat(run.id, attempt, Beat(worked=seconds_per_epoch * epochs))
    store.finish(run.id, attempt, State.SUCCEEDED, {"epochs": epochs})


def working(store: Store, seconds_left: float | None, **values: Any) -> Run:
    run = claim(store, submit(**values))
    store.beat(run.id, run.attempt, Beat(Progress("training", 0.5, seconds_left)))
    return run


def use_cpu_slots(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv("DLKIT_CPU_SLOTS", str(count))
    settings.cache_clear()


def starts(store: Store) -> list[float | None]:
    return [waiting.starts_in for waiting in service.queue()]


def test_queue_has_the_places_in_the_order_in_which_runs_are_claimed(store):
    in_state(store, State.PAUSED)
    in_state(store, State.FAILED)
    runs = [submit() for _ in range(3)]
    service.prioritise(runs[2].id, Priority.HIGH)
    queue = service.queue()
    assert [(waiting.place, waiting.run.id) for waiting in queue] == [
        (1, runs[2].id),
        (2, runs[0].id),
        (3, runs[1].id),
    ]
    for waiting in queue:
        found = store.claim({Slot.CPU: ["cpu0"]})
        assert found.id == waiting.run.id
        store.finish(found.id, found.attempt, State.FAILED, {}, "why")
    assert service.queue() == []


def test_next_run_starts_when_the_one_at_work_ends(store):
    working(store, 30.0)
    submit()
    assert starts(store) == [30.0]


def test_later_runs_start_after_what_runs_like_them_took(store):
    for seconds in (9.0, 10.0, 50.0):  # 10 is in the middle
        remember(store, seconds)
    working(store, 30.0)
    submit()
    submit(epochs=2)
    submit()
    assert starts(store) == [30.0, 70.0, 90.0]


def test_start_after_a_run_unlike_all_before_is_not_known(store):
    remember(store, 10.0)
    working(store, 30.0)
    submit(image_size=96)
    submit()
    assert starts(store) == [30.0, None]


def test_start_is_not_known_where_the_end_of_the_one_at_work_is_not(store):
    remember(store, 10.0)
    working(store, None)
    submit()
    submit()
    assert starts(store) == [None, None]


def test_two_slots_are_filled_as_they_become_free(store, monkeypatch):
    use_cpu_slots(monkeypatch, 2)
    remember(store, 10.0)
    working(store, 30.0)
    working(store, 100.0)
    for _ in range(4):
        submit()
    assert starts(store) == [30.0, 70.0, 100.0, 110.0]


def test_free_slot_is_taken_at_once_although_the_end_of_the_other_is_not_known(store, monkeypatch):
    use_cpu_slots(monkeypatch, 2)
    remember(store, 10.0)
    working(store, None)
    submit()
    submit()
    assert starts(store) == [0.0, None]


def test_head_epochs_count_where_every_layer_learns(store):
    remember(store, 10.0, strategy="full", head_epochs=1)
    working(store, 5.0)
    submit(strategy="full", head_epochs=6)
    submit()
    assert starts(store) == [5.0, 105.0]


def test_downloads_do_not_wait_for_training(store):
    working(store, 30.0)
    submit()
    service.submit_fetch("dataset", "cifar-10")
    assert [(waiting.run.kind, waiting.starts_in) for waiting in service.queue()] == [
        (Kind.FINETUNE, 30.0),
        (Kind.FETCH, 0.0),
    ]


def test_start_on_a_machine_whose_gpu_is_gone_is_not_known(store):
    store.add_run("1" * 32, Kind.FINETUNE, "needs a GPU", CONFIG, Slot.GPU, "ada")
    assert starts(store) == [None]


def test_queue_is_empty_where_nothing_waits(store):
    working(store, 30.0)
    assert service.queue() == []


# Finding


def test_run_is_found_by_the_beginning_of_its_id(store):
    run = submit()
    assert service.find(run.id[:8]) == run
    for text in ("", "x", "%"):
        with pytest.raises(RunError, match="No run begins with"):
            service.find(text)
    for number in range(17):  # two of them begin alike
        store.add_run(f"{number % 16:x}{number:031x}", Kind.FINETUNE, "x", {}, Slot.CPU, "ada")
    with pytest.raises(RunError, match="runs begin with '0'"):
        service.find("0")


def test_settings_of_a_version_that_is_not_read_here_are_none(store):
    run = store.add_run(NOTHING, Kind.FINETUNE, "x", {"colour": "red"}, Slot.CPU, "ada")
    assert service.config_of(run) is service.current_config(run) is None
    with pytest.raises(RunError, match="has kept nothing to continue from"):
        service.go_on(run.id, 1)


def test_every_state_is_tried_here():
    assert set(STATES) == {*State, "pausing", "stopping", "cancelling"}
    assert {state for _, allowed in VERBS.values() for state in allowed} == set(STATES)


# What was left behind


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.INTERRUPTED])
def test_work_that_a_crash_has_left_gets_a_supervisor(store, monkeypatch, state):
    in_state(store, state)
    started: list[int] = []
    monkeypatch.setattr(service, "ensure_supervisor", lambda: started.append(1))
    service.keep_going()
    assert started


def test_nothing_to_do_needs_no_supervisor(store, monkeypatch):
    in_state(store, State.SUCCEEDED)
    monkeypatch.setattr(service, "ensure_supervisor", lambda: pytest.fail("nobody needs one"))
    service.keep_going()


def test_download_that_was_paused_goes_on_when_it_is_asked_for_again(store):
    fetch = service.submit_fetch("dataset", "cifar-10")
    service.pause(fetch.id)
    again = service.submit_fetch("dataset", "cifar-10")
    assert (again.id, again.state) == (fetch.id, State.QUEUED)


# Searching a learning rate


def test_search_is_of_the_settings_that_matter_to_it(store):
    run = service.submit_find({**CONFIG, "learning_rate": 3, "schedule": "step", "decay_epochs": 2, "name": "mine"})
    assert (run.kind, run.needs, run.state) == (Kind.FIND, Slot.CPU, State.QUEUED)
    for beside in ({"epochs": 9}, {"ema_decay": 0.9}, {"early_stopping": 3}, {"learning_rate": 1e-3}):
        assert service.submit_find({**CONFIG, **beside}) == run
    for other in ({"batch_size": 16}, {"optimizer": "sgd"}, {"seed": 1}, {"strategy": "full"}, {"weight_decay": 0.5}):
        assert service.submit_find({**CONFIG, **other}).id != run.id


def test_search_is_validated_like_a_training(store):
    with pytest.raises(ConfigError, match="Epochs"):
        service.submit_find({"epochs": 0})
    assert store.list_runs() == []


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_search_that_has_ended_is_begun_anew(store, state):
    run = service.submit_find(CONFIG)
    store.finish(run.id, claim(store, run).attempt, state, {})
    assert service.submit_find(CONFIG).id != run.id


def test_paused_search_goes_on_when_it_is_asked_for_again(store):
    run = service.submit_find(CONFIG)
    service.pause(run.id)
    again = service.submit_find(CONFIG)
    assert (again.id, again.state) == (run.id, State.QUEUED)


def test_last_searches_stay_and_no_training_goes_with_the_others(store):
    training = in_state(store, State.SUCCEEDED)
    made = []
    for seed in range(service.KEPT_SEARCHES + 3):
        made.append(service.submit_find({**CONFIG, "seed": seed}))
        service.cancel(made[-1].id)
    waiting = service.submit_find(CONFIG)
    assert store.list_runs(Kind.FIND) == [
        waiting,
        *(service.run(run.id) for run in made[: -service.KEPT_SEARCHES : -1]),
    ]
    assert store.list_runs(Kind.FINETUNE) == [training]


def test_latest_search_for_such_settings_is_found(store):
    config = parse(CONFIG)
    assert service.latest_find(config) is None
    first = service.submit_find(config)
    assert service.latest_find(parse({**CONFIG, "epochs": 77})) == first
    assert service.latest_find(parse({**CONFIG, "batch_size": 5})) is None
    store.finish(first.id, claim(store, first).attempt, State.SUCCEEDED, {})
    second = service.submit_find(config)
    service.cancel(second.id)
    assert service.latest_find(config) == service.run(first.id)


def test_settings_that_differ_from_a_search_are_named(store):
    run = service.submit_find(CONFIG)
    assert service.differences(run, parse({**CONFIG, "epochs": 1, "name": "x", "learning_rate": 2})) == []
    changed = parse({**CONFIG, "batch_size": 8, "optimizer": "adagrad"})
    assert service.differences(run, changed) == ["Optimizer", "Batch size"], "not what follows from these"


def test_search_cannot_be_changed_continued_or_told_to_learn_otherwise(store):
    run = service.submit_find(CONFIG)
    for verb in (
        lambda: service.change(run.id, "learning_rate", 0.1),
        lambda: service.go_on(run.id, 3),
    ):
        with pytest.raises(RunError):
            verb()
    assert service.run(run.id) == run


def test_start_behind_a_search_is_not_known(store, monkeypatch):
    use_cpu_slots(monkeypatch, 1)
    remember(store, 10.0)
    working(store, 5.0)
    service.submit_find(CONFIG)
    submit()
    assert starts(store) == [5.0, None]


# Measuring


def test_measuring_is_of_the_settings_that_matter_to_it(store):
    run = service.submit_measure({**CONFIG, "batch_size": 16, "epochs": 3})
    assert (run.kind, run.needs, run.state) == (Kind.MEASURE, Slot.CPU, State.QUEUED)
    for beside in ({"epochs": 9}, {"strategy": "full"}, {"batch_size": 5}, {"optimizer": "sgd"}, {"seed": 4}):
        assert service.submit_measure({**CONFIG, **beside}) == run
    for other in ({"dataset": "flowers-mini"}, {"image_size": 128}, {"precision": "float32"}, {"backbone": "resnet18"}):
        assert service.submit_measure({**CONFIG, **other}).id != run.id


def test_measuring_begins_with_the_strategy_that_was_chosen_and_goes_on_when_another_is(store):
    asked = {**CONFIG, "strategy": "partial", "unfreeze_from": "last-half"}
    run = service.submit_measure(asked)
    assert (run.config["strategy"], run.config["unfreeze_from"]) == ("partial", "last-half")
    assert service.submit_measure({**asked, "strategy": "partial", "epochs": 99}) == run
    assert service.submit_measure({**CONFIG, "strategy": "full"}).id == service.submit_measure(CONFIG).id
    assert service.submit_measure({**CONFIG, "strategy": "partial"}).id != run.id, "other layers"


def test_newest_measuring_of_such_settings_is_found_also_when_it_has_ended(store):
    config = parse(CONFIG)
    assert service.latest_measure(config) is None
    run = service.submit_measure(config)
    assert service.latest_measure(parse({**CONFIG, "epochs": 77})) == run
    assert service.latest_measure(parse({**CONFIG, "image_size": 96})) is None
    service.cancel(run.id)
    assert service.latest_measure(config).state == State.CANCELLED
    assert service.submit_measure(config).id != run.id
