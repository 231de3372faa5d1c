"""ONNX twins of the Relax models of the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.relax_models import mlp


def mlp_onnx() -> onnx.ModelProto:
    """The model of `tests.relax_models.mlp`."""
    weights = [numpy_helper.from_array(a, n) for n, a in mlp()[2]]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Identity", ["b"], ["bias"]),
    ]
    return model(
        nodes,
        [("x", TensorProto.FLOAT, ["batch", 8])],
        [
            ("y", TensorProto.FLOAT, ["batch", 5]),
            ("same", TensorProto.FLOAT, ["batch", 8]),
            ("bias", TensorProto.FLOAT, [5]),
        ],
        weights,
    )


def model(nodes: list[onnx.NodeProto], inputs: list, outputs: list, weights: list) -> onnx.ModelProto:
    """A checked model of opset 18."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(proto)
    return proto


def save(proto: onnx.ModelProto, path: Path) -> Path:
    """Write a model and return where."""
    path.write_bytes(proto.SerializeToString())
    return path


def quantized_matmul(quantize_output: bool = True) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A float product of 16 by 4 and its Q/DQ form, with an output scale of 0.05 if that is quantized."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal((16, 4)).astype(np.float32)
    scale = np.float32(np.abs(w).max() / 127)
    io = [("x", TensorProto.FLOAT, [256, 16])], [("y", TensorProto.FLOAT, [256, 4])]
    plain = model([helper.make_node("MatMul", ["x", "w"], ["y"])], *io, [numpy_helper.from_array(w, "w")])
    constants = {
        "w8": np.clip(np.round(w / scale), -127, 127).astype(np.int8),
        "ws": scale,
        "wz": np.int8(0),
        "xs": np.float32(0.03),
        "xz": np.uint8(128),
        "ys": np.float32(0.15),
        "yz": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["m" if quantize_output else "y"]),
    ]
    if quantize_output:
        nodes += [
            helper.make_node("QuantizeLinear", ["m", "ys", "yz"], ["mq"]),
            helper.make_node("DequantizeLinear", ["mq", "ys", "yz"], ["d"]),
            helper.make_node("Identity", ["d"], ["y"]),
        ]
    else:
        constants.pop("ys"), constants.pop("yz")
    return plain, model(nodes, *io, [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()])
