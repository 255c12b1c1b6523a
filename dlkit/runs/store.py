"""The store: the only truth about runs, in SQLite or, where the settings name one, in PostgreSQL.

Many processes read and write it at once (server, supervisor, workers, commands). Writing transactions come one after
the other: in SQLite each begins with BEGIN IMMEDIATE, as one that reads first and writes later fails at once where
another writes, whatever the busy timeout; in PostgreSQL each takes one advisory lock first. `attempt` is the fencing
token: what a worker writes counts only while its attempt is the run's and the run is running.
Does not know torch, configs' meaning, or processes.
"""

import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dlkit.errors import RunError, StoreError
from dlkit.runs.migrations import HEAD
from dlkit.runs.records import (
    ACTIVE,
    ENDED,
    EPOCH_KEYS,
    STEP_KEYS,
    WAITING,
    WISHED,
    Change,
    Checkpoint,
    Failure,
    Happening,
    Kind,
    Point,
    Priority,
    Progress,
    Run,
    Slot,
    State,
    Wish,
    in_words,
    now,
)
from dlkit.runs.tables import changes, checkpoints, happenings, metadata, points, runs

BUSY_SECONDS = 30
CONNECT_SECONDS = 10
#: what may be asked of a run -> what is then done with it
PAST = {
    "pause": "paused",
    "stop": "stopped",
    "cancel": "cancelled",
    "resume": "resumed",
    "retry": "tried again",
    "continue": "continued",
}
ACTOR_LETTERS = 80
ADVISORY_LOCK = 0x646C6B69  # any number that others in the same database do not use


@dataclass(frozen=True)
class Beat:
    """What a worker has to tell twice a second."""

    progress: Progress = field(default_factory=Progress)
    points: tuple[Point, ...] = ()
    step: int = 0
    worked: float | None = None
    checkpoints: tuple[Checkpoint, ...] = ()


@lru_cache(maxsize=4)
def open_store(folder: Path, url: str = "") -> "Store":
    """Return the store of this data folder, made or brought up to date where needed.

    With `url` (postgresql://…) the rows lie there. A folder that cannot be written gives a store that can be read only.
    """
    if url:
        try:
            return Store(_connect_postgres(url))
        except sa.exc.ProgrammingError:  # an option that PostgreSQL does not know
            raise StoreError("DLKIT_DATABASE_URL must be postgresql://user:password@host/database.") from None
    with suppress(OSError):  # it is read only, or cannot be at all: whoever writes is told
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        return Store(_connect_unwritable(folder / "store.sqlite3"), folder)
    return Store(_connect(folder / "store.sqlite3"))


def _connect(path: Path) -> sa.Engine:
    url = sa.URL.create("sqlite", database=str(path))  # made of parts: a folder's name may have a ? in it
    engine = sa.create_engine(url, connect_args={"isolation_level": None, "timeout": BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        _use_write_ahead_log(connection)
        connection.execute("PRAGMA synchronous=NORMAL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        is_write = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")

    return engine


def _connect_unwritable(path: Path) -> sa.Engine:
    """Return an engine that reads what is there, or an empty store; what nobody can write stands still."""

    def connect() -> sqlite3.Connection:
        if path.exists():
            # immutable needs no file beside it, and does not read the log that a writer has left there
            still = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
            return sqlite3.connect(f"{path.as_uri()}?mode=ro{still}", uri=True, check_same_thread=False)
        return sqlite3.connect(":memory:", check_same_thread=False)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.StaticPool)
    if not path.exists():
        metadata.create_all(engine)
    return engine


def _connect_postgres(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() != "postgresql":
            raise StoreError("DLKIT_DATABASE_URL must begin with postgresql://. Without it the store is a file.")
        engine = sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={"connect_timeout": CONNECT_SECONDS},
        )
    except (sa.exc.ArgumentError, ValueError):  # the latter of a port that is no number
        raise StoreError("DLKIT_DATABASE_URL must be postgresql://user:password@host/database. It is not.") from None
    except ModuleNotFoundError:
        raise StoreError('PostgreSQL needs its driver, which is not here: pip install "psycopg[binary]".') from None

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("write", False):
            patience = f"set_config('lock_timeout', '{int(BUSY_SECONDS * 1000)}', true)"
            connection.exec_driver_sql(f"select {patience}, pg_advisory_xact_lock({ADVISORY_LOCK})")

    return engine


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL, where it stays; SQLite 3 fails at once where two processes do so at the same moment."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


class Store:
    """Runs, curves and histories; each method is one transaction.

    A method raises RunError where the run's state forbids what was asked, StoreError where the database cannot be
    reached or written now: a full disk, a lock that is held for longer than BUSY_SECONDS, a server that is gone.
    """

    def __init__(self, engine: sa.Engine, unwritable: Path | None = None) -> None:
        self._engine, self.unwritable = engine, unwritable
        if unwritable is None:
            self._migrate()

    # -- what pages and commands do -------------------------------------------------------------------------------

    def add_run(
        self,
        run_id: str,
        kind: Kind,
        name: str,
        config: Mapping[str, Any],
        needs: Slot,
        actor: str,
        priority: Priority = Priority.NORMAL,
        token: str | None = None,
    ) -> Run:
        """Put a run at the end of the queue; where one with this token is there already, return that one."""
        with self._write() as connection:
            known = _of_token(connection, token)
            if known is not None:
                return known
            sequence = 1 + (connection.scalar(sa.select(sa.func.max(runs.c.sequence))) or 0)
            connection.execute(
                runs.insert().values(
                    id=run_id,
                    kind=kind,
                    name=name,
                    state=State.QUEUED,
                    config=dict(config),
                    needs=needs,
                    sequence=sequence,
                    priority=priority,
                    place=_last_place(connection),
                    attempt=0,
                    token=token,
                    created_at=_stamp(),
                    progress={},
                    summary={},
                )
            )
            _note(connection, run_id, actor, "launched")
            return _one(connection, run_id)

    def run_of_token(self, token: str | None) -> Run | None:
        """Return the run that was submitted with this token."""
        with self._read() as connection:
            return _of_token(connection, token)

    def run(self, run_id: str) -> Run:
        """Return one run; raise RunError where there is none of that id."""
        with self._read() as connection:
            return _one(connection, run_id)

    def count_runs(self, kind: Kind) -> int:
        """Return how many runs of a kind there are."""
        with self._read() as connection:
            return connection.scalar(sa.select(sa.func.count()).where(runs.c.kind == kind)) or 0

    def list_runs(self, kind: Kind | None = None, limit: int | None = None, offset: int = 0) -> list[Run]:
        """Return runs, the newest first: all of them, or `limit` from `offset` on."""
        query = sa.select(runs).order_by(runs.c.sequence.desc()).limit(limit).offset(offset)
        if kind is not None:
            query = query.where(runs.c.kind == kind)
        with self._read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def find_runs(self, beginning: str) -> list[Run]:
        """Return the runs whose id begins so, newest first."""
        query = sa.select(runs).where(runs.c.id.startswith(beginning, autoescape=True))
        with self._read() as connection:
            return [_record(row) for row in connection.execute(query.order_by(runs.c.sequence.desc()))]

    def wish(self, run_id: str, wish: Wish, actor: str, seen: int | None = None) -> Run:
        """Ask a run to pause, stop or cancel: at once where it waits or stands, else its worker is told.

        `seen` is the version that the asker has looked at; RunError where the run has changed since. RunError too where
        it has ended, or where something stronger has been asked already.
        """
        with self._write() as connection:
            run = _seen(connection, run_id, seen)
            if run.wish == wish and run.state == State.RUNNING:
                return run
            if run.has_ended or (run.state == State.PAUSED and wish == Wish.PAUSE):
                raise RunError(f"This run cannot be {PAST[wish]} any more: it is {run.state} already.")
            if run.wish and list(Wish).index(run.wish) > list(Wish).index(wish):
                raise RunError(f"This run cannot be {PAST[wish]} any more: it was asked to {run.wish}.")
            if run.state == State.RUNNING:
                _set(connection, run_id, wish=wish)
            else:
                ended = _stamp() if WISHED[wish] in ENDED else None
                cleared = dict.fromkeys(("awaits_bytes", "failure", "failure_kind"))
                _set(connection, run_id, state=WISHED[wish], finished_at=ended, **cleared)
            _note(connection, run_id, actor, f"asked to {wish}")
            return _one(connection, run_id)

    def requeue(self, run_id: str, verb: str, allowed: Iterable[State], actor: str, seen: int | None = None) -> Run:
        """Put a paused or ended run at the end of the queue again; a wish to pause that was not met yet is withdrawn.

        `verb` is what the history says was asked.
        """
        with self._write() as connection:
            run = _seen(connection, run_id, seen)
            if run.state == State.RUNNING and run.wish == Wish.PAUSE and State.PAUSED in allowed:
                _set(connection, run_id, wish=None)
            elif run.state in allowed:
                _queue_again(connection, run_id)
                if run.state == State.CANCELLED:  # it kept nothing, so it begins anew
                    _set(connection, run_id, step=0, mark=0)
                    connection.execute(points.delete().where(_of(points, run_id)))
            else:
                raise RunError(f"This run cannot be {PAST[verb]}: it is {run.state}.")
            _note(connection, run_id, actor, f"asked to {verb}")
            return _one(connection, run_id)

    def set_priority(self, run_id: str, priority: Priority, actor: str) -> Run:
        """Let a run go before or after the others of the queue."""
        with self._write() as connection:
            run = _one(connection, run_id)
            if run.has_ended:
                raise RunError(f"Only a run that has not ended has a priority; this one is {run.state}.")
            if run.priority != priority:
                first = connection.scalar(sa.select(sa.func.min(runs.c.place))) or 0
                place = first - 1 if priority == Priority.HIGH else run.place
                _set(connection, run_id, priority=priority, place=place)
                _note(connection, run_id, actor, f"priority {priority.name.lower()}")
            return _one(connection, run_id)

    def add_change(
        self, run_id: str, what: str, value: Any, actor: str, requeue: Iterable[State] = (), seen: int | None = None
    ) -> Run:
        """Ask for a change of a run that has not ended; in a state of `requeue` it is also queued again for it."""
        with self._write() as connection:
            run = _seen(connection, run_id, seen)
            if run.state in requeue:
                _queue_again(connection, run_id)
            elif run.has_ended or run.wish in (Wish.STOP, Wish.CANCEL):
                raise RunError(f"Only a run that goes on can be changed; this one is {run.wish or run.state}.")
            number = _next_change(connection, run_id)
            row = {"run_id": run_id, "number": number, "what": what, "value": value, "actor": actor}
            connection.execute(changes.insert().values(row))
            _note(connection, run_id, actor, f"asked for {in_words(what, value)}")
            return _one(connection, run_id)

    def changes(self, run_id: str) -> list[Change]:
        """Return what was changed of a run, in the order in which it was asked."""
        with self._read() as connection:
            return _changes(connection, run_id)

    def delete_run(self, run_id: str) -> None:
        """Forget a run that has ended or is paused."""
        with self._write() as connection:
            run = _one(connection, run_id)
            if run.is_active:
                raise RunError(f"Only a run that has ended can be deleted; this one is {run.state}. Stop it first.")
            for table in (points, happenings, changes, checkpoints):
                connection.execute(table.delete().where(_of(table, run_id)))
            connection.execute(runs.delete().where(runs.c.id == run_id))

    def curve(
        self, run_id: str, after_step: int = -1, keys: Iterable[str] = (*STEP_KEYS, *EPOCH_KEYS), every: int = 1
    ) -> list[Point]:
        """Return the points past a step, in the order of the steps; of what each step has, those of every n-th one."""
        query = (
            sa.select(points)
            .where(_of(points, run_id), points.c.key.in_(tuple(keys)), points.c.step > after_step)
            .order_by(points.c.step)
        )
        if every > 1:
            query = query.where(sa.or_(points.c.key.not_in(STEP_KEYS), points.c.step % every == 0))
        with self._read() as connection:
            return [Point(row.key, row.step, row.epoch, row.value) for row in connection.execute(query)]

    def history(self, run_id: str) -> list[Happening]:
        """Return what happened to a run, oldest first."""
        query = sa.select(happenings).where(_of(happenings, run_id)).order_by(happenings.c.id)
        with self._read() as connection:
            return [Happening(_time(row.at), row.actor, row.text) for row in connection.execute(query)]

    def checkpoints(self, run_id: str) -> list[Checkpoint]:
        """Return the checkpoints of a run, newest first."""
        query = sa.select(checkpoints).where(_of(checkpoints, run_id)).order_by(checkpoints.c.number.desc())
        names = [column.name for column in checkpoints.columns if column.name != "run_id"]
        with self._read() as connection:
            return [Checkpoint(**{name: row._mapping[name] for name in names}) for row in connection.execute(query)]

    def forget_checkpoints(self, run_id: str, numbers: Iterable[int]) -> None:
        """Remove checkpoints whose files are gone or about to go."""
        with self._write() as connection:
            connection.execute(
                checkpoints.delete().where(_of(checkpoints, run_id), checkpoints.c.number.in_(tuple(numbers)))
            )

    # -- what the supervisor does ---------------------------------------------------------------------------------

    def claim(self, slots: Mapping[Slot, list[str]]) -> Run | None:
        """Give the first waiting run that a free slot fits its slot and a new attempt, in one transaction."""
        order = (runs.c.priority.desc(), runs.c.place)
        with self._write() as connection:
            taken = set(connection.scalars(sa.select(runs.c.slot).where(runs.c.state == State.RUNNING)))
            free = {kind: slot for kind, names in slots.items() for slot in reversed(names) if slot not in taken}
            fits = sa.select(runs).where(runs.c.state.in_(WAITING), runs.c.needs.in_(tuple(free)))
            row = connection.execute(fits.order_by(*order).limit(1)).one_or_none()
            return None if row is None else _start(connection, row, free[Slot(row.needs)])

    def has_work(self) -> bool:
        """Tell whether a run is waiting or at work, or would be if there were room on the disk."""
        is_work = sa.or_(runs.c.state.in_(ACTIVE), runs.c.awaits_bytes.is_not(None))
        with self._read() as connection:
            return connection.scalar(sa.select(sa.exists().where(is_work))) is True

    def active(self) -> list[Run]:
        """Return the runs that are at work or wait, in the order in which they go."""
        query = sa.select(runs).where(runs.c.state.in_(ACTIVE))
        order = (sa.case((runs.c.state == State.RUNNING, 0), else_=1), runs.c.priority.desc(), runs.c.place)
        with self._read() as connection:
            return [_record(row) for row in connection.execute(query.order_by(*order))]

    def running(self) -> list[Run]:
        """Return the runs that are at work."""
        return [run for run in self.active() if run.state == State.RUNNING]

    def awaiting_room(self) -> list[Run]:
        """Return the runs that are paused until there is room on the disk."""
        with self._read() as connection:
            query = sa.select(runs).where(runs.c.awaits_bytes.is_not(None), runs.c.state == State.PAUSED)
            return [_record(row) for row in connection.execute(query.order_by(runs.c.place))]

    def lose(self, run: Run, reason: str, attempts: int, is_alive: bool = False) -> State | None:
        """Record that this attempt's worker is gone: to be taken up again, or failed where that happened too often.

        Too often is `attempts` times in a row without a new step. Returns the new state; None where the run was no
        longer this attempt's, or is not what it was judged by: its worker has begun, or, where it `is_alive` and was
        judged by its silence or by a wish, has shown life.
        """
        with self._write() as connection:
            row = connection.execute(sa.select(runs).where(runs.c.id == run.id)).one_or_none()
            if row is None or row.pid != run.pid or (is_alive and row.beat_at and _time(row.beat_at) != run.beat_at):
                return None
            fruitless = 0 if row.step > row.mark else row.fruitless + 1
            values: dict[str, Any] = {"fruitless": fruitless}
            text = reason if fruitless == 0 else f"{reason} (attempt {fruitless} of {attempts} without a new step)"
            state = State.INTERRUPTED
            if row.wish:  # the user asked for an end, and this is one; may be younger than `run`
                state = WISHED[Wish(row.wish)]
                values["finished_at"] = None if state == State.PAUSED else _stamp()
            elif fruitless >= attempts:
                state = State.FAILED
                values |= {"finished_at": _stamp(), "failure": text, "failure_kind": Failure.CRASHES}
            if not _leave(connection, run.id, run.attempt, state, **values):
                return None
            _note(connection, run.id, "supervisor", f"{state}: {text}")
            return state

    def requeue_where_room(self, run: Run, text: str) -> None:
        """Queue a run again that was paused for lack of room."""
        with self._write() as connection:
            if connection.scalar(sa.select(runs.c.awaits_bytes).where(runs.c.id == run.id)) is not None:
                _set(connection, run.id, state=State.QUEUED, awaits_bytes=None, failure=None, failure_kind=None)
                _note(connection, run.id, "supervisor", text)

    # -- what a worker does ---------------------------------------------------------------------------------------

    def bind(self, run_id: str, attempt: int, pid: int, process: str) -> bool:
        """Take the run for this worker process; False where it is not this attempt's any more."""
        with self._write() as connection:
            return _set(connection, run_id, attempt, pid=pid, process=process, beat_at=_stamp())

    def beat(self, run_id: str, attempt: int, beat: Beat) -> tuple[Wish | None, list[Change]]:
        """Show life and write what is new, all or nothing; return what the user wishes, and the changes of the run.

        RunError where the run is no longer this attempt's.
        """
        with self._write() as connection:
            step = connection.scalar(sa.select(runs.c.step).where(runs.c.id == run_id)) or 0
            values: dict[str, Any] = {"beat_at": _stamp(), "progress": _finite(asdict(beat.progress))}
            values |= {"step": beat.step} if beat.step > step else {}
            values |= {"worked": beat.worked} if beat.worked is not None else {}
            if not _set(connection, run_id, attempt, **values):
                raise RunError("This run has been taken over or has ended; its old worker writes no more.")
            rows = [{"run_id": run_id, **asdict(point)} for point in beat.points if math.isfinite(point.value)]
            if rows:
                statement = self._upsert(points)
                newer = {"value": statement.excluded.value, "epoch": statement.excluded.epoch}
                connection.execute(
                    statement.on_conflict_do_update(index_elements=["run_id", "key", "step"], set_=newer), rows
                )
            for checkpoint in beat.checkpoints:  # it is there already where only the answer to the last beat was lost
                row = self._upsert(checkpoints).values(run_id=run_id, **asdict(checkpoint))
                connection.execute(row.on_conflict_do_nothing())
            wish = connection.scalar(sa.select(runs.c.wish).where(runs.c.id == run_id))
            return Wish(wish) if wish else None, _changes(connection, run_id)

    def apply_change(self, run_id: str, attempt: int, change: Change, step: int, note: str = "") -> Change:
        """Record, before it is done, that a change takes effect after this step; what was beyond it will not come.

        A change of the number 0 is the worker's own and gets a number. RunError where the run is no longer this
        attempt's.
        """
        with self._write() as connection:
            if not _set(connection, run_id, attempt, step=step, mark=min(step, _one(connection, run_id).mark)):
                raise RunError("This run has been taken over or has ended; its old worker changes nothing.")
            number = change.number or _next_change(connection, run_id)
            row = {"what": change.what, "value": change.value, "step": step, "actor": change.actor}
            if change.number:
                # an earlier one of the same kind, made by an attempt that came further, would come after this one
                earlier = sa.and_(changes.c.what == change.what, changes.c.number < number, changes.c.step > step)
                connection.execute(changes.update().where(_of(changes, run_id), earlier).values(step=step))
                connection.execute(
                    changes.update().where(_of(changes, run_id), changes.c.number == number).values(step=step)
                )
            else:
                connection.execute(changes.insert().values(run_id=run_id, number=number, **row))
            connection.execute(points.delete().where(_of(points, run_id), points.c.step > step))
            text = note or f"{in_words(change.what, change.value)} from step {step + 1} on"
            _note(connection, run_id, "worker", text)
            return Change(number, **row)

    def finish(
        self,
        run_id: str,
        attempt: int,
        state: State,
        summary: Mapping[str, Any],
        failure: str | None = None,
        kind: Failure | None = None,
        awaits_bytes: int | None = None,
    ) -> State | None:
        """End the run, or leave it paused or interrupted; return how, None where it was no longer this attempt's.

        The state may be another than the worker says: a wish that it has not heard of holds, and a wish to pause that
        was withdrawn, or more epochs that were asked for during the last step, put the run back into the queue.
        """
        with self._write() as connection:
            wish = connection.scalar(sa.select(runs.c.wish).where(runs.c.id == run_id))
            asked = [change.what for change in _changes(connection, run_id) if change.step is None]
            if state == State.SUCCEEDED and "epochs" in asked:
                state = State.INTERRUPTED
            if wish == Wish.CANCEL or (wish and state in (State.PAUSED, State.INTERRUPTED)):
                state, awaits_bytes = WISHED[Wish(wish)], None  # the worker may not have heard of it
                failure = kind = None
            elif state == State.PAUSED and awaits_bytes is None:
                state = State.INTERRUPTED
            values: dict[str, Any] = {
                "summary": _finite(summary),
                "failure": failure and failure.replace("\0", ""),
                "failure_kind": kind,
            }
            values |= {"awaits_bytes": awaits_bytes, "finished_at": _stamp() if state in ENDED else None}
            if state in ENDED or state == State.PAUSED:
                values["fruitless"] = 0
            if not _leave(connection, run_id, attempt, state, **values):
                return None
            _note(connection, run_id, "worker", state if failure is None else f"{state}: {failure}")
            return state

    def note(self, run_id: str, actor: str, text: str) -> None:
        """Add a line to the run's history."""
        with self._write() as connection:
            _note(connection, run_id, actor, text)

    # -- below ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with _named_troubles(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        if self.unwritable is not None:
            raise StoreError(
                f"The data folder {self.unwritable} can only be read, so nothing can be launched or changed. "
                "Set DLKIT_HOME to a folder that can be written."
            )
        with (
            _named_troubles(),
            self._engine.connect().execution_options(write=True) as connection,
            connection.begin(),
        ):
            yield connection

    def _upsert(self, table: sa.Table) -> Any:
        from sqlalchemy.dialects import postgresql, sqlite

        return (sqlite if self._engine.dialect.name == "sqlite" else postgresql).insert(table)

    def _migrate(self) -> None:
        if self._revision() == HEAD or self._make():
            return
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        folder = Path(__file__).parent / "migrations"
        config.set_main_option("script_location", str(folder).replace("%", "%%"))  # % begins a placeholder there
        with self._write() as connection:
            if _revision(connection) == HEAD:  # another process was quicker
                return
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError:
                raise StoreError(
                    f"The store has the form {_revision(connection)!r}, which this version does not know: "
                    "a newer dlkit has written it. Use that one, or another DLKIT_HOME."
                ) from None

    def _make(self) -> bool:
        """Make all tables where there are none, without alembic, whose import costs more than the tables."""
        with self._write() as connection:
            if sa.inspect(connection).get_table_names():
                return False
            metadata.create_all(connection)
            connection.exec_driver_sql("create table alembic_version (version_num varchar(32) not null primary key)")
            connection.execute(sa.text("insert into alembic_version values (:head)"), {"head": HEAD})
            return True

    def _revision(self) -> str | None:
        with self._read() as connection:
            return _revision(connection)


@contextmanager
def _named_troubles() -> Iterator[None]:
    """Turn what a database cannot do just now into a sentence; what it should never say stays as it is."""
    try:
        yield
    except sa.exc.DatabaseError as error:
        if (
            not isinstance(error, sa.exc.OperationalError | sa.exc.InternalError)
            and type(error) is not sa.exc.DatabaseError
        ):
            raise  # the last is a damaged file's
        raise StoreError(f"The store cannot be used just now: {str(error.orig).splitlines()[0]}.") from error


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(sa.text("select version_num from alembic_version"))


def _of(table: sa.Table, run_id: str) -> sa.ColumnElement[bool]:
    return table.c.run_id == run_id


def _one(connection: sa.Connection, run_id: str) -> Run:
    row = connection.execute(sa.select(runs).where(runs.c.id == run_id)).one_or_none()
    if row is None:
        raise RunError(f"There is no run {run_id!r}: it was deleted, or the link is wrong. The Runs page lists all.")
    return _record(row)


def _of_token(connection: sa.Connection, token: str | None) -> Run | None:
    row = connection.execute(sa.select(runs).where(runs.c.token == token)).one_or_none() if token else None
    return None if row is None else _record(row)


def _seen(connection: sa.Connection, run_id: str, version: int | None) -> Run:
    """Return the run if it still is what the asker has looked at."""
    run = _one(connection, run_id)
    if version is not None and run.version != version:
        asked = f", and was asked to {run.wish}" if run.wish else ""
        raise RunError(f"This run has changed meanwhile: it is {run.state}{asked}. Look again, then decide.")
    return run


def _changes(connection: sa.Connection, run_id: str) -> list[Change]:
    query = sa.select(changes).where(_of(changes, run_id)).order_by(changes.c.number)
    return [Change(row.number, row.what, row.value, row.step, row.actor) for row in connection.execute(query)]


def _next_change(connection: sa.Connection, run_id: str) -> int:
    return 1 + (connection.scalar(sa.select(sa.func.max(changes.c.number)).where(_of(changes, run_id))) or 0)


def _last_place(connection: sa.Connection) -> int:
    return 1 + (connection.scalar(sa.select(sa.func.max(runs.c.place))) or 0)


def _queue_again(connection: sa.Connection, run_id: str) -> None:
    cleared = dict.fromkeys(("wish", "failure", "failure_kind", "awaits_bytes", "finished_at"))
    _set(connection, run_id, state=State.QUEUED, place=_last_place(connection), fruitless=0, **cleared)


def _start(connection: sa.Connection, row: Any, slot: str) -> Run:
    values = {"state": State.RUNNING, "slot": slot, "attempt": row.attempt + 1, "beat_at": _stamp(), "mark": row.step}
    _set(connection, row.id, **values, started_at=row.started_at or _stamp(), pid=None, process=None)
    _note(connection, row.id, "supervisor", f"started on {slot}, attempt {row.attempt + 1}")
    return _one(connection, row.id)


def _leave(connection: sa.Connection, run_id: str, attempt: int, state: State, **values: Any) -> bool:
    """Take a running run out of its slot."""
    return _set(connection, run_id, attempt, state=state, slot=None, pid=None, process=None, wish=None, **values)


def _set(connection: sa.Connection, run_id: str, fence: int | None = None, /, **values: Any) -> bool:
    """Change a run; with `fence` only while that attempt is running. Tell whether a row was changed."""
    statement = runs.update().where(runs.c.id == run_id)
    if fence is not None:
        statement = statement.where(runs.c.attempt == fence, runs.c.state == State.RUNNING)
    if "state" in values or "wish" in values:
        values["version"] = runs.c.version + 1
    return connection.execute(statement.values(**values)).rowcount == 1


def _note(connection: sa.Connection, run_id: str, actor: str, text: str) -> None:
    text, actor = text.replace("\0", ""), actor.replace("\0", "")[:ACTOR_LETTERS]  # PostgreSQL takes no others
    connection.execute(happenings.insert().values(run_id=run_id, at=_stamp(), actor=actor, text=text))


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without numbers that JSON cannot say."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _record(row: Any) -> Run:
    values = dict(row._mapping)
    del values["token"]
    for name in ("created_at", "started_at", "finished_at", "beat_at"):
        values[name] = _time(values[name]) if values[name] else None
    values |= {"kind": Kind(row.kind), "state": State(row.state), "needs": Slot(row.needs)}
    values |= {"priority": Priority(row.priority), "progress": Progress(**row.progress)}
    values["wish"] = Wish(row.wish) if row.wish else None
    values["failure_kind"] = Failure(row.failure_kind) if row.failure_kind else None
    return Run(**values)


def _stamp() -> str:
    return now().isoformat(timespec="milliseconds")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
