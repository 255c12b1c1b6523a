"""What a page or a command may do with runs: submit, look, pause, stop, cancel, continue, change, delete.

Validates, writes one row, and makes sure that a supervisor is there to take it. Knows no torch and trains nothing. A
verb touches only the run it names. `seen` is the version of the run that the asker has looked at: where the run has
changed since, the verb is refused with a sentence. Without it the verb holds for the run as it is.
"""

import contextlib
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dlkit import files, locks, machine
from dlkit.catalog import choose
from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.datasets import DATASETS, dataset_entry
from dlkit.config import SCHEDULE_SETTINGS, FinetuneConfig, describe, first_phases, parse
from dlkit.data import uploads
from dlkit.data.shelf import delete_import, free_name, set_name, sweep_imports
from dlkit.data.sources import class_name
from dlkit.errors import ConfigError, DatasetError, DeviceError, RunError
from dlkit.runs.records import Checkpoint, Failure, Kind, Priority, Run, Slot, State, Wish
from dlkit.runs.store import Store, open_store
from dlkit.settings import child_environment, settings

LOCAL_USER = "you"
LOG_TAIL_BYTES = 64 * 1024
#: settings that change nothing of the curve from which a learning rate is read
BESIDE_THE_CURVE = (
    "name",
    "learning_rate",
    "epochs",
    "head_epochs",
    "budget_minutes",
    "schedule",
    *SCHEDULE_SETTINGS,
    "ema_decay",
    "early_stopping",
    "compile",
)
KEPT_SEARCHES = 10  # for learning rates
#: settings that change what is measured of a training's parts; which of the others a run has changes nothing of it
MEASURED = ("dataset", "backbone", "unfreeze_from", "image_size", "precision", "device")
NAME_LETTERS = 80  # what the store has room for
CHANGEABLE = ("learning_rate", "augmentation", "epochs", "frozen")
#: what is looked at to tell how long a run will take
REMEMBERED_RUNS = 200


def store() -> Store:
    """Return the store of this machine's data folder."""
    return open_store(settings().data_folder, settings().database_url)


def submit(
    values: Mapping[str, Any] | FinetuneConfig,
    actor: str = LOCAL_USER,
    priority: Priority = Priority.NORMAL,
    token: str | None = None,
) -> Run:
    """Queue a fine-tuning run; ConfigError, DeviceError or DiskFullError where it cannot be.

    A second submission with the same `token` (at most 64 characters) returns the run of the first.
    """
    known = store().run_of_token(token)
    if known is not None:
        return known
    config = (values if isinstance(values, FinetuneConfig) else parse(values)).resolved()
    needs = _slot_for(config)
    check_room(config)
    return _queue(Kind.FINETUNE, config.name, config.model_dump(mode="json"), needs, actor, priority, token)


def check_room(config: FinetuneConfig) -> None:
    """Raise DiskFullError where three checkpoints and the model, old and new, do not fit on the disk."""
    needed = room_needed(config)
    if files.free_bytes(settings().data_folder) < needed:
        raise files.disk_full(settings().data_folder, needed)


def room_of(run: Run) -> int:
    """Return how many bytes a run needs to go on: at least one where it cannot be told."""
    config = config_of(run)
    return room_needed(config) if config else 1


def room_needed(config: FinetuneConfig) -> int:
    """Return how many bytes a run writes at most at a time: three checkpoints, and the model, old and new."""
    head = 2048 * DATASETS[config.dataset].classes
    whole = BACKBONES[config.backbone].parameters + head
    learnt = head if config.strategy == "head" else whole
    numbers = 3 + bool(config.ema_decay)  # a weight, what Adam keeps of it, and its average
    return 4 * (3 * numbers * learnt + 2 * whole)


def submit_fetch(what: str, name: str, actor: str = LOCAL_USER) -> Run:
    """Queue the download of a data set or of a backbone's weights; `what` is "dataset" or "backbone"."""
    entry = choose(DATASETS, name, "data set") if what == "dataset" else choose(BACKBONES, name, "backbone")
    for run in store().list_runs(Kind.FETCH):
        if not run.has_ended and run.config == {"what": what, "name": name}:
            return resume(run.id, actor) if run.state == State.PAUSED else run
    return _queue(Kind.FETCH, f"Fetch {entry.title}", {"what": what, "name": name}, Slot.NETWORK, actor)


def submit_import(
    upload: str, title: str, name: str, labels: str | None = None, seed: int = 0, actor: str = LOCAL_USER
) -> Run:
    """Queue the import of what was sent (`dlkit.data.uploads`) as the data set `name`; `title` is what it is called.

    `labels` names the file in it that is the label file; None leaves it to the layout. DatasetError where the name
    cannot be.
    """
    config = {"upload": upload, "title": title, "name": free_name(name), "labels": labels, "seed": seed}
    return _queue(Kind.IMPORT, f"Import {config['name']}", config, Slot.NETWORK, actor)


def submit_addition(
    upload: str,
    title: str,
    dataset: str,
    labels: str | None = None,
    seed: int = 0,
    actor: str = LOCAL_USER,
    label: str | None = None,
) -> Run:
    """Queue what was sent to be added to an imported data set, with `label` all of it as this class.

    The rest is as in `submit_import`.
    """
    name, label = set_name(dataset), None if label is None else class_name(label)
    config = {"upload": upload, "title": title, "dataset": name, "name": name, "labels": labels, "seed": seed}
    return _queue(Kind.IMPORT, f"Add to {name}", {**config, "label": label}, Slot.NETWORK, actor)


def submit_copy(dataset: str, name: str, actor: str = LOCAL_USER) -> Run:
    """Queue the copy of a data set that is here as the imported one `name`; DatasetError where the name cannot be."""
    entry = dataset_entry(dataset)
    config = {"dataset": entry.pinned, "name": free_name(name), "seed": 0}
    return _queue(Kind.IMPORT, f"Copy {entry.title}", config, Slot.NETWORK, actor)


def sweep() -> None:
    """Remove what imports that were killed have left, and what was sent a day ago and waits for no import."""
    sweep_imports()
    waiting = [run for run in store().list_runs(Kind.IMPORT) if not run.has_ended]
    uploads.sweep_uploads([str(run.config.get("upload")) for run in waiting])


def delete_dataset(name: str) -> None:
    """Delete an imported data set with all its versions; DatasetError where a run that has not ended uses it."""
    folder = dataset_entry(name).folder
    using = [run.name for kind in Kind for run in store().list_runs(kind) if not run.has_ended and _uses(run, folder)]
    if folder and using:
        which = "it end, or cancel it," if len(using) == 1 else "them end, or cancel them,"
        raise DatasetError(f"{DATASETS[name].title} is used by {', '.join(using[:5])}. Let {which} first.")
    delete_import(name)


def _uses(run: Run, folder: str) -> bool:
    entry = DATASETS.get(str(run.config.get("dataset")))
    return entry is not None and entry.folder == folder


def submit_find(values: Mapping[str, Any] | FinetuneConfig, actor: str = LOCAL_USER) -> Run:
    """Queue the search for a learning rate; ConfigError or DeviceError where it cannot be.

    Where one for such settings waits or is at work, that one is returned. Of those that have ended the last ones stay.
    """
    config = _searched(values if isinstance(values, FinetuneConfig) else parse(values))
    return _queue_once(
        Kind.FIND, f"Learning rate · {config.name}", config.model_dump(mode="json"), _slot_for(config), actor
    )


def submit_measure(values: Mapping[str, Any] | FinetuneConfig, actor: str = LOCAL_USER) -> Run:
    """Queue the measuring of what a run like this costs, this strategy first; as `submit_find` does otherwise.

    All strategies are measured, so one that waits or is at work for another strategy is returned.
    """
    config = values if isinstance(values, FinetuneConfig) else parse(values)
    known = latest_measure(config)
    if known is not None and known.is_active:
        return known
    title = f"Measure · {BACKBONES[config.backbone].title}"
    measured = _measured(config, config.strategy)
    return _queue_once(Kind.MEASURE, title, measured.model_dump(mode="json"), _slot_for(measured), actor)


def latest_measure(config: FinetuneConfig) -> Run | None:
    """Return the newest measuring of such settings, for whichever strategy it was asked."""
    wanted = _measured(config, "partial")
    return next((run for run in store().list_runs(Kind.MEASURE) if _measured_by(run) == wanted), None)


def _measured_by(run: Run) -> FinetuneConfig | None:
    """Return the settings of a measuring, told apart by what matters to it; None where they are of another version."""
    with contextlib.suppress(ConfigError):
        return _measured(parse(run.config), "partial")
    return None


def _queue_once(kind: Kind, name: str, config: Mapping[str, Any], needs: Slot, actor: str) -> Run:
    """Queue a job that keeps no model, unless the same waits or is at work; forget all but the last of its kind."""
    known = store().list_runs(kind)
    for run in known:
        if not run.has_ended and run.config == config:
            return resume(run.id, actor) if run.state == State.PAUSED else run
    for run in [run for run in known if run.has_ended][KEPT_SEARCHES - 1 :]:
        with contextlib.suppress(RunError):  # somebody else was quicker
            delete(run.id)
    return _queue(kind, name[:NAME_LETTERS], config, needs, actor)


def submit_doctor(dataset: str, backbone: str | None = None, actor: str = LOCAL_USER) -> Run:
    """Queue a look at the pictures of a data set, and with a backbone its opinion of their labels, too.

    Where the same waits or is at work, that one is returned. UnknownChoice where there is no such set or backbone.
    """
    entry = dataset_entry(dataset)
    if backbone is not None:
        choose(BACKBONES, backbone, "backbone")
    needs = Slot.NETWORK if backbone is None else Slot.GPU if machine.describe().gpus else Slot.CPU
    config = {"dataset": entry.pinned, "backbone": backbone}
    return _queue_once(Kind.DOCTOR, f"Examine {entry.title}", config, needs, actor)


def latest_doctor(dataset: str) -> Run | None:
    """Return the newest examination of this version of a data set."""
    pinned = dataset_entry(dataset).pinned
    return next((run for run in store().list_runs(Kind.DOCTOR) if run.config.get("dataset") == pinned), None)


def latest_find(config: FinetuneConfig) -> Run | None:
    """Return the newest search for a learning rate for such settings that has succeeded or may still."""
    wanted = _searched(config).model_dump(mode="json")
    promising = (run for run in store().list_runs(Kind.FIND) if run.is_active or run.state == State.SUCCEEDED)
    return next((run for run in promising if run.config == wanted), None)


def differences(found: Run, config: FinetuneConfig) -> list[str]:
    """Return the titles of the settings in which a search for a learning rate is not one for this config.

    What follows from another setting is not named beside it: an optimizer's own defaults, the image size of a data set.
    ConfigError where this version does not read the search's settings.
    """
    then, now = _searched(parse(found.config)).changes(), _searched(config).changes()
    return [describe(name).title for name in FinetuneConfig.model_fields if then.get(name) != now.get(name)]


def _searched(config: FinetuneConfig) -> FinetuneConfig:
    """Return the config with the defaults in place of what does not matter to the search for a learning rate."""
    return parse(config.model_dump(exclude=set(BESIDE_THE_CURVE))).resolved()


def _measured(config: FinetuneConfig, strategy: str) -> FinetuneConfig:
    """Return the config with the defaults in place of what does not matter to the measuring of its parts."""
    return parse({**config.resolved().model_dump(include=set(MEASURED)), "strategy": strategy}).resolved()


def run(run_id: str) -> Run:
    """Return one run; RunError where there is none, also for text that is no run id at all."""
    if not _is_id(run_id):
        raise RunError("A run's id is 32 letters and digits; this link has something else. The Runs page lists all.")
    return store().run(run_id)


def config_of(run: Run) -> FinetuneConfig | None:
    """Return the settings of a fine-tuning run; None of other runs, and where this version no longer reads them."""
    if run.kind != Kind.FINETUNE:
        return None
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


def current_config(run: Run) -> FinetuneConfig | None:
    """Return the settings of a fine-tuning run with all that was changed since; None where they are not read here."""
    config, fields = config_of(run), FinetuneConfig.model_fields
    changed = {change.what: change.value for change in store().changes(run.id) if change.what in fields}
    return config.model_copy(update=changed) if config else None


def pause(run_id: str, actor: str = LOCAL_USER, seen: int | None = None) -> Run:
    """Ask a run to give its slot back; `resume` lets it go on as if nothing had been."""
    return _wish(run_id, Wish.PAUSE, actor, seen)


def stop(run_id: str, actor: str = LOCAL_USER, seen: int | None = None) -> Run:
    """Ask a run to end and to keep the model so far."""
    return _wish(run_id, Wish.STOP, actor, seen)


def cancel(run_id: str, actor: str = LOCAL_USER, seen: int | None = None) -> Run:
    """Ask a run to end and to keep nothing."""
    cancelled = _wish(run_id, Wish.CANCEL, actor, seen)
    if cancelled.state == State.CANCELLED:  # it was waiting, perhaps with the model of a worker that died
        discard(run_id)
    return cancelled


def resume(run_id: str, actor: str = LOCAL_USER, seen: int | None = None) -> Run:
    """Queue a paused run again; it goes on where it was."""
    return _started(store().requeue(run(run_id).id, "resume", (State.PAUSED,), actor, seen))


def retry(
    run_id: str, actor: str = LOCAL_USER, seen: int | None = None, learning_rate: float | str | None = None
) -> Run:
    """Queue a failed or cancelled run again, from its last checkpoint where it has one.

    With `learning_rate` it goes on at that rate, which is what helps after a divergence: then from the last checkpoint
    before the step that went wrong, as the weights at that step give the same loss again at whatever rate.
    """
    if learning_rate is not None:
        found = run(run_id)
        if found.state != State.FAILED:
            raise RunError(f"This run cannot be tried again at another learning rate: it is {found.state}.")
        version = found.version if seen is None else seen
        config = current_config(found)
        if config is not None:
            parse({**config.model_dump(mode="json"), "learning_rate": learning_rate})
        good = last_good_checkpoint(found)
        known = [checkpoint.number for checkpoint in store().checkpoints(run_id)]
        if version == found.version:
            store().forget_checkpoints(run_id, [number for number in known if good is None or number > good.number])
        change(run_id, "learning_rate", learning_rate, actor, requeue=(State.FAILED,), seen=version)
    else:
        store().requeue(run(run_id).id, "retry", (State.FAILED, State.CANCELLED), actor, seen)
    return _started(run(run_id))


def last_good_checkpoint(run: Run) -> Checkpoint | None:
    """Return the checkpoint from which a run goes on at another learning rate; None where it begins anew."""
    has_diverged = run.failure_kind == Failure.DIVERGED
    known = store().checkpoints(run.id)
    return next((checkpoint for checkpoint in known if not has_diverged or checkpoint.step < run.step), None)


def go_on(run_id: str, epochs: int | str, actor: str = LOCAL_USER, seen: int | None = None) -> Run:
    """Let a run learn for more epochs than were planned: a stopped or succeeded one is queued again for it."""
    found = run(run_id)
    if seen is not None and found.version != seen:
        raise RunError(f"This run has changed meanwhile: it is {found.state}. Look again, then decide.")
    config = current_config(found)
    if config is None or (found.has_ended and not store().checkpoints(run_id)):
        raise RunError("This run has kept nothing to continue from. Launch it again with more epochs.")
    more = _whole(epochs, "Epochs to continue for")
    if more > 0 and config.strategy == "auto":
        return _started(store().add_change(run_id, "more", more, actor, (State.STOPPED, State.SUCCEEDED), seen))
    if more == 0 and found.state == State.STOPPED:
        return _started(store().requeue(run_id, "continue", (State.STOPPED,), actor, seen))
    return change(run_id, "epochs", config.epochs + more, actor, (State.STOPPED, State.SUCCEEDED), seen)


def change(
    run_id: str,
    what: str,
    value: Any,
    actor: str = LOCAL_USER,
    requeue: tuple[State, ...] = (),
    seen: int | None = None,
) -> Run:
    """Change a run while it goes on: its learning rate, augmentation, number of epochs, or whether the backbone learns.

    The rate and the augmentation hold from the next step on, the rest from the next epoch on. ConfigError where the
    value does not hold, RunError where the run has ended and its state is not one of `requeue`.
    """
    found = run(run_id)
    config = current_config(found)
    if config is None or what not in CHANGEABLE:
        raise RunError(f"Of a run that goes on {', '.join(CHANGEABLE)} can be changed; {what[:40]!r} cannot.")
    if what == "frozen":
        value = _is_true(value)
        frozen = [change.value for change in store().changes(run_id) if change.what == "frozen"]
        if value == (frozen[-1] if frozen else config.strategy == "head"):
            raise RunError(f"The backbone {'is frozen' if value else 'learns'} already.")
    else:
        if what == "epochs" and config.strategy == "auto":
            raise RunError("Of this run the time decides how many epochs it has. Let it end, then continue it.")
        changed = parse({**config.model_dump(mode="json"), what: value})
        value = getattr(changed, what)
        if value is None or (what == "epochs" and value <= config.epochs):
            raise ConfigError([f"{what} must be a new value, of epochs a higher one; it is {getattr(config, what)}."])
    return _started(store().add_change(run_id, what, value, actor, requeue, seen))


def prioritise(run_id: str, priority: Priority, actor: str = LOCAL_USER) -> Run:
    """Let a run go before or after the others that wait."""
    return store().set_priority(run(run_id).id, priority, actor)


@dataclass(frozen=True)
class Waiting:
    """A run that waits: its place in the queue from 1, and in how many seconds it may start; None where unknown."""

    run: Run
    place: int
    starts_in: float | None


def queue() -> list[Waiting]:
    """Return the runs that wait, in the order in which they go, with the start that earlier runs let one expect."""
    active = store().active()
    known = store().list_runs(Kind.FINETUNE, REMEMBERED_RUNS)
    sizes = {Slot.GPU: len(machine.gpus()), Slot.CPU: settings().cpu_slots, Slot.NETWORK: settings().network_slots}
    free_in: dict[Slot, list[float | None]] = {}
    for slot, size in sizes.items():
        busy = [run.progress.seconds_left for run in active if run.state == State.RUNNING and run.needs == slot]
        free_in[slot] = [*busy, *[0.0] * max(0, size - len(busy))]
    waiting = []
    for place, run in enumerate((run for run in active if run.state != State.RUNNING), start=1):
        ends = free_in[run.needs]
        soonest = min((end for end in ends if end is not None), default=None)
        if None in ends and soonest != 0:  # an end that nobody knows may come before
            soonest = None
        waiting.append(Waiting(run, place, soonest))
        seconds = _expected_seconds(run, known)
        if ends:
            ends.remove(soonest)
            ends.append(None if soonest is None or seconds is None else soonest + seconds)
    return waiting


def _expected_seconds(run: Run, known: list[Run]) -> float | None:
    """Return how long earlier runs like this one took, by the epoch; None of what is no training."""
    alike = ("dataset", "backbone", "strategy", "image_size")
    rates = [
        other.seconds / other.summary["epochs"]
        for other in known
        if other.state == State.SUCCEEDED
        and other.seconds
        and other.summary.get("epochs")
        and all(other.config.get(name) == run.config.get(name) for name in alike)
    ]
    config = config_of(run)  # None also for what is no training
    if config is not None and config.strategy == "auto":
        return max(0.0, 60 * config.budget_minutes - (run.worked or 0.0))
    if not rates or config is None:
        return None
    epochs = sum(epochs for _, epochs in first_phases(config))
    return max(0.0, median(rates) * epochs - (run.worked or 0.0))


def discard(run_id: str) -> None:
    """Remove the results of a run; its log stays."""
    folder = run_folder(run_id)
    for name in ("model", "checkpoints"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "validation.npz").unlink(missing_ok=True)
    store().forget_checkpoints(run_id, [checkpoint.number for checkpoint in store().checkpoints(run_id)])


def delete(run_id: str) -> None:
    """Forget a run that has ended or is paused, and remove its folder."""
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


def keep_going() -> None:
    """Make sure that what waits, runs, or was running when the machine went down has a supervisor."""
    if store().has_work():
        ensure_supervisor()


def ensure_supervisor() -> None:
    """Start the supervisor where none holds the lock and the folder can be written; it outlives whoever started it."""
    if store().unwritable:
        return
    folder = settings().folder()
    if locks.is_held(folder / "supervisor.lock"):
        return
    start_process(["dlkit.jobs.supervisor"], folder / "supervisor.log")


def start_process(
    module: list[str], log: Path, environment: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE …` so that it outlives this process; what it prints goes to the end of `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *module],
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
            env=child_environment(**(environment or {})),
        )


def _queue(
    kind: Kind,
    name: str,
    config: Mapping[str, Any],
    needs: Slot,
    actor: str,
    priority: Priority = Priority.NORMAL,
    token: str | None = None,
) -> Run:
    return _started(store().add_run(secrets.token_hex(16), kind, name, config, needs, actor, priority, token))


def _started(run: Run) -> Run:
    """Return the run after making sure that somebody takes it."""
    if run.is_active:
        ensure_supervisor()
    return run


def _wish(run_id: str, wish: Wish, actor: str, seen: int | None) -> Run:
    return store().wish(run(run_id).id, wish, actor, seen)


def _whole(value: int | str, what: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= int(value) <= 1000:
            return int(value)
    raise ConfigError([f"{what} must be a whole number from 0 to 1000; got {str(value)[:40]}."])


def _is_true(value: object) -> bool:
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise ConfigError([f"frozen must be true or false; got {str(value)[:40]}."])


def _slot_for(config: FinetuneConfig) -> Slot:
    """Return what a run occupies; DeviceError where the machine does not have what it needs."""
    here, device = machine.describe(), config.device
    if device == "cuda" and not here.gpus:
        raise DeviceError("The device cuda was asked for, and this machine has no NVIDIA GPU. Choose auto or cpu.")
    if device == "mps" and not here.has_mps:
        raise DeviceError("The device mps was asked for, and this machine is no Apple computer. Choose auto or cpu.")
    slot = Slot.GPU if here.gpus and device in ("auto", "cuda") else Slot.CPU
    if config.precision == "float16" and slot is not Slot.GPU:
        raise DeviceError(
            "The number format float16 was asked for, and it needs an NVIDIA GPU. Choose auto, float32 or bfloat16."
        )
    if config.compile and slot is not Slot.GPU:
        raise DeviceError("compile was asked for, and it pays on an NVIDIA GPU only. Leave it out.")
    return slot


def _is_id(text: str) -> bool:
    return len(text) == 32 and all(letter in "0123456789abcdef" for letter in text)
