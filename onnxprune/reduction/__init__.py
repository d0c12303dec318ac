"""Pruning of ONNX files on their own graph, without PyTorch."""
