"""ONNX graphs, read and rewritten as data: nothing is run here; no PyTorch."""
