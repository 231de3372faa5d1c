"""A Clip between QuantizeLinear and DequantizeLinear, as Brevitas writes narrow ranges, as a Clip of the real value.

Clip(Q(x), low, high) = Q(Clip(x, (low - z) s, (high - z) s)): the bounds are whole steps, which quantize to low and
high, and quantization is monotonic. A Clip of real values is what accumulators absorb.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.graph import bypass, is_op, nodes, producer
from optkit_passes.recognize import writer
from optkit_passes.recognize.constants import evaluate, scalar_of
from optkit_passes.recognize.decomposed import clipped


def recognize_narrow(model: ir.Model) -> list[Finding]:
    """Rewrite in place; a finding for each Clip of quantized activations."""
    findings = []
    for node in nodes(model):
        if is_op(node, "Clip") and isinstance(node.graph, ir.Graph):
            reason = _unclip(node)
            if reason is not None:
                findings.append(reason)
    return findings


def _unclip(node: ir.Node) -> Finding | None:
    q = producer(node.inputs[0], "QuantizeLinear")
    kind = node.outputs[0].dtype
    if q is None or kind not in (ir.DataType.UINT8, ir.DataType.INT8) or node.outputs[0].is_graph_output():
        return None
    if evaluate(q.inputs[0]) is not None:
        return None  # a weight's, which is computed whole
    where = node.name or ""
    least, most = (0, 255) if kind == ir.DataType.UINT8 else (-128, 127)
    given = [*node.inputs[1:], None, None][:2]
    bounds = [edge if v is None else scalar_of(v) for v, edge in zip(given, (least, most), strict=True)]
    scale, x = evaluate(q.inputs[1]), q.inputs[0]
    zero = evaluate(q.inputs[2]) if len(q.inputs) > 2 and q.inputs[2] is not None else np.zeros((), kind.numpy())
    low, high = bounds
    if low is None or high is None or scale is None or zero is None or x is None or scale.size != 1 or zero.size != 1:
        return Finding("skipped", where, "a Clip of integers stays: its bounds or the scale are not constant numbers")
    if low <= least and high >= most:
        bypass(node, q.outputs[0])
        return Finding("changed", where, "a Clip to the whole range of its integers removed")
    step, offset = float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
    bounded = clipped(node, x, (low - offset, high - offset), (least - offset, most - offset), step)
    again = writer.quantize(node, bounded, step, zero.reshape(()), f"{x.name or 'activation'}_narrow")
    bypass(node, again)
    return Finding("changed", where, f"integers clipped to {low:.0f}..{high:.0f}, as a Clip before QuantizeLinear")


__all__ = ["recognize_narrow"]
