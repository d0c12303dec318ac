"""ONNX files in 8 or 16 bits, by onnxruntime's own quantiser; no PyTorch."""
