"""What a frozen network thinks of the pictures of a data set: labels that a head would not believe, and outliers.

Confident learning (Northcutt, Jiang, Chuang 2021, Confident learning: estimating uncertainty in dataset labels,
arxiv.org/abs/1911.00068, section 3.1): each picture is judged by a softmax regression that has not seen it, on features
of the backbone; its label is suspect where another class is as likely as that class is for those who have its label.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from dlkit.catalog.backbones import BACKBONES
from dlkit.data.cases import Case
from dlkit.data.dataset import Dataset
from dlkit.data.opinions import Opinions
from dlkit.engine import device as devices
from dlkit.engine.model import pretrained
from dlkit.engine.pixels import Pixels, plain_batches
from dlkit.engine.preprocess import preprocessing_of
from dlkit.engine.rows import Room
from dlkit.engine.speed import Frozen, choose
from dlkit.evidence import FEATURES
from dlkit.runs.records import Progress

BATCH = 32
FOLDS = 5
WEIGHT_DECAY = 0.2  # of the regression, on features of deviation 1: weaker, it believes single wrong labels, too
ITERATIONS = 30  # of L-BFGS at most; so strongly held back, it hardly changes after that
NEIGHBOURS = 5  # whose mean distance says how far a picture lies from its class
FEWEST = 2 * NEIGHBOURS  # pictures of a class in which distances mean something
BLOCK = 1024  # pictures whose distances are computed at a time


@dataclass(frozen=True)
class Thought:
    """How far it is; the last one has the opinions."""

    progress: Progress
    opinions: Opinions | None = None


def think(case: Case, dataset: Dataset, backbone: str, groups: np.ndarray) -> Iterator[Thought]:
    """Form an opinion about each picture of both splits; to cancel is to stop asking.

    `groups`, int64 (N,), has the same number for rows of the case that are copies: they are judged by the same head.
    Raises what reading the pictures and loading the weights raise.
    """
    yield Thought(Progress("opening the pictures"))
    parts = []
    for done, features in _features(dataset, backbone):
        parts.append(features)
        share = done / (len(dataset.train) + len(dataset.val))
        yield Thought(Progress(f"looking through {BACKBONES[backbone].title}", 0.8 * share))
    features, rows = torch.cat(parts), case.learnt_rows()
    labels = case.labels[rows]
    probabilities = np.zeros((len(rows), len(case.classes)), np.float32)
    for fold, (found, places) in enumerate(out_of_fold(features, labels, groups[rows], len(case.classes))):
        probabilities[places] = found
        yield Thought(Progress(f"judging labels, part {fold + 1} of {FOLDS}", 0.8 + 0.15 * (fold + 1) / FOLDS))
    opinions = _opinions(case, rows, backbone, probabilities, class_distances(features, labels))
    yield Thought(Progress("done", 1.0, 0.0), opinions)


def _features(dataset: Dataset, backbone: str) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield how many pictures are done, and the features, float32 (B, F), of training, then validation pictures."""
    entry, device, done = BACKBONES[backbone], devices.resolve("auto"), 0
    preprocessing = preprocessing_of(entry)
    body = pretrained(entry).body.to(device).eval()
    form = choose(FEATURES, backbone, body, preprocessing.size, device, "auto").format
    network: Frozen | None = None
    for split in (dataset.train, dataset.val):
        threads = max(2, torch.get_num_threads())
        with closing(Pixels(split, preprocessing, None, 0, Room(memory=0), threads)) as pixels:
            batches = plain_batches(len(split), BATCH)
            pixels.expect(batches)
            for indices in batches:
                pictures = pixels.batch(indices, None, device)
                network = network or Frozen(body, form, pictures[:1])
                with torch.no_grad():
                    found = network(pictures).cpu()
                done += len(indices)
                yield done, found


def out_of_fold(
    features: torch.Tensor, labels: np.ndarray, groups: np.ndarray, classes: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each fold the probabilities, float32 (K, C), of the pictures at these places, int64 (K,), among N.

    `features` are (N, F); a head learns from the other folds. Pictures of one group, int64 (N,), are in one fold.
    """
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    targets, folds = torch.from_numpy(labels), fold_of(labels, groups, seed)
    for fold in range(FOLDS):
        places = np.flatnonzero(folds == fold)
        if not len(places):
            continue
        others = torch.from_numpy(np.flatnonzero(folds != fold))
        weights = _regression(scaled[others], targets[others], classes)
        logits = scaled[torch.from_numpy(places)] @ weights[:-1] + weights[-1]
        yield logits.softmax(1).numpy(), places


def fold_of(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Deal the pictures of each class to FOLDS folds by turns, in an order that follows from the seed, int64 (N,).

    All of a group go with its first.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    folds, place = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        place[of_class] = np.arange(len(of_class))
    _, first, which = np.unique(groups, return_index=True, return_inverse=True)
    folds[:] = (place % FOLDS)[first][which]
    return folds


def _regression(features: torch.Tensor, targets: torch.Tensor, classes: int) -> torch.Tensor:
    """Return the weights (F + 1, C) of a softmax regression, the bias last."""
    weights = torch.zeros(features.shape[1] + 1, classes, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe", tolerance_change=1e-7)

    def loss() -> torch.Tensor:
        solver.zero_grad()
        logits = features @ weights[:-1] + weights[-1]
        total = functional.cross_entropy(logits, targets) + WEIGHT_DECAY * weights[:-1].square().sum()
        total.backward()
        return total

    solver.step(loss)
    return weights.detach()


def class_distances(features: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """Return how far each picture lies from its NEIGHBOURS nearest of its class, float32 (N,).

    In robust deviations above the class's median: 1.4826 times the median of the differences from it is the deviation
    of normal numbers. By the angle between features (N, F); 0 in classes of fewer than FEWEST.
    """
    units, found = functional.normalize(features, dim=1), np.zeros(len(labels), np.float32)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) < FEWEST:
            continue
        of_class = units[torch.from_numpy(places)]
        nearest = [
            (some @ of_class.T).topk(NEIGHBOURS + 1, dim=1).values[:, 1:].mean(1)  # the nearest is the picture itself
            for some in of_class.split(BLOCK)
        ]
        distances = 1 - torch.cat(nearest).numpy()
        middle = np.median(distances)
        found[places] = (distances - middle) / (1.4826 * np.median(np.abs(distances - middle)) + 1e-6)
    return found


def _opinions(
    case: Case, rows: np.ndarray, backbone: str, probabilities: np.ndarray, distances: np.ndarray
) -> Opinions:
    """Spread what was found about some rows of a case over all of them."""
    labels, count = case.labels[rows], len(case)
    guesses, own, best, is_suspect = judge(probabilities, labels)
    columns = {"guesses": guesses, "own": own, "best": best, "distances": distances, "is_suspect": is_suspect}
    spread = {}
    for name, values in columns.items():
        spread[name] = np.full(count, -1 if name == "guesses" else 0, values.dtype)
        spread[name][rows] = values
    return Opinions(backbone, case.version, **spread)


def judge(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return for each picture the likeliest other class, the probabilities of its own label and of that class, and
    whether the label is suspect.

    A class counts as seen in a picture where its probability is at least the mean that it has in the pictures with its
    label; suspect is whose label is not the likeliest of those classes.
    """
    places = np.arange(len(labels))
    own = probabilities[places, labels]
    others = probabilities.copy()
    others[places, labels] = -1
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    expected = np.bincount(labels, own, probabilities.shape[1]) / np.maximum(counts, 1)
    is_seen = (others >= expected) & (counts > 0)
    guesses = np.where(is_seen.any(1), np.where(is_seen, others, -1).argmax(1), others.argmax(1))
    best = probabilities[places, guesses]
    return guesses, own, best, is_seen.any(1) & (best > own)
