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


def has_quantization(model: ir.Model) -> bool:
    """Whether a model holds QuantizeLinear nodes, that is, is quantized already."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.all_nodes())
