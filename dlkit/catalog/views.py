"""The views of the lessons, each with what a newcomer reads beside it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ViewEntry:
    """One view: what it shows, why that matters, the mistake that many make, and where it is written."""

    name: str
    title: str
    what: str
    why: str
    mistake: str
    source: str
    url: str


_ENTRIES = (
    ViewEntry(
        "network",
        "Network",
        "Each unit adds up its inputs, each times a weight, and bends the sum by its activation. Its small picture is "
        "what it says of every place of the plane, blue above zero and orange below. The last layer's units are the "
        "classes. A step looks at a batch, sends the gradient of its loss back layer by layer, and moves each weight.",
        "One line parts the plane in two. A hidden layer folds the plane, so that one line is enough behind it: that "
        "is why circles need a hidden layer, and why a spiral needs wider or deeper ones.",
        "Only the loss of the training points is watched. The rings are test points that nothing is learnt from: where "
        "their loss rises while the other falls, the network learns the points by heart. Fewer units, dropout, L2 or "
        "more points help.",
        "Rumelhart, Hinton & Williams 1986, Learning representations by back-propagating errors",
        "https://doi.org/10.1038/323533a0",
    ),
    ViewEntry(
        "perceptron",
        "Perceptron",
        "A perceptron draws one line: on one side its sum w·x + b is above zero, on the other below. It looks at one "
        "example after the other. Where the side is right nothing happens; where it is wrong, the example itself, "
        "times the rate, is added to the weights, so the line turns towards being right about it.",
        "Where a line parts the classes, this ends after finitely many mistakes. Where none does, as for XOR, it never "
        "ends: each correction undoes another. That wall is why networks have hidden layers.",
        "The rate is tuned. Beginning at zero it only scales weights and bias alike, and the line is the same.",
        "Rosenblatt 1958, The perceptron",
        "https://doi.org/10.1037/h0042519",
    ),
    ViewEntry(
        "rules",
        "Data, not rules",
        "The same points, told apart in two ways: by a rule that you write, and by a network that is given examples. "
        "Both are judged by new points. Write a better rule; then turn the points, or add noise, and see which of the "
        "two has to be written anew.",
        "For a few shapes in the plane a rule is easily written. Nobody can write one for what makes a photograph show "
        "a cat; but examples can be collected, and the same program learns from whatever they show.",
        "A few examples are thought to do. With 4 or 10 the network is often worse than a glance at the points, and "
        "another seed gives another network: look at how far the dots are apart.",
        "Halevy, Norvig & Pereira 2009, The unreasonable effectiveness of data",
        "https://doi.org/10.1109/MIS.2009.36",
    ),
    ViewEntry(
        "softmax",
        "Softmax and cross-entropy",
        "Softmax makes probabilities of the last sums, the logits: each e^z, divided by their total. Cross-entropy is "
        "minus the logarithm of what the right class got. Its gradient by the logits is what was said less what was "
        "right, p − y. A temperature above 1 makes the probabilities alike; label smoothing asks for a little less "
        "than certainty; class weights count rare classes more.",
        "A squared error has p as a factor in its gradient: a network that is sure and wrong gets almost nothing to "
        "learn from. Cross-entropy gets the most there: compare the slopes on the left of the curves.",
        "Softmax is applied twice: nn.CrossEntropyLoss takes logits. And e^z is computed as it stands, which overflows "
        "in 32 bits from 89 on; the largest logit is taken off first.",
        "Bridle 1990, Probabilistic interpretation of feedforward classification network outputs",
        "https://doi.org/10.1007/978-3-642-76153-9_28",
    ),
    ViewEntry(
        "graph",
        "Autograd",
        "Each operation of the formula is a box. Forward, from left to right, each box gets its value. Backward, from "
        "right to left, each sends its gradient, times its own derivative, to what it was computed of. A box that is "
        "used twice adds up what comes back.",
        "One pass back gives the derivatives by all weights at once, however many there are, for about the cost of "
        "the way forward. That is what makes deep networks trainable, and it is what loss.backward() does.",
        "Gradients are not set to zero between two steps: torch adds them up, as it does within one.",
        "Griewank & Walther 2008, Evaluating derivatives, chapter 3",
        "https://doi.org/10.1137/1.9780898717761",
    ),
)

VIEWS: dict[str, ViewEntry] = {entry.name: entry for entry in _ENTRIES}

_OF_TENSORS = (
    ViewEntry(
        "shapes",
        "Shapes",
        "A tensor is numbers in a block, and its shape says how many there are along each dimension. One number has no "
        "dimension, a row has one, a grid two. A colour picture has three: channel, row, column; a batch of pictures "
        "four; a batch of films five.",
        "Every layer says which shape it takes and which it gives back. Most errors that a newcomer meets are two "
        "shapes that do not fit.",
        "Rows and columns are mixed up: t[1, 2] is row 1, column 2, both counted from 0. Pictures are height before "
        "width, while most picture programs say width before height.",
        "PyTorch documentation, torch.Tensor",
        "https://docs.pytorch.org/docs/stable/tensors.html",
    ),
    ViewEntry(
        "indexing",
        "Indexing",
        "Each index stands for one dimension, in order. A number takes one place of it, and the dimension is gone; "
        "from:to takes a stretch, without its end; : takes all; ... stands for all that are not named; None puts a "
        "dimension of one in; a list takes places in any order.",
        "What is taken by numbers and stretches is the same memory, so writing into it changes the tensor it came "
        "from, and nothing is copied. A list makes a copy.",
        "t[1] and t[1:2] are taken for the same. The first has a dimension less.",
        "PyTorch documentation, torch.Tensor: indexing and slicing",
        "https://docs.pytorch.org/docs/stable/tensor_view.html",
    ),
    ViewEntry(
        "broadcasting",
        "Broadcasting",
        "Two shapes are put below each other, the last dimensions above each other. Sizes fit where they are equal, or "
        "one of them is 1 or missing: that one is repeated, without being copied. The pale cells are repeated ones.",
        "A bias is added to every example of a batch, and each channel has its own mean taken off, without a loop.",
        "Shapes fit by accident: (3,) and (3, 1) make (3, 3), so a difference of predictions and labels may become a "
        "square of all differences, and the loss is wrong without any error.",
        "PyTorch documentation, Broadcasting semantics",
        "https://docs.pytorch.org/docs/stable/notes/broadcasting.html",
    ),
    ViewEntry(
        "memory",
        "Views and strides",
        "In memory a tensor is one long row. Its strides say how many places to go on for the next element along each "
        "dimension, its offset where it begins. Transposing changes the strides and moves nothing; a stride of 0 "
        "shows one element many times. Then 99 is written into the first element of the result: where memory is "
        "shared, the first tensor has it, too.",
        "Views cost nothing, however large the tensor is. What cannot be said with strides has to be copied.",
        "A view is kept and changed where a copy was meant: clone() makes one. And view() refuses what reshape() "
        "silently copies.",
        "PyTorch documentation, Tensor views",
        "https://docs.pytorch.org/docs/stable/tensor_view.html",
    ),
    ViewEntry(
        "numbers",
        "Number types",
        "A floating-point number is a sign, an exponent and a fraction of fixed length, so most numbers are rounded to "
        "the next that can be written so. float32 has seven digits, float16 and bfloat16 half of the memory and three "
        "digits or two; bfloat16 reaches as far as float32. Whole types wrap around at their end.",
        "Networks learn well in 16 bits, twice as fast on most GPUs. But a small step added to a large number can be "
        "rounded away: see what a thousand of them come to.",
        "Numbers are compared with ==. And pictures are kept as uint8, where 200 + 100 is 44: convert before you "
        "compute.",
        "Goldberg 1991, What every computer scientist should know about floating-point arithmetic",
        "https://doi.org/10.1145/103162.103163",
    ),
    ViewEntry(
        "devices",
        "Devices",
        "A tensor lives in the memory of one device, and what is computed with it is computed there. .to(…) copies it "
        "to another one.",
        "A GPU multiplies matrices many times faster, but what it multiplies has to get there first. So models and "
        "batches are moved once, and results stay until they are needed.",
        "Model and batch are on different devices: torch refuses to add them. And a GPU works while Python goes on, so "
        "a clock that is not told to wait measures nothing.",
        "PyTorch documentation, CUDA semantics",
        "https://docs.pytorch.org/docs/stable/notes/cuda.html",
    ),
)

TENSOR_VIEWS: dict[str, ViewEntry] = {entry.name: entry for entry in _OF_TENSORS}

_OF_LAYERS = (
    ViewEntry(
        "convolution",
        "Convolution",
        "A small kernel of weights slides over all maps that come in. At each place its numbers are multiplied by the "
        "patch below it and added up, with a bias where it has one: that is one value of one map. Each map has its own "
        "kernel. A depthwise one looks at one map alone; one of 1×1 mixes maps at one place.",
        "The same few weights look for the same thing everywhere, so a cat is found in any corner, and a layer has "
        "thousands of weights instead of billions. Early kernels find edges and colours, later ones parts of things.",
        "The output is taken to be as large as the input. It is so only with padding and a stride of 1: a stride of 2 "
        "halves both sides, and no padding takes the kernel's side less one.",
        "LeCun et al. 1998, Gradient-based learning applied to document recognition",
        "https://doi.org/10.1109/5.726791",
    ),
    ViewEntry(
        "activation",
        "Activation",
        "Each value is bent by itself, and its neighbours play no part. ReLU puts all below zero to zero; ReLU6 also "
        "ends at 6; SiLU, GELU and Hardswish bend softly.",
        "Without it two layers one after the other could be written as one: sums of sums are sums. What is bent in "
        "between is why depth helps.",
        "A unit that is zero for every picture is dead: no gradient comes through it. The share of zeros tells of one "
        "picture only; look at a few before you call a unit dead.",
        "Nair & Hinton 2010, Rectified linear units improve restricted Boltzmann machines",
        "https://www.cs.toronto.edu/~fritz/absps/reluICML.pdf",
    ),
    ViewEntry(
        "pooling",
        "Pooling",
        "A window slides over each map by itself and keeps the largest of its values, or their mean. At the end of "
        "most networks one mean is taken of each whole map.",
        "Maps become smaller, what follows sees more of the picture, and where exactly something was matters less. "
        "It has nothing to learn.",
        "Padding is thought to count as zero. A maximum pads with minus infinity, or a map of negative values would "
        "have zeros at its edge.",
        "Scherer, Müller & Behnke 2010, Evaluation of pooling operations in convolutional architectures",
        "https://doi.org/10.1007/978-3-642-15825-4_10",
    ),
    ViewEntry(
        "flatten",
        "Flatten",
        "All maps are put behind each other in one long row, and nothing is computed. The value at map c, row r and "
        "column x of H×W stands at (c · H + r) · W + x then.",
        "A linear layer takes a row. What is where in it is fixed, so each weight behind it belongs to one place of "
        "one map.",
        "The pictures of a batch are flattened, too. The first dimension stays: nn.Flatten begins with the second.",
        "PyTorch, Flatten",
        "https://pytorch.org/docs/stable/generated/torch.nn.Flatten.html",
    ),
    ViewEntry(
        "linear",
        "Linear layer and softmax",
        "Each output is a sum of all inputs, each times a weight of its own, and a bias. The last layer's outputs are "
        "the logits, one for each class; softmax makes probabilities of them.",
        "What came before has turned the picture into a row of features. Here they vote: the largest shares tell which "
        "of them speak for a class and which against it.",
        "A large weight is taken for an important input. What counts is the weight times the value, which is why both "
        "are listed.",
        "Goodfellow, Bengio & Courville 2016, Deep learning, chapter 6",
        "https://www.deeplearningbook.org/contents/mlp.html",
    ),
    ViewEntry(
        "dropout",
        "Dropout",
        "In training each value is left out with the probability p, and what stays is divided by 1 − p, so that the "
        "sum is the same on average. Afterwards it does nothing.",
        "No unit can rely on a single other one, so a network learns less by heart.",
        "The model is not put into eval mode before it predicts, and says something else each time it is asked.",
        "Srivastava et al. 2014, Dropout: a simple way to prevent neural networks from overfitting",
        "https://jmlr.org/papers/v15/srivastava14a.html",
    ),
    ViewEntry(
        "batch_norm",
        "Batch norm",
        "Each map is shifted and scaled: its mean is taken off, it is divided by its deviation, and two learnt numbers "
        "γ and β say how wide and where it shall be. In training mean and variance are the batch's; afterwards those "
        "that were remembered on the way. Compare both with the switch: here the batch is this one picture.",
        "Layers behind it get numbers of about the same size at every step, so larger learning rates work.",
        "Fine-tuning with small batches while it takes the batch's statistics: they are noisy, and what is remembered "
        "moves away from what the weights were trained with. That is why they are frozen here unless you choose "
        "otherwise.",
        "Ioffe & Szegedy 2015, Batch normalization",
        "https://arxiv.org/abs/1502.03167",
    ),
    ViewEntry(
        "layer_norm",
        "Layer norm",
        "Each token, or each place of a map, is shifted and scaled by the mean and variance of its own features, then "
        "by two learnt numbers for each feature.",
        "It needs no batch and does the same in training and afterwards, which suits transformers.",
        "It is taken for batch norm: that one looks at one feature over many pictures, this one at all features of one "
        "place.",
        "Ba, Kiros & Hinton 2016, Layer normalization",
        "https://arxiv.org/abs/1607.06450",
    ),
    ViewEntry(
        "other",
        "A layer",
        "A layer makes numbers of numbers. What this one puts out is shown as maps: blue is above zero, orange below, "
        "each as strong as it is beside its map's largest value.",
        "A deep network is a row of such steps. Early ones see a few pixels and find edges; late ones see the whole "
        "picture and find things.",
        "One map is given a name after one picture, as the cat's ear. Most answer to several things: try others.",
        "Zeiler & Fergus 2014, Visualizing and understanding convolutional networks",
        "https://arxiv.org/abs/1311.2901",
    ),
)
STEP_VIEW = ViewEntry(
    "step",
    "One step",
    "A batch of the run's own pictures goes through its network. The loss is sent back, which gives each weight its "
    "gradient; the optimizer makes of it, and of what it remembers, what is added to the weight. Each line stands with "
    "its numbers, and nothing of the run is changed.",
    "Training is nothing but this, thousands of times for millions of weights. Here is one of them.",
    "The gradient is taken for the step. Adam divides it by its usual size, so a weight with a tiny gradient may move "
    "as far as one with a large one: compare how both are spread.",
    "Kingma & Ba 2015, Adam: a method for stochastic optimization",
    "https://arxiv.org/abs/1412.6980",
)
#: the text that tells of a kind of layer, by a part of its name in torch
_KINDS = {
    "Conv": "convolution",
    "BatchNorm": "batch_norm",
    "LayerNorm": "layer_norm",
    "Pool": "pooling",
    "Linear": "linear",
    "Flatten": "flatten",
    "Dropout": "dropout",
    **dict.fromkeys(("ReLU", "SiLU", "GELU", "wish", "igmoid", "Tanh"), "activation"),
}
LAYER_VIEWS: dict[str, ViewEntry] = {entry.name: entry for entry in _OF_LAYERS}


def view_of_layer(kind: str) -> ViewEntry:
    """Return the text that tells of a layer of this kind, as its class is called in torch: Conv2d, ReLU, Linear."""
    return LAYER_VIEWS[next((name for part, name in _KINDS.items() if part in kind), "other")]
