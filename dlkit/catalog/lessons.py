"""Comparisons that show when Adam helps and when it does not; each is a race that the page computes where it shows it.

The numbers in the texts are those of the races: a test takes them from there.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LessonEntry:
    """One comparison: the same `wanted` optimizers on each of `grounds`, in the words of `dlkit.descent.asked`.

    `shows` names what its table has beside rate and verdict: "steps" to the target, the "first" step, what is "left" of
    x and y, and the "loss" of the last tenth.
    """

    name: str
    title: str
    text: str
    grounds: Mapping[str, Mapping[str, str]]
    wanted: tuple[Mapping[str, str], ...]
    shows: tuple[str, ...]


def _of(optimizer: str, rate: str, **settings: str) -> dict[str, str]:
    return {"optimizer": optimizer, "learning_rate": rate, **settings}


_ENTRIES = (
    LessonEntry(
        "sparse",
        "Adam helps: gradients are rare",
        "The gradient of y is there in one step of twenty, as that of a rare word's weights is, that of x always, and "
        "both are noisy. One rate for both is too small for y, as 0.05, or too large for the noise in x, as 0.5 and 1. "
        "Adagrad, RMSprop and Adam divide each coordinate by how large its gradients usually are, and where most are 0 "
        "that is little: y moves, and x stays calm.",
        {"": {"formula": "0.5*(x^2 + y^2)", "start": "2,2", "steps": "400", "present": "1,0.05", "noise": "1"}},
        (_of("sgd", "0.05,0.5,1"), _of("adagrad", "0.5"), _of("rmsprop", "0.05"), _of("adam", "0.05")),
        ("left", "loss"),
    ),
    LessonEntry(
        "plateau",
        "Adam helps: the gradient all but vanishes",
        "Far out the gradient's norm is 0.000006. Gradient descent stands still, momentum nearly so; Adam divides the "
        "gradient by its own size, so its steps are as long as its rate, and it is down after 63.",
        {"": {"surface": "plateau", "steps": "300"}},
        (_of("sgd", "1"), _of("momentum", "0.5"), _of("rmsprop", "0.05"), _of("adam", "0.1")),
        ("first", "steps"),
    ),
    LessonEntry(
        "axes",
        "It depends: steep along an axis, or across",
        "A ravine along the axes, then the same turned by 30°, from the same place, at the same rates. A rate for each "
        "coordinate is worth much where the coordinates are what is steep: Adam takes 50 steps there, and 260 in the "
        "turned ravine. Gradient descent, momentum and L-BFGS do not know the axes, and hardly notice.",
        {
            "along the axes": {"surface": "ravine", "start": "-1.8,1", "steps": "400"},
            "turned by 30°": {"surface": "ravine", "start": "-1.8,1", "steps": "400", "degrees": "30"},
        },
        (_of("sgd", "0.025"), _of("momentum", "0.01"), _of("adagrad", "1"), _of("adam", "0.1"), _of("lbfgs", "0.5")),
        ("steps",),
    ),
    LessonEntry(
        "simple",
        "Adam does not help: equally steep everywhere",
        "In a round bowl gradient descent needs 3 steps at a good rate. Adam takes 74 to 90 at rates from 0.1 to 1: "
        "its steps do not grow shorter with the gradient, so it overshoots and comes back.",
        {"": {"surface": "bowl", "steps": "200"}},
        (_of("sgd", "0.4"), _of("momentum", "0.1"), _of("adam", "0.1,0.5,1"), _of("newton", "1")),
        ("steps", "loss"),
    ),
    LessonEntry(
        "noise",
        "Adam does not help: noise at a constant rate",
        "With noisy gradients nobody comes to rest at a constant rate: each hovers about the minimum in a ball that is "
        "larger the larger the rate. A tenth of the rate makes it smaller, and so does a rate that falls, here by a "
        "cosine: it goes far first and ends calm. That is so for Adam, too.",
        {"": {"surface": "bowl", "steps": "1000", "noise": "2"}},
        (_of("sgd", "0.2,0.02", schedule="constant,cosine"), _of("adam", "0.2,0.02", schedule="constant,cosine")),
        ("loss",),
    ),
    LessonEntry(
        "batches",
        "Where the noise comes from: batches of real examples",
        "A line through 14 points. Everyone may look at 280 examples: one at a time makes 280 steps, all of them 20. "
        "Small batches are nearer at first, as they step more often, and then hover; the whole is slow and exact.",
        {"": {"surface": "line", "steps": "20"}},
        (_of("sgd", "0.1", batch="1,4,14"), _of("adam", "0.1", batch="1,4,14")),
        ("steps", "loss"),
    ),
    LessonEntry(
        "correction",
        "Inside Adam: why it corrects its means",
        "m and v begin as 0, so they are too small at first, v by more than m. Without the correction the first step "
        "is 3.16 times the rate, (1 − β₁)/√(1 − β₂), and many after it are too long; with it, it is the rate.",
        {"": {"surface": "ravine", "steps": "100"}},
        (_of("adam", "0.05", bias_correction="0,1"),),
        ("first", "steps"),
    ),
    LessonEntry(
        "decay",
        "Inside AdamW: decay beside the gradient, not in it",
        "y has no gradient of its own here. In Adam the decay is added to the gradient, and divided by its own size: a "
        "hundred times the decay moves y by the same. AdamW shrinks the weight itself, by the rate times the decay.",
        {"": {"formula": "x^2 + 0*y", "start": "2,2", "steps": "200"}},
        (_of("adam", "0.005", weight_decay="0.001,0.1"), _of("adamw", "0.005", weight_decay="0.001,0.1")),
        ("left",),
    ),
)

LESSONS: dict[str, LessonEntry] = {entry.name: entry for entry in _ENTRIES}
