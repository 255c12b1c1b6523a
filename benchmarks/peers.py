"""Who we compare with, each as its own documentation shows it, from the same weights and to the same pictures."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.contestants import BACKBONE, BATCH, Judge, Race
from dlkit import machine
from dlkit.catalog.backbones import BACKBONES
from dlkit.engine.device import wait
from dlkit.engine.model import Classifier, pretrained

ENTRY = BACKBONES[BACKBONE]
SIZE, RESIZE = ENTRY.input_size, 256
LOADER_WORKERS = machine.cores()
HEAD_RATE, FULL_RATE = 3e-3, 3e-4
FASTAI_EPOCHS = 1  # after one of the head alone: its quick start
TRAINER_EPOCHS = 3  # its own default


def folders(race: Race) -> tuple[ImageFolder, ImageFolder]:
    """Return both parts, transformed as in the PyTorch tutorial on transfer learning."""
    normalise = [transforms.ToTensor(), transforms.Normalize(ENTRY.mean, ENTRY.std)]
    augment = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    centre = [transforms.Resize(RESIZE), transforms.CenterCrop(SIZE)]
    return (
        ImageFolder(str(race.folder / "train"), transforms.Compose([*augment, *normalise])),
        ImageFolder(str(race.folder / "val"), transforms.Compose([*centre, *normalise])),
    )


def tutorial(race: Race, judge: Judge, *, is_frozen: bool) -> None:
    """Train as the PyTorch tutorial does, without a schedule, until the target or the time is reached."""
    torch.manual_seed(race.seed)
    train, val = folders(race)
    train_loader = DataLoader(train, BATCH, shuffle=True, num_workers=LOADER_WORKERS)
    val_loader = DataLoader(val, BATCH, num_workers=LOADER_WORKERS)
    model = pretrained(ENTRY, len(train.classes), seed=race.seed).to(race.device)
    optimizer: torch.optim.Optimizer
    if is_frozen:
        model.body.requires_grad_(False)
        optimizer = torch.optim.Adam(model.head.parameters(), HEAD_RATE)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), FULL_RATE)
    judge.ready()
    epoch = 0
    while True:
        epoch += 1
        started = time.perf_counter()
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(images.to(race.device)), labels.to(race.device)).backward()
            optimizer.step()
        wait(torch.device(race.device))
        seconds = (time.perf_counter() - started) / len(train_loader)
        judge.score(epoch, accuracy(model, val_loader, race.device), seconds)


def accuracy(model: nn.Module, loader: DataLoader[Any], device: str) -> float:
    """Return the share of the loader's pictures that the model gets right."""
    model.eval()
    right = 0
    with torch.no_grad():
        for images, labels in loader:
            right += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
    return right / len(loader.dataset)  # type: ignore[arg-type]


def fastai(race: Race, judge: Judge) -> None:
    """Train with `fine_tune` as in fastai's quick start, normalised as the weights want it."""
    import fastai.callback.schedule  # noqa: F401 - gives the learner its fine_tune
    from fastai.learner import Learner
    from fastai.metrics import accuracy as fastai_accuracy
    from fastai.torch_core import params, set_seed
    from fastai.vision.augment import Resize, aug_transforms
    from fastai.vision.data import ImageDataLoaders, Normalize

    set_seed(race.seed)
    loaders = ImageDataLoaders.from_folder(
        race.folder,
        train="train",
        valid="val",
        bs=BATCH,
        item_tfms=Resize(SIZE),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(ENTRY.mean, ENTRY.std)],
        device=torch.device(race.device),
    )
    model = pretrained(ENTRY, loaders.c, seed=race.seed)
    learner = Learner(
        loaders,
        model,
        loss_func=nn.CrossEntropyLoss(),
        metrics=fastai_accuracy,
        splitter=lambda model: [params(model.body), params(model.head)],
        cbs=_fastai_callback(judge),
    )
    judge.ready()
    learner.fine_tune(FASTAI_EPOCHS, freeze_epochs=1)


def _fastai_callback(judge: Judge) -> Any:
    from fastai.callback.core import Callback

    class Tell(Callback):
        order = 60  # after the recorder, which computes the accuracy

        def __init__(self) -> None:
            self.epochs, self.started, self.step_seconds = 0, 0.0, 0.0

        def before_train(self) -> None:
            self.started = time.perf_counter()

        def after_train(self) -> None:
            self.step_seconds = (time.perf_counter() - self.started) / len(self.dls.train)

        def after_epoch(self) -> None:
            self.epochs += 1
            judge.score(self.epochs, float(self.recorder.values[-1][-1]), self.step_seconds)

    return Tell()


class Wrapped(nn.Module):
    """A classifier that takes and returns what the Trainer of Hugging Face wants."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the logits (N, C) of normalised images (N, 3, S, S), and the loss where there are labels (N,)."""
        logits = self.model(pixel_values)
        return (
            {"logits": logits}
            if labels is None
            else {"loss": functional.cross_entropy(logits, labels), "logits": logits}
        )


def trainer(race: Race, judge: Judge) -> None:
    """Train all layers with the Trainer of Hugging Face, with the tutorial's pictures."""
    from transformers import Trainer, TrainingArguments

    train, val = folders(race)
    arguments = TrainingArguments(
        output_dir=str(race.scratch),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        learning_rate=FULL_RATE,
        num_train_epochs=TRAINER_EPOCHS,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        dataloader_num_workers=LOADER_WORKERS,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=race.device == "cpu",
        seed=race.seed,
        disable_tqdm=True,
    )
    learner = Trainer(
        model=Wrapped(pretrained(ENTRY, len(train.classes), seed=race.seed)),
        args=arguments,
        data_collator=_collate,
        train_dataset=train,
        eval_dataset=val,
        compute_metrics=lambda answers: {
            "accuracy": float(np.mean(np.argmax(answers.predictions, axis=1) == answers.label_ids))
        },
        callbacks=[_trainer_callback(judge)],
    )
    judge.ready()
    learner.train()


def _collate(pictures: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([image for image, _ in pictures]),
        "labels": torch.tensor([label for _, label in pictures]),
    }


def _trainer_callback(judge: Judge) -> Any:
    from transformers import TrainerCallback

    class Tell(TrainerCallback):
        started, step, step_seconds = 0.0, 0, 0.0

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started, self.step = time.perf_counter(), state.global_step

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.step_seconds = (time.perf_counter() - self.started) / (state.global_step - self.step)

        def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            judge.score(state.epoch, others["metrics"]["eval_accuracy"], self.step_seconds)

    return Tell()


#: by the contestant's name
PEERS: dict[str, Callable[[Race, Judge], None]] = {
    "tutorial-head": partial(tutorial, is_frozen=True),
    "tutorial-full": partial(tutorial, is_frozen=False),
    "fastai": fastai,
    "trainer": trainer,
}
