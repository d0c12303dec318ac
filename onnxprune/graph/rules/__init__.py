"""How ONNX's operators hand on channels: one rule an operator; what has no rule freezes what it reads.

A rule looks at the labels of a node's inputs and sets those of its outputs. On the way it records which constants are
cut with them, what of the node depends on how many are left, and the MACs that fall.
"""

from onnxprune.graph.rules import across, attention, elementwise, parts, products, reshaping, sizes
from onnxprune.graph.rules.table import Rule

RULES: dict[str, Rule] = {
    **products.RULES,
    **elementwise.RULES,
    **reshaping.RULES,
    **parts.RULES,
    **across.RULES,
    **attention.RULES,
    **sizes.RULES,
}
