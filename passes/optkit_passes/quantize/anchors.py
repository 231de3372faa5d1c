"""Whether a convolution or matrix product can be quantized as it stands, and how its weight lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optkit_passes.quantize.roles import attribute, constant, is_float


@dataclass(frozen=True)
class Anchor:
    """A node to quantize.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul.
        activations: indices of the inputs that are quantized as activations.
        weight: float32 array of input 1, Gemm's alpha in it; None for a product of two activations.
        bias: float32 (channels,) of input 2, Gemm's beta in it; None where there is none.
        axis: of the weight's output channels.
        per_channel: whether that axis can have a scale a channel.
    """

    node: ir.Node
    activations: tuple[int, ...]
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    axis: int = 0
    per_channel: bool = True


def make_anchor(node: ir.Node) -> Anchor | str:
    """The anchor, or the reason why the node cannot be one."""
    if not is_float(node.inputs[0]) or not is_float(node.inputs[1]):
        return "its inputs are not float32"
    if constant(node.inputs[0]) is not None:
        return "its first operand is a constant"
    match node.op_type:
        case "Conv":
            return _weighted(node, axis=0)
        case "ConvTranspose":
            grouped = attribute(node, "group", 1) > 1  # axis 1 then holds the channels of one group only
            return _weighted(node, axis=1, per_channel=not grouped)
        case "Gemm":
            return _gemm(node)
        case _:
            return _matmul(node)


def _weighted(node: ir.Node, axis: int, per_channel: bool = True, factor: float = 1.0) -> Anchor | str:
    weight = constant(node.inputs[1])
    if weight is None:
        return "its weight is not a constant"
    weight = np.asarray(weight, np.float32) * np.float32(factor)
    if not np.isfinite(weight).all():
        return "its weight holds NaN or Inf"
    bias = _bias(node, weight.shape[axis] if per_channel else None)
    if isinstance(bias, str):
        return bias
    return Anchor(node, (0,), weight, bias, axis, per_channel)


def _bias(node: ir.Node, channels: int | None) -> np.ndarray | str | None:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    bias = constant(node.inputs[2])
    if bias is None:
        return "its bias is not a constant"
    bias = np.asarray(bias, np.float32) * np.float32(attribute(node, "beta", 1.0))
    if not np.isfinite(bias).all():
        return "its bias holds NaN or Inf"
    if channels is None:
        return bias.reshape(-1)
    if bias.size != 1 and bias.shape[-1:] != (bias.size,):
        return "its bias differs from row to row"
    return np.ascontiguousarray(np.broadcast_to(bias.reshape(-1), (channels,)))


def _gemm(node: ir.Node) -> Anchor | str:
    if attribute(node, "transA", 0):
        return "its first operand is transposed (transA)"
    axis = 0 if attribute(node, "transB", 0) else 1
    return _weighted(node, axis, factor=attribute(node, "alpha", 1.0))


def _matmul(node: ir.Node) -> Anchor | str:
    weight = constant(node.inputs[1])
    if weight is None:
        return Anchor(node, (0, 1))
    if weight.ndim != 2:
        return f"its weight has {weight.ndim} axes, not two"
    return _weighted(node, axis=1)
