"""What lives in memory while a graph runs: inputs, intermediate tensors and outputs, from node to node."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from onnx import GraphProto, NodeProto

from onnxprune.common.output import printable
from onnxprune.graph.counts import Held
from onnxprune.graph.nodes import label, subgraphs, used_names


@dataclass(frozen=True)
class Activations:
    """
    Attributes:
        alive: position of each node that runs -> bytes that live meanwhile, those within its subgraphs left out.
        peak: the most bytes that live at once, subgraphs included.
        held: the tensors that live then, the largest first.
    """

    alive: Mapping[int, int] = field(default_factory=dict)
    peak: int = 0
    held: tuple[Held, ...] = ()


def activations(
    graph: GraphProto,
    place: str,
    running: set[int],
    within: Sequence[Activations | None],
    results: Callable[[NodeProto], Iterable[str]],
    size: Callable[[str], int | None],
) -> Activations | None:
    """What lives from node to node, in the order of the file; None where a size is not known.

    A tensor lives from the node that makes it, or from the start where it is fed, to the last node that reads it; what
    the graph gives, and what is fed and never read, to the end.

    Args:
        place: what comes before the names of this graph.
        running: positions of the nodes that run.
        within: for each node, what lives in its subgraphs beside that; None where that is not known.
        results: gives the outputs of a node that are kept.
        size: gives the bytes of a tensor, 0 for a constant; None where they are not known.
    """
    end = len(graph.node)
    born = dict.fromkeys((value.name for value in graph.input), 0)  # in steps: what is fed, then the nodes
    last = {value.name: end + 1 for value in graph.output}
    makers: dict[str, NodeProto] = {}
    for index in sorted(running):
        node = graph.node[index]
        for name in results(node):
            born[name], makers[name] = index + 1, node
            last.setdefault(name, index + 1)
        for name in [*node.input, *(name for inner in subgraphs(node) for name in used_names(inner))]:
            last[name] = max(index + 1, last.get(name, 0))
    sizes: dict[str, int] = {}
    change = [0] * (end + 3)
    for name, step in born.items():
        found = size(name)
        if found is None:
            return None
        sizes[name] = found
        change[step] += found
        change[last.get(name, end + 1) + 1] -= found
    living = list(accumulate(change))
    peak, busiest, inside = living[0], 0, Activations()
    for index in sorted(running):
        nested = within[index]
        if nested is None:
            return None
        if living[index + 1] + nested.peak > peak:
            peak, busiest, inside = living[index + 1] + nested.peak, index + 1, nested
    held = [
        Held(place + printable(name), sizes[name], place + label(makers[name]) if name in makers else None)
        for name, step in born.items()
        if step <= busiest <= last.get(name, end + 1) and sizes[name]
    ]
    held = sorted([*held, *inside.held], key=lambda tensor: -tensor.bytes)
    return Activations({index: living[index + 1] for index in running}, peak, tuple(held))
