"""Which operators of a Q/DQ model make its integers depend on the runtime.

Where only exact arithmetic stands between a DequantizeLinear and the next QuantizeLinear, every runtime gets
the same integers. A softmax, or a mean over 49 floats, is rounded differently by each; near a tie the next
QuantizeLinear turns that into a whole step, and every later quantization of a sum that holds the step turns
some more values. After a few layers the runtimes differ by a good part of the quantization noise itself: one
step put by hand into ONNX Runtime's own intermediate values does the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from optkit.exact import DOMAIN

_EXACT = frozenset(
    {
        "Abs",
        "Add",
        "Ceil",
        "Clip",
        "Concat",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "DequantizeLinear",
        "Div",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "GatherND",
        "Gemm",
        "Identity",
        "LeakyRelu",
        "MatMul",
        "Max",
        "MaxPool",
        "Min",
        "Mul",
        "Neg",
        "PRelu",
        "Pad",
        "Relu",
        "Reshape",
        "RoiAlign",
        "Round",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tile",
        "TopK",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
"""Move values, or compute each by operations that IEEE 754 rounds in one way, in ONNX Runtime's order (RoiAlign)."""
_MEANS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_WEIGHT_BITS = 6


def inexact_steps(model: ir.Model) -> list[str]:
    """What `inexact_nodes` finds, for a message."""
    return [f"{node.op_type} {node.name!r}" for node in inexact_nodes(model)]


def inexact_nodes(model: ir.Model) -> list[ir.Node]:
    """Nodes, in graph order, after which a QuantizeLinear may round differently from runtime to runtime."""
    found = []
    reaches: dict[ir.Value, bool] = {}
    for node in reversed(model.graph):
        onward = node.op_type == "QuantizeLinear" or any(reaches.get(v, False) for v in node.outputs)
        if not onward:
            continue
        reaches.update((v, True) for v in node.inputs if v is not None)
        if not _exact(node):
            found.append(node)
    return found[::-1]


def _exact(node: ir.Node) -> bool:
    if node.domain == DOMAIN:
        return True
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "QuantizeLinear":
        return _significant_bits(node.inputs[1]) <= 1
    if all(v.dtype is not None and not v.dtype.is_floating_point() for v in node.outputs):
        return True
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return all(_integer(v) for v in node.inputs if v is not None)
    if node.op_type == "DequantizeLinear":
        return _significant_bits(node.inputs[1]) <= _WEIGHT_BITS
    if node.op_type in _MEANS:
        count = _averaged(node)
        return count is not None and (math.log2(count).is_integer() or _exact_sum(node, count))
    if node.op_type == "Resize":
        mode = node.attributes.get("mode")
        return mode is None or mode.as_string() == "nearest"
    return node.op_type in _EXACT


def _integer(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _significant_bits(scale: ir.Value | None) -> int:
    """Bits from the first to the last one of the mantissas; 24 where the scale is no constant."""
    constant = None if scale is None else ir.convenience.get_const_tensor(scale)
    if constant is None:
        return 24
    mantissas: Any = np.frexp(constant.numpy().astype(np.float64).ravel())[0]
    bits = 0
    while bits < 24 and (mantissas * 2.0**bits % 1.0).any():
        bits += 1
    return bits


def _exact_sum(node: ir.Node, count: int) -> bool:
    """Whether float32 holds every sum of `count` of the quantized values, so that only the division rounds."""
    producer = None if node.inputs[0] is None else node.inputs[0].producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return False
    return 8 + _significant_bits(producer.inputs[1]) + math.ceil(math.log2(count)) <= 24


def _averaged(node: ir.Node) -> int | None:
    """Elements each mean is over, at most; None where it is open, or where only some windows are padded."""
    x = node.inputs[0]
    if node.op_type == "AveragePool":
        kernel = math.prod(node.attributes["kernel_shape"].as_ints())
        pads = node.attributes.get("pads")
        differ = pads is not None and any(pads.as_ints())
        return None if differ and not _exact_sum(node, kernel) else kernel
    if x is None or x.shape is None or len(x.shape) < 3:
        return None
    space = list(x.shape)[2:]
    if node.op_type == "ReduceMean":
        given = node.inputs[1] if len(node.inputs) > 1 else None
        axes = None if given is None else ir.convenience.get_const_tensor(given)
        if axes is None:
            return None
        space = [x.shape[int(axis)] for axis in axes.numpy().ravel()]
    return math.prod(d for d in space if isinstance(d, int)) if all(isinstance(d, int) for d in space) else None
