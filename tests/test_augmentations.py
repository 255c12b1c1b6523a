"""Augmentation levels and mixings, and the randomness behind them."""

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dlkit.catalog.augmentations import AUGMENTATIONS, MIXINGS
from dlkit.catalog.backbones import BACKBONES
from dlkit.catalog.draws import keys_of
from dlkit.config import steps_per_epoch
from dlkit.data.split import ArraySplit
from dlkit.engine.pixels import Pixels, plain_batches, seeded, shuffled_batches
from dlkit.engine.preprocess import preprocessing_of
from dlkit.engine.rows import Resident, Room
from dlkit.errors import DatasetError
from tests.small_learner import one_thread

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
    return Pixels(split, preprocessing, AUGMENTATIONS[level].build(size), seed, Room(1e6 * budget_mb), threads=2)


@pytest.fixture(autouse=True)
def _one_thread():
    yield from one_thread()


# Levels


@pytest.mark.parametrize("level", AUGMENTATIONS)
@pytest.mark.parametrize(("side", "size"), [(74, 64), (64, 64), (110, 96), (73, 64)])
def test_level_turns_squares_into_uint8_of_the_size(level, side, size):
    images = torch.randint(0, 256, (8, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        changed = AUGMENTATIONS[level].build(size)(images, keys_of(seed, 0, np.arange(8)))
        assert (changed.shape, changed.dtype) == ((8, 3, size, size), torch.uint8)


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


TIERS = {"memory": (100, 0), "disk": (0, 100), "both": (0.04, 100), "part": (0.02, 0.04), "none": (0, 0)}
TIERS["device"] = TIERS["none"]


def tiered(split: CountedSplit, tier: str, folder: Path, level: str = "light") -> Pixels:
    """Return pixels of a split whose squares take 0.0165 MB each."""
    memory_mb, disk_mb = TIERS[tier]
    room = Room(1e6 * memory_mb, 1e6 * disk_mb, folder, Resident(CPU, 1e6) if tier == "device" else None)
    augment = AUGMENTATIONS[level].build(64)
    return Pixels(split, preprocessing_of(LITE0, 64), augment, 0, room, 2)


@pytest.mark.parametrize(
    ("tier", "again"), [("memory", 0), ("disk", 0), ("both", 0), ("part", 3), ("none", 6), ("device", 0)]
)
def test_picture_is_decoded_once_while_the_budgets_last_and_each_time_beyond_them(tmp_path, tier, again):
    split = noise()
    pixels, oracle = tiered(split, tier, tmp_path), tiered(noise(), "memory", tmp_path)
    for view in (None, 0, 1):
        for order in (np.arange(6), np.array([4, 0])):
            assert torch.equal(pixels.batch(order, view, CPU), oracle.batch(order, view, CPU))
    pixels.batch(np.arange(6), 2, CPU)
    counts = np.bincount(split.reads)
    assert (counts > 1).sum() == again


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("level", ["none", "strong"])
def test_batches_that_are_expected_are_the_same_and_no_picture_is_decoded_twice(tmp_path, tier, level):
    split, batches = noise(30), shuffled_batches(30, 4, 0, 0)
    pixels, oracle = tiered(split, tier, tmp_path, level), tiered(noise(30), "memory", tmp_path, level)
    pixels.expect(batches)
    for batch in batches:
        assert torch.equal(pixels.batch(batch, 1, CPU), oracle.batch(batch, 1, CPU))
    assert sorted(split.reads) == list(range(30))


def decoded_by(pixels: Pixels) -> None:
    """Wait until nothing is being decoded."""
    pixels._decoders.shutdown(wait=True)


@pytest.fixture
def few_ahead(monkeypatch):
    monkeypatch.setattr("dlkit.engine.pixels.AHEAD_BYTES", 0)


def test_the_next_batch_is_decoded_ahead_however_large_it_is(tmp_path, few_ahead):
    split, batches = noise(20), plain_batches(20, 2)
    pixels = tiered(split, "none", tmp_path)
    pixels.expect(batches)
    pixels.batch(batches[0], 0, CPU)
    decoded_by(pixels)
    assert sorted(split.reads) == list(range(4))


def test_as_many_are_decoded_ahead_as_take_so_many_bytes(tmp_path, monkeypatch):
    split, batches = noise(20), plain_batches(20, 2)
    pixels = tiered(split, "none", tmp_path)
    monkeypatch.setattr("dlkit.engine.pixels.AHEAD_BYTES", 9 * 3 * 73**2)  # of nine pictures
    pixels.expect(batches)
    decoded_by(pixels)
    assert sorted(split.reads) == list(range(8))


def test_batches_that_nobody_asks_for_any_more_are_let_go(tmp_path, few_ahead):
    split, batches = noise(20), plain_batches(20, 2)
    pixels = tiered(split, "none", tmp_path)
    pixels.expect(batches)
    pixels.expect(batches[5:])
    assert set(pixels._decoded) == {10, 11}
    assert torch.equal(pixels.batch(batches[7], 0, CPU), tiered(noise(20), "none", tmp_path).batch(batches[7], 0, CPU))
    assert len(pixels._expected) == 2


def test_batch_that_was_not_expected_leaves_the_others_expected(tmp_path):
    split, batches = noise(20), plain_batches(20, 2)
    pixels = tiered(split, "part", tmp_path)
    pixels.expect(batches)
    for order in (np.array([19, 0, 5]), batches[0], np.array([2, 2, 18]), batches[1]):
        assert torch.equal(pixels.batch(order, 3, CPU), tiered(noise(20), "memory", tmp_path).batch(order, 3, CPU))
    assert len(pixels._expected) == 8


class DamagedSplit(CountedSplit):
    """Pictures of which two cannot be read."""

    def read(self, index: int) -> Image.Image:
        if index in (3, 4):
            raise OSError(f"damaged {index}")
        return super().read(index)


def test_damaged_picture_is_reported_when_its_batch_is_asked_for_and_the_first_of_two_is_named(tmp_path):
    split, batches = noise(8), [np.array(batch) for batch in ([0, 1], [2, 4, 3], [5, 6])]
    pixels = tiered(DamagedSplit(split.labels, split.images, "train", []), "memory", tmp_path)
    pixels.expect(batches)
    pixels.batch(batches[0], 0, CPU)
    for _ in range(2):
        with pytest.raises(DatasetError, match=r"^The picture train 4 must be readable: damaged 4 Mend or remove it"):
            pixels.batch(batches[1], 0, CPU)
    pixels.batch(batches[2], 0, CPU)


MEASURED = """
import sys, psutil, torch, numpy as np
from pathlib import Path
from PIL import Image
from dlkit.data.split import Split
from tests.test_augmentations import AUGMENTATIONS, CPU, LITE0, Pixels, Room, preprocessing_of, shuffled_batches

class Synthetic(Split):
    def read(self, index):
        return Image.new("RGB", (99, 99), (index % 256, index // 256, 7))
    def name(self, index):
        return str(index)
    def sizes(self):
        return []

disk_mb, folder = float(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
pixels = Pixels(Synthetic(np.zeros(3000, np.int64)), preprocessing_of(LITE0),
                AUGMENTATIONS["light"].build(224), 0, Room(20e6, 1e6 * disk_mb, folder), 2)
def memory():
    return psutil.Process().memory_info().rss / 1e6
batches = shuffled_batches(3000, 16, 0, 0)
before = memory()
pixels.expect(batches)
for batch in batches:
    pixels.batch(batch, None, CPU)
print(memory() - before, psutil.Process().io_counters().write_chars / 1e6)
"""


def test_memory_does_not_grow_beyond_its_budget(tmp_path):
    """3,000 squares of 256 pixels take 590 MB. Beyond the budget there are a batch of 16, those that are decoded
    ahead, their float32, and what the allocator keeps of them: up to 100 MB, whatever the number of pictures.
    """
    child = subprocess.run(
        [sys.executable, "-c", MEASURED, "100", str(tmp_path)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=100, check=True,
        env={**os.environ, "MALLOC_TOP_PAD_": "0", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    grown, written = map(float, child.stdout.split())
    assert grown < 20 + 100
    assert written > 90
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [32, 64, 75, 96, 100, 112, 160, 224])
@pytest.mark.parametrize(("height", "width"), [(80, 100), (101, 80), (97, 97), (64, 333)])
def test_plain_view_is_what_prediction_sees(size, height, width):
    split, preprocessing = noise(2, height, width), preprocessing_of(LITE0, size)
    squares = np.stack([preprocessing.square(split.read(index)) for index in range(2)])
    pixels = Pixels(split, preprocessing, None, 0, Room(), threads=1)
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
