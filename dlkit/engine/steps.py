"""One step of a training: the gradients, looked at before the weights move, and in smaller parts where memory lacks."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dlkit.catalog.augmentations import MIXINGS
from dlkit.engine.device import is_out_of_memory, random_state, set_random_state, upload
from dlkit.engine.learner import Learner
from dlkit.engine.phases import Phase
from dlkit.engine.pixels import seeded
from dlkit.errors import DivergedError
from dlkit.evidence import TRAINING

#: float16's gradients are scaled up by at least as much; where they overflow even so they are not finite indeed
LEAST_SCALE = 1.0


def step_at(learner: Learner, phase: Phase, indices: np.ndarray, rate: float) -> tuple[float, float, float, int, int]:
    """Take one step; return its rate, its loss, its gradient norm, how many were right, and how many pictures it saw.

    The loss and the gradients are looked at before the weights are moved. Where the memory is not enough the same step
    is taken again in smaller parts; where gradients overflow float16, at half the scale.
    """
    random = random_state(learner.device)
    statistics = [buffer.clone() for buffer in phase.module.buffers()] if phase.has_learning_batchnorm else []

    def take_back() -> None:
        set_random_state(learner.device, random)
        for buffer, old in zip(phase.module.buffers(), statistics, strict=False):
            buffer.copy_(old)

    while True:
        parts, found = -(-len(indices) // learner.micro_batch), None
        try:
            found = gradients(learner, phase, indices, parts)
        except Exception as error:
            if not is_out_of_memory(error):
                take_back()
                raise
        if found and math.isfinite(found[0] + found[1]):
            break
        take_back()
        forget_gradients(learner)
        if found:
            _scale_less(learner, found[0])
        else:
            learner.forget_scaled()
            learner.shrink(-(-len(indices) // parts))
    loss, norm, right = found
    for optimizer in learner.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        optimizer.step()
    learner.scaler.update()
    if learner.average is not None:
        learner.average.update_parameters(learner.trained)
    learner.step += 1
    learner.batch += 1
    learner.seen += len(indices)
    return rate, loss, norm, int(right), len(indices)


def gradients(learner: Learner, phase: Phase, indices: np.ndarray, parts: int) -> tuple[float, float, float]:
    """Fill the gradients of one step, in so many parts; return the loss, the gradients' norm, and how many were right.

    The parts add up to the loss of the whole batch. The norm is of the gradients before they are clipped, and both are
    without float16's scale. The numbers are read at once, when all is on its way: on a GPU the processor waits for them
    while the backward pass still runs.
    """
    config = learner.config
    inputs = phase.inputs(indices, learner.epoch)
    labels = upload(learner.train.labels[torch.from_numpy(indices)], learner.device)
    targets: torch.Tensor = labels
    mixing, alpha = phase.mixing
    if mixing != "none":
        with seeded(config.seed, learner.step, len(indices)):
            images = inputs if inputs.ndim == 4 else inputs[:, None]  # a transformer's front puts out no images
            mixed, targets = MIXINGS[mixing].build(learner.classes, alpha)(images, labels)
        inputs = mixed.reshape(inputs.shape)
    weights = _class_weights(learner)
    whole = len(indices) if weights is None or targets is not labels else weights[labels].sum()
    forget_gradients(learner)
    losses, rights = [], []
    for some, wanted, answers in zip(
        *(tensor.tensor_split(parts) for tensor in (inputs, targets, labels)), strict=True
    ):
        with phase.precision(TRAINING):
            logits = phase.module(some).float()
        loss = functional.cross_entropy(
            logits,
            wanted,
            weight=weights,
            label_smoothing=config.label_smoothing or 0.0,
            reduction="mean" if parts == 1 else "sum",
        )
        if parts > 1:
            loss = loss / whole
        learner.scaler.scale(loss).backward()
        losses.append(loss.detach())
        rights.append((logits.detach().argmax(1) == answers).sum())
    for optimizer in learner.optimizers:
        learner.scaler.unscale_(optimizer)
    gradients = [parameter.grad for parameter in learner.trained.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if config.gradient_clipping:
        nn.utils.clip_grads_with_norm_(learner.trained.parameters(), config.gradient_clipping, norm)
    measured = torch.stack([torch.stack(losses).sum(), norm.float(), torch.stack(rights).sum().float()])
    loss_value, norm_value, right = measured.tolist()
    return loss_value, norm_value, right


def _scale_less(learner: Learner, loss: float) -> None:
    """Halve the scale of float16's gradients, which overflowed; DivergedError where that is not what is wrong."""
    scale = learner.scaler.get_scale()  # 1 in other formats
    if math.isfinite(loss) and scale > LEAST_SCALE:
        learner.scaler.update()
        return
    learner.scaler.update(scale)  # forgets what it has seen of this step
    what = "the gradients were not finite" if math.isfinite(loss) else "the loss was not a finite number"
    raise DivergedError(learner.step + 1, learner.config.rate, what)


def forget_gradients(learner: Learner) -> None:
    for optimizer in learner.optimizers:
        optimizer.zero_grad(set_to_none=True)


def _class_weights(learner: Learner) -> torch.Tensor | None:
    """Return weights (C,) with mean 1 over the training pictures, or None."""
    if learner.config.class_weights == "none":
        return None
    counts = torch.bincount(learner.train.labels, minlength=learner.classes).clamp(min=1)
    return upload((len(learner.train) / (learner.classes * counts)).float(), learner.device)
