"""What a network's features say of labels: flipped ones are suspect, honest ones are not, strangers lie far away."""

import numpy as np
import torch

from dlkit.data.cases import look, open_case
from dlkit.data.dataset import open_dataset
from dlkit.data.opinions import BACKBONE
from dlkit.engine.suspects import FOLDS, class_distances, fold_of, judge, out_of_fold, think


def clouds(count: int, classes: int, distance: float = 6.0) -> tuple[torch.Tensor, np.ndarray]:
    """Return features (N, 16) of classes that lie apart, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    centres = distance * np.eye(16)[:classes]
    return torch.from_numpy((centres[labels] + rng.normal(size=(count, 16))).astype(np.float32)), labels


def judged(features: torch.Tensor, labels: np.ndarray, classes: int) -> tuple[np.ndarray, ...]:
    probabilities = np.zeros((len(labels), classes), np.float32)
    for found, places in out_of_fold(features, labels, np.arange(len(labels)), classes):
        probabilities[places] = found
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    return judge(probabilities, labels)


def test_flipped_labels_are_the_most_suspect_and_guessed_right():
    features, labels = clouds(400, 4)
    flipped = np.random.default_rng(1).choice(400, 20, replace=False)
    wrong = labels.copy()
    wrong[flipped] = (wrong[flipped] + 1) % 4
    guesses, own, best, is_suspect = judged(features, wrong, 4)
    worst = np.argsort(own / best)[:20]
    assert len(set(worst) & set(flipped)) >= 16
    assert set(np.flatnonzero(is_suspect)) <= set(flipped)
    assert (guesses[flipped] == labels[flipped]).all()


def test_honest_labels_are_not_suspect():
    assert not judged(*clouds(300, 3), 3)[3].any()


def test_every_class_is_in_every_fold_and_copies_are_together():
    labels = np.repeat(np.arange(3), 20)
    groups = np.arange(60)
    groups[[7, 25, 50]] = 7
    folds = fold_of(labels, groups, 0)
    assert set(folds) == set(range(FOLDS))
    assert len(set(folds[[7, 25, 50]])) == 1
    for label in range(3):
        assert np.bincount(folds[labels == label], minlength=FOLDS).min() >= 3
    assert (fold_of(labels, groups, 0) == folds).all()


def test_class_without_a_second_picture_is_judged_too():
    features, labels = clouds(60, 3)
    labels[:] = labels % 2
    labels[0] = 2
    assert not np.isnan(judged(features, labels, 3)[1]).any()


def test_stranger_lies_far_from_its_class():
    features, labels = clouds(200, 2)
    features[17] = -8 * torch.ones(16)
    distances = class_distances(features, labels)
    assert distances.argmax() == 17
    assert distances[17] > 6
    assert abs(float(np.median(distances[labels == 0]))) < 0.1
    assert not class_distances(features[:8], labels[:8]).any()


def test_network_looks_at_all_pictures_of_both_splits_and_tells_how_far_it_is(home):
    list(look("shapes"))
    case, dataset = open_case("shapes"), open_dataset("shapes")
    flipped = np.arange(0, 480, 20)
    case.labels[flipped] = (case.labels[flipped] + 1) % 6
    steps = list(think(case, dataset, BACKBONE, np.arange(480)))
    shares = [step.progress.share for step in steps if step.progress.share is not None]
    assert shares == sorted(shares)
    opinions = steps[-1].opinions
    assert opinions.is_known.all()
    worst = np.argsort(opinions.own / opinions.best)[: len(flipped)]
    assert len(set(worst) & set(flipped)) >= 0.8 * len(flipped)
