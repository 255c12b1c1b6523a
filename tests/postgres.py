"""A PostgreSQL of the tests' own: made in a temporary folder, heard on loopback only, gone afterwards."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

#: what makes a server fast whose data nobody misses
CARELESS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}


def binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL server programs, which Debian keeps off the PATH; None without."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    on_path = shutil.which("initdb")
    found = [*([Path(on_path).resolve().parent] if on_path else []), *folders]
    return next((folder for folder in reversed(found) if (folder / "initdb").exists()), None)


def require_postgres() -> Path:
    """Return the folder of the server programs; without them skip the test and say so, but fail it under CI."""
    folder = binaries()
    if folder is None or (os.geteuid() == 0 and _owner() is None):
        reason = "This test needs PostgreSQL's server and, run as root, its user. Install postgresql."
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    assert folder is not None
    return folder


class Server:
    """A server that runs; `url` has no database in it."""

    def __init__(self, url: str) -> None:
        self._url, self._numbers, self._names = url, count(1), list[str]()

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"test{next(self._numbers)}"
        self._do(f"create database {name}")
        self._names.append(name)
        return f"{self._url}/{name}"

    def drop_databases(self) -> None:
        """Remove what was made, whoever still uses it: a database takes 7 MB, and a test file may need hundreds."""
        while self._names:
            self._do(f"drop database {self._names.pop()} with (force)")

    def _do(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(f"{self._url}/postgres", autocommit=True) as connection:
            connection.execute(statement.encode())


@contextmanager
def postgres() -> Iterator[Server]:
    """Run a server of the tests' own."""
    programs, owner = require_postgres(), _owner()
    folder = Path(tempfile.mkdtemp(prefix="dlkit-postgres-"))  # not below tmp_path: a socket's path must be short

    def call(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(folder / "data"), *arguments]
        done = subprocess.run(command, cwd=folder, user=owner, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        if owner is not None:
            shutil.chown(folder, owner, pwd.getpwnam(owner).pw_gid)
        call("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        port = _free_port()
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, **CARELESS}
        flags = " ".join(f"-c {name}={value}" for name, value in options.items())
        call("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", flags)
        try:
            yield Server(f"postgresql://postgres@127.0.0.1:{port}")
        finally:
            call("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _owner() -> str | None:
    """Return who runs the server, which refuses to run as root; None where this process may itself, or nobody can."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if os.geteuid() == 0 and "postgres" in names else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
