"""Conv(Pad(x, zeros)) -> Conv with larger `pads`.

A convolution pads with zeros itself, so Pad's amounts add to its own, axis by axis.
Refused for another mode or value, for padding of batch or channels, for negative (cropping) or unknown
amounts, and for a convolution whose `auto_pad` computes its padding.
"""

from __future__ import annotations

import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.graph import constant, is_op, producer, scalar


def fuse(node: ir.Node, opset: int) -> Finding | None:
    """Fold the Pad before the convolution `node` into it; other users of the Pad keep it."""
    del opset
    if not is_op(node, "Conv"):
        return None
    pad = producer(node.inputs[0], "Pad")
    if pad is None:
        return None
    reason = _fuse(node, pad)
    if reason:
        return Finding("skipped", node.name or "", f"{pad.name} is not fused: {reason}")
    return Finding("changed", node.name or "", f"absorbed {pad.name}")


def _fuse(node: ir.Node, pad: ir.Node) -> str | None:
    if pad.attributes.get_string("mode", "constant") != "constant":
        return f"its mode is {pad.attributes.get_string('mode')}"
    if len(pad.inputs) > 2 and pad.inputs[2] is not None and scalar(pad.inputs[2]) != 0:
        return "it does not pad with zeros"
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "the convolution computes its own padding (auto_pad)"
    weight = node.inputs[1].shape if node.inputs[1] is not None else None
    amounts = constant(pad.inputs[1]) if len(pad.inputs) > 1 else None
    if weight is None or amounts is None:
        return "the amount of padding or the rank is unknown"
    rank = len(weight)
    axes = list(range(rank))
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        given = constant(pad.inputs[3])
        if given is None:
            return "its axes are no constant"
        axes = [int(axis) % rank for axis in given]
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = int(amounts[i]), int(amounts[i + len(axes)])
    if any(before[:2]) or any(after[:2]):
        return "it pads the batch or the channels"
    if min(before + after) < 0:
        return "it crops"
    old = node.attributes.get_ints("pads", [0] * (2 * (rank - 2)))
    node.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(old, before[2:] + after[2:], strict=True)])
    node.attributes.pop("auto_pad", None)
    node.replace_input_with(0, pad.inputs[0])
    return None
