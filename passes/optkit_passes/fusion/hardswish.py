"""x * clip(x + 3, 0, 6) / 6, in any order of its products -> HardSwish(x); the gate alone -> HardSigmoid.

HardSwish(x) = x * max(0, min(1, x/6 + 1/2))  (Howard et al. 2019, section 5.2; ONNX opset 14).
x * Sigmoid(x) stays as it is: kernels fuse it, and ONNX has no operator for it before opset 24.
Refused where a part of it is wanted by others.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.fusion.clamps import read_clamp
from optkit_passes.graph import is_op, producer, replace, scalar, why_not_absorbed


def fuse(node: ir.Node, opset: int) -> Finding | None:
    """Replace the last operation of a written-out hard swish or hard sigmoid by the one operator."""
    if opset < 14 or not is_op(node, "Mul", "Div"):
        return None
    swish = _swish(node)
    found = swish or _sixth(node, _clip6)
    if found is None:
        return None
    data, inside = found
    name = "HardSwish" if swish else "HardSigmoid"
    for value, user in inside:
        reason = why_not_absorbed(value, user)
        if reason:
            return Finding("skipped", node.name or "", f"no {name}: {reason}")
    replace(node, name, [data], {} if swish else {"alpha": 1 / 6, "beta": 0.5})
    return Finding("changed", node.name or "", f"written as {name}")


_Found = tuple[ir.Value, list[tuple[ir.Value, ir.Node]]]  # x, and the inner results with their users
_Matcher = Callable[[ir.Value], _Found | None]


def _swish(node: ir.Node) -> _Found | None:
    """x * gate(x), or (x * clip6(x)) / 6."""
    return _times(node, _gate) or _sixth(node, _product6)


def _product6(value: ir.Value) -> _Found | None:
    node = producer(value, "Mul")
    return _times(node, _clip6) if node is not None else None


def _times(node: ir.Node, factor: _Matcher) -> _Found | None:
    """x where `node` is x * factor(x)."""
    if node.op_type != "Mul":
        return None
    for side in (0, 1):
        value = node.inputs[side]
        if value is None:
            continue
        found = factor(value)
        if found is not None and found[0] is node.inputs[1 - side]:
            return found[0], [*found[1], (value, node)]
    return None


def _sixth(node: ir.Node, part: _Matcher) -> _Found | None:
    """x where `node` is part(x) / 6 or part(x) * (1/6)."""
    for side in (0, 1) if node.op_type == "Mul" else (0,):
        value, number = node.inputs[side], scalar(node.inputs[1 - side])
        wanted = 6.0 if node.op_type == "Div" else 1 / 6
        if value is None or number is None or not math.isclose(number, wanted, rel_tol=1e-3):
            continue
        found = part(value)
        if found is not None:
            return found[0], [*found[1], (value, node)]
    return None


def _gate(value: ir.Value) -> _Found | None:
    """x where `value` is clip(x + 3, 0, 6) / 6 or HardSigmoid(x) with those constants."""
    node = producer(value, "HardSigmoid", "Mul", "Div")
    if node is None:
        return None
    if node.op_type != "HardSigmoid":
        return _sixth(node, _clip6)
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    data = node.inputs[0]
    return (data, []) if data is not None and math.isclose(alpha, 1 / 6, rel_tol=1e-3) and beta == 0.5 else None


def _clip6(value: ir.Value) -> _Found | None:
    """x where `value` is clip(x + 3, 0, 6)."""
    node = producer(value, "Clip")
    clamp = read_clamp(node) if node is not None else None
    if node is None or clamp is None or clamp[1:] != (0.0, 6.0):
        return None
    add = producer(clamp[0], "Add")
    if add is None:
        return None
    for side in (0, 1):
        data = add.inputs[side]
        if data is not None and scalar(add.inputs[1 - side]) == 3.0:
            return data, [(clamp[0], node)]
    return None
