"""The size of one step of a quantized model's outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

# Operators that move values and never change them.
_MOVES = frozenset(["Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"])


def quantized_step(model: ir.Model, output: str) -> float | None:
    """The scale with which an output was quantized last (the largest, if per channel).

    `None` if it did not pass through a QuantizeLinear, or that scale is no constant.
    """
    value = next((v for v in model.graph.outputs if v.name == output), None)
    while value is not None:
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "DequantizeLinear":
            scale = node.inputs[1]
            constant = ir.convenience.get_const_tensor(scale) if scale is not None else None
            source = node.inputs[0].producer() if node.inputs[0] is not None else None
            if constant is None or source is None or source.op_type != "QuantizeLinear":
                return None
            return float(np.max(np.abs(constant.numpy().astype(np.float64)), initial=0.0))
        if node.op_type not in _MOVES:
            return None
        value = node.inputs[0]
    return None


def quantized_levels(model: ir.Model) -> float:
    """Steps of the coarsest quantized activation: 255, or those of seven bits or fewer that a Clip before it leaves.

    One step of an activation of four bits is what 17 of eight bits are, and so is what a tie of it moves. A Clip that
    narrows integers has bounds of whole steps.
    """
    levels = 255.0
    for node in model.graph.all_nodes():
        clip = node.inputs[0].producer() if node.op_type == "QuantizeLinear" and node.inputs[0] is not None else None
        if clip is None or clip.op_type != "Clip" or len(clip.inputs) < 3:
            continue
        low, high, scale = (_number(v) for v in (clip.inputs[1], clip.inputs[2], node.inputs[1]))
        if low is None or high is None or not scale:
            continue
        ends = np.array([low, high]) / scale
        span = float(np.diff(np.rint(ends))[0])
        if np.allclose(ends, np.rint(ends), rtol=1e-5, atol=0) and 1 <= span <= 127:
            levels = min(levels, span)
    return levels


def _number(value: ir.Value | None) -> float | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def has_quantization(model: ir.Model) -> bool:
    """Whether a model holds QuantizeLinear nodes, that is, is quantized already."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.all_nodes())
