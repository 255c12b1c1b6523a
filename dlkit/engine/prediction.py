"""From pictures to softmax probabilities, with the ImageNet model or with any run's saved model.

One inference at a time, in the order of asking: several forward passes side by side are slower in sum than one after
another. Loaded models are kept as far as their bytes allow, and never changed: training builds its own.

The probabilities are those of the saved float32 network within FOLDED_TOLERANCE, or within REDUCED_TOLERANCE where a
reduced number format was measured to be quicker on this machine by LEAST_GAIN or more.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from dlkit import machine
from dlkit.catalog.backbones import BACKBONES
from dlkit.engine import device as devices
from dlkit.engine import speed
from dlkit.engine.bundle import Bundle, load_bundle
from dlkit.engine.lane import Lane
from dlkit.engine.model import Classifier, imagenet_labels, pretrained
from dlkit.engine.preprocess import preprocessing_of
from dlkit.errors import DlkitError
from dlkit.evidence import FEATURES, Choice, Format, known_choices
from dlkit.runs.artifacts import read_description
from dlkit.settings import settings

IMAGENET_BACKBONE = "efficientnet-lite0"
BATCH = 16  # twice as many are no quicker and need twice the memory
PLACES = 64  # that may wait for a turn: about a second of single pictures
AHEAD = 2 * BATCH  # pictures of one stream that are decoded, or asked for, before their turn
MOST_DECODERS = 4  # of the whole process: no more pictures are in memory at full size
PATIENCE = 0.2  # seconds that a batch waits for its pictures before it goes with what is there
MB = 10**6

FOLDED = Format(folded=True)
LEAST_GAIN = 1.3
#: largest difference of a probability from the saved network's: rounding alone; with a reduced number format
FOLDED_TOLERANCE, REDUCED_TOLERANCE = 1e-4, 0.05

Read = Callable[[], Image.Image]


@dataclass(frozen=True)
class Guess:
    """One class and its softmax probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Loaded:
    """A model that is ready: its `version` is the sha256 of the weights."""

    version: str
    bundle: Bundle
    size: int  # bytes


Guesses = tuple[Guess, ...]

_lane = Lane(PLACES)
_imagenet: dict[str, Bundle] = {}  # by device
_kept: OrderedDict[tuple[Path, str], Loaded] = OrderedDict()  # by folder and device, the one used last at the end
_shelf = threading.Lock()  # for the dicts above, and for an instant only


def predict(source: Path | None, images: Sequence[Image.Image], top_k: int = 5, device: str = "auto") -> list[Guesses]:
    """Return the `top_k` likeliest classes of each RGB picture, likeliest first.

    `source` is the folder of a saved model, or None for the ImageNet model. BundleError where it cannot be loaded,
    BusyError where too many wait already.
    """
    bundle = _model(source, device)
    answers: list[Guesses] = []
    for start in range(0, len(images), BATCH):
        squares = [bundle.preprocessing.square(image) for image in images[start : start + BATCH]]
        answers += _answer(bundle, squares, top_k, goes_on=start > 0)
    return answers


def predict_many(
    source: Path | None, pictures: Iterable[Read], top_k: int = 5, device: str = "auto"
) -> Iterator[Guesses | DlkitError]:
    """Yield what `predict` returns for each picture, in order, as soon as it is known.

    A picture is a function that reads it as RGB; it is called in another thread, a little ahead of its turn, and what
    it raises as a DlkitError is yielded in the answer's place. Others get their turn between two batches. To cancel is
    to stop asking. Raises what `predict` raises.
    """
    bundle = _model(source, device)
    goes_on = False
    try:
        for batch in _batches(pictures, lambda read: bundle.preprocessing.square(read())):
            squares = [square for square in batch if isinstance(square, np.ndarray)]
            answers = iter(_answer(bundle, squares, top_k, goes_on) if squares else ())
            goes_on = goes_on or bool(squares)
            for square in batch:
                yield square if isinstance(square, DlkitError) else next(answers)
    finally:
        machine.give_back_memory()


def warm_up() -> None:
    """Load the ImageNet model and run it once, so that the first visitor need not wait for it."""
    use_one_core()
    predict(None, [Image.new("RGB", (64, 64))])


def use_one_core() -> None:
    """Keep to the server's share: the cores are the workers', and for one picture two threads are slower than one."""
    torch.set_num_threads(1)


def choose_format() -> None:
    """Try which number format is quickest for the ImageNet model, unless that is known, and use it from now on.

    Takes seconds, beside the lane: what is asked for meanwhile is answered by the model as it is.
    """
    target, bundle = devices.resolve("auto"), imagenet_bundle()
    if not settings().measure_speed or _key(bundle, target) in known_choices():
        return  # then it was loaded as it shall be
    body, size = bundle.model.eval().to(target).body, bundle.preprocessing.size
    choice = speed.choose(FEATURES, bundle.backbone, body, size, target, "auto")
    if _form_of(choice) != FOLDED:
        ready = _ready(bundle, target, _form_of(choice))
        with _shelf:
            _imagenet[str(target)] = ready
    machine.give_back_memory()


def is_warm() -> bool:
    """Tell whether the ImageNet model is loaded."""
    return bool(_imagenet)


def turn() -> AbstractContextManager[None]:
    """Wait for a turn in the lane of all forward passes, and have it; BusyError where too many wait."""
    return _lane.turn()


def _answer(bundle: Bundle, squares: Sequence[np.ndarray], top_k: int, goes_on: bool = False) -> list[Guesses]:
    """Classify uint8 squares (S, S, 3) in one turn."""
    pictures = torch.from_numpy(np.stack(squares))
    with _lane.turn(goes_on), torch.inference_mode():
        device = bundle.model.head.weight.device
        logits = bundle.model(bundle.preprocessing.normalise(pictures.to(device)))
        probabilities = logits.softmax(1).cpu()
    return [_top(bundle.classes, row, top_k) for row in probabilities]


def _top(classes: Sequence[str], probabilities: torch.Tensor, top_k: int) -> Guesses:
    values, indices = probabilities.topk(min(top_k, len(classes)))
    return tuple(Guess(classes[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True))


# Decoding ahead


def _batches(
    pictures: Iterable[Read], prepare: Callable[[Read], np.ndarray]
) -> Iterator[list[np.ndarray | DlkitError]]:
    """Yield the prepared pictures in order, up to BATCH at a time; slow ones in smaller groups."""

    def attempt(read: Read) -> np.ndarray | DlkitError:
        try:
            return prepare(read)
        except DlkitError as error:
            error.__cause__ = error.__context__ = None  # their frames, and the traceback's, hold the whole picture
            return error.with_traceback(None)

    rest, asked = iter(pictures), deque[Future[np.ndarray | DlkitError]]()
    try:
        while True:
            asked.extend(_decoders().submit(attempt, read) for read in islice(rest, AHEAD - len(asked)))
            if not asked:
                return
            yield _take(asked)
    finally:
        for future in asked:
            future.cancel()


def _take(asked: deque[Future[np.ndarray | DlkitError]]) -> list[np.ndarray | DlkitError]:
    """Wait for the first, then a little for those that follow it."""
    batch = [asked.popleft().result()]
    until = time.monotonic() + PATIENCE
    while asked and len(batch) < BATCH and wait([asked[0]], max(0, until - time.monotonic())).done:
        batch.append(asked.popleft().result())
    return batch


@lru_cache(maxsize=1)
def _decoders() -> ThreadPoolExecutor:
    """Return the threads that decode for all streams: one core is left for the network."""
    return ThreadPoolExecutor(max(1, min(MOST_DECODERS, machine.cores() - 1)), thread_name_prefix="decode")


# The models


def _model(source: Path | None, device: str) -> Bundle:
    """Return the model: at once where it is kept and has not been saved anew since, else loaded in a turn."""
    target = devices.resolve(device)
    version = "" if source is None else read_description(source)["sha256"]
    found = _find(source, target, version)
    if found is not None:
        return found
    with _lane.turn():
        return _find(source, target, version) or _load(source, target, version)  # it may have been loaded meanwhile


def _find(source: Path | None, target: torch.device, version: str) -> Bundle | None:
    with _shelf:
        if source is None:
            return _imagenet.get(str(target))
        key = source, str(target)
        if key not in _kept or _kept[key].version != version:
            return None
        _kept.move_to_end(key)
        return _kept[key].bundle


def _load(source: Path | None, target: torch.device, version: str) -> Bundle:
    saved = imagenet_bundle() if source is None else load_bundle(source)
    bundle = _ready(saved, target, _known_form(saved, target))
    with _shelf:
        if source is None:
            _imagenet[str(target)] = bundle
        else:
            _kept[source, str(target)] = Loaded(version, bundle, _size(bundle.model))
            _kept.move_to_end((source, str(target)))
            while len(_kept) > 1 and sum(kept.size for kept in _kept.values()) > settings().model_cache_mb * MB:
                _kept.popitem(last=False)
    machine.give_back_memory()
    return bundle


def _size(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _ready(bundle: Bundle, device: torch.device, form: Format) -> Bundle:
    """Return the model as it predicts: in eval mode, frozen, its body in this format, its head in float32."""
    model, size = bundle.model.eval().requires_grad_(False).to(device), bundle.preprocessing.size
    example = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return replace(bundle, model=Classifier(speed.Frozen(model.body, form, example), model.head).eval())


def _known_form(bundle: Bundle, device: torch.device) -> Format:
    """Return the format that was measured to be quickest; where nothing was, nobody waits for a trial."""
    return _form_of(known_choices().get(_key(bundle, device), Choice()) if settings().measure_speed else Choice())


def _key(bundle: Bundle, device: torch.device) -> str:
    return speed.key_of(FEATURES, bundle.backbone, bundle.preprocessing.size, device)


def _form_of(choice: Choice) -> Format:
    """Return the format to predict in: float32 folded unless a reduced one is clearly quicker."""
    rates = choice.rates or {}
    if choice.format.precision == "float32" or str(FOLDED) not in rates:
        return FOLDED
    return choice.format if rates[str(choice.format)] >= LEAST_GAIN * rates[str(FOLDED)] else FOLDED


def imagenet_bundle() -> Bundle:
    """Return the ImageNet model as it comes, newly read."""
    entry = BACKBONES[IMAGENET_BACKBONE]
    return Bundle(pretrained(entry), entry.name, imagenet_labels(), preprocessing_of(entry), {})
