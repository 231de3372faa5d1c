"""Operators that runtimes round differently, replaced by functions that all of them round alike.

Only those from which a QuantizeLinear is reached: what stands behind the last one cannot flip an integer.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from optkit.exact import DOMAIN, VERSION, definition, is_ours, stand_in, stands_for
from optkit.measure.exactness import inexact_nodes
from optkit.transform import Finding
from optkit_passes.graph import add_constant, constant, replace


def spell_out(model: ir.Model) -> list[Finding]:
    """Replace in place; a finding for each node that has no such function, and one that counts the others."""
    findings = []
    count = 0
    opset = model.graph.opset_imports[""]
    for node in inexact_nodes(model):
        if node.op_type == "BatchNormalization" and _scale_and_shift(node):
            count += 1
            continue
        found = stand_in(node)
        if found is None:
            text = f"{node.op_type} rounds differently from runtime to runtime, and int8 values after it may too"
            findings.append(Finding("note", node.name or "", text))
            continue
        name, inputs, attributes = found
        _replace(node, name, inputs, attributes)
        model.functions.setdefault((DOMAIN, name, ""), definition(name, opset))
        count += 1
    if model.functions:
        model.graph.opset_imports[DOMAIN] = VERSION
    if count:
        text = f"{count} operators before a quantization spelled out, so that every runtime rounds them alike"
        findings.append(Finding("changed", "", text))
    return findings


def write_plainly(model: ir.Model, kept: Collection[ir.Node]) -> int:
    """Undo that, in place, but for the nodes in `kept`; returns how many became operators again."""
    ours = {name for (_, name, _), function in model.functions.items() if is_ours(function)}
    found = [n for n in model.graph if n.domain == DOMAIN and n.op_type in ours and n not in kept]
    for node in found:
        op_type, attributes = stands_for(node)
        replace(node, op_type, list(node.inputs), attributes)
    used = {node.op_identifier() for node in model.graph.all_nodes()}
    for identifier in [i for i in model.functions if i[0] == DOMAIN and i not in used]:
        del model.functions[identifier]
    if not any(domain == DOMAIN for domain, _, _ in model.functions):
        model.graph.opset_imports.pop(DOMAIN, None)
    return len(found)


def _replace(node: ir.Node, name: str, inputs: list[ir.Value | None], attributes: dict[str, float]) -> None:
    assert node.graph is not None
    old = node.outputs[0]
    out = ir.Value(name=old.name, shape=old.shape, type=old.type)
    new = ir.node(name, inputs, attributes, domain=DOMAIN, outputs=[out], name=node.name)
    node.graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(old, out, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)


def _scale_and_shift(node: ir.Node) -> bool:
    """Write a batch normalization as x * s + t, its constants computed here (Ioffe and Szegedy, 2015, section 3.1)."""
    graph, x = node.graph, node.inputs[0]
    scale, bias, mean, variance = (constant(v) for v in node.inputs[1:5])
    if graph is None or x is None or x.shape is None or any(v.uses() for v in node.outputs[1:]):
        return False
    if scale is None or bias is None or mean is None or variance is None:
        return False
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    shape = (-1, *[1] * (len(x.shape) - 2))
    offset = (bias - mean * factor).reshape(shape).astype(np.float32)
    stem = node.name or "norm"
    s = add_constant(graph, f"{stem}_factor", factor.reshape(shape).astype(np.float32))
    t = add_constant(graph, f"{stem}_offset", offset)
    product = ir.node("Mul", [x, s], name=f"{stem}_scaled")
    product.outputs[0].shape, product.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
    product.outputs[0].name = f"{node.outputs[0].name}_scaled"
    graph.insert_before(node, product)
    replace(node, "Add", [product.outputs[0], t], {})
    return True
