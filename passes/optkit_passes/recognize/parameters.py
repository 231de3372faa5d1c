"""Scales and zero points that are computed when the model runs, from constants alone, as initializers."""

from __future__ import annotations

import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.graph import add_constant, constant, is_op, nodes
from optkit_passes.recognize.constants import evaluate


def recognize_parameters(model: ir.Model) -> list[Finding]:
    """Rewrite in place; a finding for each node whose parameters were computed."""
    findings = []
    for node in nodes(model):
        if not is_op(node, "QuantizeLinear", "DequantizeLinear") or not isinstance(node.graph, ir.Graph):
            continue
        computed = []
        for index, what in ((1, "scale"), (2, "zero_point")):
            value = node.inputs[index] if index < len(node.inputs) else None
            array = None if value is None or constant(value) is not None else evaluate(value)
            if array is not None:
                stem = node.inputs[0].name if node.inputs[0] is not None else node.name
                node.replace_input_with(index, add_constant(node.graph, f"{stem}_{what}", array))
                computed.append(what.replace("_", " "))
        if computed:
            findings.append(Finding("changed", node.name or "", f"{' and '.join(computed)} computed"))
    return findings


__all__ = ["recognize_parameters"]
