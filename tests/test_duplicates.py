"""Copies of pictures are found, whatever programs have made of them, and what only looks alike is not."""

import time

import numpy as np
from PIL import Image, ImageDraw

from dlkit.data.duplicates import duplicate_pairs, groups_of
from dlkit.data.looks import ICON_SIDE, RECORD
from tests.photos import FLOWERS, copies, flower, jpeg, opened
from tests.test_looks import record_of


def looks_of_files(files: list[bytes]) -> np.ndarray:
    return np.array([record_of(data) for data in files])


def drawn_looks(icons: np.ndarray) -> np.ndarray:
    """Return looks of pictures of which only the icon is known, each a file of its own."""
    looks = np.zeros(len(icons), RECORD)
    looks["icon"], looks["width"], looks["height"], looks["high"] = icons, 100, 100, 255
    looks["digest"] = np.random.default_rng(0).integers(0, 256, (len(icons), 32))
    return looks


def smooth_icons(count: int) -> np.ndarray:
    """Return icons that have most of their contrast in the lowest frequencies, as photographs have."""
    frequencies = np.random.default_rng(1).normal(size=(count, 8, 8)) / (1 + np.add.outer(np.arange(8), np.arange(8)))
    waves = np.cos(np.pi / ICON_SIDE * np.outer(np.arange(8), np.arange(ICON_SIDE) + 0.5))
    return np.clip(128 + 40 * waves.T @ frequencies @ waves, 0, 255)


def test_copies_of_photographs_are_found_and_nothing_else():
    photos = [path.read_bytes() for path in sorted((FLOWERS / "train").glob("*/*.jpg"))[::2]]
    planted = [(place, copy) for place in range(0, len(photos), 5) for copy in copies(photos[place]).values()]
    pairs = duplicate_pairs(looks_of_files([*photos, *(copy for _, copy in planted)]))
    owner = [*range(len(photos)), *(place for place, _ in planted)]
    found = {(owner[first], second) for first, second in pairs.tolist()}
    wanted = {(place, len(photos) + number) for number, (place, _) in enumerate(planted)}
    assert len(found & wanted) >= 0.99 * len(wanted)
    assert [pair for pair in pairs.tolist() if owner[pair[0]] != owner[pair[1]]] == []


def test_same_file_is_found_by_its_digest_even_without_any_contrast():
    blank = jpeg(Image.new("RGB", (60, 60), (255, 255, 255)))
    looks = looks_of_files([blank, flower(0), blank, flower(0), blank])
    assert sorted(map(tuple, duplicate_pairs(looks).tolist())) == [(0, 2), (0, 4), (1, 3)]


def test_pages_without_contrast_and_other_crops_are_no_copies():
    pages = [jpeg(Image.new("RGB", (60 + number, 60), (250, 250, 250 - number))) for number in range(5)]
    wide = opened(flower(0))
    square = wide.resize((wide.height, wide.height))
    assert len(duplicate_pairs(looks_of_files([*pages, jpeg(wide), jpeg(square)]))) == 0


def test_drawings_with_the_same_ground_are_no_copies():
    drawings = []
    for number in range(5):  # in the left half
        image = Image.new("RGB", (200, 200), "white")
        ImageDraw.Draw(image).ellipse((20 + 12 * number, 60, 60 + 12 * number, 100), fill="black")
        drawings.append(jpeg(image, 95))
    assert len(duplicate_pairs(looks_of_files(drawings))) == 0


def test_groups_join_what_pairs_join():
    pairs = np.array([[5, 6], [1, 2], [2, 5], [8, 9], [6, 7]])
    assert groups_of(10, pairs).tolist() == [0, 1, 1, 3, 4, 1, 1, 1, 8, 8]
    assert groups_of(3, np.zeros((0, 2), int)).tolist() == [0, 1, 2]
    chain = np.stack([np.arange(999), np.arange(1, 1000)], axis=1)
    assert not groups_of(1000, chain[np.random.default_rng(0).permutation(999)]).any()


def test_time_grows_with_the_pictures_and_not_with_their_square():
    icons = smooth_icons(16_000)
    duplicate_pairs(drawn_looks(icons[:500]))
    seconds = []
    for count in (2000, 16_000):
        started = time.process_time()
        pairs = duplicate_pairs(drawn_looks(np.concatenate([icons[: count // 2], icons[: count // 2]])))
        seconds.append(time.process_time() - started)
        assert len(np.unique(pairs[:, 1])) >= count // 2
    assert seconds[1] < 40 * seconds[0]  # eight times the pictures; their square would be 64 times as many


def test_thousands_of_alike_pictures_are_compared_with_their_neighbours_only():
    icon = smooth_icons(1)[0]
    noise = np.random.default_rng(0).normal(size=(4000, ICON_SIDE, ICON_SIDE))
    started = time.process_time()
    pairs = duplicate_pairs(drawn_looks(np.clip(icon + noise, 0, 255)))
    assert time.process_time() - started < 60
    assert len(np.unique(groups_of(4000, pairs))) == 1
