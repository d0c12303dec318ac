"""ONNX files run by onnxruntime: sessions, random inputs, timing; no PyTorch."""
