"""Where networks of PyTorch become ONNX files, and the files are measured."""
