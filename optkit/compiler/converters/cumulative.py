"""CumSum and CumProd along an axis that may be a tensor, and Det."""

from __future__ import annotations

from tvm import relax

from optkit.compiler.converters.extents import refuse, tensor, vector
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import cumulative as define
from optkit.compiler.values import Value


def cumulate(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Running sums or products."""
    x, axis = inputs[0], inputs[1]
    assert x is not None and axis is not None
    if not x.shape:
        raise refuse(node, "a scalar has no axis to run along; remove the node")
    if 0 in x.shape:
        return x
    data = tensor(low, x)
    flat = low.bind(relax.op.reshape(data, (-1,)))
    flags = [node.op_type == "CumProd", bool(node.get("exclusive", 0)), bool(node.get("reverse", 0))]
    shape = list(data.ty.shape.values)
    known = None if axis.const is None else int(axis.const.reshape(-1)[0]) % len(shape)
    along = vector(low, axis, "int64")
    out = low.emit(define.cumulate, flat, along, known, *flags, *shape, name=node.op_type.lower())
    return low.wrap(relax.op.reshape(out, shape))


def determinant(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Det of square matrices."""
    x = inputs[0]
    assert x is not None
    *batch, rows, columns = x.shape
    if not isinstance(rows, int) or rows != columns:
        raise refuse(node, f"matrices of {rows} by {columns} have no determinant that is compiled; fix the shape")
    flat = low.bind(relax.op.reshape(x.plain(), (-1, rows, columns)))
    found = low.emit(define.determinant, flat, name="determinant")
    return low.wrap(relax.op.reshape(low.bind(relax.TupleGetItem(found, 0)), batch))


CONVERTERS: dict[str, Converter] = {**dict.fromkeys(("CumSum", "CumProd"), cumulate), "Det": determinant}
