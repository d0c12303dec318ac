"""ONNX's operators in PyTorch, so that a graph can be trained: what classifiers are made of, one file a kind.

Each is a function of a `Call` and the node's inputs: tensors; NumPy arrays for what is constant or follows from sizes;
None for an optional input that is not there. It returns a tensor, or a list of them.
"""

from onnxprune.bridge.operators import arithmetic, normalisation, recurrent, shaping, windows
from onnxprune.bridge.operators.call import NUMBERS, OPERATORS, SEVERAL, Call

__all__ = ["NUMBERS", "OPERATORS", "SEVERAL", "Call", "arithmetic", "normalisation", "recurrent", "shaping", "windows"]
