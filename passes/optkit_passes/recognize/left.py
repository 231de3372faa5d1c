"""What is quantized in a way that no integer kernel takes, and why."""

from __future__ import annotations

import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.graph import is_op, nodes
from optkit_passes.recognize.constants import evaluate

_BYTES = ("INT8", "UINT8")


def find_left(model: ir.Model) -> list[Finding]:
    """A finding for each QuantizeLinear of an activation, and each weight, that keeps its reader in float."""
    findings = []
    for node in nodes(model):
        reason = None
        if is_op(node, "QuantizeLinear"):
            reason = _activation(node)
        elif is_op(node, "DequantizeLinear"):
            reason = _weight(node)
        if reason is not None:
            findings.append(Finding("skipped", node.name or "", f"{node.op_type} stays in float: {reason}"))
    return findings


def _activation(node: ir.Node) -> str | None:
    kind = node.outputs[0].dtype
    if kind is not None and kind.name not in _BYTES:
        return f"{kind.name.lower()} activations have no integer kernel, 8 bits have"
    scale = evaluate(node.inputs[1])
    if scale is None:
        return "its scale is computed when the model runs"
    if scale.size > 1:
        return "an activation with a scale a channel has no integer kernel"
    return None


def _weight(node: ir.Node) -> str | None:
    data = node.inputs[0]
    if data is None or data.dtype is None or evaluate(data) is None:
        return None
    if node.attributes.get_int("block_size", 0):
        return f"{data.dtype.name.lower()} weights with a scale a block have no integer kernel"
    if data.dtype.name in ("INT16", "UINT16"):
        return f"{data.dtype.name.lower()} weights have no integer kernel, 8 bits have"
    return None


__all__ = ["find_left"]
