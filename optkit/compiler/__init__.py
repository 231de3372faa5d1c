"""ONNX -> Relax -> kernels -> code."""
