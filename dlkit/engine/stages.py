"""A network cut in two: a front that stays as it is, and a tail that learns on what the front puts out.

Where a network may be cut is read from its graph (torch.fx): wherever one tensor alone goes on to what follows. How
much of the work lies behind a cut is counted in floating-point operations, so every machine finds the same cut.
"""

from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from dlkit.config import SHARES
from dlkit.errors import ConfigError


@dataclass(frozen=True)
class Cut:
    """`front`: images (N, 3, S, S) → one tensor (N, …). `tail`: that tensor → the network's output.

    Both share their layers with the network. `share` is the tail's part of the work of a forward pass.
    """

    front: nn.Module
    tail: nn.Module
    share: float


def cut(network: nn.Module, example: torch.Tensor, stage: str) -> Cut:
    """Cut a network as early as SHARES[stage] allows; `example` is an input of it.

    ConfigError where the network's graph cannot be read or has no such place.
    """
    try:
        graph = _Tracer(network).trace(network)
    except Exception as error:  # whatever a forward method does that cannot be traced
        raise _uncuttable(f"its graph cannot be read ({type(error).__name__})") from error
    work = _work(fx.GraphModule(network, graph), example)
    nodes, total = list(graph.nodes), sum(work.values())
    behind = {node: sum(work[str(later)] for later in nodes[nodes.index(node) + 1 :]) for node in _places(nodes)}
    wanted = max((flops for flops in behind.values() if flops <= SHARES[stage] * total), default=0)
    if not wanted:
        raise _uncuttable("it has no such place")
    place = [node for node, flops in behind.items() if flops == wanted][-1]
    return Cut(*_halves(network, graph, place), wanted / total)


class _Tracer(fx.Tracer):
    """Sees the chain of a network's blocks: what is small in it, or torch's own, is left whole."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._large = _size(network) / 2

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, nn.Sequential) and _size(m) <= self._large


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _places(nodes: list[fx.Node]) -> list[fx.Node]:
    """Return the layers after whose output nothing that was computed before is needed any more."""
    last_use = {node: max((nodes.index(user) for user in node.users), default=-1) for node in nodes}
    found, needed_until = [], -1
    for place, node in enumerate(nodes):
        if node.op == "call_module" and needed_until <= place:
            found.append(node)
        if node.op != "get_attr":  # a weight is not computed
            needed_until = max(needed_until, last_use[node])
    return found


def _work(traced: fx.GraphModule, example: torch.Tensor) -> dict[str, float]:
    """Return the floating-point operations of each node for one input; a layer that has none counts as nothing."""
    work: dict[str, float] = {}

    class Counting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            with FlopCounterMode(display=False) as counter:
                result = super().run_node(n)
            work[str(n)] = counter.get_total_flops()
            return result

    with torch.no_grad():
        Counting(traced.eval()).run(example)
    return work


def _halves(network: nn.Module, graph: fx.Graph, place: fx.Node) -> tuple[nn.Module, nn.Module]:
    """Return the graph up to and with `place`, and from there on, as modules that share the network's layers."""
    nodes = list(graph.nodes)
    before, after = nodes[: nodes.index(place) + 1], nodes[nodes.index(place) + 1 :]
    front, tail = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in before:
        copies[node] = front.node_copy(node, copies.__getitem__)
    front.output(copies[place])
    copies = {place: tail.placeholder("activations")}
    weights = [node for node in before if node.op == "get_attr" and any(user in after for user in node.users)]
    for node in [*weights, *after]:
        copies[node] = tail.node_copy(node, copies.__getitem__)
    return fx.GraphModule(network, front), fx.GraphModule(network, tail)


def _uncuttable(why: str) -> ConfigError:
    return ConfigError([f"This backbone cannot learn in part: {why}. Choose the strategy full or head."])
