"""Multiplying and shifting the output channels of a linear operator inside its weights and bias.

For y = W*x + b and per-channel s, t:  s*y + t = (s*W)*x + (s*b + t).  Computed in float64 and rounded
once, so that what is left of the difference is the reordering of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optkit_passes.graph import add_constant, constant

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")

COPY_LIMIT = 64 * 1024
"""Bytes up to which a weight that others use too is copied; past it the fusion is refused."""


@dataclass(frozen=True)
class Linear:
    """A linear operator with constant weights.

    Attributes:
        node: the operator.
        weight: its weights.
        bias: bias per output channel, as it acts on the output; zeros where there is none.
        rank: rank of the output.
        axis: axis of the output that holds the channels.
    """

    node: ir.Node
    weight: np.ndarray
    bias: np.ndarray
    rank: int
    axis: int

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return int(self.bias.shape[0])


def read_linear(node: ir.Node) -> Linear | str:
    """The operator taken apart, or why it cannot be."""
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None:
        return f"the weight of {node.op_type} is no constant"
    if weight.dtype not in (np.float16, np.float32, np.float64):
        return f"the weight of {node.op_type} is {weight.dtype}"
    bias_at = None if node.op_type == "MatMul" else 2
    given = node.inputs[bias_at] if bias_at is not None and len(node.inputs) > bias_at else None
    bias = constant(given)
    if given is not None and bias is None:
        return f"the bias of {node.op_type} is no constant"
    rank, axis, channels = weight.ndim, 1, weight.shape[0]
    if node.op_type == "ConvTranspose":
        channels = weight.shape[1] * node.attributes.get_int("group", 1)
    elif node.op_type == "Gemm":
        rank, channels = 2, weight.shape[0] if _transposed(node) else weight.shape[1]
    elif node.op_type == "MatMul":
        shape = node.outputs[0].shape
        if shape is None or weight.ndim < 2:
            return "the rank of MatMul's output is unknown"
        rank, axis, channels = len(shape), len(shape) - 1, weight.shape[-1]
    elif node.op_type == "BatchNormalization":
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        if shape is None or node.attributes.get_int("training_mode", 0) != 0:
            return "the rank of BatchNormalization's input is unknown, or it is training"
        rank = len(shape)
    if bias is None:
        vector = np.zeros(channels)
    elif bias.size not in (1, channels) or (bias.ndim > 1 and bias.shape[-1] != bias.size):
        return f"the bias of {node.op_type} has the shape {list(bias.shape)}"
    else:
        vector = np.broadcast_to(bias.astype(np.float64).reshape(-1), channels)
    if node.op_type == "Gemm":
        vector = vector * node.attributes.get_float("beta", 1.0)
    return Linear(node, weight, vector, rank, axis)


def per_channel(array: np.ndarray, linear: Linear) -> np.ndarray | None:
    """`array`, broadcast against the operator's output, as one number a channel; None otherwise."""
    if array.ndim > linear.rank or array.dtype != linear.weight.dtype:
        return None
    shape = (1,) * (linear.rank - array.ndim) + array.shape
    if any(d != 1 for axis, d in enumerate(shape) if axis != linear.axis):
        return None
    if shape[linear.axis] not in (1, linear.channels):
        return None
    return np.broadcast_to(array.astype(np.float64).reshape(-1), linear.channels)


def absorb(linear: Linear, scale: np.ndarray | None, shift: np.ndarray | None) -> str | None:
    """Rewrite weights and bias so that the operator gives `scale * y + shift`; or say why not.

    The initializers it had are left as they are: whoever else uses them does not notice.
    """
    node, weight = linear.node, linear.weight
    graph, old = node.graph, node.inputs[1]
    if graph is None or old is None:
        return "it is in no graph"
    if shift is not None and node.op_type == "MatMul":
        return "MatMul has no bias"
    if scale is not None:
        users = {user for user, _ in old.uses()}
        if len(users) > 1 and weight.nbytes > COPY_LIMIT:
            return f"weight {old.name} is shared by {len(users)} nodes"
        scaled = _scaled(linear, scale).astype(weight.dtype)
        if not np.isfinite(scaled).all() and np.isfinite(weight).all():
            return f"the scaled weight {old.name} leaves the range of {weight.dtype}"
    bias = linear.bias * (1.0 if scale is None else scale) + (0.0 if shift is None else shift)
    if not np.isfinite(bias.astype(weight.dtype)).all():
        return f"the new bias leaves the range of {weight.dtype}"
    if scale is not None:
        node.replace_input_with(1, add_constant(graph, f"{old.name}_scaled", scaled))
    if node.op_type != "MatMul" and (shift is not None or len(node.inputs) > 2):
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        name = node.inputs[2].name if node.inputs[2] is not None else f"{old.name}_bias"
        node.replace_input_with(2, add_constant(graph, f"{name}_fused", bias.astype(weight.dtype)))
        if "beta" in node.attributes:
            del node.attributes["beta"]  # it is part of the new bias
    return None


def _transposed(node: ir.Node) -> bool:
    """Whether a Gemm's weight is (outputs, inputs) rather than (inputs, outputs)."""
    return node.attributes.get_int("transB", 0) != 0


def _scaled(linear: Linear, scale: np.ndarray) -> np.ndarray:
    node, weight = linear.node, linear.weight.astype(np.float64)
    if node.op_type == "ConvTranspose":
        # (inputs, outputs / group, ...): outputs are numbered group by group.
        group = node.attributes.get_int("group", 1)
        parts = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
        ones = (1,) * (weight.ndim - 2)
        return np.asarray((parts * scale.reshape(group, 1, weight.shape[1], *ones)).reshape(weight.shape))
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not _transposed(node)):
        return np.asarray(weight * scale)
    return np.asarray(weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)))
