"""The topics of the course in their order, from a tensor to a fine-tuned network: where each is shown, and how."""

from collections.abc import Mapping
from dataclasses import dataclass

PARTS = ("Numbers", "Networks", "Learning", "Layers", "Your own model")


@dataclass(frozen=True)
class TopicEntry:
    """One topic: what it is in one sentence, and the page (without .py) with the parameters that show it."""

    name: str
    title: str
    summary: str
    part: str
    page: str
    parameters: Mapping[str, str]


def _entry(name: str, title: str, summary: str, part: str, page: str, **parameters: str) -> TopicEntry:
    return TopicEntry(name, title, summary, part, page, parameters)


_ENTRIES = (
    _entry(
        "tensor", "Tensor", "A block of numbers with a shape: all that a network takes and gives.", PARTS[0], "tensors"
    ),
    _entry(
        "broadcasting",
        "Broadcasting",
        "How a bias is added to a whole batch, and how shapes fit by accident.",
        PARTS[0],
        "tensors",
        tensors_view="broadcasting",
    ),
    _entry(
        "number-types",
        "Number types",
        "What float32, bfloat16 and whole numbers keep of a number, to the last bit.",
        PARTS[0],
        "tensors",
        tensors_view="numbers",
    ),
    _entry(
        "data-not-rules",
        "Data, not rules",
        "Write a rule, and let a network learn one from examples.",
        PARTS[1],
        "network",
        network_view="rules",
    ),
    _entry(
        "perceptron",
        "Perceptron",
        "One line that turns at each mistake, and the wall of XOR.",
        PARTS[1],
        "network",
        network_view="perceptron",
        perceptron_data="xor",
    ),
    _entry(
        "hidden-layer",
        "Input, hidden and output layer",
        "A hidden layer folds the plane, so that one line is enough behind it.",
        PARTS[1],
        "network",
        network_data="xor",
        network_hidden="4",
    ),
    _entry(
        "activation",
        "Activation",
        "What bends the sums: without it many layers are one.",
        PARTS[1],
        "network",
        network_activation="tanh",
    ),
    _entry(
        "softmax",
        "Softmax",
        "From the last sums to probabilities.",
        PARTS[2],
        "network",
        network_view="softmax",
    ),
    _entry(
        "cross-entropy",
        "Cross-entropy",
        "The loss of being sure and wrong, and why not a squared error.",
        PARTS[2],
        "network",
        network_view="softmax",
        softmax_logits="3,0,0",
        softmax_label="1",
    ),
    _entry(
        "backpropagation",
        "Backpropagation",
        "How one pass back gives the gradients of all weights.",
        PARTS[2],
        "network",
        network_view="graph",
    ),
    _entry(
        "gradient-descent",
        "Gradient descent",
        "Steps against the gradient: too short, too long, just right.",
        PARTS[2],
        "descent",
        surface="ravine",
        optimizers="gradient-descent",
        rate_gradient_descent="0.005,0.02,0.05",
    ),
    _entry(
        "sgd",
        "Stochastic gradient descent",
        "One example at a time, a few, or all of them: many rough steps or few exact ones.",
        PARTS[2],
        "descent",
        surface="line",
        optimizers="sgd",
        sgd_batch="1,4,14",
        descent_steps="20",
    ),
    _entry(
        "adam",
        "Adam",
        "A rate for each weight: why it copes with noisy and rare gradients.",
        PARTS[2],
        "descent",
        formula="0.5*(x^2 + y^2)",
        descent_start="2,2",
        descent_steps="400",
        descent_present="1,0.05",
        descent_noise="1",
        optimizers="sgd,adam",
        rate_adam="0.05",
        rate_sgd="0.05,0.5",
    ),
    _entry(
        "conv2d",
        "Conv2D",
        "A kernel that slides over the picture, with its numbers.",
        PARTS[3],
        "layers",
        layers_layer="body.conv_stem",
    ),
    _entry(
        "relu",
        "ReLU",
        "Everything below zero becomes zero; a unit that is always there is dead.",
        PARTS[3],
        "network",
        network_activation="relu",
    ),
    _entry(
        "pooling",
        "Pooling",
        "Many values become one: the largest, or their mean.",
        PARTS[3],
        "layers",
        layers_layer="body.global_pool.pool",
    ),
    _entry(
        "flatten",
        "Flatten",
        "From maps to one long row, and where each value goes.",
        PARTS[3],
        "layers",
        layers_layer="body.global_pool.flatten",
    ),
    _entry("linear", "Linear", "Each weight times its input, added up.", PARTS[3], "layers", layers_layer="head"),
    _entry(
        "dropout",
        "Dropout",
        "Units that are left out by chance, so that no one is relied upon.",
        PARTS[3],
        "network",
        network_dropout="0.3",
        network_noise="0.2",
    ),
    _entry(
        "batch-norm",
        "Batch norm",
        "Values are brought to the same scale: in training by the batch, afterwards by what was remembered.",
        PARTS[3],
        "layers",
        layers_layer="body.bn1",
    ),
    _entry(
        "pretrained",
        "A pretrained network",
        "Layer by layer through a network that knows 1,000 classes.",
        PARTS[4],
        "layers",
    ),
    _entry("fine-tuning", "Fine-tuning", "Teach it your own classes.", PARTS[4], "train"),
    _entry(
        "one-step",
        "One step of your run",
        "A single weight of your own model: gradient, what the optimizer remembers, and the step.",
        PARTS[4],
        "layers",
        layers_view="step",
    ),
    _entry("prediction", "Prediction", "Give it a photo it has never seen.", PARTS[4], "predict"),
)

TOPICS: dict[str, TopicEntry] = {entry.name: entry for entry in _ENTRIES}
