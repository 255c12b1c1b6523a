"""What a page or a command may do with runs: submit, look, stop, cancel, delete.

Validates, writes one row, and makes sure that a supervisor is there to take it. Knows no torch and trains nothing.
"""

import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlkit import locks, machine
from dlkit.catalog import choose
from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.datasets import DATASETS
from dlkit.config import FinetuneConfig, parse
from dlkit.errors import ConfigError, DeviceError, RunError
from dlkit.runs.records import Kind, Run, Slot, State
from dlkit.runs.store import Store, open_store
from dlkit.settings import child_environment, settings

LOCAL_USER = "you"
LOG_TAIL_BYTES = 64 * 1024


def store() -> Store:
    """Return the store of this machine's data folder."""
    return open_store(settings().data_folder)


def submit(values: Mapping[str, Any] | FinetuneConfig, actor: str = LOCAL_USER) -> Run:
    """Queue a fine-tuning run; ConfigError or DeviceError where it cannot be."""
    config = (values if isinstance(values, FinetuneConfig) else parse(values)).resolved()
    needs = _slot_for(config.device)
    return _queue(Kind.FINETUNE, config.name, config.model_dump(mode="json"), needs, actor)


def submit_fetch(what: str, name: str, actor: str = LOCAL_USER) -> Run:
    """Queue the download of a data set or of a backbone's weights; `what` is "dataset" or "backbone"."""
    entry = choose(DATASETS, name, "data set") if what == "dataset" else choose(BACKBONES, name, "backbone")
    for run in store().list_runs(Kind.FETCH):
        if run.is_active and run.config == {"what": what, "name": name}:
            return run
    return _queue(Kind.FETCH, f"Fetch {entry.title}", {"what": what, "name": name}, Slot.NETWORK, actor)


def run(run_id: str) -> Run:
    """Return one run; RunError where there is none, also for text that is no run id at all."""
    if not _is_id(run_id):
        raise RunError("A run's id is 32 letters and digits; this link has something else. The Runs page lists all.")
    return store().run(run_id)


def config_of(run: Run) -> FinetuneConfig | None:
    """Return the settings of a fine-tuning run; None where this version no longer reads them."""
    try:
        return parse(run.config)
    except ConfigError:
        return None


def find(text: str) -> Run:
    """Return the run whose id begins with `text`; RunError where none or several do."""
    found = store().find_runs(text) if text else []
    if len(found) != 1:
        which = "No run begins" if not found else f"{len(found)} runs begin"
        raise RunError(f"{which} with {text[:40]!r}. `python -m dlkit runs` lists them.")
    return found[0]


def stop(run_id: str, actor: str = LOCAL_USER) -> Run:
    """Ask a run to end and to keep the model so far."""
    return _wish(run_id, "stop", actor)


def cancel(run_id: str, actor: str = LOCAL_USER) -> Run:
    """Ask a run to end and to keep nothing."""
    cancelled = _wish(run_id, "cancel", actor)
    if cancelled.state == State.CANCELLED:  # it was waiting, perhaps with the model of a worker that died
        discard(run_id)
    return cancelled


def discard(run_id: str) -> None:
    """Remove the results of a run; its log stays."""
    folder = run_folder(run_id)
    shutil.rmtree(folder / "model", ignore_errors=True)
    (folder / "validation.npz").unlink(missing_ok=True)


def delete(run_id: str) -> None:
    """Forget an ended run and remove its folder."""
    store().delete_run(run(run_id).id)
    shutil.rmtree(run_folder(run_id), ignore_errors=True)


def run_folder(run_id: str) -> Path:
    """Return the folder of a run's files; the id is checked, as it may come from a link."""
    if not _is_id(run_id):
        raise RunError("A run's id is 32 letters and digits.")
    return settings().data_folder / "runs" / run_id


def log_tail(run_id: str, lines: int = 40) -> str:
    """Return the end of the run's log."""
    path = run_folder(run_id) / "log.txt"
    if not path.exists():
        return ""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


def ensure_supervisor() -> None:
    """Start the supervisor where none holds the lock; it outlives whoever started it."""
    folder = settings().folder()
    if locks.is_held(folder / "supervisor.lock"):
        return
    with (folder / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "dlkit.jobs.supervisor"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
            env=child_environment(),
        )


def _queue(kind: Kind, name: str, config: Mapping[str, Any], needs: Slot, actor: str) -> Run:
    queued = store().add_run(secrets.token_hex(16), kind, name, config, needs, actor)
    ensure_supervisor()
    return queued


def _wish(run_id: str, wish: str, actor: str) -> Run:
    return store().wish(run(run_id).id, wish, actor)


def _slot_for(device: str) -> Slot:
    """Return what a run on this device occupies; DeviceError where the machine does not have the device."""
    here = machine.describe()
    if device == "cuda" and not here.gpus:
        raise DeviceError("The device cuda was asked for, and this machine has no NVIDIA GPU. Choose auto or cpu.")
    if device == "mps" and not here.has_mps:
        raise DeviceError("The device mps was asked for, and this machine is no Apple computer. Choose auto or cpu.")
    return Slot.GPU if here.gpus and device in ("auto", "cuda") else Slot.CPU


def _is_id(text: str) -> bool:
    return len(text) == 32 and all(letter in "0123456789abcdef" for letter in text)
