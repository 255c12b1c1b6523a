"""From a split of a data set to batches on the device: decoded once, augmented and normalised there batch by batch.

Decoded pictures are kept as bytes, on the device or in memory, then in a file, by budget (`Rows`); what fits nowhere is
decoded anew each time, while the device works on the batch before it. An image's randomness is a function of (seed,
view, index), so it depends neither on the order nor on its neighbours nor on who decodes.
"""

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from dlkit.catalog.augmentations import BatchTransform
from dlkit.catalog.draws import keys_of
from dlkit.config import EVALUATION_BATCH, steps_per_epoch
from dlkit.data.dataset import Split
from dlkit.engine.device import upload
from dlkit.engine.preprocess import Preprocessing
from dlkit.engine.rows import Room, Rows
from dlkit.errors import DatasetError, DlkitError

AHEAD_BYTES = 64e6  # of pictures that are decoded before they are asked for, or one batch


class Pixels:
    """The pictures of one split as squares; decoded at first use and kept while there is room.

    `threads` decode, which Pillow does outside of Python's lock. With `augment` None there are only plain views, and
    they are to the pixel what prediction sees: the square's centre would be beside the picture's by up to one.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        augment: BatchTransform | None,
        seed: int,
        room: Room,
        threads: int,
    ) -> None:
        self.labels = torch.from_numpy(np.asarray(split.labels, dtype=np.int64))
        self._split, self._preprocessing, self._augment, self._seed = split, preprocessing, augment, seed
        self._side = preprocessing.size if augment is None else preprocessing.resize
        self._whole = replace(preprocessing, size=self._side)
        self._squares = Rows(len(split), (self._side, self._side, 3), torch.uint8, room)
        self._decoders = ThreadPoolExecutor(max_workers=threads)
        self._expected: deque[np.ndarray] = deque()
        self._decoded: dict[int, Future[np.ndarray]] = {}  # pictures of the next batches, also while it goes on

    def __len__(self) -> int:
        return len(self.labels)

    def use(self, build: Callable[[int], BatchTransform]) -> None:
        """Augment by another transform from now on; `build(size)` makes it."""
        assert self._augment is not None, "these pictures are never augmented"
        self._augment = build(self._preprocessing.size)

    def close(self) -> None:
        """Let go of what is still to be decoded, and of the threads; no picture may be asked for any more."""
        self._decoders.shutdown(cancel_futures=True)

    def expect(self, batches: Sequence[np.ndarray]) -> None:
        """Take note of which batches will be asked for next, in this order, in place of what was expected before.

        It changes no number. The next of them, AHEAD_BYTES or one, are decoded before they are asked for; a picture
        that cannot be read is reported when its own batch is asked for.
        """
        self._expected = deque(batches)
        near = {int(index) for batch in self._near() for index in batch}
        for index in self._decoded.keys() - near:
            self._decoded.pop(index).cancel()
        self._decode_ahead()

    def batch(self, indices: np.ndarray, view: int | None, device: torch.device) -> torch.Tensor:
        """Return normalised images (B, 3, S, S) float32: of an augmented view, or with None the plain centre crop.

        Raises DatasetError with the name of a picture that cannot be read.
        """
        images = upload(self._read(indices), device).permute(0, 3, 1, 2)
        if view is None:
            margin, size = (self._side - self._preprocessing.size) // 2, self._preprocessing.size
            crops = images[:, :, margin : margin + size, margin : margin + size]
        else:
            assert self._augment is not None, "these pictures are never augmented"
            crops = self._augment(images, keys_of(self._seed, view, indices))
        return self._preprocessing.normalise(crops.permute(0, 2, 3, 1))

    def _read(self, indices: np.ndarray) -> torch.Tensor:
        """Return squares uint8 (B, R, R, 3), on the device if they are kept there.

        What is not kept is decoded and, beside it, what is expected next.
        """
        is_kept = self._squares.has(indices)
        self._forget_until(indices)
        decoding = {index: self._decoding(index) for index in dict.fromkeys(indices[~is_kept].tolist())}
        self._decode_ahead(decoding)
        if not decoding:
            return self._squares.get(indices)
        squares = np.empty((len(indices), self._side, self._side, 3), np.uint8)
        squares[is_kept] = self._squares.get(indices[is_kept]).cpu().numpy()
        for place in np.flatnonzero(~is_kept):
            squares[place] = decoding[int(indices[place])].result()
        _, first = np.unique(indices, return_index=True)  # a picture may be in a batch twice
        new = first[~is_kept[first]]
        self._squares.put(indices[new], torch.from_numpy(squares[new]))
        return torch.from_numpy(squares)

    def _decoding(self, index: int) -> "Future[np.ndarray]":
        return self._decoded.pop(index, None) or self._decoders.submit(self._decode, index)

    def _forget_until(self, indices: np.ndarray) -> None:
        """Expect what comes after this batch; a batch that was not expected changes nothing."""
        for place, batch in enumerate(self._expected):
            if np.array_equal(batch, indices):
                self._expected = deque(islice(self._expected, place + 1, None))
                return

    def _decode_ahead(self, elsewhere: Container[int] = ()) -> None:
        """Begin to decode the next batches; what is decoded elsewhere is about to be kept."""
        for batch in self._near():
            for index in batch[~self._squares.has(batch)].tolist():
                if index not in self._decoded and index not in elsewhere:
                    self._decoded[index] = self._decoders.submit(self._decode, index)

    def _near(self) -> Iterator[np.ndarray]:
        """Yield the next batches that are expected, as many as are decoded ahead."""
        pictures = 0
        for number, batch in enumerate(self._expected):
            pictures += len(batch)
            if number and pictures * 3 * self._side**2 > AHEAD_BYTES:
                return
            yield batch

    def _decode(self, index: int) -> np.ndarray:
        try:
            return self._whole.square(self._split.read(index))
        except (DlkitError, OSError) as error:
            raise DatasetError(
                f"The picture {self._split.name(index)} must be readable: {error} "
                "Mend or remove it, then retry the run."
            ) from error


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Draw from torch's CPU generator as a function of `key` inside the block, and leave no trace after it."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def shuffled_batches(count: int, batch_size: int, *key: int) -> list[np.ndarray]:
    """Return 0..count-1 in an order that is a function of `key`, in batches whose sizes differ by one at most."""
    order = np.random.default_rng(key).permutation(count)
    return np.array_split(order, steps_per_epoch(count, batch_size))


def plain_batches(count: int, batch_size: int) -> list[np.ndarray]:
    """Return the indices 0..count-1 in order, in batches."""
    return np.array_split(np.arange(count), steps_per_epoch(count, batch_size))


def validation_batches(count: int) -> list[np.ndarray]:
    """Return the indices 0..count-1 in order, in the batches in which pictures are checked."""
    return plain_batches(count, EVALUATION_BATCH)
