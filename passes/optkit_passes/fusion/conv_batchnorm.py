"""BatchNormalization(Conv | ConvTranspose | Gemm) -> Conv | ConvTranspose | Gemm.

BN(y) = gamma * (y - mean) / sqrt(var + eps) + beta  is per channel  s*y + t  with
s = gamma / sqrt(var + eps),  t = beta - s*mean  (Ioffe and Szegedy 2015, at inference).
Refused in training mode, for parameters that are no constants, for a large shared weight, and where the
convolution's own output is wanted by others.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.fusion.linear import absorb, read_linear
from optkit_passes.graph import bypass, constant, is_op, producer, why_not_absorbed


def fuse(node: ir.Node, opset: int) -> Finding | None:
    """Fold the batch normalization `node` into the linear operator before it."""
    del opset
    if not is_op(node, "BatchNormalization"):
        return None
    linear_node = producer(node.inputs[0], "Conv", "ConvTranspose", "Gemm")
    if linear_node is None:
        return None
    reason = _fuse(node, linear_node)
    if reason:
        return Finding("skipped", linear_node.name or "", f"{node.name} is not fused: {reason}")
    return Finding("changed", linear_node.name or "", f"absorbed {node.name}")


def _fuse(node: ir.Node, linear_node: ir.Node) -> str | None:
    if node.attributes.get_int("training_mode", 0) or any(o.uses() for o in node.outputs[1:]):
        return "it is in training mode"
    reason = why_not_absorbed(linear_node.outputs[0], node)
    if reason:
        return reason
    arrays = [constant(value) for value in node.inputs[1:5]]
    if any(array is None for array in arrays):
        return "a parameter of the normalization is no constant"
    gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
    linear = read_linear(linear_node)
    if isinstance(linear, str):
        return linear
    if gamma.shape != (linear.channels,):
        return f"it has {gamma.size} channels, the operator before it {linear.channels}"
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    reason = absorb(linear, scale, beta - scale * mean)
    if reason is None:
        bypass(node, linear_node.outputs[0])
    return reason
