"""RNN, LSTM and GRU on GPUs: the input products of both directions as one, and all of the recurrence as one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax

from optkit.compiler.converters.rows import reshape
from optkit.compiler.operators import device_recurrent as define
from optkit.compiler.operators.recurrent import Others
from optkit.compiler.operators.recurrent_layout import find_layout, pack
from optkit.compiler.values import PLAIN, Value, dims

if TYPE_CHECKING:
    from optkit.compiler.converters.recurrent import Layer

op = relax.op


def convert(layer: Layer, x: Any, directions: tuple[bool, ...]) -> list[Value] | None:
    """Every output of the node, or None for weights that are computed, float64, and functions with parameters.

    Args:
        x: (seq, batch, inner).
        directions: whether each runs backwards.
    """
    low, node = layer.low, layer.node
    names = [str(name) for name in node.get("activations", [])]
    half = len(names) // len(directions)
    if any(v is not None and v.const is None for v in (layer.w, layer.r, layer.b, layer.p)) or (
        layer.dtype != "float32"
        or any(layer.parameters(name) for name in ("activation_alpha", "activation_beta"))
        or names[:half] != names[-half:]
    ):
        return None
    cell = layer.cell(0, directions[0])
    seq, batch = dims(x.ty.shape.values[:2])
    known, clusters = batch if isinstance(batch, int) else None, low.target.has("cluster")
    layout = find_layout(layer.hidden, layer.gates, len(directions), known, clusters, low.target.cores)
    if layout is None:
        return None
    array = _padded(layer, layer.w, layer.gates)
    flat = low.blocked((seq * batch, layer.inner), "float32", PLAIN, reshape(low, x, [seq * batch, layer.inner]))
    product = layer.product(flat, Value(low, array.shape, "float32", const=array))
    steps = reshape(low, product, [seq, batch, array.shape[0]])
    late = None
    if layer.b is not None:
        both = _padded(layer, layer.b, 2 * layer.gates).reshape(len(directions), 2, layer.gates, layer.width)
        if cell.kind == "GRU" and cell.reset_after:
            late = relax.const(np.ascontiguousarray(both[:, 1, 2]))
            both[:, 1, 2] = 0
        steps = low.bind(op.add(steps, relax.const(both.sum(1).reshape(-1))))
    peepholes = None
    if layer.p is not None:
        peepholes = relax.const(_padded(layer, layer.p, 3).reshape(len(directions), 3, layer.width))
    count = 2 if cell.kind == "LSTM" else 1
    states = [_initial(layer, value, len(directions), batch) for value in (layer.h, layer.c)[:count]]
    lengths = None if layer.lengths is None else layer.lengths.plain()
    extra = [e for e in (lengths, peepholes, late) if e is not None]

    def kernel(steps_: Any, weights: Any, *rest: Any) -> Any:
        found = iter(rest)
        initial = [next(found) for _ in states]
        optional = [next(found) if e is not None else None for e in (lengths, peepholes, late)]
        return define.recur(cell, layout, directions, steps_, weights, initial, Others(*optional))

    assert layer.r.const is not None
    packed = relax.const(pack(layer.r.const.astype("float32"), layout))
    out = low.emit(kernel, steps, packed, *states, *extra, name=cell.kind.lower())
    outputs = [low.bind(relax.TupleGetItem(out, i)) for i in range(1 + count)]
    if layer.batch_first:
        orders = [[2, 0, 1, 3], *[[1, 0, 2]] * count]
        outputs = [low.bind(op.permute_dims(e, order)) for e, order in zip(outputs, orders, strict=True)]
    if layer.x.dtype != "float32":
        outputs = [low.bind(op.astype(e, layer.x.dtype)) for e in outputs]
    return [low.wrap(e) for e in outputs]


def _padded(layer: Layer, value: Value, count: int) -> np.ndarray:
    """(directions, count * hidden, ...) as (directions * count * width, ...), zeros behind every vector of units."""
    assert value.const is not None
    shape = value.const.shape
    split = value.const.astype("float32").reshape(shape[0] * count, layer.hidden, *shape[2:])
    full = np.pad(split, [(0, 0), (0, layer.width - layer.hidden), *[(0, 0)] * (split.ndim - 2)])
    return full.reshape(-1, *shape[2:])


def _initial(layer: Layer, value: Value | None, directions: int, batch: Any) -> Any:
    """(directions, batch, hidden)."""
    low = layer.low
    if value is None:
        return low.bind(op.broadcast_to(relax.const(0, "float32"), relax.ShapeExpr([directions, batch, layer.hidden])))
    expr = layer.real(value)
    return low.bind(op.permute_dims(expr, [1, 0, 2])) if layer.batch_first else expr
