"""From a split of a data set to batches on the device: decoded once, augmented per image, normalised per batch.

An image's randomness is a function of (seed, view, index), so it depends neither on the order nor on who decodes.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from dlkit.config import steps_per_epoch
from dlkit.data.dataset import Split
from dlkit.engine.preprocess import Preprocessing
from dlkit.errors import DatasetError, DlkitError

#: a transform of one uint8 image (3, R, R) -> (3, S, S)
Augment = Callable[[torch.Tensor], torch.Tensor]


class Pixels:
    """The pictures of one split as squares; decoded at first use and kept while they fit the budget.

    With `augment` None there are only plain views, and they are to the pixel what prediction sees: the square's centre
    would be beside the picture's by up to one.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        augment: Augment | None,
        seed: int,
        budget_mb: float,
        threads: int,
    ) -> None:
        self.labels = torch.from_numpy(np.asarray(split.labels, dtype=np.int64))
        self._split, self._preprocessing, self._augment, self._seed = split, preprocessing, augment, seed
        self._side = preprocessing.size if augment is None else preprocessing.resize
        self._whole = replace(preprocessing, size=self._side)
        shape = (len(split), self._side, self._side, 3)
        fits = np.prod(shape, dtype=np.float64) <= budget_mb * 1e6
        self._kept = np.empty(shape, np.uint8) if fits else None
        self._is_kept = np.zeros(len(split), bool)
        self._decoders = ThreadPoolExecutor(max_workers=threads)

    def __len__(self) -> int:
        return len(self.labels)

    def use(self, build: Callable[[int], Augment]) -> None:
        """Augment by another transform from now on; `build(size)` makes it."""
        assert self._augment is not None, "these pictures are never augmented"
        self._augment = build(self._preprocessing.size)

    def batch(self, indices: np.ndarray, view: int | None, device: torch.device) -> torch.Tensor:
        """Return normalised images (B, 3, S, S) float32: of an augmented view, or with None the plain centre crop."""
        squares = torch.from_numpy(self._squares(indices)).permute(0, 3, 1, 2)
        if view is None:
            margin, size = (self._side - self._preprocessing.size) // 2, self._preprocessing.size
            crops = squares[:, :, margin : margin + size, margin : margin + size]
        else:
            crops = torch.stack(
                [self._augmented(image, view, int(i)) for image, i in zip(squares, indices, strict=True)]
            )
        return self._preprocessing.normalise(crops.permute(0, 2, 3, 1).to(device, non_blocking=True))

    def _squares(self, indices: np.ndarray) -> np.ndarray:
        """Return uint8 (B, R, R, 3), decoding what is not kept yet."""
        if self._kept is None:
            return np.stack(list(self._decoders.map(self._decode, indices)))
        missing = indices[~self._is_kept[indices]]
        for index, pixels in zip(missing, self._decoders.map(self._decode, missing), strict=True):
            self._kept[index] = pixels
        self._is_kept[missing] = True
        return self._kept[indices]

    def _decode(self, index: int) -> np.ndarray:
        try:
            return self._whole.square(self._split.read(int(index)))
        except (DlkitError, OSError) as error:
            raise DatasetError(
                f"The picture {self._split.name(int(index))} must be readable: {error} "
                "Mend or remove it, then retry the run."
            ) from error

    def _augmented(self, image: torch.Tensor, view: int, index: int) -> torch.Tensor:
        assert self._augment is not None
        with seeded(self._seed, view, index):
            return self._augment(image)


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
