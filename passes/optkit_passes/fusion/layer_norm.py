"""(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * w + b over the last axis -> LayerNormalization(x, w, b).

Ba, Kiros and Hinton 2016. ONNX has the operator from opset 17 on; older exporters write it out. Refused where a part
of it is wanted by others, or w and b do not have the axis's length.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.graph import constant, is_op, producer, replace, scalar


def fuse(node: ir.Node, opset: int) -> Finding | None:
    """Replace the last addition of a written-out layer normalization by the operator."""
    if opset < 17 or not is_op(node, "Add"):
        return None
    for side in (0, 1):
        product = producer(node.inputs[side], "Mul")
        for other in (0, 1) if product is not None else ():
            ratio = producer(product.inputs[other], "Div") if product is not None else None
            if product is None or ratio is None:
                continue
            found = _normalized(ratio)
            weight, bias = product.inputs[1 - other], node.inputs[1 - side]
            if found is None or not _along(found[0], weight) or not _along(found[0], bias):
                continue
            x, epsilon, inside = found
            if reason := _wanted([*inside, ratio, product], node):
                return Finding("skipped", node.name or "", f"no LayerNormalization: {reason}")
            replace(node, "LayerNormalization", [x, weight, bias], {"axis": -1, "epsilon": epsilon})
            return Finding("changed", node.name or "", "written as LayerNormalization")
    return None


def _normalized(ratio: ir.Node) -> tuple[ir.Value, float, list[ir.Node]] | None:
    """x, epsilon and the inner nodes where `ratio` is (x - mean) / sqrt(variance + epsilon)."""
    above, root = producer(ratio.inputs[0], "Sub"), producer(ratio.inputs[1], "Sqrt")
    total = producer(root.inputs[0], "Add") if root is not None else None
    if above is None or root is None or total is None:
        return None
    for side in (0, 1):
        variance, epsilon = producer(total.inputs[side], "ReduceMean"), scalar(total.inputs[1 - side])
        square = producer(variance.inputs[0], "Pow", "Mul") if variance is not None else None
        if variance is None or square is None or epsilon is None:
            continue
        deviation = producer(square.inputs[0], "Sub")
        squared = scalar(square.inputs[1]) == 2.0 if square.op_type == "Pow" else square.inputs[0] is square.inputs[1]
        if deviation is None or not squared:
            continue
        # some exporters subtract the mean twice
        x, mean = above.inputs[0], producer(above.inputs[1], "ReduceMean")
        if x is None or x.dtype != ir.DataType.FLOAT or mean is None or mean.inputs[0] is not x:
            continue
        if tuple(deviation.inputs) == tuple(above.inputs) and _over_last(mean, x) and _over_last(variance, x):
            return x, epsilon, [mean, above, deviation, square, variance, total, root]
    return None


def _over_last(mean: ir.Node, x: ir.Value) -> bool:
    """Whether it is over the last axis, which it keeps."""
    given = constant(mean.inputs[1]) if len(mean.inputs) > 1 else mean.attributes.get_ints("axes")
    if given is None or x.shape is None or not mean.attributes.get_int("keepdims", 1):
        return False
    return [int(axis) for axis in given] in ([-1], [len(x.shape) - 1])


def _along(x: ir.Value, weight: ir.Value | None) -> bool:
    array = constant(weight)
    return array is not None and x.shape is not None and array.shape == (x.shape[-1],)


def _wanted(inside: Iterable[ir.Node], last: ir.Node) -> str:
    """Why an inner result cannot vanish, "" where all can."""
    own = {*inside, last}
    for value in (v for node in own if node is not last for v in node.outputs):
        if value.is_graph_output():
            return f"{value.name} is an output of the model"
        if {user for user, _ in value.uses()} - own:
            return f"{value.name} has other consumers"
    return ""
