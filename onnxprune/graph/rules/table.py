"""A rule: how one operator hands on channels; and the tables in which rules stand, by the operators' names."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from onnx import NodeProto

from onnxprune.graph.follower import Follower
from onnxprune.graph.macs import OPERATORS, Site
from onnxprune.graph.nodes import operator_type

Follow = Callable[[Follower, NodeProto], None]


@dataclass(frozen=True)
class Rule:
    """What is done at a node.

    Attributes:
        several: all inputs may have channels; else the first alone, and those of the others are frozen.
    """

    follow: Follow
    several: bool


class Table(Mapping[str, Rule]):
    """Operator -> rule. A rule enters it where it is defined, by the decorator `of`."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}

    def __getitem__(self, operator: str) -> Rule:
        return self._rules[operator]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def of(self, *operators: str, several: bool = False) -> Callable[[Follow], Follow]:
        """A decorator that makes a function the rule of these operators."""

        def enter(follow: Follow) -> Follow:
            self._rules.update(dict.fromkeys(operators, Rule(follow, several)))
            return follow

        return enter


def product_macs(follower: Follower, node: NodeProto) -> list[int]:
    """MACs of each product that a node computes, for the traced batch.

    Raises:
        UnknownShapeError: a shape that they depend on is not known.
    """
    shapes = [[follower.shapes.get(name) for name in names] for names in (node.input, node.output)]
    return [product.macs for product in OPERATORS[operator_type(node)].products(Site(node, *shapes))]
