"""The PyTorch for what a lesson shows, as short as it can be: text to be copied, which nothing here runs.

In float64, as the lessons are, so that whoever runs it gets the numbers that are shown.
"""

import ast
from collections.abc import Mapping, Sequence

from dlkit.catalog.activations import ACTIVATIONS
from dlkit.catalog.formulas import FUNCTIONS, Formula, names_in, read_formula
from dlkit.catalog.initialisations import INITIALISATIONS
from dlkit.catalog.optimizers import OPTIMIZERS, torch_arguments
from dlkit.catalog.updates import RULES
from dlkit.descent.losses import FiniteSum, Loss, Surface
from dlkit.descent.race import Competitor
from dlkit.lab.graph import Graph
from dlkit.lab.learning import Task
from dlkit.lab.network import Plan
from dlkit.lab.softmax import Question

HEAD = "import torch\nfrom torch import nn\n\ntorch.set_default_dtype(torch.float64)\n"
#: what torch calls functions of two values
OF_TWO = {"min": "minimum", "max": "maximum"}
EPOCHS = 100
TAKEN = ("torch", "math", "result", "print", "float")


def code_of_graph(text: str, graph: Graph) -> str:
    """Return the code of a formula's value and gradients."""
    names = names_in(text)
    values = {node.text: node.value for node in graph.nodes if node.operation in names}
    result = _in_torch(read_formula(text, names), set(names))
    return "\n".join(
        (
            *(["import math", ""] if "math." in result else []),
            "import torch",
            "",
            "torch.set_default_dtype(torch.float64)",
            *(f"{_free(name)} = torch.tensor({values[name]!r}, requires_grad=True)" for name in names),
            f"result = {result}",
            *(["result.backward()"] if names else []),
            f"print({', '.join(['result', *(f'{_free(name)}.grad' for name in names)])})",
            "",
        )
    )


def _free(name: str) -> str:
    """Return a name that stands for nothing else in the code."""
    return f"{name}_" if name in TAKEN else name


def code_of_question(question: Question) -> str:
    """Return the code of the cross-entropy of one example and of its gradient."""
    extra = f", label_smoothing={question.smoothing}" if question.smoothing else ""
    if question.weights is not None:
        extra += f", weight=torch.tensor({list(question.weights)})"
    scaled = "logits" if question.temperature == 1 else f"logits / {question.temperature}"
    return (
        f"{HEAD}logits = torch.tensor([{list(question.logits)}], requires_grad=True)\n"
        f"probabilities = nn.functional.softmax({scaled}, dim=1)\n"
        f"loss = nn.functional.cross_entropy({scaled}, torch.tensor([{question.label}]){extra})\n"
        "loss.backward()\n"
        "print(probabilities, loss, logits.grad)\n"
    )


def code_of_descent(loss: Loss, competitor: Competitor, start: tuple[float, float], steps: int) -> str:
    """Return the code of one path at a constant rate: on a surface that is not turned, or over all or some examples.

    Which examples a batch has is drawn anew, so that path is another one.
    """
    rate, lines = competitor.learning_rate, _loss_of_two(loss)
    if competitor.entry.needs_hessian:
        end: tuple[str, ...] = (
            f"for step in range({steps}):",
            "    slope = torch.func.grad(loss_of)(w)",
            f"    w = w - {rate!r} * torch.linalg.solve(torch.func.hessian(loss_of)(w), slope)",
        )
    else:
        is_part = not competitor.entry.is_exact and competitor.batch is not None
        batch = f", torch.randperm({loss.examples})[:{competitor.batch}]" if is_part and loss.examples else ""
        end = (
            "def gradient():",
            "    optimizer.zero_grad()",
            f"    loss = loss_of(w{batch})",
            "    loss.backward()",
            "    return loss",
            "",
            "",
            *(["# torch always corrects the bias, which is switched off here"] if _is_uncorrected(competitor) else []),
            f"optimizer = {_optimizer(competitor.rule, rate, competitor.settings, '[w]')}",
            f"for step in range({steps}):",
            "    optimizer.step(gradient)",
        )
    first = f"w = torch.tensor([{start[0]!r}, {start[1]!r}], requires_grad=True)"
    return "\n".join((*lines, first, *end, "print(w, loss_of(w))", ""))


def _loss_of_two(loss: Loss) -> list[str]:
    """Return the lines that make the function `loss_of` of a tensor w of two numbers."""
    head = ["import torch", "", "torch.set_default_dtype(torch.float64)"]
    if isinstance(loss, FiniteSum):
        worth = {
            "line": "((line - y[batch]) ** 2).mean() / 2",
            "logistic": "torch.nn.functional.binary_cross_entropy_with_logits(line, y[batch])",
        }
        data = [f"{name} = torch.tensor({list(map(float, values))})"
                for name, values in (("x", loss.inputs), ("y", loss.targets))]  # fmt: skip
        body = ["    line = w[0] * x[batch] + w[1]", f"    return {worth[loss.kind]}"]
        return [*head, *data, "", "", "def loss_of(w, batch=slice(None)):", *body, "", ""]
    assert isinstance(loss, Surface)
    text = _in_torch(loss.formula, {"x", "y"}) + ("" if loss.formula.names() else " + 0 * x")
    maths = ["import math", ""] if "math." in text else []
    return [*maths, *head, "", "", "def loss_of(w):", "    x, y = w", f"    return {text}", "", ""]


def code_of_perceptron(rate: float) -> str:
    """Return the code of the perceptron's rule; the points and labels are for the reader to give."""
    return (
        "import torch\n\n"
        "torch.set_default_dtype(torch.float64)\n"
        "# points: a tensor (N, 2); labels: a tensor (N,) of 0 and 1\n"
        "weights, bias = torch.zeros(2), 0.0\n"
        f"for epoch in range({EPOCHS}):\n"
        "    mistakes = 0\n"
        "    for point, side in zip(points, 2 * labels - 1):\n"
        "        if side * (weights @ point + bias) <= 0:\n"
        f"            weights, bias = weights + {rate} * side * point, bias + {rate} * side\n"
        "            mistakes += 1\n"
        "    print(epoch, mistakes)\n"
    )


def code_of_rule(formula: Formula, task: Task) -> str:
    """Return the code of a written rule, and of the network beside it; the reader gives points and labels."""
    return (
        f"{code_of_task(task)}\n"
        "x, y = points.unbind(1)\n"
        f"says = ({_in_torch(formula, {'x', 'y'})}) > 0\n"
        'print("rule:", (says == labels).double().mean())\n'
        'print("network:", (model(points).argmax(1) == labels).double().mean())\n'
    )


def code_of_task(task: Task) -> str:
    """Return the code of a small network that learns; the points and labels are for the reader to give."""
    return "\n".join(
        (
            HEAD,
            f"torch.manual_seed({task.seed})",
            "# points: a tensor (N, 2); labels: a tensor (N,) of the classes' numbers",
            _model(task.plan),
            *_beginning(task),
            *(["# torch always corrects the bias, which is switched off here"] if _is_uncorrected(task) else []),
            f"optimizer = {_optimizer(task.rule, task.learning_rate, task.settings, 'model.parameters()')}",
            "",
            *_loss(task),
            *_loop(task),
            "",
        )
    )


def code_of_layer(name: str, call: int, index: Sequence[int], *, is_imagenet: bool, is_last: bool) -> str:
    """Return the code that looks at one value of what a layer of a network makes of a picture."""
    model = "None" if is_imagenet else 'Path("model")'
    comment = "the ImageNet model" if is_imagenet else "a run's model, exported and unzipped"
    at = ", ".join(map(str, (0, *index)))
    return "\n".join(
        (
            "from pathlib import Path",
            "",
            "import torch",
            "",
            "from dlkit.data.images import read_image",
            "from dlkit.engine.layers import open_model, pictures_for",
            "",
            "",
            "def keep(layer, inputs, output):",
            "    output = output[0] if isinstance(output, tuple) else output  # attention also returns its weights",
            "    outputs.append(output.clone())  # the next layer may work in place",
            "",
            "",
            f"bundle = open_model({model})  # {comment}",
            'pictures = pictures_for(bundle, [read_image(Path("photo.jpg"))])',
            "outputs = []",
            f'bundle.model.get_submodule("{name}").register_forward_hook(keep)',
            "with torch.no_grad():",
            "    bundle.model.eval()(pictures)",
            f"print(outputs[{call - 1}][{at}])",
            *([f"print(outputs[{call - 1}].softmax(1)[{at}])"] if is_last else []),
            "",
        )
    )


def code_of_step(rule: str, given: Mapping[str, float], memory: Mapping[str, float]) -> str:
    """Return the code of one step of an optimizer for a single weight.

    `given` has w, g, rate and the settings by our names, `memory` what torch's optimizer remembers by its own.
    """
    entry = OPTIMIZERS[rule]
    settings = {name: float(given[name]) for name in entry.settings if name in given}
    arguments = torch_arguments(settings) | dict(entry.fixed)
    written = "".join(f", {name}={value}" for name, value in arguments.items())
    known = ", ".join(f'"{name}": torch.tensor({_remembered(name, value)})' for name, value in memory.items())
    return "\n".join(
        (
            "import torch",
            "",
            "torch.set_default_dtype(torch.float64)",
            f"w = torch.tensor([{float(given['w'])!r}], requires_grad=True)",
            f"w.grad = torch.tensor([{float(given['g'])!r}])",
            f"optimizer = torch.optim.{entry.algorithm}([w], lr={float(given['rate'])!r}{written})",
            *([f"optimizer.state[w] = {{{known}}}"] if known else []),
            "before = w.detach().clone()",
            "optimizer.step()",
            "print(w.detach() - before)",
            "",
        )
    )


def _remembered(name: str, value: float) -> str:
    """Write what is remembered of a weight, or of all weights alike, which has no dimension."""
    return repr(float(value)) if name in ("step", "mu_product") else f"[{float(value)!r}]"


def _model(plan: Plan) -> str:
    widths, layers = (plan.inputs, *plan.hidden, plan.classes), []
    for place, units in enumerate(widths[1:]):
        layers.append(f"nn.Linear({widths[place]}, {units})")
        if place < len(plan.hidden):
            layers += [f"nn.BatchNorm1d({units})"] if plan.batch_norm else []
            layers.append(ACTIVATIONS[plan.activation].torch)
            layers += [f"nn.Dropout({plan.dropout})"] if plan.dropout else []
    return "\n".join(["model = nn.Sequential(", *(f"    {layer}," for layer in layers), ")"])


def _beginning(task: Task) -> list[str]:
    entry = INITIALISATIONS[task.plan.initialisation]
    lines = ["weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]"]
    if not entry.torch:
        return lines if task.l1 or task.l2 else []
    lines += ["for w in weights:", f"    {entry.torch}"]
    return [*lines, "for layer in model:", "    if isinstance(layer, nn.Linear):", "        nn.init.zeros_(layer.bias)"]


def _optimizer(name: str, rate: float, settings: Mapping[str, float], weights: str) -> str:
    rule = RULES[name]
    settings = {**rule.settings, **settings}
    if rule.needs_direction:
        more = f"max_iter=1, history_size={settings['history']:.0f}"
        return f"torch.optim.LBFGS({weights}, lr={rate}, {more})"
    entry = OPTIMIZERS[rule.trained_as]
    settings = {name: value for name, value in settings.items() if name in entry.settings}
    arguments = torch_arguments(settings) | dict(entry.fixed)
    written = "".join(f", {name}={value}" for name, value in arguments.items())
    return f"torch.optim.{entry.algorithm}({weights}, lr={rate}{written})"


def _is_uncorrected(task: Task | Competitor) -> bool:
    return task.settings.get("bias_correction") == 0


def _loss(task: Task) -> list[str]:
    terms = ["nn.functional.cross_entropy(model(points[batch]), labels[batch])"]
    if task.l1:
        terms.append(f"{task.l1} * sum(w.abs().sum() for w in weights)")
    if task.l2:
        terms.append(f"{task.l2} / 2 * sum((w**2).sum() for w in weights)")
    return [
        "",
        "def loss_of(batch):",
        "    optimizer.zero_grad()",
        f"    loss = {' + '.join(terms)}",
        "    loss.backward()",
        "    return loss",
        "",
        "",
    ]


def _loop(task: Task) -> list[str]:
    order = "torch.randperm(len(points))"
    return [
        f"for epoch in range({EPOCHS}):",
        f"    for batch in {order}.tensor_split({task.batches_per_epoch}):",
        "        optimizer.step(lambda: loss_of(batch))",
    ]


def _in_torch(formula: Formula, names: set[str]) -> str:
    tree = _Torch(names).visit(ast.parse(ast.unparse(formula.tree), mode="eval"))
    return ast.unparse(tree)


class _Torch(ast.NodeTransformer):
    """Writes a formula's functions as torch's, which want tensors, and its constants as Python's."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def visit_Call(self, node: ast.Call) -> ast.expr:
        assert isinstance(node.func, ast.Name)
        name = OF_TWO.get(node.func.id, node.func.id)
        parts = [self._tensor(part) for part in node.args]
        return ast.Call(ast.Attribute(ast.Name("torch"), name), parts, [])

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._names:
            return ast.Name(_free(node.id))
        return ast.Attribute(ast.Name("math"), node.id)

    def _tensor(self, part: ast.expr) -> ast.expr:
        varies = any(isinstance(node, ast.Name) and node.id in self._names for node in ast.walk(part))
        has_function = any(isinstance(node, ast.Name) and node.id in FUNCTIONS for node in ast.walk(part))
        written = self.visit(part)
        if varies or has_function:
            return written
        if isinstance(part, ast.Constant):
            return ast.Call(ast.Attribute(ast.Name("torch"), "tensor"), [ast.Constant(float(part.value))], [])  # type: ignore[arg-type]
        return ast.Call(ast.Attribute(ast.Name("torch"), "tensor"), [ast.Call(ast.Name("float"), [written], [])], [])
