"""Loading and running artifacts. Needs numpy and tvm_ffi; imports neither tvm, torch nor onnx."""

from __future__ import annotations

from optkit.artifact.spec import TensorSpec
from optkit.runtime.loader import load
from optkit.runtime.runner import Runner

__all__ = ["Runner", "TensorSpec", "load"]
