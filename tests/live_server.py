"""The real server in a process of its own, for the tests that need one."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 60
STOP_SECONDS = 15


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LiveServer:
    """`streamlit run app.py` on the loopback address; use as a context manager.

    It listens at `url`, and `process` is its Popen.

    home    its data folder
    env     more environment variables; the warm-up is off unless DLKIT_WARM_UP is set here
    root    the folder of the app.py to run
    """

    def __init__(self, home: Path, env: dict[str, str] | None = None, root: Path = REPOSITORY) -> None:
        self.root = root
        self.env = {**os.environ, "DLKIT_HOME": str(home), "DLKIT_WARM_UP": "0", **(env or {})}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe would fill; it goes with this object)

    def __enter__(self) -> "LiveServer":
        self.start()
        return self

    def start(self) -> None:
        """Start the server, or start it anew at the same port after it was killed; wait until it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(self.port)],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"The server did not start within {START_SECONDS} s. Its output:\n{self.output()}")

    def output(self) -> str:
        """Return what the server has printed so far."""
        return os.pread(self._log.fileno(), 10_000_000, 0).decode(errors="replace")

    def kill(self) -> None:
        """End the server as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the server politely, or by force if it does not listen."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
