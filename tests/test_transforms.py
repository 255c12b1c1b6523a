"""Augmentation of batches: torchvision, one picture at a time, is the oracle of operations and distributions."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dlkit.catalog import transforms
from dlkit.catalog.augmentations import AUGMENTATIONS
from dlkit.catalog.draws import keys_of, uniforms
from dlkit.catalog.transforms import CROP_DRAWS, OPERATIONS, crop_boxes, jittered, rand_augmented
from tests.small_learner import few_flowers

SCALES = {"light": 0.7, "medium": 0.4, "strong": 0.25}
MANY = uniforms(keys_of(0, 0, np.arange(20_000)), 40)


def flowers(side: int = 96) -> torch.Tensor:
    """Return eight photographs (8, 3, side, side) uint8, in the memory order in which Pixels has them."""
    split = few_flowers().train
    squares = [np.asarray(split.read(index).resize((side, side))) for index in range(8)]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


def furthest(first: torch.Tensor, second: torch.Tensor) -> int:
    return int((first.int() - second.int()).abs().max())


# Draws


def test_draws_are_uniform_and_a_function_of_each_part_of_the_key():
    keys = [keys_of(seed, view, np.arange(500)) for seed in (0, 1, 2**31 - 1) for view in (0, 1, 999)]
    assert len(np.unique(np.concatenate(keys))) == 9 * 500
    numbers = uniforms(np.concatenate(keys), 20)
    assert kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(numbers.T) - np.eye(20)).max() < 0.06
    neighbours = np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]
    assert abs(neighbours) < 0.06
    assert (uniforms(keys[0], 3) == numbers[:500, :3]).all(), "more numbers leave the first as they are"


def test_splitmix_is_the_published_one():
    """The first numbers of the generator in Java's SplittableRandom with the seed 1234567, as published with it."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    found = uniforms(np.array([1234567], dtype=np.uint64), 3)[0]
    assert (found == [(number >> 11) * 2.0**-53 for number in expected]).all()


# Crops and flips


@pytest.mark.parametrize("smallest", SCALES.values())
def test_crops_are_distributed_as_torchvisions(smallest):
    side, crop = 256, v2.RandomResizedCrop(224, scale=(smallest, 1.0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [crop.make_params([torch.empty(3, side, side)]) for _ in range(4000)]
    oracle = np.array([[box[name] for name in ("top", "left", "height", "width")] for box in drawn])
    boxes = crop_boxes(MANY, side, smallest)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= side).all()
    for measure in (
        lambda boxes: boxes[:, 2] * boxes[:, 3] / side**2,
        lambda boxes: boxes[:, 3] / boxes[:, 2],
        lambda boxes: boxes[:, 0],
        lambda boxes: boxes[:, 1],
        lambda boxes: boxes[:, 0] / np.maximum(1, side - boxes[:, 2]),
    ):
        assert ks_2samp(measure(oracle), measure(boxes)).pvalue > 1e-3


def test_crop_that_never_fits_is_the_whole_square():
    draws = np.full((1, CROP_DRAWS), 0.999)  # all of the area, at a ratio of 4 to 3
    assert crop_boxes(draws, 100, 0.7).tolist() == [[0, 0, 100, 100]]


@pytest.mark.parametrize("level", SCALES)
def test_crop_is_torchvisions_resized_crop_of_the_drawn_box(level):
    images, keys = flowers(), keys_of(0, 3, np.arange(8))
    draws = uniforms(keys, CROP_DRAWS + 1)
    crops = transforms.cropped(images, keys, size=64, smallest=SCALES[level])
    for image, crop, box, flip in zip(
        images, crops, crop_boxes(draws, 96, SCALES[level]), draws[:, CROP_DRAWS] < 0.5, strict=True
    ):
        expected = functional.resized_crop(image, *box.tolist(), [64, 64], antialias=True)
        assert torch.equal(crop, functional.horizontal_flip(expected) if flip else expected)


@pytest.mark.parametrize(("side", "size"), [(96, 64), (64, 96), (256, 224), (40, 32)])
@pytest.mark.parametrize("smallest", SCALES.values())
def test_crops_for_a_gpu_are_the_same_up_to_one_of_255(side, size, smallest):
    images, draws = flowers(side), MANY[:8]
    boxes, flips = crop_boxes(draws, side, smallest), np.arange(8) % 2 == 0
    one_by_one = transforms.resized_one_by_one(images, boxes, flips, size)
    at_once = transforms.resized_at_once(images, boxes, flips, size)
    assert furthest(one_by_one, at_once) <= 1


def test_half_of_the_pictures_are_flipped():
    assert (MANY[:, CROP_DRAWS] < 0.5).mean() == pytest.approx(0.5, abs=0.015)


# Colours


def test_colour_jitter_is_torchvisions_at_the_drawn_factors_and_order():
    images, draws = flowers(), MANY[:8, 20:24]
    operations = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    for image, changed, numbers in zip(images, jittered(images, draws), draws, strict=True):
        for which in transforms._ORDERS[int(numbers[3] * 6)]:
            image = operations[which](image.float() / 255, 0.8 + 0.4 * numbers[which]) * 255
        assert furthest(image.round(), changed) <= 1


def test_orders_of_the_jitter_are_all_there_are():
    assert len(set(transforms._ORDERS)) == 6
    assert {tuple(sorted(order)) for order in transforms._ORDERS} == {(0, 1, 2)}


# RandAugment


def test_operations_are_torchvisions_with_the_same_amounts():
    """By torchvision's own table; private, so this is where a new release shows."""
    oracle, images = v2.RandAugment(num_ops=2, magnitude=9), flowers()[:2].contiguous()
    assert [operation.name for operation in OPERATIONS] == list(oracle._AUGMENTATION_SPACE)
    for operation in OPERATIONS:
        amounts, is_signed = oracle._AUGMENTATION_SPACE[operation.name]
        amounts = amounts(31, 96, 96)
        amount = 0.0 if amounts is None else float(amounts[9])
        assert operation.is_signed == is_signed
        for sign in (1, -1) if is_signed else (1,):
            expected = oracle._apply_image_or_video_transform(
                images, operation.name, sign * amount, interpolation=oracle.interpolation, fill=oracle._fill
            )
            found = operation.apply(functional, images, sign * operation.amount)
            is_other = (found.int() - expected.int()).abs() > 1
            assert is_other.float().mean() < 1e-3, operation.name  # the last bit of an amount, at a border


def test_each_operation_and_sign_is_as_frequent_as_any_other(monkeypatch):
    done = []
    spies = [
        transforms.Operation(
            name, lambda functional, images, amount, name=name: done.append((name, amount)) or images, 1, True
        )
        for name in "abcd"
    ]
    monkeypatch.setattr(transforms, "OPERATIONS", spies)
    rand_augmented(torch.zeros(2000, 3, 1, 1, dtype=torch.uint8), MANY[:2000, 23:])
    assert len(done) == 4000
    for name in "abcd":
        for amount in (1, -1):
            assert done.count((name, amount)) / 4000 == pytest.approx(1 / 8, abs=0.02)


# Groups, as on a GPU


@pytest.mark.parametrize("change", [jittered, rand_augmented])
def test_pictures_in_groups_are_what_they_are_one_by_one(monkeypatch, change):
    images, draws = flowers(), MANY[:8, 23:]
    one_by_one = change(images, draws)

    def together(codes, device):
        for code in np.unique(codes).tolist():
            yield code, torch.from_numpy(np.flatnonzero(codes == code))

    monkeypatch.setattr(transforms, "_groups", together)
    assert furthest(one_by_one, change(images, draws)) <= 1


def test_groups_elsewhere_than_on_the_cpu_hold_every_picture_once():
    codes = np.array([4, 1, 4, 4, 0])
    found = dict(transforms._groups(codes, torch.device("meta")))
    assert list(found) == [0, 1, 4]


@pytest.mark.parametrize("level", AUGMENTATIONS)
def test_pictures_given_are_left_as_they_are(level):
    images = flowers()
    before = images.clone()
    AUGMENTATIONS[level].build(64)(images, keys_of(0, 0, np.arange(8)))
    assert torch.equal(images, before)
