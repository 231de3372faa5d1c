"""The demo's network as an ONNX model."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.demo.network import CHANNELS, CLASSES, POOL_AFTER, SIDE, Weights


def to_onnx(weights: Weights) -> onnx.ModelProto:
    """ONNX of opset 18: input "image" (1, 1, 16, 16) float32, output "logits" (1, 10)."""
    nodes = []
    value = "image"
    for index in range(1, len(CHANNELS)):
        name = f"conv{index}"
        inputs = [value, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}_out"], name, pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"{name}_out"], [f"relu{index}_out"], f"relu{index}"))
        value = f"relu{index}_out"
        if index in POOL_AFTER:
            pool = f"pool{index}"
            nodes.append(helper.make_node("MaxPool", [value], [pool], pool, kernel_shape=[2, 2], strides=[2, 2]))
            value = pool
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["features"], "flatten"),
        helper.make_node("Gemm", ["features", "linear.weight", "linear.bias"], ["logits"], "linear", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(_onnx_layout(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _onnx_layout(weight: np.ndarray) -> np.ndarray:
    """Filters from (out, 3, 3, in) to ONNX's (out, in, 3, 3)."""
    return np.ascontiguousarray(weight.transpose(0, 3, 1, 2)) if weight.ndim == 4 else weight
