"""Transpose, Reshape and Cast in a row -> the last one alone.

transpose(transpose(x; p); q) = transpose(x; p[q]).  Reshape(Reshape(x; s); t) = Reshape(x; t) where t copies
no axis of what it gets (no zeros).  Cast(Cast(x; t); u) = Cast(x; u) where the first cast loses nothing.
The first operator stays for whoever else reads it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.graph import constant, is_op, producer

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def fuse(node: ir.Node, opset: int) -> Finding | None:
    """Let `node` read what the operator of its kind before it reads."""
    del opset
    if is_op(node, "Transpose"):
        inner = _transpose(node)
    elif is_op(node, "Reshape"):
        inner = _reshape(node)
    elif is_op(node, "Cast"):
        inner = _cast(node)
    else:
        return None
    if inner is None:
        return None
    node.replace_input_with(0, inner.inputs[0])
    return Finding("changed", node.name or "", f"took over {inner.name}")


def _transpose(node: ir.Node) -> ir.Node | None:
    inner = producer(node.inputs[0], "Transpose")
    if inner is None:
        return None
    first, second = inner.attributes.get_ints("perm"), node.attributes.get_ints("perm")
    if first is None or second is None:
        return None
    node.attributes["perm"] = ir.AttrInt64s("perm", [first[i] for i in second])
    return inner


def _reshape(node: ir.Node) -> ir.Node | None:
    inner = producer(node.inputs[0], *_RESHAPES)
    shape = constant(node.inputs[1])
    return inner if inner is not None and shape is not None and np.all(shape != 0) else None


def _cast(node: ir.Node) -> ir.Node | None:
    inner = producer(node.inputs[0], "Cast")
    if inner is None or inner.inputs[0] is None or inner.inputs[0].dtype is None:
        return None
    try:
        before = inner.inputs[0].dtype.numpy()
        between = ir.DataType(inner.attributes.get_int("to")).numpy()
        lossless = np.can_cast(before, between, casting="safe")
    except TypeError:  # strings and types that numpy does not know
        return None
    return inner if lossless else None
