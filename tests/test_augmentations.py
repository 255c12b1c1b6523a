"""Augmentation levels and mixings, and the randomness behind them."""

import contextlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from dlkit.catalog.augmentations import AUGMENTATIONS, MIXINGS
from dlkit.catalog.backbones import BACKBONES
from dlkit.config import steps_per_epoch
from dlkit.data.split import ArraySplit
from dlkit.engine.pixels import Pixels, plain_batches, seeded, shuffled_batches
from dlkit.engine.preprocess import preprocessing_of

LITE0 = BACKBONES["efficientnet-lite0"]
CPU = torch.device("cpu")
RANDOM_LEVELS = [name for name in AUGMENTATIONS if name != "none"]


@dataclass(frozen=True, eq=False)
class CountedSplit(ArraySplit):
    """Pictures of noise that remember how often each was read."""

    reads: list[int]

    def read(self, index: int) -> Image.Image:
        self.reads.append(index)
        return super().read(index)


def noise(count: int = 6, height: int = 80, width: int = 100) -> CountedSplit:
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return CountedSplit(np.arange(count) % 3, images, "train", [])


def pixels_of(split: CountedSplit, level: str = "light", *, seed: int = 0, size: int = 64, budget_mb: float = 100):
    preprocessing = preprocessing_of(LITE0, size)
    return Pixels(split, preprocessing, AUGMENTATIONS[level].build(size), seed, budget_mb, threads=2)


# Levels


@pytest.mark.parametrize("level", AUGMENTATIONS)
@pytest.mark.parametrize(("side", "size"), [(74, 64), (64, 64), (110, 96), (73, 64)])
def test_level_turns_a_square_into_uint8_of_the_size(level, side, size):
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transform = AUGMENTATIONS[level].build(size)
    for draw in range(8):
        with seeded(draw):
            changed = transform(image)
        assert (changed.shape, changed.dtype) == ((3, size, size), torch.uint8)


@pytest.mark.parametrize("level", RANDOM_LEVELS)
def test_level_shows_another_picture_at_each_view(level):
    pixels = pixels_of(noise(), level)
    first, second = (pixels.batch(np.arange(6), view, CPU) for view in (0, 1))
    assert not any(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_level_none_shows_the_centre_at_every_view():
    pixels = pixels_of(noise(), "none")
    plain = pixels.batch(np.arange(6), None, CPU)
    assert all(torch.equal(pixels.batch(np.arange(6), view, CPU), plain) for view in (0, 5))


# Randomness


@pytest.mark.parametrize("level", RANDOM_LEVELS)
def test_picture_depends_on_seed_view_and_index_and_on_nothing_else(level):
    order = np.array([4, 0, 5, 2, 1, 3])
    whole = pixels_of(noise(), level).batch(np.arange(6), 3, CPU)
    torch.manual_seed(123)
    shuffled = pixels_of(noise(), level).batch(order, 3, CPU)
    alone = torch.cat([pixels_of(noise(), level).batch(np.array([index]), 3, CPU) for index in range(6)])
    assert torch.equal(shuffled, whole[order])
    assert torch.equal(alone, whole)
    assert not torch.equal(pixels_of(noise(), level, seed=1).batch(np.arange(6), 3, CPU), whole)


def test_same_picture_at_two_places_is_changed_in_two_ways():
    split = noise(2)
    split.images[1] = split.images[0]
    first, second = pixels_of(split).batch(np.arange(2), 0, CPU)
    assert not torch.equal(first, second)


def test_drawing_leaves_no_trace_in_torchs_generator():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    pixels_of(noise(), "strong").batch(np.arange(6), 0, CPU)
    with contextlib.suppress(ZeroDivisionError), seeded(1, 2):
        torch.rand(9)
        raise ZeroDivisionError
    assert torch.equal(torch.rand(3), expected)


def test_seeded_draws_are_a_function_of_the_whole_key():
    def draw(*key: int) -> float:
        with seeded(*key):
            return torch.rand(()).item()

    keys = [(0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 1, 2), (2**31 - 1, 999, 50_000)]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert [draw(*key) for key in keys] == [draw(*key) for key in keys]


# Pictures in memory


def test_picture_is_decoded_once_while_the_budget_lasts_and_each_time_beyond_it():
    kept, streamed = noise(), noise()
    memory, disk = pixels_of(kept), pixels_of(streamed, budget_mb=0.001)
    for view in (None, 0, 1):
        assert torch.equal(memory.batch(np.arange(6), view, CPU), disk.batch(np.arange(6), view, CPU))
    assert sorted(kept.reads) == list(range(6))
    assert len(streamed.reads) == 18


@pytest.mark.parametrize("size", [32, 64, 75, 96, 100, 112, 160, 224])
@pytest.mark.parametrize(("height", "width"), [(80, 100), (101, 80), (97, 97), (64, 333)])
def test_plain_view_is_what_prediction_sees(size, height, width):
    split, preprocessing = noise(2, height, width), preprocessing_of(LITE0, size)
    squares = np.stack([preprocessing.square(split.read(index)) for index in range(2)])
    pixels = Pixels(split, preprocessing, None, 0, 100, threads=1)
    assert torch.equal(pixels.batch(np.arange(2), None, CPU), preprocessing.normalise(torch.from_numpy(squares)))


@pytest.mark.parametrize("size", [64, 73, 74, 75, 96])
def test_centre_of_a_kept_square_is_what_the_level_none_trains_on(size):
    split, preprocessing = noise(2, 97, 97), preprocessing_of(LITE0, size)
    squares = np.stack([preprocessing.square(split.read(index)) for index in range(2)])
    trained = pixels_of(split, "none", size=size).batch(np.arange(2), 0, CPU)
    assert torch.equal(trained, preprocessing.normalise(torch.from_numpy(squares)))


@pytest.mark.parametrize(("count", "batch_size"), [(1, 32), (32, 32), (33, 32), (100, 7), (5, 1), (3, 1024)])
def test_batches_hold_every_picture_once_in_sizes_that_differ_by_one(count, batch_size):
    for batches in (shuffled_batches(count, batch_size, 0, 1), plain_batches(count, batch_size)):
        sizes = [len(batch) for batch in batches]
        assert len(batches) == steps_per_epoch(count, batch_size)
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size
        assert sorted(np.concatenate(batches)) == list(range(count))


def test_order_is_a_function_of_seed_and_epoch():
    def order(*key: int) -> list[int]:
        return np.concatenate(shuffled_batches(100, 8, *key)).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(*key)) for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}) == 4


# Mixing


def test_mixing_none_is_none():
    assert MIXINGS["none"].build(3, 0.4) is None


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [0.1, 0.4, 10.0])
def test_mixed_labels_are_shares_that_sum_to_one(name, alpha):
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 3
    for draw in range(10):
        with seeded(draw):
            mixed, shares = MIXINGS[name].build(3, alpha)(images, labels)
        assert mixed.shape == images.shape
        assert shares.shape == (8, 3)
        assert (shares >= 0).all()
        assert torch.allclose(shares.sum(1), torch.ones(8), atol=1e-6)


def test_mixup_blends_pictures_in_the_shares_of_their_labels():
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    with seeded(1):
        mixed, shares = MIXINGS["mixup"].build(4, 1.0)(images, labels)
    assert torch.allclose(mixed, torch.einsum("nc,cijk->nijk", shares, images), atol=1e-6)


def test_cutmix_shares_labels_by_area():
    images, labels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16).clone(), torch.arange(4)
    with seeded(1):
        mixed, shares = MIXINGS["cutmix"].build(4, 1.0)(images, labels)
    areas = torch.stack([(mixed[:, 0] == label).float().mean((1, 2)) for label in range(4)], dim=1)
    assert torch.allclose(areas, shares, atol=1e-6)


@pytest.mark.parametrize("entry", [*AUGMENTATIONS.values(), *MIXINGS.values()], ids=lambda entry: entry.title)
def test_entry_explains_itself(entry):
    assert entry.title
    assert entry.summary.endswith(".")
    assert entry.name in (AUGMENTATIONS if entry.name in AUGMENTATIONS else MIXINGS)
