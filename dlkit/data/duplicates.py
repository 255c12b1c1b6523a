"""Pictures that are copies of each other: the same file, or resized, compressed again, mirrored.

Candidates come from a hash and are then compared: the signs of the lowest frequencies of a picture's icon (the DCT
hash of Zauner 2010, Implementation and benchmarking of perceptual image hash functions, section 3.2.1). Two pictures
are compared where a whole word of their hashes is the same, or would be if one sign nearest to zero turned. A mirrored
picture has the same frequencies, those that are odd from side to side with the other sign, so nothing is mirrored.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from dlkit.data.looks import ICON_SIDE

ALIKE = 0.975  # correlation of two icons without their coarsest shades: of copies ≥ 0.987, of other flowers ≤ 0.92
BOTH_COPIES = 0.95  # the same of two copies of one picture: mirrored and smaller, and larger, are down to 0.967
COARSEST = 2  # frequencies, both ways together, that are such shades: a bright sky over dark ground makes no copies
SAME_ASPECT = 0.05  # how far two aspects may differ, as a share, and be one picture resized
FLAT = 12  # grey values from low to high: below, what is left is noise, and all such pictures are alike
WORDS, BITS = 4, 16  # of a hash
TURNS = 4  # signs nearest to zero that are also tried the other way round, in each word
REACH = 8  # pictures before and after, in the order of the hashes, that one is compared with where many share a word
SOME = 256  # pictures that many others are compared with at a time
BATCH = 8192  # pictures, or pairs, that are computed at a time


def duplicate_pairs(looks: np.ndarray) -> np.ndarray:
    """Return the pairs of rows, int64 (M, 2) with the smaller first, that show the same picture.

    `looks` is RECORD (N,), one for each picture. Exact copies have the same digest. The others are found by their
    hashes: pictures without any contrast are left out, and one that is as common as a drawn digit is compared with the
    REACH nearest ones only, so the time grows with the number of pictures and not with its square.
    """
    rows, firsts = _first_of_each_digest(looks)
    exact = np.stack([firsts, np.arange(len(looks))], axis=1)[firsts != np.arange(len(looks))]
    rows = rows[looks["high"][rows].astype(int) - looks["low"][rows] >= FLAT]
    if len(rows) < 2:
        return exact
    near = _near_pairs(looks["icon"][rows], looks["width"][rows] / looks["height"][rows])
    return np.concatenate([exact, np.sort(rows[near], axis=1)])


class Likeness:
    """Which of a group's pictures show the same, compared by themselves: its ends may be joined by others only."""

    def __init__(self, looks: np.ndarray) -> None:
        self._digests = looks["digest"].view("V32").ravel()
        self._details = _details(looks["icon"]).reshape(len(looks), ICON_SIDE**2)
        self._aspects = looks["width"] / looks["height"]
        self._is_flat = looks["high"].astype(int) - looks["low"] < FLAT

    def to_any(self, asked: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Tell which of the `asked` rows, int64 (N,), show the same as one of the `others`, int64 (M,); bool (N,)."""
        is_like = np.isin(self._digests[asked], self._digests[others])
        details, is_flat = self._details[asked], self._is_flat[asked]
        for start in range(0, len(others), SOME):
            some = others[start : start + SOME][~self._is_flat[others[start : start + SOME]]]
            each = self._details[some]
            turned = each.reshape(len(some), ICON_SIDE, ICON_SIDE)[:, :, ::-1].reshape(each.shape)
            plain, mirrored = details @ each.T, details @ turned.T
            has_aspect = np.abs(self._aspects[asked][:, None] / self._aspects[some] - 1) <= SAME_ASPECT
            is_like |= ((np.maximum(plain, mirrored) >= BOTH_COPIES) & has_aspect).any(axis=1) & ~is_flat
        return is_like


def groups_of(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return for each of `count` rows the first, int64 (N,), of all that are joined to it by pairs, int64 (M, 2)."""
    first = np.arange(count)
    while True:
        lowest = np.minimum(first[pairs[:, 0]], first[pairs[:, 1]])
        before = first.copy()
        for side in (0, 1):
            np.minimum.at(first, first[pairs[:, side]], lowest)
        first = first[first]
        if (first == before).all():
            return first


def least_of_groups(digests: Sequence[str], first: np.ndarray) -> list[str]:
    """Return for each row the least digest of its group, so that it depends neither on names nor on the order.

    `first`, int64 (N,), is as of `groups_of`.
    """
    least: dict[int, str] = {}
    for digest, group in zip(digests, first.tolist(), strict=True):
        least[group] = min(least.get(group, digest), digest)
    return [least[group] for group in first.tolist()]


def _first_of_each_digest(looks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with a digest of their own, and for every row the first with its digest."""
    _, rows, which = np.unique(looks["digest"].view("V32").ravel(), return_index=True, return_inverse=True)
    return np.sort(rows), rows[which.ravel()]


def _near_pairs(icons: np.ndarray, aspects: np.ndarray) -> np.ndarray:
    """Return the pairs that are alike of icons, uint8 (N, S, S), and aspects (N,)."""
    frequencies, mirror = _low_frequencies(icons)
    found = [np.zeros((0, 2), np.int64)]
    for pairs in _candidates(frequencies > 0, [*_turned(frequencies), *_turned(frequencies * mirror)]):
        first, second = aspects[pairs].T
        pairs = pairs[np.abs(first / second - 1) <= SAME_ASPECT]
        for start in range(0, len(pairs), BATCH):
            some = pairs[start : start + BATCH]
            found.append(some[_are_alike(icons[some[:, 0]], icons[some[:, 1]])])
    return np.unique(np.concatenate(found), axis=0)


def _are_alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Tell which of two rows of icons, uint8 (K, S, S), show the same, mirrored or not; bool (K,)."""
    one, other = _details(first), _details(second)
    plain, mirrored = ((one * each).sum(axis=(1, 2)) for each in (other, other[:, :, ::-1]))
    return np.maximum(plain, mirrored) >= ALIKE


def _details(icons: np.ndarray) -> np.ndarray:
    """Return icons (K, S, S) without their mean and coarsest shades, each of length 1, float32."""
    waves = _waves(COARSEST + 1)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    values = icons.astype(np.float32)
    shades = waves @ values @ waves.T
    shades[:, np.add.outer(np.arange(COARSEST + 1), np.arange(COARSEST + 1)) > COARSEST] = 0
    values -= waves.T @ shades @ waves
    return values / np.maximum(np.linalg.norm(values, axis=(1, 2), keepdims=True), 1e-6)


def _low_frequencies(icons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the WORDS × BITS lowest frequencies of icons (N, S, S), float32, and which of them mirroring turns (−1).

    They come word by word, and each word has high and low ones. The mean says nothing of what is in a picture.
    """
    count = WORDS * BITS
    places = sorted(((u, v) for u in range(ICON_SIDE) for v in range(ICON_SIDE)), key=lambda at: (sum(at), at))
    dealt = np.arange(1, count + 1).reshape(BITS, WORDS).T.ravel()
    rows, columns = np.array(places)[dealt].T
    waves = _waves(max(rows.max(), columns.max()) + 1)
    found = [
        (waves @ icons[start : start + BATCH].astype(np.float32) @ waves.T)[:, rows, columns]
        for start in range(0, len(icons), BATCH)
    ]
    return np.concatenate(found), np.where(columns % 2, -1, 1).astype(np.float32)


def _waves(count: int) -> np.ndarray:
    """Return the first waves of the cosine transform over an icon's side, float32 (count, S)."""
    return np.cos(np.pi / ICON_SIDE * np.outer(np.arange(count), np.arange(ICON_SIDE) + 0.5)).astype(np.float32)


def _turned(frequencies: np.ndarray) -> Iterator[np.ndarray]:
    """Yield signs, bool (N, WORDS × BITS): as they are, then with the weakest of each word turned, then the next."""
    signs = frequencies > 0
    yield signs
    weakest = np.argsort(np.abs(frequencies).reshape(-1, WORDS, BITS), axis=2)
    for turn in range(TURNS):
        turned = signs.reshape(-1, WORDS, BITS).copy()
        places = weakest[:, :, turn : turn + 1]
        np.put_along_axis(turned, places, ~np.take_along_axis(turned, places, axis=2), axis=2)
        yield turned.reshape(signs.shape)


def _candidates(signs: np.ndarray, asked: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield pairs (K, 2), the smaller first, of pictures with a whole word in common; `asked` are the signs to look up.

    All that share a word are neighbours in the order of the hashes that begin with it.
    """
    for word in range(WORDS):
        turn = -word * BITS
        hashes = _numbers(np.roll(signs, turn, axis=1))
        order = np.argsort(hashes)
        known, words = hashes[order], hashes[order] >> np.uint64(BITS * (WORDS - 1))
        found = [np.zeros(0, np.int64)]
        for others in asked:
            wanted = _numbers(np.roll(others, turn, axis=1))
            wanted_words = wanted >> np.uint64(BITS * (WORDS - 1))
            place = np.searchsorted(known, wanted)
            first = np.maximum(place - REACH, np.searchsorted(words, wanted_words))
            after = np.minimum(place + REACH, np.searchsorted(words, wanted_words, "right"))
            for step in range(int((after - first).max(initial=0))):
                seekers = np.flatnonzero(after - first > step)
                pairs = np.stack([seekers, order[first[seekers] + step]], axis=1)
                first_of, second_of = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1).T
                found.append(first_of * len(signs) + second_of)
        yield np.stack(np.divmod(np.unique(np.concatenate(found)), len(signs)), axis=1)


def _numbers(signs: np.ndarray) -> np.ndarray:
    """Return signs, bool (N, 64), as numbers, uint64 (N,), the first sign the highest digit."""
    return np.ascontiguousarray(np.packbits(signs, axis=1)).view(">u8").ravel().astype(np.uint64)
