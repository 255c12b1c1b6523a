"""One step of a run under the microscope: what a batch does to one parameter, with the numbers on the way.

The gradient is the run's own, in its precision. What the optimizer makes of it is computed in float64 by the lines of
its rule, from what torch's optimizer has remembered.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.formulas import names_in
from dlkit.catalog.optimizers import TORCH_ARGUMENTS
from dlkit.catalog.updates import RULES
from dlkit.config import learning_rates, parse
from dlkit.data.dataset import open_dataset
from dlkit.engine.finetuning import assemble
from dlkit.engine.learner import Learner
from dlkit.engine.model import pretrained
from dlkit.engine.phases import KeptPhase, Phase, begin_phase, set_modes
from dlkit.engine.pixels import shuffled_batches
from dlkit.engine.steps import gradients
from dlkit.errors import ConfigError

Numbers = NDArray[np.float64]
#: what torch's optimizers call that which a rule remembers
REMEMBERED = {
    "m": ("exp_avg",),
    "v": ("exp_avg_sq", "square_avg"),
    "u": ("acc_delta", "exp_inf"),
    "b": ("momentum_buffer",),
    "s": ("sum",),
    "mu_product": ("mu_product",),
}


@dataclass(frozen=True)
class Update:
    """What a rule makes of a parameter's gradient: `lines` are its formulas in their order, the last being "delta".

    `given` is what they begin with: w, g, t, rate, what is remembered, and settings; `values` what each line comes to.
    Values are of the parameter's shape, or numbers; "delta" is added to the weights. `memory` is what torch's optimizer
    remembers, by its own names.
    """

    rule: str
    lines: Mapping[str, str]
    given: Mapping[str, Any]
    values: Mapping[str, Any]
    memory: Mapping[str, Any]

    def at(self, index: Sequence[int]) -> "Update":
        """Return what it makes of a single weight; ConfigError where there is none at this index."""
        place, shape = tuple(index), self.weights.shape
        if len(place) != len(shape) or not all(0 <= at < side for at, side in zip(place, shape, strict=True)):
            raise ConfigError([f"The parameter has the shape {shape}; it has no weight at {place}. Count from 0."])

        def single(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value[place] if np.ndim(value) else value for name, value in values.items()}

        return Update(self.rule, self.lines, single(self.given), single(self.values), single(self.memory))

    @property
    def delta(self) -> Numbers:
        """What is added to the weights."""
        return np.asarray(self.values["delta"])

    @property
    def weights(self) -> Numbers:
        """The weights before the step."""
        return np.asarray(self.given["w"])

    @property
    def gradient(self) -> Numbers:
        """The gradient that the rule goes by: clipped, where that is on."""
        return np.asarray(self.given["g"])


@dataclass(frozen=True)
class Outputs:
    """What the layer of a parameter put out for the batch: mean and deviation of each of its units, (units,)."""

    means: Numbers
    deviations: Numbers

    def of(self, unit: int) -> dict[str, float]:
        """Return the numbers of one unit."""
        return {"mean": float(self.means[unit]), "deviation": float(self.deviations[unit])}


@dataclass(frozen=True)
class OneStep:
    """One step of a run, number `number`, by some `pictures` of what it learns from.

    `loss` is the batch's, `norm` that of all gradients before they are multiplied by `clipping`, which is 1 where they
    are not clipped. `outputs` is None where a parameter has no units of its own, as a token. `learning` are all
    parameters that learn now, with their shapes.
    """

    parameter: str
    phase: str
    number: int
    pictures: tuple[int, ...]
    loss: float
    norm: float
    clipping: float
    outputs: Outputs | None
    update: Update
    learning: Mapping[str, tuple[int, ...]]

    def of_weight(self, index: Sequence[int]) -> dict[str, Any]:
        """Return the step of a single weight as plain numbers; ConfigError where there is none at this index.

        "given" has what the lines use, "outputs" is of the unit that is first in the index, and "norms" are of the
        whole parameter.
        """
        whole, one = self.update, self.update.at(index)
        used = {"w", *(name for line in one.lines.values() for name in names_in(line))}
        norms = {"weights": whole.weights, "gradient": whole.gradient, "delta": whole.delta}
        return {
            "parameter": self.parameter,
            "index": list(index),
            "phase": self.phase,
            "step": self.number,
            "pictures": list(self.pictures),
            "outputs": None if self.outputs is None else self.outputs.of(index[0]),
            "loss": self.loss,
            "gradient_norm": self.norm,
            "clipping": self.clipping,
            "rule": one.rule,
            "given": {name: float(value) for name, value in one.given.items() if name in used},
            "lines": [
                {"name": name, "formula": line, "value": float(one.values[name])} for name, line in one.lines.items()
            ],
            "delta": float(one.delta),
            "after": float(one.weights + one.delta),
            "norms": {name: float(np.linalg.norm(tensor)) for name, tensor in norms.items()},
        }


def one_step_of_run(state: Mapping[str, Any], parameter: str, batch: int = 0) -> OneStep:
    """Return the step that a run would take from the state of a checkpoint; nothing of the run is changed.

    `batch` counts the batches of the run's first epoch from 0. ConfigError names what does not learn or is not there.
    """
    with standing_at(state) as learner:
        return one_step(learner, parameter, batch)


@contextmanager
def standing_at(state: Mapping[str, Any]) -> Iterator[Learner]:
    """Lend a learner that stands where the checkpoint's state was taken; nothing of the run is changed."""
    config = parse(state["config"]).model_copy(update={"compile": False})
    dataset, entry = open_dataset(config.dataset), BACKBONES[config.backbone]
    classes = len(dataset.classes)
    threads = torch.get_num_threads()
    learner = assemble(config, dataset, lambda: pretrained(entry, classes, seed=config.seed, dropout=config.dropout))
    with closing(learner), torch.random.fork_rng(devices=[]):
        try:
            learner.restore({**state, "config": config.model_dump(mode="json")})
            yield learner
        finally:
            torch.set_num_threads(threads)


def one_step(learner: Learner, parameter: str, batch: int = 0) -> OneStep:
    """Return what a batch would do to a parameter; the weights do not move, but the learner is of no use afterwards."""
    phase = begin_phase(learner)
    weights, optimizer, group = _learning(learner, phase, parameter)
    set_modes(learner, phase)
    pictures = _pictures(learner, batch)
    # what a frozen network puts out is computed in groups, which are the batches of the first epoch
    epoch = learner.epoch
    learner.epoch = 0 if isinstance(phase, KeptPhase) else epoch
    for _ in phase.prepare(pictures, learner.epoch):
        pass
    with _watched(learner.model.get_submodule(parameter.rpartition(".")[0])) as outputs:
        loss, norm, _ = gradients(learner, phase, pictures, -(-len(pictures) // learner.micro_batch))
    most = learner.config.gradient_clipping
    return OneStep(
        parameter,
        phase.title,
        learner.step + 1,
        tuple(pictures.tolist()),
        loss,
        norm,
        min(1.0, most / (norm + 1e-6)) if most else 1.0,
        _of_units(outputs, len(weights)) if weights.ndim else None,
        update_of(learner.config.optimizer, optimizer, group, weights, _rate(learner) * group["rate_factor"]),
        {name: tuple(one.shape) for name, one in _all_learning(learner).items()},
    )


def update_of(
    name: str, optimizer: torch.optim.Optimizer, group: Mapping[str, Any], weights: nn.Parameter, rate: float
) -> Update:
    """Return what an optimizer of the catalog, called `name`, would do to weights that have their gradient.

    ConfigError where its rule does not go by single weights.
    """
    name = "adamw" if isinstance(optimizer, torch.optim.AdamW) else name  # Muon leaves what is no matrix to AdamW
    if name not in RULES:
        raise ConfigError([f"{name} looks at whole matrices, so no rule tells of single weights. Choose a bias of it."])
    rule, known = RULES[name], optimizer.state.get(weights, {})
    settings = {setting: _setting(group, setting) for setting in rule.settings}
    remembered = {
        what: next((_plain(known[term]) for term in REMEMBERED[what] if known.get(term) is not None), np.float64(first))
        for what, first in rule.memory.items()
    }
    steps = float(known.get("step", 0.0))
    given = {"w": _plain(weights), "g": _plain(weights.grad), "t": np.float64(steps + 1), "rate": np.float64(rate)}
    given |= {setting: np.float64(value) for setting, value in settings.items()} | remembered
    values = dict(given)
    lines = rule.formulas(settings)
    with np.errstate(all="ignore"):
        for line, formula in lines.items():
            values[line] = formula(values)
    texts = {line: formula.text for line, formula in lines.items()}
    memory = {term: _plain(value) for term, value in known.items() if isinstance(value, torch.Tensor)}
    return Update(name, texts, given, {line: values[line] for line in lines}, memory)


def _setting(group: Mapping[str, Any], name: str) -> float:
    if name in ("beta1", "beta2"):
        return float(group["betas"][name == "beta2"])
    return 1.0 if name == "bias_correction" else float(group[TORCH_ARGUMENTS.get(name, name)])


def _plain(values: Any) -> Any:
    """Return a copy as float64: an array, or a number of no dimension."""
    plain = values.detach().cpu().double().numpy()
    return plain.copy() if plain.ndim else np.float64(plain)


def _learning(
    learner: Learner, phase: Phase, name: str
) -> tuple[nn.Parameter, torch.optim.Optimizer, Mapping[str, Any]]:
    """Return a parameter that learns now, with the optimizer that moves it and its group there."""
    named = dict(learner.model.named_parameters())
    if name not in named:
        near = get_close_matches(name, named, 3, 0.0)
        raise ConfigError([f"There is no parameter called {name[:60]!r}. Near to it: {', '.join(near)}."])
    for optimizer in learner.optimizers:
        for group in optimizer.param_groups:
            if any(named[name] is one for one in group["params"]) and not _is_frozen(learner, name):
                return named[name], optimizer, group
    learning = _some(list(_all_learning(learner)))
    raise ConfigError([f"{name} does not learn in this phase ({phase.title}). Choose one of: {learning}."])


def _all_learning(learner: Learner) -> dict[str, nn.Parameter]:
    named = learner.model.named_parameters()
    return {name: one for name, one in named if one.requires_grad and not _is_frozen(learner, name)}


def _is_frozen(learner: Learner, name: str) -> bool:
    return learner.is_frozen and name.startswith("body.")


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], "…", *names[-2:]] if len(names) > 6 else names)


def _pictures(learner: Learner, batch: int) -> NDArray[np.int64]:
    config = learner.config
    batches = shuffled_batches(len(learner.train), config.batch_size, config.seed, 0)
    if not 0 <= batch < len(batches):
        raise ConfigError([f"An epoch of this run has the batches 0 to {len(batches) - 1}; there is no batch {batch}."])
    return batches[batch]


def _rate(learner: Learner) -> float:
    """Return the learning rate of the next step; of a phase that is over, that of its last step."""
    place = learner.phase_epoch * learner.batches + learner.batch
    last = learner.phase_epochs * learner.batches - 1
    (planned,) = learning_rates(learner.config, learner.phase_epochs, learner.batches, [max(0, min(place, last))])
    return planned * (learner.plateau.factor if learner.plateau else 1.0)


@contextmanager
def _watched(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what a layer puts out."""
    outputs: list[torch.Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            outputs.append(output.detach().float().cpu().clone())

    hook = layer.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        hook.remove()


def _of_units(outputs: list[torch.Tensor], units: int) -> Outputs | None:
    """Return the outputs by units, which are the channels: of pictures in front, of tokens at the end."""
    if not outputs:
        return None
    whole = torch.cat(outputs)
    places = [at for at in (1, whole.ndim - 1) if whole.ndim > 1 and whole.shape[at] == units]
    if not places:
        return None
    rows = whole.movedim(places[0], 0).reshape(units, -1).double()
    return Outputs(rows.mean(1).numpy(), rows.std(1, correction=0).numpy())
