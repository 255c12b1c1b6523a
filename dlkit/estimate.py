"""What a run will take, told before it starts and without torch: time, memory and disk, and what to change.

It adds up what `dlkit.engine.measuring` has measured on this machine, phase by phase as `dlkit.engine.training` takes
them. Where these parts were not measured it falls back on how quick any network was here, scaled by its arithmetic, and
says that this is rough; where nothing was measured it says nothing.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from dlkit import evidence, files, machine
from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.datasets import DATASETS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.config import (
    EVALUATION_BATCH,
    SHARES,
    TIME_IN_USE,
    FinetuneConfig,
    describe,
    first_phases,
    keeps_pictures,
    kinds_of_phases,
    later_phases,
    parse,
    settings_in_use,
    steps_per_epoch,
    views,
)
from dlkit.data.dataset import is_here
from dlkit.errors import ConfigError
from dlkit.evidence import FEATURES, RESIDENT_SHARE, TRAINING, Choice
from dlkit.runs.records import Run
from dlkit.runs.service import room_needed
from dlkit.settings import settings
from dlkit.words import about, about_size, duration, size

START, STEPS_OF = "start", {"head": "head", "partial": "last layers", "full": "all layers"}
#: seconds, measured on 2 cores of 2026 with PyTorch 2.15: what is taken where nothing better is known
USUAL = {"start": 5.0, "decode": 0.001, "plain": 0.0005, "augmented": 0.002, "head_step": 0.002, "copy": 0.02}
END_SECONDS = 0.3  # the last checkpoint and the model
SLOWER = 3.5  # training than a forward pass, where only that was measured
CONTEXT_MB = 500  # of CUDA, before anything lies on the device
FULL_MEMORY = 0.9  # of the machine's; the rest is the system's
_TASK = re.compile(r"(\w+) of (\S+) at (\d+) px on (.+)")


@dataclass(frozen=True)
class Estimate:
    """What a run will take; None where nothing that was measured here tells it.

    `phases` are (what, seconds); `memory_mb` is the most that the worker has in memory, on CUDA the device's. Where
    `is_measured` is false the numbers are rough. `basis` says what they rest on, `notes` what does not fit and what to
    change, each a sentence.
    """

    phases: tuple[tuple[str, float], ...]
    memory_mb: float | None
    disk_mb: float
    is_measured: bool
    basis: str
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """The time from the start of the worker to its end."""
        return sum(seconds for _, seconds in self.phases) if self.phases else None


@dataclass(frozen=True)
class Phase:
    """What one picture costs in a phase: seconds once for what is kept, in a step, and in a check; and bytes.

    `begin` are the seconds in which the phase begins: networks are copied and folded, and kernels chosen. `step_fixed`
    are a step's own seconds, however many pictures it has: the optimizer's, for the most part.
    """

    begin: float = 0.0
    once: float = 0.0
    step: float = 0.0
    step_fixed: float = 0.0
    check: float = 0.0
    learnt: float = 0.0  # numbers, in all
    kept_bytes: float = 0.0
    forward_bytes: float = 0.0
    saved_bytes: float = 0.0
    fixed_bytes: float = 0.0  # of kernels, however many pictures there are


@dataclass(frozen=True)
class Parts:
    """What the parts of a run cost here, in seconds; of one picture, but for the start and a copy of the model.

    `memory_mb` is what the process has before any picture goes through, without the weights; None where nobody looked.
    """

    phases: Mapping[str, Phase]
    decode: float
    plain: float
    augmented: float
    start: float
    copy: float
    memory_mb: float | None = None
    is_measured: bool = False


@dataclass(frozen=True)
class Pictures:
    """How many pictures a run learns from and is checked with, and their sides in pixels."""

    train: int
    val: int
    side: int
    resize: int

    @property
    def bytes(self) -> float:
        """What they take when they are decoded."""
        return 3.0 * (self.train * self.resize**2 + self.val * self.side**2)


def estimate(config: FinetuneConfig, train: int | None = None, val: int | None = None) -> Estimate:
    """Return what a run of this config will take with so many pictures; without numbers those of its data set."""
    config = config.resolved()
    dataset, backbone = DATASETS[config.dataset], BACKBONES[config.backbone]
    side = config.image_size or backbone.input_size
    pictures = Pictures(
        dataset.train_images if train is None else train,
        dataset.val_images if val is None else val,
        side,
        round(backbone.resize * side / backbone.input_size),
    )
    where = evidence.worker_place(config.device)
    parts = _measured(config, pictures, where) or _guessed(config, pictures, where)
    phases = tuple(_phases(config, pictures, parts)) if parts else ()
    memory = _memory_mb(config, pictures, parts, where) if parts and parts.memory_mb is not None else None
    told = Estimate(phases, memory, _disk_mb(config, pictures, parts), parts is not None and parts.is_measured, "")
    return replace(told, basis=_basis(config, pictures, parts, where), notes=tuple(_notes(config, told, where)))


def by_strategy(config: FinetuneConfig) -> dict[str, Estimate]:
    """Return the estimate of each strategy with otherwise these settings; those that it does not use are left out."""
    found = {}
    for strategy in describe("strategy").choices or ():
        used = set(settings_in_use({**config.model_dump(), "strategy": strategy}))
        values = {name: value for name, value in config.changes().items() if name in used}
        try:
            found[strategy] = estimate(parse({**values, "strategy": strategy}))
        except ConfigError:  # what does not hold together with this strategy
            continue
    return found


def against(run: Run) -> dict[str, str]:
    """Return what a run took beside what was estimated, in words by what it is; nothing where nothing was estimated."""
    told = run.summary.get("estimate") or {}
    words = {}
    if run.seconds is not None and told.get("seconds"):
        words["time against estimate"] = f"{duration(run.seconds)}, estimated {about(told['seconds'])}"
    if run.summary.get("memory_mb") and told.get("memory_mb"):
        actual = size(run.summary["memory_mb"])
        words["memory against estimate"] = f"{actual}, estimated {about_size(told['memory_mb'])}"
    return words


def _measured(config: FinetuneConfig, pictures: Pictures, where: str) -> Parts | None:
    """Return the parts as they were measured here; None where one that the run needs was not."""
    costs = evidence.known_costs()
    get = partial(_get, costs, where)
    stage = (config.backbone, pictures.side, config.precision, config.unfreeze_from)
    phases = {kind: get(evidence.phase_of(kind, *stage)) for kind in ("head", "partial", "full")}
    start, decode = (
        get(evidence.start_with(config.backbone)),
        get(evidence.pictures_of(config.dataset, pictures.resize)),
    )
    if not is_here(config.dataset):
        decode = {"decode": USUAL["decode"]}
    plain, augmented = (get(evidence.augmenting(name, pictures.side)) for name in ("none", config.augmentation))
    if not (start and decode and plain and augmented and all(phases[kind] for kind in kinds_of_phases(config))):
        return None
    try:
        return Parts(
            {kind: Phase(**found) for kind, found in phases.items() if found},
            decode["decode"],
            plain["seconds"],
            augmented["seconds"],
            start["seconds"],
            start["copy"],
            start["memory_mb"],
            is_measured=True,
        )
    except (KeyError, TypeError):  # of another version
        return None


def _get(costs: Mapping[str, Mapping[str, float]], where: str, what: str) -> Mapping[str, float]:
    return costs.get(evidence.key_of(what, where), {})


def _guessed(config: FinetuneConfig, pictures: Pictures, where: str) -> Parts | None:
    """Return the parts by how quick any network was here; None where none was."""
    features = _rate(FEATURES, config, pictures, where)
    training = _rate(TRAINING, config, pictures, where)
    if features is None and training is None:
        return None
    forward = 1 / features if features else 1 / (training or 1) / SLOWER
    step, share = 1 / training if training else SLOWER * forward, SHARES[config.unfreeze_from]
    phases = {
        "head": Phase(once=forward, step_fixed=USUAL["head_step"]),
        "partial": Phase(once=(1 - share) * forward, step=share * step, check=share * forward),
        "full": Phase(step=step, check=forward),
    }
    augmented = USUAL["plain" if config.augmentation == "none" else "augmented"]
    return Parts(phases, USUAL["decode"], USUAL["plain"], augmented, USUAL["start"], USUAL["copy"])


def _rate(task: str, config: FinetuneConfig, pictures: Pictures, where: str) -> float | None:
    """Return how many pictures a second a task was measured at, scaled from the network that is nearest to this one."""
    wanted, rates = _gflops(config.backbone, pictures.side), []
    for key, choice in evidence.known_choices().items():
        found = _TASK.fullmatch(key)
        rate = _rate_in(choice, config.precision)
        if found and rate and (found[1], found[4]) == (task, where) and found[2] in BACKBONES:
            factor = _gflops(found[2], int(found[3])) / wanted
            rates.append((abs(math.log(factor)), rate * factor))
    return min(rates)[1] if rates else None


def _rate_in(choice: Choice, precision: str) -> float | None:
    """Return the rate in the chosen format, or in the one that was asked for, where that was tried."""
    rates = choice.rates or {}
    return rates.get(f"{precision}, channels_last", choice.images_per_second)


def _gflops(backbone: str, side: int) -> float:
    return BACKBONES[backbone].gflops * (side / BACKBONES[backbone].input_size) ** 2


def _phases(config: FinetuneConfig, pictures: Pictures, parts: Parts) -> Iterator[tuple[str, float]]:
    """Yield what the run does, and the seconds that each takes."""
    yield START, parts.start + END_SECONDS
    planned, spent = first_phases(config), 0.0
    for place, (kind, epochs) in enumerate(planned):
        once, epoch = _phase_seconds(config, pictures, parts, kind, epochs, is_first=place == 0)
        seconds = parts.phases[kind].begin + once + epochs * epoch
        spent += seconds
        yield STEPS_OF[kind], seconds
    if config.strategy == "auto":
        yield from _later(config, pictures, parts, spent)


def _later(config: FinetuneConfig, pictures: Pictures, parts: Parts, spent: float) -> Iterator[tuple[str, float]]:
    """Yield what follows the head where time decides: what the training would plan if these were its own numbers."""
    costs = {kind: _phase_seconds(config, pictures, parts, kind, 0, is_first=False) for kind in ("partial", "full")}
    tried = [parts.phases[kind] for kind in costs]

    def planned(trial: float) -> list[tuple[str, int]]:
        left = TIME_IN_USE * (60 * config.budget_minutes - spent - trial)
        return later_phases(left, once, max(epoch, 1e-6), max(costs["full"][1], 1e-6))

    trials = [phase.begin + 3 * config.batch_size * phase.step for phase in tried]
    once, epoch = costs["partial"]
    plan, trial = [], trials[0]
    if spent < 60 * config.budget_minutes:
        plan = planned(trials[0])
        if "full" in dict(plan):
            trial, plan = sum(trials), planned(sum(trials))
    yield "measuring", trial
    for kind, epochs in plan:
        first, each = _phase_seconds(config, pictures, parts, kind, epochs, is_first=False)
        yield STEPS_OF[kind], parts.phases[kind].begin + first + epochs * each


def _phase_seconds(
    config: FinetuneConfig, pictures: Pictures, parts: Parts, kind: str, epochs: int, is_first: bool
) -> tuple[float, float]:
    """Return the seconds that a phase takes once, for what it decodes and keeps, and for each epoch.

    So many epochs look at no more views than they are; 0 stands for as many as there are views.
    """
    costs, train, val = parts.phases[kind], pictures.train, pictures.val
    half = 1e6 * (settings().cache_mb + settings().cache_disk_mb) / 2
    anew = parts.decode * max(0.0, 1 - half / pictures.bytes)  # of a picture that was decoded before
    new, steps = parts.decode if is_first else anew, steps_per_epoch(train, config.batch_size)
    if kind == "full":
        first, later = (train * _beside(parts.augmented + costs.step, decode) for decode in (new, anew))
        epoch = later + val * (parts.plain + costs.check + anew) + steps * costs.step_fixed
        return first - later + val * (new - anew), epoch + parts.copy / 2
    seen = min(views(config, kind), epochs) if epochs else views(config, kind)
    first = train * _beside(parts.plain + costs.once, new) + val * (parts.plain + costs.once + new)
    more = train * _beside(parts.augmented + costs.once, anew)
    kept = costs.kept_bytes * (views(config, kind) * train + val)
    beyond = max(0.0, 1 - half / kept) if kept else 0.0  # what is computed anew in each epoch
    again = beyond * (max(0, epochs - seen) / max(1, epochs) * more + val * (parts.plain + costs.once))
    if kind == "head":
        looks = steps + steps_per_epoch(val, EVALUATION_BATCH) / 3
        step = costs.step_fixed + min(train, config.batch_size) * costs.step
        return first + (seen - 1) * more, looks * step + parts.copy / 2 + again
    epoch = train * costs.step + steps * costs.step_fixed + val * costs.check + parts.copy / 2 + again
    return first + (seen - 1) * more, epoch


def _beside(compute: float, decode: float) -> float:
    """Return the seconds of a picture whose decoding goes on beside the computing of the one before.

    `decode` is what a picture takes while nothing else is done. The cores are shared: what both need together is the
    least that it can take.
    """
    cores, threads = machine.cores(), evidence.worker_threads()
    work = compute * min(threads, cores) + decode * min(max(2, threads), cores)
    return max(compute, work / cores)


def _memory_mb(config: FinetuneConfig, pictures: Pictures, parts: Parts, where: str) -> float:
    """Return the most memory that the worker will need, or the device's."""
    kinds = kinds_of_phases(config)
    used = [parts.phases[kind] for kind in kinds]
    weights = 4 * BACKBONES[config.backbone].parameters
    numbers = 1 + OPTIMIZERS[config.optimizer].remembers + bool(config.ema_decay)  # gradient, optimizer, average
    learning = 4 * numbers * max(phase.learnt for phase in used)
    checked = max(min(EVALUATION_BATCH, pictures.val), min(config.batch_size, pictures.train))
    learnt_from = min(config.batch_size, pictures.train)
    passing = max(
        phase.fixed_bytes + max(checked * phase.forward_bytes, learnt_from * phase.saved_bytes) for phase in used
    )
    kept = max(_kept_bytes(config, pictures, parts, kind) for kind in kinds)
    if where.startswith("cuda"):
        return CONTEXT_MB + (2 * weights + learning + passing + _resident_bytes(config, pictures, kept)) / 1e6
    half = settings().cache_mb / 2 * 1e6
    caches = min(half, _decoded_bytes(config, pictures)) + min(half, kept)
    # the network, what computes with it frozen, and the best one's copy
    return (parts.memory_mb or 0.0) + (3 * weights + learning + passing + caches) / 1e6


def _resident_bytes(config: FinetuneConfig, pictures: Pictures, kept: float) -> float:
    """Return what lies on the GPU of pictures, and of what a frozen network puts out: each where it fits as a whole."""
    gpus = machine.gpus()
    room = RESIDENT_SHARE * 1e9 * (gpus[0].memory_gb - gpus[0].used_gb) if gpus else 0.0
    decoded = _decoded_bytes(config, pictures)
    taken = decoded if decoded <= room else 0.0
    return taken + (kept if taken + kept <= room else 0.0)


def _decoded_bytes(config: FinetuneConfig, pictures: Pictures) -> float:
    return pictures.bytes if keeps_pictures(config) else 0.0


def _kept_bytes(config: FinetuneConfig, pictures: Pictures, parts: Parts, kind: str) -> float:
    return parts.phases[kind].kept_bytes * (views(config, kind) * pictures.train + pictures.val)


def _disk_mb(config: FinetuneConfig, pictures: Pictures, parts: Parts | None) -> float:
    """Return what the run writes at most, and what it keeps of pictures beyond the memory for that."""
    room, beyond = settings().cache_disk_mb / 2, _decoded_bytes(config, pictures) / 1e6 - settings().cache_mb / 2
    needed = room_needed(config) / 1e6 + min(room, max(0.0, beyond))
    kinds = kinds_of_phases(config) if parts else []
    kept = max((_kept_bytes(config, pictures, parts, kind) for kind in kinds if parts), default=0.0)
    return needed + min(room, max(0.0, kept / 1e6 - settings().cache_mb / 2))


def _basis(config: FinetuneConfig, pictures: Pictures, parts: Parts | None, where: str) -> str:
    """Return what the numbers rest on, in words."""
    if parts is None:
        return "Nothing was measured on this machine yet."
    if not parts.is_measured:
        return "Rough: by how quick other work was on this machine."
    task = FEATURES if config.strategy == "head" else TRAINING
    key = evidence.key_of(evidence.task_of(task, config.backbone, pictures.side), where)
    choice = evidence.known_choices().get(key)
    form = f": {choice}" if choice and config.precision == "auto" else ""
    usual = "" if is_here(config.dataset) else " Reading its pictures, which are not here, is taken as usual."
    return f"Measured on this machine{form}.{usual}"


def _notes(config: FinetuneConfig, told: Estimate, where: str) -> Iterator[str]:
    """Yield what does not fit, and what to change."""
    here, backbone = machine.describe(), BACKBONES[config.backbone]
    is_cuda = where.startswith("cuda")
    memory_mb = 1000 * (here.gpus[0].memory_gb if is_cuda and here.gpus else here.memory_gb)
    if told.memory_mb is not None and told.memory_mb > FULL_MEMORY * memory_mb:
        less = [f"a batch size below {config.batch_size}"] if config.batch_size > 1 else []
        less += ["a smaller image size"] if not backbone.fixed_size else []
        less += ["a smaller backbone"] + ([] if is_cuda else ["a lower DLKIT_CACHE_MB"])
        yield (
            f"A run needs {about_size(told.memory_mb)} of memory, and {size(memory_mb)} are here. "
            f"Choose {', '.join(less[:-1])} or {less[-1]}. "
            "A step that does not fit is taken in smaller parts by itself."
        )
    free = files.free_bytes(settings().data_folder) / 1e6
    if told.disk_mb > free:
        yield (
            f"A run needs {about_size(told.disk_mb)} of disk, and {size(free)} are free. "
            "Delete old runs, choose a smaller backbone or a lower DLKIT_CACHE_DISK_MB."
        )
    if not is_here(config.dataset):
        fetched = size(DATASETS[config.dataset].download_mb)
        yield f"{fetched} of pictures are fetched first, which is not in this time."
