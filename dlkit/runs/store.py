"""The store: the only truth about runs, in SQLite.

Many processes read and write it at once (server, supervisor, workers, commands). Every writing transaction begins with
BEGIN IMMEDIATE: one that reads first and writes later fails at once where another writes, whatever the busy timeout.
`attempt` is the fencing token: what a worker writes counts only while its attempt is the run's and the run is running.
Does not know torch, configs' meaning, or processes.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as upsert

from dlkit.errors import RunError
from dlkit.runs.migrations import HEAD
from dlkit.runs.records import ACTIVE, Happening, Kind, Point, Progress, Run, Slot, State, now
from dlkit.runs.tables import happenings, metadata, points, runs

BUSY_SECONDS = 30


@lru_cache(maxsize=4)
def open_store(folder: Path) -> "Store":
    """Return the store of this data folder, made or brought up to date where needed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"The data folder {folder} cannot be made ({error.strerror}). Set DLKIT_HOME to a folder that can."
        ) from None
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
    """Runs, curves and histories; each method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._migrate()

    # -- what pages and commands do -------------------------------------------------------------------------------

    def add_run(self, run_id: str, kind: Kind, name: str, config: Mapping[str, Any], needs: Slot, actor: str) -> Run:
        """Put a run at the end of the queue."""
        with self._write() as connection:
            last = connection.scalar(sa.select(sa.func.max(runs.c.sequence))) or 0
            connection.execute(
                runs.insert().values(
                    id=run_id,
                    kind=kind,
                    name=name,
                    state=State.QUEUED,
                    config=dict(config),
                    needs=needs,
                    sequence=last + 1,
                    attempt=0,
                    created_at=_stamp(),
                    progress={},
                    summary={},
                )
            )
            _note(connection, run_id, actor, "launched")
            return _one(connection, run_id)

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

    def wish(self, run_id: str, wish: str, actor: str) -> Run:
        """Ask a run to stop or to cancel; a queued one ends at once, one that has ended stays as it is."""
        ends_as = State.STOPPED if wish == "stop" else State.CANCELLED
        with self._write() as connection:
            run = _one(connection, run_id)
            if run.state == State.RUNNING:
                _set(connection, run_id, wish=wish)
            elif run.is_active:
                _set(connection, run_id, state=ends_as, finished_at=_stamp(), slot=None)
            if run.is_active and run.wish != wish:
                _note(connection, run_id, actor, f"asked to {wish}")
            return _one(connection, run_id)

    def delete_run(self, run_id: str) -> None:
        """Forget an ended run."""
        with self._write() as connection:
            run = _one(connection, run_id)
            if run.is_active:
                raise RunError(f"Only a run that has ended can be deleted; this one is {run.state}. Stop it first.")
            for table in (points, happenings):
                connection.execute(table.delete().where(table.c.run_id == run_id))
            connection.execute(runs.delete().where(runs.c.id == run_id))

    def curve(self, run_id: str, after_step: int = -1, keys: Iterable[str] = ()) -> list[Point]:
        """Return the points past a step, in the order of the steps."""
        query = sa.select(points).where(points.c.run_id == run_id, points.c.step > after_step).order_by(points.c.step)
        if keys:
            query = query.where(points.c.key.in_(tuple(keys)))
        with self._read() as connection:
            return [Point(row.key, row.step, row.epoch, row.value) for row in connection.execute(query)]

    def history(self, run_id: str) -> list[Happening]:
        """Return what happened to a run, oldest first."""
        query = sa.select(happenings).where(happenings.c.run_id == run_id).order_by(happenings.c.id)
        with self._read() as connection:
            return [Happening(_time(row.at), row.actor, row.text) for row in connection.execute(query)]

    # -- what the supervisor does ---------------------------------------------------------------------------------

    def claim(self, slots: Mapping[Slot, list[str]]) -> Run | None:
        """Give the first waiting run that a free slot fits its slot and a new attempt, in one transaction."""
        waiting = sa.select(runs).where(runs.c.state.in_((State.QUEUED, State.INTERRUPTED))).order_by(runs.c.sequence)
        with self._write() as connection:
            taken = set(connection.scalars(sa.select(runs.c.slot).where(runs.c.state == State.RUNNING)))
            for row in connection.execute(waiting).all():
                free = [slot for slot in slots.get(Slot(row.needs), []) if slot not in taken]
                if free:
                    return _start(connection, row, free[0])
        return None

    def has_work(self) -> bool:
        """Tell whether a run is waiting or at work."""
        with self._read() as connection:
            return connection.scalar(sa.select(sa.exists().where(runs.c.state.in_(ACTIVE)))) is True

    def active(self) -> list[Run]:
        """Return the runs that are waiting or at work, oldest first."""
        query = sa.select(runs).where(runs.c.state.in_(ACTIVE)).order_by(runs.c.sequence)
        with self._read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def running(self) -> list[Run]:
        """Return the runs that are at work."""
        return [run for run in self.active() if run.state == State.RUNNING]

    def lose(self, run: Run, reason: str, is_final: bool) -> State | None:
        """Record that this attempt's worker is gone: to be taken up again, or failed where that happened too often.

        Returns the new state; None where the run was no longer this attempt's.
        """
        state = State.FAILED if is_final else State.INTERRUPTED
        with self._write() as connection:
            values = {"finished_at": _stamp(), "failure": reason} if is_final else {}
            wish = connection.scalar(sa.select(runs.c.wish).where(runs.c.id == run.id))  # may be younger than `run`
            if wish:  # the user asked for an end, and this is one
                state = State.STOPPED if wish == "stop" else State.CANCELLED
                values = {"finished_at": _stamp()}
            if not _set(connection, run.id, run.attempt, state=state, slot=None, pid=None, process=None, **values):
                return None
            _note(connection, run.id, "supervisor", f"{state}: {reason}")
            return state

    # -- what a worker does ---------------------------------------------------------------------------------------

    def bind(self, run_id: str, attempt: int, pid: int, process: str) -> bool:
        """Take the run for this worker process; curves of an earlier attempt go, as it begins anew."""
        with self._write() as connection:
            if not _set(connection, run_id, attempt, pid=pid, process=process, beat_at=_stamp()):
                return False
            connection.execute(points.delete().where(points.c.run_id == run_id))
            return True

    def beat(self, run_id: str, attempt: int, progress: Progress, new_points: list[Point]) -> str | None:
        """Show life, write the new points, return what the user wishes; RunError where the run is no longer ours."""
        with self._write() as connection:
            if not _set(connection, run_id, attempt, beat_at=_stamp(), progress=asdict(progress)):
                raise RunError("This run has been taken over or has ended; its old worker writes no more.")
            if new_points:
                rows = [{"run_id": run_id, **asdict(point)} for point in new_points]
                statement = upsert(points)
                values = {"value": statement.excluded.value, "epoch": statement.excluded.epoch}
                connection.execute(
                    statement.on_conflict_do_update(index_elements=["run_id", "key", "step"], set_=values), rows
                )
            return connection.scalar(sa.select(runs.c.wish).where(runs.c.id == run_id))

    def finish(
        self, run_id: str, attempt: int, state: State, summary: Mapping[str, Any], failure: str | None = None
    ) -> bool:
        """End the run; False where it was no longer this attempt's to end."""
        with self._write() as connection:
            values = {"summary": dict(summary), "failure": failure, "finished_at": _stamp(), "slot": None, "pid": None}
            if not _set(connection, run_id, attempt, state=state, process=None, **values):
                return False
            _note(connection, run_id, "worker", state if failure is None else f"{state}: {failure}")
            return True

    def note(self, run_id: str, actor: str, text: str) -> None:
        """Add a line to the run's history."""
        with self._write() as connection:
            _note(connection, run_id, actor, text)

    # -- below ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._engine.connect().execution_options(write=True) as connection, connection.begin():
            yield connection

    def _migrate(self) -> None:
        if self._revision() == HEAD or self._make():
            return
        from alembic import command
        from alembic.config import Config

        config = Config()
        folder = Path(__file__).parent / "migrations"
        config.set_main_option("script_location", str(folder).replace("%", "%%"))  # % begins a placeholder there
        with self._write() as connection:
            if _revision(connection) == HEAD:  # another process was quicker
                return
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

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


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(sa.text("select version_num from alembic_version"))


def _one(connection: sa.Connection, run_id: str) -> Run:
    row = connection.execute(sa.select(runs).where(runs.c.id == run_id)).one_or_none()
    if row is None:
        raise RunError(f"There is no run {run_id!r}: it was deleted, or the link is wrong. The Runs page lists all.")
    return _record(row)


def _start(connection: sa.Connection, row: Any, slot: str) -> Run:
    values = {"state": State.RUNNING, "slot": slot, "attempt": row.attempt + 1, "beat_at": _stamp()}
    connection.execute(
        runs.update().where(runs.c.id == row.id).values(**values, started_at=row.started_at or _stamp(), pid=None)
    )
    _note(connection, row.id, "supervisor", f"started on {slot}, attempt {row.attempt + 1}")
    return _one(connection, row.id)


def _set(connection: sa.Connection, run_id: str, attempt: int | None = None, **values: Any) -> bool:
    """Change a run; with `attempt` only while that attempt is running. Tell whether a row was changed."""
    statement = runs.update().where(runs.c.id == run_id)
    if attempt is not None:
        statement = statement.where(runs.c.attempt == attempt, runs.c.state == State.RUNNING)
    return connection.execute(statement.values(**values)).rowcount == 1


def _note(connection: sa.Connection, run_id: str, actor: str, text: str) -> None:
    connection.execute(happenings.insert().values(run_id=run_id, at=_stamp(), actor=actor, text=text))


def _record(row: Any) -> Run:
    values = dict(row._mapping)
    for name in ("created_at", "started_at", "finished_at", "beat_at"):
        values[name] = _time(values[name]) if values[name] else None
    values |= {"kind": Kind(row.kind), "state": State(row.state), "needs": Slot(row.needs)}
    return Run(**{**values, "progress": Progress(**row.progress)})


def _stamp() -> str:
    return now().isoformat(timespec="milliseconds")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
