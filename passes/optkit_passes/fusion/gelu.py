"""x * 0.5 * (1 + erf(x / sqrt(2))), in any order of its products -> Gelu(x).

Hendrycks and Gimpel 2016. ONNX has the operator from opset 20 on; older models keep the written-out form.
Refused where a part of it is wanted by others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.graph import is_op, producer, replace, scalar, why_not_absorbed


def fuse(node: ir.Node, opset: int) -> Finding | None:
    """Replace the last product of a written-out GELU by the operator."""
    if opset < 20 or not is_op(node, "Mul", "Div"):
        return None
    product = _product(node)
    if len(product.factors) != 2 or not math.isclose(product.number, 0.5, rel_tol=1e-5):
        return None
    for (data, _), gate in (product.factors, product.factors[::-1]):
        inside = _one_plus_erf(gate, data)
        if inside is None:
            continue
        for value, user in (*product.inside, *inside):
            reason = why_not_absorbed(value, user)
            if reason:
                return Finding("skipped", node.name or "", f"no Gelu: {reason}")
        replace(node, "Gelu", [data], {})
        return Finding("changed", node.name or "", "written as Gelu")
    return None


_Use = tuple[ir.Value, ir.Node]  # a value, and the node that reads it


@dataclass
class _Product:
    """A tree of Mul and Div: its constant part, its other factors, and its inner results."""

    number: float = 1.0
    factors: list[_Use] = field(default_factory=list)
    inside: list[_Use] = field(default_factory=list)


def _product(node: ir.Node) -> _Product:
    """The product that ends in `node`; its number is NaN where it divides by something computed."""
    found = _Product()
    for i, value in enumerate(node.inputs):
        if value is None:
            continue
        constant = scalar(value)
        divides = node.op_type == "Div" and i == 1
        deeper = producer(value, "Mul", "Div")
        if divides:
            found.number = found.number / constant if constant else math.nan
        elif constant is not None:
            found.number *= constant
        elif deeper is not None:
            part = _product(deeper)
            found.number *= part.number
            found.factors += part.factors
            found.inside += [*part.inside, (value, node)]
        else:
            found.factors.append((value, node))
    return found


def _one_plus_erf(gate: _Use, data: ir.Value) -> list[_Use] | None:
    """The inner results of 1 + erf(data / sqrt(2)) where the gate is that."""
    add = producer(gate[0], "Add")
    if add is None:
        return None
    for side in (0, 1):
        erf = producer(add.inputs[side], "Erf")
        scaled = producer(erf.inputs[0], "Mul", "Div") if erf is not None else None
        if erf is None or scaled is None or scalar(add.inputs[1 - side]) != 1.0:
            continue
        product = _product(scaled)
        if [value for value, _ in product.factors] == [data] and math.isclose(
            product.number, math.sqrt(0.5), rel_tol=1e-5
        ):
            return [gate, (erf.outputs[0], add), (scaled.outputs[0], erf), *product.inside]
    return None
