"""Every setting of a fine-tuning run, described once.

From one field of `FinetuneConfig` come the widget, the command-line flag, the range check and its sentence, the
README's table and the run record. Knows the catalogs; knows no data, no store and no torch.
"""

import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from dlkit.catalog.augmentations import AUGMENTATIONS, MIXINGS
from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.datasets import DATASETS
from dlkit.catalog.optimizers import OPTIMIZERS
from dlkit.catalog.schedules import SCHEDULES
from dlkit.errors import ConfigError

CATALOGS: dict[str, Mapping[str, Any]] = {
    "dataset": DATASETS,
    "backbone": BACKBONES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
    "mixing": MIXINGS,
}
#: fields by which the defaults of others go
CHOICES = (*CATALOGS, "strategy")
#: fields whose default is the chosen optimizer's or schedule's own
OPTIMIZER_SETTINGS = tuple(dict.fromkeys(name for entry in OPTIMIZERS.values() for name in entry.settings))
SCHEDULE_SETTINGS = tuple(dict.fromkeys(name for entry in SCHEDULES.values() for name in entry.settings))
AUTO_HEAD_EPOCHS = 12
#: what settings were called in runs that are on record
RENAMED = {"feature_views": "views"}
#: least and most epochs of the strategy auto; the last layers get the least where all layers follow
PARTIAL_EPOCHS, FULL_EPOCHS = (4, 12), (3, 10)
TIME_IN_USE = 0.95  # of what is left of the time of auto: the rest is for what was not measured
AUTO_MIXING = "mixup", 0.2  # of the strategy auto, once more than the head learns, with alpha
SMOOTHING = 0.1  # of the labels, unless the head alone learns
#: how much of a network's forward pass lies in the last layers that learn, at most
SHARES = {"last-half": 1 / 2, "last-third": 1 / 3, "last-quarter": 1 / 4}
#: of the backbone's layers, by what learns: the rate of the last quarter as a share of the head's, and that of each
#: earlier quarter as a share of the next. Where the first layers learn, too, a high rate spoils what they can.
BACKBONE_RATES = {"partial": (0.5, 0.7), "full": (0.1, 0.5)}
EVALUATION_BATCH = 64  # pictures that are checked at a time
#: fields that mean something for some strategies only
STRATEGIES_OF = {
    "epochs": ("head", "partial", "full"),
    "head_epochs": ("partial", "full"),
    "unfreeze_from": ("partial", "auto"),
    "budget_minutes": ("auto",),
    "views": ("head", "partial", "auto"),
    "mixing": ("partial", "full"),
    "mixing_alpha": ("partial", "full"),
    "backbone_rate_factor": ("partial", "full"),
    "layer_rate_decay": ("partial", "full"),
    "freeze_batchnorm": ("partial", "full", "auto"),
    "compile": ("full",),
}
#: pictures smaller than this are trained at this size: below it most backbones have too few pixels left to pool
SMALL_IMAGE_SIZE = 112


def setting(
    default: Any, title: str, help: str, *, basic: bool = False, logarithmic: bool = False, **bounds: Any
) -> Any:
    """Return a pydantic field that also carries what a widget, a flag and a sentence need."""
    if any(name in bounds for name in ("ge", "gt", "le", "lt")):
        bounds["allow_inf_nan"] = False
    extra: dict[str, Any] = {"basic": basic, "logarithmic": logarithmic}
    return Field(default, title=title, description=help, json_schema_extra=extra, **bounds)


class FinetuneConfig(BaseModel):
    """One fine-tuning run; two equal configs on one machine give two equal models, where no clock decides (auto)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

    name: str = setting("", "Name", "What the run is called; empty gives it a name from its choices.", max_length=80)
    dataset: str = setting("flowers-mini", "Data set", "The labelled pictures to learn from.", basic=True)
    backbone: str = setting(
        "efficientnet-lite0", "Backbone", "The pretrained network that the new classifier stands on.", basic=True
    )
    strategy: Literal["head", "partial", "full", "auto"] = setting(
        "head",
        "Strategy",
        "head: only the new last layer learns. partial: then the last layers too. full: then every layer. "
        "auto: as deep as the time allows.",
        basic=True,
    )
    optimizer: str = setting("adamw", "Optimizer", "The rule that turns gradients into steps.", basic=True)
    learning_rate: float | None = setting(
        None,
        "Learning rate",
        "How far one step goes; empty takes the optimizer's own default.",
        basic=True,
        logarithmic=True,
        ge=1e-8,
        le=10,
    )
    epochs: int = setting(10, "Epochs", "How often every training picture is seen.", basic=True, ge=1, le=1000)
    head_epochs: int = setting(
        3, "Head epochs first", "Epochs of the head alone before more layers learn (partial, full).", ge=0, le=100
    )
    unfreeze_from: Literal["last-half", "last-third", "last-quarter"] = setting(
        "last-third", "Learns from", "How much of the network's work lies in the layers that learn (partial, auto)."
    )
    budget_minutes: float = setting(
        2.0, "Minutes", "How long it may take in all (auto only).", basic=True, gt=0, le=10080
    )
    batch_size: int = setting(32, "Batch size", "Pictures per step.", ge=1, le=1024)
    image_size: int | None = setting(
        None,
        "Image size",
        "Side of the square that the network sees, in pixels; empty takes what suits.",
        ge=32,
        le=512,
    )
    augmentation: str = setting("light", "Augmentation", "How much a picture changes from epoch to epoch.")
    views: int | None = setting(
        None,
        "Views per picture",
        "1: each picture as it is, never augmented. More: augmented versions too. Empty: 1 for head, else 2.",
        ge=1,
        le=16,
    )
    mixing: str = setting(
        "none", "Mixing", "Blend pictures, or what is kept of them, and their labels (partial, full)."
    )
    mixing_alpha: float = setting(0.4, "Mixing strength", "Alpha of the Beta distribution of the shares.", gt=0, le=10)
    schedule: str = setting("one-cycle", "Schedule", "How the learning rate changes during training.")
    weight_decay: float | None = setting(None, "Weight decay", "How strongly weights are pulled to zero.", ge=0, le=1)
    momentum: float | None = setting(None, "Momentum", "Share of the last step that goes on.", ge=0, lt=1)
    beta1: float | None = setting(None, "Beta 1", "Memory of the gradient's mean.", ge=0, lt=1)
    beta2: float | None = setting(None, "Beta 2", "Memory of the gradient's square.", ge=0, lt=1)
    epsilon: float | None = setting(
        None, "Epsilon", "Keeps the division from blowing up.", logarithmic=True, gt=0, le=0.1
    )
    rho: float | None = setting(None, "Rho", "Memory of the squared gradients and steps.", ge=0, lt=1)
    smoothing: float | None = setting(None, "Smoothing", "Memory of the squared gradients.", ge=0, lt=1)
    learning_rate_decay: float | None = setting(None, "Rate decay", "Extra decay of the rate at each step.", ge=0, le=1)
    momentum_decay: float | None = setting(None, "Momentum decay", "How fast momentum warms up.", ge=0, le=1)
    decay: float | None = setting(None, "Drop factor", "What the rate is multiplied by when it drops.", gt=0, le=1)
    decay_epochs: int | None = setting(None, "Epochs per drop", "Epochs between two drops.", ge=1, le=1000)
    rise: float | None = setting(None, "Rising share", "Share of the steps during which the rate rises.", ge=0, le=0.9)
    start_divisor: float | None = setting(
        None, "Start divisor", "The first rate is the full one over this.", ge=1, le=1e4
    )
    patience: int | None = setting(None, "Plateau patience", "Epochs without improvement before a drop.", ge=0, le=100)
    backbone_rate_factor: float | None = setting(
        None,
        "Backbone rate factor",
        "Rate of the backbone's last quarter as a share of the head's. Empty: 0.1 where all layers learn, else 0.5.",
        gt=0,
        le=1,
    )
    layer_rate_decay: float | None = setting(
        None,
        "Layer rate decay",
        "The rate of each earlier quarter as a share of the next. Empty: 0.5 where all layers learn, else 0.7.",
        gt=0,
        le=1,
    )
    freeze_batchnorm: bool = setting(
        True, "Keep BatchNorm statistics", "Use the pretrained means and variances: safer with few pictures."
    )
    dropout: float = setting(
        0.0, "Dropout", "Share of features that are hidden from the head at each step.", ge=0, lt=1
    )
    label_smoothing: float | None = setting(
        None,
        "Label smoothing",
        "Share of each label that is spread over all classes. Empty: 0 for head, else 0.1.",
        ge=0,
        lt=1,
    )
    class_weights: Literal["none", "balanced"] = setting(
        "none", "Class weights", "balanced: rare classes count more, in proportion to how rare they are."
    )
    gradient_clipping: float = setting(
        0.0, "Gradient clipping", "Largest norm of all gradients together; 0 leaves them as they are.", ge=0, le=1000
    )
    ema_decay: float = setting(
        0.0, "Weight averaging (EMA)", "Memory of the running average of the weights; 0 is off.", ge=0, lt=1
    )
    early_stopping: int = setting(
        0, "Early stopping", "Epochs without a lower validation loss before the run ends; 0 never.", ge=0, le=1000
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "Number format",
        "auto: the quickest here, by a trial. float32: exact. bfloat16: half the memory. float16: so too, on CUDA.",
    )
    compile: bool = setting(
        False,
        "Compile",
        "Let torch.compile make kernels for this network: it takes a minute, then steps are quicker (full, on CUDA).",
    )
    seed: int = setting(0, "Seed", "Start of every random draw.", ge=0, le=2**31 - 1)
    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "auto", "Device", "auto takes CUDA, then Apple's MPS, then the CPU."
    )

    @field_validator(*CATALOGS)
    @classmethod
    def _is_in_catalog(cls, value: str, info: ValidationInfo) -> str:
        if value not in CATALOGS[str(info.field_name)]:
            raise PydanticCustomError("choice", "not in the catalog")
        return value

    @model_validator(mode="after")
    def _holds_together(self) -> "FinetuneConfig":
        problems = list(_contradictions(self))
        if problems:
            raise PydanticCustomError("contradiction", "{text}", {"text": " ".join(problems), "problems": problems})
        return self

    def resolved(self) -> "FinetuneConfig":
        """Return the same run with every default written out, as it is recorded and trained.

        Of an imported data set it names the version, so that later edits change nothing of it.
        """
        optimizer, schedule = OPTIMIZERS[self.optimizer], SCHEDULES[self.schedule]
        defaults: dict[str, Any] = {**optimizer.settings, **schedule.settings}
        defaults["learning_rate"] = optimizer.learning_rate
        if self.strategy != "full":
            defaults["views"] = 1 if self.strategy == "head" or self.augmentation == "none" else 2
        if self.strategy in BACKBONE_RATES:  # auto has phases of both kinds
            defaults["backbone_rate_factor"], defaults["layer_rate_decay"] = BACKBONE_RATES[self.strategy]
        defaults["label_smoothing"] = 0.0 if self.strategy == "head" else SMOOTHING
        defaults["image_size"] = suggested_image_size(self.dataset, self.backbone)
        entry = DATASETS[self.dataset]
        defaults["name"] = f"{entry.title} · {BACKBONES[self.backbone].title} · {self.strategy}"
        missing = {name: value for name, value in defaults.items() if getattr(self, name) in (None, "")}
        return self.model_copy(update={**missing, "dataset": entry.pinned})

    @property
    def rate(self) -> float:
        """The learning rate: the one given, or the optimizer's own."""
        return OPTIMIZERS[self.optimizer].learning_rate if self.learning_rate is None else self.learning_rate

    @property
    def mixing_in_use(self) -> tuple[str, float]:
        """The way of mixing, and its alpha, of the phases in which more than the head learns."""
        return AUTO_MIXING if self.strategy == "auto" else (self.mixing, self.mixing_alpha)

    def changes(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults of the config's own choices, as a link or a command needs.

        `parse(config.changes()).resolved()` is the config again, but for its name.
        """
        values = self.model_dump(exclude={"name"})
        defaults = own_defaults(values) | {name: describe(name).default for name in CHOICES}
        return {name: value for name, value in values.items() if value not in (None, defaults[name])}

    def optimizer_settings(self) -> dict[str, float]:
        """Return the settings that the chosen optimizer uses, defaults written out."""
        return self._own(OPTIMIZERS[self.optimizer].settings)

    def schedule_settings(self) -> dict[str, float]:
        """Return the settings that the chosen schedule uses, defaults written out."""
        return self._own(SCHEDULES[self.schedule].settings)

    def _own(self, defaults: Mapping[str, float]) -> dict[str, float]:
        return {
            name: default if getattr(self, name) is None else getattr(self, name) for name, default in defaults.items()
        }


def own_defaults(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each setting is where it is left empty, for these CHOICES; they need not fit together yet."""
    return FinetuneConfig.model_construct(**{name: choices[name] for name in CHOICES}).resolved().model_dump()


def learning_rates(config: FinetuneConfig, epochs: int, batches: int, steps: Iterable[int]) -> list[float]:
    """Return the learning rate of some steps of a phase of `epochs` with so many batches each, counted from 0.

    A schedule that follows the validation loss lowers them further during training.
    """
    schedule, options, total = SCHEDULES[config.schedule], config.schedule_settings(), epochs * batches
    return [config.rate * schedule.factor(step, total, batches, options) for step in steps]


def first_phases(config: FinetuneConfig) -> list[tuple[str, int]]:
    """Return the phases that a training begins with, "head", "partial" or "full", and the epochs of each.

    They are all that there are, but for the strategy auto, which decides after the first what follows.
    """
    if config.strategy == "auto":
        return [("head", AUTO_HEAD_EPOCHS)]
    if config.strategy == "head":
        return [("head", config.epochs)]
    return [part for part in (("head", config.head_epochs), (config.strategy, config.epochs)) if part[1]]


def kinds_of_phases(config: FinetuneConfig) -> list[str]:
    """Return which phases a training has or, where time decides, may have."""
    return [kind for kind, _ in first_phases(config)] + (["partial", "full"] if config.strategy == "auto" else [])


def later_phases(seconds: float, once: float, partial_epoch: float, full_epoch: float) -> list[tuple[str, int]]:
    """Return which phases follow the head in the strategy auto, with their epochs, so that the time suffices.

    Seconds: what is left, what the last layers cost once, and an epoch of the last layers and of all layers.
    """
    partial = _fitting(seconds - once, partial_epoch)
    full = _fitting(seconds - once - PARTIAL_EPOCHS[0] * partial_epoch, full_epoch)
    if full >= FULL_EPOCHS[0]:
        return [("partial", PARTIAL_EPOCHS[0]), ("full", min(full, FULL_EPOCHS[1]))]
    return [("partial", min(partial, PARTIAL_EPOCHS[1]))] if partial else []


def _fitting(seconds: float, epoch: float) -> int:
    """Return how many epochs fit into some seconds; an epoch that cannot be at all takes infinitely long."""
    return int(seconds / epoch) if seconds > 0 and math.isfinite(epoch) else 0


def views(config: FinetuneConfig, kind: str) -> int:
    """Return of how many versions of each picture a phase keeps a frozen network's outputs: itself, and augmented ones.

    A head that is only the beginning has one.
    """
    is_beginning = kind == "head" and config.strategy != "head"
    return 1 if is_beginning or config.views is None else config.views


def backbone_rates(config: FinetuneConfig, kind: str) -> tuple[float, float]:
    """Return, for a phase, the rate of the backbone's last quarter, and of each earlier one, as shares: see the fields.

    `kind` is "partial" or "full".
    """
    factor, decay = BACKBONE_RATES[kind]
    given = config.backbone_rate_factor, config.layer_rate_decay
    return factor if given[0] is None else given[0], decay if given[1] is None else given[1]


def keeps_pictures(config: FinetuneConfig) -> bool:
    """Tell whether decoded pictures are worth keeping: a head on one view looks at each once."""
    return config.strategy != "head" or views(config, "head") > 1


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return how many batches an epoch over `count` pictures has.

    A batch of one picture beside larger ones is avoided, as BatchNorm cannot take its variance: 3 pictures in batches
    of 2 are one batch of 3.
    """
    steps = max(1, -(-count // batch_size))
    return max(1, count // 2) if steps > 1 and batch_size > 1 and count // steps == 1 else steps


def suggested_image_size(dataset: str, backbone: str) -> int:
    """Return the side in pixels that suits: the backbone's own, or less where the pictures are tiny anyway."""
    network = BACKBONES[backbone]
    if network.fixed_size or DATASETS[dataset].image_size >= SMALL_IMAGE_SIZE:
        return network.input_size
    return max(SMALL_IMAGE_SIZE, network.min_size)


def parse(values: Mapping[str, Any]) -> FinetuneConfig:
    """Return the config for `values` (typed or as text); raise ConfigError with a sentence for every problem."""
    given = {RENAMED.get(name, name): _plain(name, value) for name, value in values.items()}
    try:
        return FinetuneConfig.model_validate(given)
    except ValidationError as error:
        raise ConfigError(dict.fromkeys([*_sentences(error), *_problems_of_the_rest(given, error)])) from None


def settings_in_use(config_values: Mapping[str, Any]) -> list[str]:
    """Return the fields that matter for these choices, in their order: what a form shows and a record prints."""
    return [name for name in FinetuneConfig.model_fields if not _why_unused(name, config_values)]


def describe(name: str) -> "Setting":
    """Return what a widget or a flag has to know of one field."""
    return Setting.of(name, FinetuneConfig.model_fields[name])


@dataclass(frozen=True)
class Setting:
    """One field, as a form or a command line sees it."""

    name: str
    title: str
    help: str
    kind: type  # bool, int, float or str
    default: Any
    choices: tuple[str, ...] | None
    is_basic: bool
    is_logarithmic: bool
    rule: str  # "a whole number from 1 to 1000"

    @classmethod
    def of(cls, name: str, field: FieldInfo) -> "Setting":
        """Read the description that stands in the config's field."""
        extra = typing.cast(dict[str, Any], field.json_schema_extra)
        kind, choices = _kind(field), _choices(name, field)
        return cls(
            name,
            field.title or name,
            field.description or "",
            kind,
            field.default,
            choices,
            extra["basic"],
            extra["logarithmic"],
            _rule(kind, choices, field),
        )


def _plain(name: str, value: Any) -> Any:
    """Strip text, and read an empty text as *not given* where a setting may be left out."""
    if not isinstance(value, str):
        return value
    field = FinetuneConfig.model_fields.get(name)
    is_optional = field is not None and type(None) in get_args(field.annotation)
    return None if is_optional and not value.strip() else value.strip()


def _kind(field: FieldInfo) -> type:
    annotation = field.annotation
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return str if get_origin(annotation) is Literal else typing.cast(type, annotation)


def _choices(name: str, field: FieldInfo) -> tuple[str, ...] | None:
    if name in CATALOGS:
        return tuple(CATALOGS[name])
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else None


def _rule(kind: type, choices: tuple[str, ...] | None, field: FieldInfo) -> str:
    """Word the constraint that also checks."""
    if choices:
        return f"one of {', '.join(choices)}"
    if kind is bool:
        return "true or false"
    if kind is str:
        return "a text of at most 80 characters"
    low, high = _bounds(field)
    return f"{'a whole number' if kind is int else 'a number'} {low} {high}"


def _bounds(field: FieldInfo) -> tuple[str, str]:
    found = {
        name: getattr(part, name) for part in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(part, name)
    }
    low = f"from {found['ge']:g}" if "ge" in found else f"above {found['gt']:g}"
    if "le" not in found:
        return low, f"and below {found['lt']:g}"
    return low, f"{'to' if 'ge' in found else 'and at most'} {_number(found['le'])}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _contradictions(config: FinetuneConfig) -> Iterator[str]:
    """Yield a sentence for each choice that does not fit another choice."""
    chosen = config.model_dump()
    for name in sorted(config.model_fields_set):
        reason = _why_unused(name, chosen) if chosen[name] is not None else ""
        if reason and chosen[name] != FinetuneConfig.model_fields[name].default:
            yield reason
    yield from _size_problems(config)
    if config.strategy == "partial" and config.mixing == "cutmix":
        yield "cutmix puts pieces of pictures together, and partial learns from no pictures: choose mixup, or full."
    if config.strategy != "head" and not config.freeze_batchnorm and config.batch_size == 1:
        yield "BatchNorm takes its statistics from a batch, so batch_size must be at least 2, or freeze_batchnorm true."


def _size_problems(config: FinetuneConfig) -> Iterator[str]:
    network = BACKBONES[config.backbone]
    if config.image_size is None:
        return
    if network.fixed_size and config.image_size != network.input_size:
        yield f"{network.title} takes pictures of {network.input_size} pixels only; got image_size {config.image_size}."
    elif config.image_size < network.min_size:
        yield f"{network.title} needs image_size of at least {network.min_size}; got {config.image_size}."


def _why_unused(name: str, chosen: Mapping[str, Any]) -> str:
    """Return a sentence where `name` means nothing for the chosen optimizer, schedule or strategy, else nothing."""
    optimizer, schedule = OPTIMIZERS.get(chosen["optimizer"]), SCHEDULES.get(chosen["schedule"])
    if optimizer and name in OPTIMIZER_SETTINGS and name not in optimizer.settings:
        return f"{name} is not a setting of {optimizer.name}, which uses {', '.join(optimizer.settings)}. Leave it out."
    if schedule and name in SCHEDULE_SETTINGS and name not in schedule.settings:
        uses = ", ".join(schedule.settings) or "no settings of its own"
        return f"{name} is not a setting of the schedule {schedule.name}, which uses {uses}. Leave it out."
    strategy = chosen["strategy"]
    if strategy not in STRATEGIES_OF.get(name, (strategy,)):
        wanted = " or ".join(STRATEGIES_OF[name])
        return f"{name} means nothing for the strategy {strategy}: it needs {wanted}. Leave it out."
    if name == "mixing_alpha" and chosen["mixing"] == "none":
        return "mixing_alpha needs mixing to be mixup or cutmix, and the strategy partial or full."
    return ""


def _problems_of_the_rest(given: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Say what contradicts itself among the values that hold alone; nothing where a faulty one decides that."""
    faulty = {problem["loc"][0] for problem in error.errors() if problem["loc"]}
    if not faulty or faulty & {"optimizer", "schedule", "strategy", "mixing", "backbone"}:
        return []
    try:
        FinetuneConfig.model_validate({name: value for name, value in given.items() if name not in faulty})
    except ValidationError as rest:
        return list(_sentences(rest))
    return []


def _sentences(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        if problem["type"] == "contradiction":
            yield from problem["ctx"]["problems"]
        elif problem["type"] in ("extra_forbidden", "invalid_key"):
            yield f"There is no setting called {str(problem['loc'][0])[:40]!r}."
        else:
            yield _sentence(str(problem["loc"][0]), problem["input"])


def _sentence(name: str, value: Any) -> str:
    """Say what must hold, what was found, and what would do."""
    about = describe(name)
    found = "nothing" if value in (None, "") else _shown(value)
    hint = "" if about.default in (None, "") or about.choices else f" Try {about.default}."
    return f"{about.title} ({name}) must be {about.rule}; got {found}.{hint}"


def _shown(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    try:
        text = str(value)
    except ValueError:  # Python writes out no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 40 else f"{text[:40]}…"
