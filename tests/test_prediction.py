"""From pictures to probabilities: the ImageNet model, saved models, those that are kept loaded, and streams of many."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image

from dlkit import evidence
from dlkit.catalog.backbones import BACKBONES
from dlkit.data.images import read_image
from dlkit.engine import prediction, speed
from dlkit.engine.bundle import Bundle, save_bundle
from dlkit.engine.lane import Lane
from dlkit.engine.model import build
from dlkit.engine.prediction import AHEAD, BATCH, FOLDED, FOLDED_TOLERANCE, REDUCED_TOLERANCE, predict, predict_many
from dlkit.engine.preprocess import preprocessing_of
from dlkit.errors import BundleError, BusyError, DeviceError, DlkitError, ImageError
from dlkit.evidence import PLAIN, REFERENCE, Choice, Format
from dlkit.settings import settings

LITE0 = BACKBONES["efficientnet-lite0"]
COFFEE, CAT, ASTRONAUT = (
    Image.fromarray(array) for array in (skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut())
)


@pytest.fixture(autouse=True)
def _one_thread_and_nothing_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    forget()
    yield
    forget()
    torch.set_num_threads(threads)


def forget() -> None:
    prediction._kept.clear()
    prediction._imagenet.clear()


def save_model(folder: Path, seed: int = 0, classes: tuple[str, ...] = ("a", "b", "c")) -> Path:
    model = build(LITE0, len(classes), seed=seed)
    save_bundle(Bundle(model, LITE0.name, classes, preprocessing_of(LITE0, 64), {}), folder)
    return folder


def shares(source: Path | None, pictures: list[Image.Image], top_k: int = 1000) -> list[dict[str, float]]:
    return [{guess.label: guess.probability for guess in top} for top in predict(source, pictures, top_k, "cpu")]


def test_imagenet_model_knows_coffee_and_cat():
    coffee, cat = predict(None, [COFFEE, CAT], 5, "cpu")
    assert coffee[0].label == "espresso"
    assert coffee[0].probability >= 0.9
    assert cat[0].label in ("tabby", "tiger cat", "Egyptian cat")


def test_probabilities_sum_to_one_and_come_likeliest_first():
    for top in predict(None, [COFFEE, CAT, ASTRONAUT], 1000, "cpu"):
        probabilities = [guess.probability for guess in top]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert probabilities == sorted(probabilities, reverse=True)
        assert len(top) == 1000


def test_pictures_together_get_what_each_gets_alone(tmp_path):
    source = save_model(tmp_path / "model")
    pictures = [picture.rotate(angle) for angle in range(0, 12 * 12, 12) for picture in (COFFEE, CAT, ASTRONAUT)]
    assert len(pictures) > BATCH
    together = shares(source, pictures)
    assert len(together) == len(pictures)
    for index in (0, 1, 2, BATCH - 1, BATCH, len(pictures) - 1):
        assert together[index] == pytest.approx(shares(source, [pictures[index]])[0], abs=1e-5)


def test_answers_equal_the_forward_pass_written_out(tmp_path):
    source = save_model(tmp_path / "model")
    preprocessing = preprocessing_of(LITE0, 64)
    squares = torch.tensor(preprocessing.square(CAT))[None]
    with torch.no_grad():
        expected = build(LITE0, 3, seed=0).eval()(preprocessing.normalise(squares)).softmax(1)[0]
    wanted = dict(zip("abc", expected.tolist(), strict=True))
    assert shares(source, [CAT])[0] == pytest.approx(wanted, abs=FOLDED_TOLERANCE)


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (4, 3), (1000, 3)])
def test_no_more_classes_are_named_than_there_are(tmp_path, top_k, count):
    (top,) = predict(save_model(tmp_path / "model"), [CAT], top_k, "cpu")
    assert len(top) == count


def test_no_pictures_give_no_answers(tmp_path):
    assert predict(save_model(tmp_path / "model"), [], 5, "cpu") == []


def test_model_that_is_saved_anew_is_loaded_anew(tmp_path):
    source = save_model(tmp_path / "model", seed=0)
    before = shares(source, [CAT])
    save_model(source, seed=1, classes=("x", "y"))
    after = shares(source, [CAT])
    assert after[0].keys() == {"x", "y"}
    save_model(source, seed=0)
    assert shares(source, [CAT]) == before


def test_model_is_read_once_while_it_stays_the_same(tmp_path, monkeypatch):
    source, loads, real = save_model(tmp_path / "model"), [], prediction.load_bundle
    monkeypatch.setattr(prediction, "load_bundle", lambda folder: loads.append(folder) or real(folder))
    for _ in range(3):
        predict(source, [CAT], 5, "cpu")
    assert loads == [source]


@pytest.fixture
def room_for_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the models that are kept have 34 MB; one of these has 13.5."""
    monkeypatch.setenv("DLKIT_MODEL_CACHE_MB", "34")
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_the_models_used_last_stay_loaded(tmp_path, monkeypatch, room_for_two):
    sources = [save_model(tmp_path / str(seed), seed) for seed in range(3)]
    loads, real = [], prediction.load_bundle
    monkeypatch.setattr(prediction, "load_bundle", lambda folder: loads.append(folder) or real(folder))
    for source in (*sources[:2], sources[0], sources[2], sources[0], sources[1]):
        predict(source, [CAT], 1, "cpu")
    assert loads == [*sources, sources[1]]
    assert len(prediction._kept) == 2
    assert sum(kept.size for kept in prediction._kept.values()) <= 34e6


def test_model_larger_than_all_the_room_is_kept_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("DLKIT_MODEL_CACHE_MB", "1")
    settings.cache_clear()
    sources = [save_model(tmp_path / str(seed), seed) for seed in range(2)]
    for source in sources:
        assert predict(source, [CAT], 1, "cpu")
        assert [folder for folder, _ in prediction._kept] == [source]
    settings.cache_clear()


@pytest.mark.parametrize("is_loaded", [False, True])
def test_model_whose_folder_is_gone_is_refused(tmp_path, is_loaded):
    source = save_model(tmp_path / "model")
    if is_loaded:
        predict(source, [CAT], 1, "cpu")
    shutil.rmtree(source)
    with pytest.raises(BundleError, match="There is no saved model here"):
        predict(source, [CAT], 1, "cpu")


def test_predicting_draws_nothing_and_leaves_the_kept_model_in_evaluation():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = shares(None, [COFFEE])
    assert torch.equal(torch.rand(2), expected)
    (bundle,) = prediction._imagenet.values()
    assert not bundle.model.training
    assert not any(parameter.requires_grad for parameter in bundle.model.parameters())
    assert shares(None, [COFFEE]) == first


def test_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="cuda was asked for"):
        predict(None, [CAT], 1, "cuda")


def test_warm_up_loads_the_imagenet_model_once(monkeypatch):
    assert not prediction.is_warm()
    prediction.warm_up()
    assert prediction.is_warm()
    monkeypatch.setattr(prediction, "imagenet_bundle", lambda: pytest.fail("loaded again"))
    predict(None, [CAT], 1)


def test_imagenet_model_stays_however_many_others_are_used(tmp_path, room_for_two):
    predict(None, [CAT], 1, "cpu")
    for seed in range(3):
        predict(save_model(tmp_path / str(seed), seed), [CAT], 1, "cpu")
    assert prediction.is_warm()


def test_model_that_is_saved_anew_takes_the_place_of_its_older_self(tmp_path):
    for seed in range(3):
        predict(save_model(tmp_path / "model", seed), [CAT], 1, "cpu")
    assert len(prediction._kept) == 1


# Number formats

REDUCED = Format("bfloat16", folded=True)
FLOWERS = sorted((Path(prediction.__file__).parents[1] / "samples" / "flowers_mini" / "val").rglob("*.jpg"))[::8]


def test_probabilities_are_those_of_the_saved_network_within_the_stated_tolerance():
    pictures = [read_image(path) for path in FLOWERS] + [COFFEE, CAT, ASTRONAUT]
    bundle, cpu = prediction.imagenet_bundle(), torch.device("cpu")
    squares = torch.stack([torch.tensor(bundle.preprocessing.square(picture)) for picture in pictures])
    images = bundle.preprocessing.normalise(squares)
    with torch.inference_mode():
        wanted = bundle.model.eval()(images).softmax(1)
        for form, tolerance in ((FOLDED, FOLDED_TOLERANCE), (REDUCED, REDUCED_TOLERANCE)):
            found = prediction._ready(bundle, cpu, form).model(images).softmax(1)
            assert found.dtype == torch.float32
            assert (found - wanted).abs().max() <= tolerance


@pytest.mark.parametrize(
    ("reduced", "form"), [(80.0, FOLDED), (129.0, FOLDED), (131.0, REDUCED)], ids=["slower", "a little", "clearly"]
)
def test_reduced_format_is_used_only_where_it_is_clearly_quicker(reduced, form):
    rates = {str(PLAIN): 50.0, str(REFERENCE): 60.0, str(FOLDED): 100.0, str(REDUCED): reduced}
    best = FOLDED if reduced < 100 else REDUCED
    assert prediction._form_of(Choice(best, rates)) == form
    assert prediction._form_of(Choice()) == FOLDED


def test_first_answer_waits_for_no_trial_and_what_was_measured_is_used(home, monkeypatch):
    monkeypatch.setenv("DLKIT_MEASURE_SPEED", "1")
    settings.cache_clear()
    rates = {str(FOLDED): 100.0, str(REDUCED): 200.0}
    tried = []
    monkeypatch.setattr(speed, "_trial", lambda *_: tried.append(1) or (Choice(REDUCED, rates), True))
    predict(None, [CAT], 1, "cpu")
    assert not tried
    assert dtype_of_the_imagenet_model() == torch.float32
    monkeypatch.setattr(prediction.devices, "resolve", lambda _: torch.device("cpu"))
    prediction.choose_format()
    assert (tried, dtype_of_the_imagenet_model()) == ([1], torch.bfloat16)
    forget()
    predict(None, [CAT], 1, "cpu")  # as after the next start
    assert (tried, dtype_of_the_imagenet_model()) == ([1], torch.bfloat16)
    assert evidence.known_choices()


def dtype_of_the_imagenet_model() -> torch.dtype:
    (bundle,) = prediction._imagenet.values()
    return next(bundle.model.body.parameters()).dtype


# The lane


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_turns_come_in_the_order_of_asking_and_one_at_a_time():
    lane, order, inside = Lane(20), [], []

    def take(number: int) -> None:
        with lane.turn():
            inside.append(number)
            assert len(inside) == 1
            order.append(number)
            inside.remove(number)

    threads = []
    with lane.turn():
        for number in range(20):
            threads.append(in_thread(lambda number=number: take(number)))
            wait_until(lambda number=number: lane.waiting == number + 1)
    for thread in threads:
        thread.join(20)
    assert order == list(range(20))
    assert lane.waiting == 0


def test_one_more_than_may_wait_is_told_and_who_goes_on_is_not_refused():
    lane = Lane(2)
    with lane.turn():
        results: list[str] = []

        def take(goes_on: bool = False) -> None:
            with lane.turn(goes_on):
                results.append("had a turn")

        waiting = [in_thread(take), in_thread(take)]
        wait_until(lambda: lane.waiting == 2)
        with pytest.raises(BusyError, match=r"2 predictions wait, the most at one time. Try again in a moment."):
            take()
        waiting.append(in_thread(lambda: take(goes_on=True)))
        wait_until(lambda: lane.waiting == 3)
    for thread in waiting:
        thread.join(20)
    assert len(results) == 3
    with lane.turn():  # and it is free again
        pass


def test_turn_is_given_back_when_the_work_fails():
    lane = Lane(1)
    with pytest.raises(ZeroDivisionError), lane.turn():
        _ = 1 / 0
    with lane.turn():
        assert lane.waiting == 0


def test_prediction_that_finds_all_places_taken_is_a_sentence(tmp_path, monkeypatch):
    source = save_model(tmp_path / "model")
    predict(source, [CAT], 1, "cpu")
    monkeypatch.setattr(prediction, "_lane", Lane(0))
    with prediction._lane.turn(), pytest.raises(BusyError, match="The server is busy"):
        predict(source, [CAT], 1, "cpu")


# Many


def test_stream_gives_what_each_picture_gets_alone_in_order(tmp_path):
    source = save_model(tmp_path / "model")
    pictures = [picture.rotate(angle) for angle in range(0, 12 * 5, 12) for picture in (COFFEE, CAT, ASTRONAUT)] * 3
    assert len(pictures) > 2 * BATCH
    answers = list(predict_many(source, [lambda picture=picture: picture for picture in pictures], 3, "cpu"))
    assert len(answers) == len(pictures)
    for index in (0, 1, 2, BATCH - 1, BATCH, len(pictures) - 1):
        found = {guess.label: guess.probability for guess in answers[index]}
        assert found == pytest.approx(shares(source, [pictures[index]])[0], abs=FOLDED_TOLERANCE)


def test_unreadable_picture_yields_its_sentence_and_the_stream_goes_on(tmp_path):
    source, bad = save_model(tmp_path / "model"), {0, 7, BATCH, BATCH + 1}

    def read(index: int) -> Image.Image:
        if index in bad:
            raise ImageError(f"{index}.jpg is damaged.")
        return CAT

    reads = [lambda index=index: read(index) for index in range(BATCH + 4)]
    answers = list(predict_many(source, reads, 1, "cpu"))
    assert {index for index, answer in enumerate(answers) if isinstance(answer, DlkitError)} == bad
    assert str(answers[7]) == "7.jpg is damaged."
    assert (answers[7].__traceback__, answers[7].__context__) == (None, None)  # which would hold the picture's bytes
    assert next(predict_many(source, [lambda: read(0)], 1, "cpu")).args == ("0.jpg is damaged.",)
    assert list(predict_many(source, [], 1, "cpu")) == []


def test_few_pictures_are_in_memory_however_many_there_are(tmp_path):
    source = save_model(tmp_path / "model")
    guard, alive, most, asked = threading.Lock(), 0, 0, 0

    class Large:
        """A picture that counts how many of it are there."""

        def __init__(self) -> None:
            nonlocal alive, most
            with guard:
                alive += 1
                most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            with guard:
                alive -= 1

        def __getattr__(self, name: str) -> object:
            time.sleep(0.001)
            return getattr(CAT, name)

    def reads() -> Iterator[Callable[[], Image.Image]]:
        nonlocal asked
        for _ in range(200):
            asked += 1
            yield Large

    done = 0
    for done, _ in enumerate(predict_many(source, reads(), 1, "cpu"), start=1):
        assert asked <= done + AHEAD + BATCH
    assert done == 200
    assert most <= prediction.MOST_DECODERS + 1


def test_stream_that_is_left_reads_no_further(tmp_path):
    source, read = save_model(tmp_path / "model"), []
    stream = predict_many(source, (lambda: read.append(1) or CAT for _ in range(500)), 1, "cpu")
    next(stream)
    stream.close()
    time.sleep(0.1)
    count = len(read)
    assert count <= AHEAD + BATCH + prediction.MOST_DECODERS
    time.sleep(0.1)
    assert len(read) == count


def test_slow_pictures_are_answered_as_they_come(tmp_path, monkeypatch):
    source, waits = save_model(tmp_path / "model"), threading.Event()
    reads = [lambda: CAT, lambda: CAT, lambda: (waits.wait(20), CAT)[1]]
    monkeypatch.setattr(prediction, "PATIENCE", 0.05)
    stream = predict_many(source, reads, 1, "cpu")
    assert next(stream)
    assert next(stream)
    waits.set()
    assert len(list(stream)) == 1


def test_others_get_their_turn_between_two_batches(tmp_path):
    source = save_model(tmp_path / "model")
    stream = predict_many(source, [lambda: CAT] * (3 * BATCH), 1, "cpu")
    next(stream)
    thread = in_thread(lambda: predict(source, [COFFEE], 1, "cpu"))
    thread.join(20)
    assert not thread.is_alive()
    assert len(list(stream)) == 3 * BATCH - 1
