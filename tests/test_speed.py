"""Folding BatchNorm, and choosing a number format by trial."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from dlkit import evidence
from dlkit.catalog.backbones import BACKBONES
from dlkit.engine import speed
from dlkit.engine.device import precisions
from dlkit.engine.folding import fold_batchnorm
from dlkit.engine.model import build
from dlkit.errors import DeviceError
from dlkit.evidence import FEATURES, PLAIN, REFERENCE, TRAINING, Choice, Format, known_choices
from dlkit.settings import settings

CPU = torch.device("cpu")
CONVOLUTIONAL = ("efficientnet-lite0", "resnet18", "mobilenet-v3-small", "regnet-y-800mf", "mobilenet-v4-small")


def norms(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def with_statistics(network: nn.Module) -> nn.Module:
    """Give BatchNorm layers means and variances as after a training."""
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def small_network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return with_statistics(nn.Sequential(*layers))


@pytest.fixture
def measuring(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DLKIT_MEASURE_SPEED", "1")
    monkeypatch.setattr(speed, "TRIAL_SECONDS", 0.01)
    settings.cache_clear()
    yield
    settings.cache_clear()


# Folding


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_folded_backbone_says_the_same_without_batchnorm(name):
    body = with_statistics(build(BACKBONES[name], 5).body)
    images = torch.randn(2, 3, 96, 96)
    before = {key: value.clone() for key, value in body.state_dict().items()}
    folded = fold_batchnorm(body, images[:1])
    with torch.no_grad():
        torch.testing.assert_close(folded(images), body(images), rtol=1e-3, atol=1e-4 * float(body(images).abs().max()))
    assert norms(folded) == 0 < norms(body)
    assert all(torch.equal(body.state_dict()[key], value) for key, value in before.items())


def test_convolution_whose_output_is_used_twice_stays_as_it_is():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, images):
            raw = self.convolution(images)
            return self.norm(raw) + raw

    network, images = with_statistics(Twice()), torch.randn(2, 3, 8, 8)
    folded = fold_batchnorm(network, images)
    assert norms(folded) == 1
    assert torch.equal(folded(images), network(images))


def test_convolution_that_runs_twice_stays_as_it_is():
    convolution = nn.Conv2d(3, 3, 1)
    network = with_statistics(nn.Sequential(convolution, nn.BatchNorm2d(3), convolution, nn.BatchNorm2d(3)))
    assert norms(fold_batchnorm(network, torch.randn(1, 3, 8, 8))) == 2


def test_frozen_network_leaves_the_given_one_alone():
    network, images = small_network(), torch.randn(4, 3, 16, 16)
    frozen = speed.Frozen(network, Format("bfloat16", folded=True), images[:1])
    assert frozen(images).dtype == torch.float32
    assert next(network.parameters()).dtype == torch.float32
    torch.testing.assert_close(frozen(images), network(images), rtol=0.05, atol=0.05)
    assert torch.equal(speed.Frozen(network, PLAIN, images[:1])(images), network(images))


# Choosing


def test_precision_that_was_asked_for_is_taken_without_a_trial(measuring):
    network = small_network()
    for precision in ("float32", "bfloat16"):
        assert speed.choose(FEATURES, "small", network, 16, CPU, precision) == Choice(Format(precision))
    assert not known_choices()


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "names"),
    [
        ("cpu", True, ("float32", "bfloat16")),
        ("cpu", False, ("float32",)),
        ("cuda", True, ("float32", "bfloat16", "float16")),
        ("cuda", False, ("float32", "float16")),
    ],
)
def test_number_formats_are_those_of_the_device(monkeypatch, device, has_bfloat16, names):
    machine_with(monkeypatch, has_bfloat16)
    assert precisions(torch.device(device)) == names


def machine_with(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool) -> None:
    """Let CPU and GPU have bfloat16 or not."""
    real = functional.conv2d

    def conv2d(images: torch.Tensor, *arguments: Any) -> torch.Tensor:
        if images.dtype == torch.bfloat16 and not has_bfloat16:
            raise RuntimeError("\"conv2d\" not implemented for 'BFloat16'")
        return real(images, *arguments)

    monkeypatch.setattr(functional, "conv2d", conv2d)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)


@pytest.mark.parametrize("task", [FEATURES, TRAINING])
def test_machine_without_bfloat16_takes_what_it_has_and_says_so(measuring, monkeypatch, task):
    machine_with(monkeypatch, has_bfloat16=False)
    choice = speed.choose(task, "small", small_network(), 16, CPU, "auto")
    assert str(choice).startswith("float32, channels_last")
    assert "bfloat16" not in " ".join(choice.rates)


@pytest.mark.parametrize(("precision", "others"), [("bfloat16", "auto or float32"), ("float16", "auto or float32")])
def test_number_format_that_the_device_has_not_is_refused(monkeypatch, precision, others):
    machine_with(monkeypatch, has_bfloat16=False)
    with pytest.raises(DeviceError, match=rf"{precision} was asked for, .*: CPU, .* threads?\. Choose {others}\."):
        speed.choose(FEATURES, "small", small_network(), 16, CPU, precision)


@pytest.mark.parametrize(("rate", "best"), [(105.0, "bfloat16"), (115.0, "float16")])
def test_float16_is_learnt_in_only_where_it_is_clearly_quicker(measuring, monkeypatch, rate, best):
    tries = [(REFERENCE, 50.0), (Format("bfloat16"), 100.0), (Format("float16"), rate), (PLAIN, 20.0)]
    monkeypatch.setattr(speed, "_try_training", lambda *_: tries)
    monkeypatch.setattr(speed, "_try_features", lambda *_: tries)
    choices = [speed.choose(task, "small", small_network(), 16, CPU, "auto") for task in (TRAINING, FEATURES)]
    assert [choice.format.precision for choice in choices] == [best, "float16"]


def test_without_measuring_the_reference_is_taken(home, monkeypatch):
    monkeypatch.setenv("DLKIT_MEASURE_SPEED", "0")
    assert speed.choose(FEATURES, "small", small_network(), 16, CPU, "auto") == Choice(REFERENCE)


@pytest.mark.parametrize("task", [FEATURES, TRAINING])
def test_trial_is_made_once_and_leaves_no_trace(measuring, monkeypatch, task):
    network = small_network()
    before, random = {key: value.clone() for key, value in network.state_dict().items()}, torch.get_rng_state()
    choice = speed.choose(task, "small", network, 16, CPU, "auto")
    assert str(choice.format) in choice.rates
    others = {form: rate for form, rate in choice.rates.items() if form != str(PLAIN)}
    assert choice.images_per_second == max(others.values()), "what everyone writes is there to compare with"
    assert "× plain" in str(choice)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    assert all(parameter.grad is None for parameter in network.parameters())
    monkeypatch.setattr(speed, "_trial", lambda *_: pytest.fail("it was measured again"))
    assert speed.choose(task, "small", network, 16, CPU, "auto") == choice
    assert speed.key_of(task, "small", 16, CPU) in known_choices()


def test_format_that_says_something_else_is_not_chosen(measuring, monkeypatch):
    monkeypatch.setattr(speed, "LARGEST_ERROR", 1e-9)  # as on a machine whose bfloat16 is broken
    choice = speed.choose(FEATURES, "small", small_network(), 16, CPU, "auto")
    assert choice.format.precision == "float32"
    assert "bfloat16" not in " ".join(choice.rates)


def test_trial_that_does_not_fit_into_memory_takes_the_reference(measuring, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speed, "_trial", full)
    assert speed.choose(FEATURES, "small", small_network(), 16, CPU, "auto") == Choice(REFERENCE)
    assert not known_choices()


def test_trial_that_takes_too_long_ends_with_what_it_has_and_is_not_remembered(measuring, monkeypatch):
    monkeypatch.setattr(speed, "LONGEST_SECONDS", 0)
    assert speed.choose(FEATURES, "small", small_network(), 16, CPU, "auto") == Choice(REFERENCE, {})
    assert not known_choices()


def test_first_run_of_a_format_is_not_counted_however_long_it_takes(monkeypatch):
    now, runs = [0.0], iter((5.0, 0.5, 0.25, 0.5))
    monkeypatch.setattr(speed, "TRIAL_SECONDS", 1)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    assert speed._seconds(CPU, lambda: now.__setitem__(0, now[0] + next(runs))) == 0.25


def test_evidence_that_is_damaged_is_measured_again(measuring):
    (settings().folder() / evidence.FILE).write_text('{"features of small": {"format": 7}}')
    assert known_choices() == {}
    speed.choose(FEATURES, "small", small_network(), 16, CPU, "auto")
    assert len(known_choices()) == 1


def test_choice_in_words():
    rates = {str(PLAIN): 30.0, "bfloat16, channels_last, BatchNorm folded": 282.0}
    assert (
        str(Choice(Format("bfloat16", folded=True), rates)) == "bfloat16, channels_last, BatchNorm folded: 9.4× plain"
    )
    assert str(Choice()) == "float32, channels_last"
