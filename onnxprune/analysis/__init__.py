"""What can be said of ONNX files: profile, comparison with a base, accuracy, predictions; no PyTorch."""
