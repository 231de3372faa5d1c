"""Loop and Scan: unrolled where that is short, else as recursion (`optkit.compiler.loops`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, te

from optkit.compiler.lists import Absent, TensorList
from optkit.compiler.loops import Loop
from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.subgraphs import Captured, refine, scalar, settle
from optkit.compiler.values import Value, dims
from optkit.errors import UnsupportedError

_SHORT = 64
"""Nodes that an unrolled loop may come to, where it could run as one."""
_LONG = 20_000
"""Nodes that a loop over sequences may come to, which must be unrolled."""


def loop(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value] | None:
    """Loop. Refuses a sequence that grows in a loop whose trip count is not constant."""
    body = node.get("body")
    trips, start = (inputs[i] if len(inputs) > i else None for i in (0, 1))
    state = [v for v in inputs[2:] if v is not None]
    if body is None or len(state) != len(inputs[2:]):
        return None
    lists = any(isinstance(v, (TensorList, Absent)) for v in state)
    short = _unrolled(low, body, trips, start, state, lists)
    if short is not None:
        return short
    if lists:
        raise UnsupportedError(
            "it carries a sequence, and how often it runs is known only when the model runs; give it a constant "
            "trip count and no condition, or concatenate tensors in the place of the sequence"
        )
    if start is not None and start.const is not None and not start.const.reshape(-1)[0]:
        return _nothing(low, node, body, state)
    limit: Any = None
    if trips is not None:
        limit = max(int(trips.const.reshape(-1)[0]), 0) if trips.const is not None else scalar(low, trips)
    if limit == 0:
        return _nothing(low, node, body, state)
    begins = None if start is None or start.const is not None else scalar(low, start)
    if limit is not None and not isinstance(limit, int):
        begins = low.emit(_begins, limit, begins, name="begins")
    if isinstance(limit, int) and limit > np.iinfo(np.int64).max // 2:
        limit = None
    captured = Captured(low, body)
    count = len(state)

    def iterate(index: Value, values: list[Value], params: list[Any]) -> tuple[Value | None, list[Value], list[Value]]:
        with captured.inside(params):
            ends = low.inline(body, [_counter(low, body, index), _true(low, body), *values])
            ends = [_declared(low, e, o) for e, o in zip(ends, body.outputs, strict=True)]
        return _condition(ends[0]), ends[1 : 1 + count], ends[1 + count :]

    with _forgetting(body) as vary:
        made = Loop(low, low.node, state, limit, captured.arguments, iterate, vary)
        found = made.emit(begins)
    if limit is None and not made.conditional:
        raise UnsupportedError("it has neither a trip count nor a condition that ends it")
    values = [_final(low, made, node, i, expr) for i, expr in enumerate(found[:count])]
    exact = limit if isinstance(limit, int) and not made.conditional else None
    rows = [
        _rows(low, node.source.outputs[count + i], expr, exact, made, made.rows[i])
        for i, expr in enumerate(found[count:])
    ]
    return [*values, *rows]


def _begins(limit: Any, flag: Any) -> Any:
    return te.compute((), lambda: (limit() > 0) if flag is None else te.all(limit() > 0, flag()), name="begins")


def _declared(low: Lowering, value: Value, output: ir.Value) -> Value:
    """A body's output with the extents that the body declares where lowering does not know them."""
    if (
        value.dtype in ("shape", "sequence", "optional")
        or output.shape is None
        or len(output.shape) != len(value.shape)
    ):
        return value
    pairs = zip(value.shape, output.shape, strict=True)
    shape = [d if isinstance(d, int) or not isinstance(o, int) else o for d, o in pairs]
    return value if list(value.shape) == shape else refine(low, value.plain(), shape, value.dtype)


def _condition(value: Value) -> Value | None:
    """None for a condition that is always true."""
    return None if value.const is not None and bool(value.const.reshape(-1)[0]) else value


def _counter(low: Lowering, body: ir.Graph, index: Value) -> Value:
    """The iteration number in the rank that the body declares."""
    if body.inputs[0].shape is None or len(body.inputs[0].shape) == 0:
        return index
    if index.const is not None:
        return Value(low, (1,), "int64", const=index.const.reshape(1))
    return low.wrap(low.bind(relax.op.reshape(index.plain(), (1,))))


def _true(low: Lowering, body: ir.Graph) -> Value:
    """The condition an iteration is given: it would not run, were it false."""
    rank = 0 if body.inputs[1].shape is None else len(body.inputs[1].shape)
    return Value(low, (1,) * rank, "bool", const=np.ones((1,) * rank, bool))


def _unrolled(
    low: Lowering, body: ir.Graph, trips: Value | None, start: Value | None, state: list[Value], lists: bool
) -> list[Value] | None:
    """The loop as a chain of its bodies; None where it is too long, or the condition is computed."""
    if trips is None or trips.const is None or (start is not None and start.const is None):
        return None
    count = max(int(trips.const.reshape(-1)[0]), 0)
    if start is not None and _condition(start) is not None:
        count = 0
    if count * max(len(body), 1) > (_LONG if lists else _SHORT):
        return None
    records = len(low.records)
    rows: list[list[Value]] = [[] for _ in body.outputs[1 + len(state) :]]
    if count == 0 and rows:
        return None
    for number in range(count):
        index = Value(low, (), "int64", const=np.array(number, np.int64))
        ends = low.inline(body, [_counter(low, body, index), _true(low, body), *state])
        if ends[0].const is None:
            del low.records[records:]
            return None
        state = ends[1 : 1 + len(state)]
        for collected, row in zip(rows, ends[1 + len(state) :], strict=True):
            collected.append(row)
        if _condition(ends[0]) is not None:
            break
    return [*state, *(stack(low, collected) for collected in rows)]


def stack(low: Lowering, values: Sequence[Value], axis: int = 0) -> Value:
    """Tensors of one shape along a new axis."""
    parts = [low.bind(relax.op.expand_dims(low.tensor(v), axis)) for v in values]
    expr = low.bind(relax.op.concat(parts, axis))
    return refine(low, expr, dims(expr.ty.shape.values), "int64" if values[0].dtype == "shape" else values[0].dtype)


def _nothing(low: Lowering, node: Node, body: ir.Graph, state: list[Value]) -> list[Value]:
    """A loop without iterations: its state as it was, and empty rows."""
    rows = []
    for declared, inner in zip(node.source.outputs[len(state) :], body.outputs[1 + len(state) :], strict=True):
        shape = inner.shape if inner.shape is not None else (declared.shape or [0])[1:]
        if inner.dtype is None:
            raise UnsupportedError(f"it runs no iteration, and the type of its output {declared.name!r} is unknown")
        extents = [d if isinstance(d, int) else 0 for d in shape]
        rows.append(
            Value(low, (0, *extents), inner.dtype.numpy().name, const=np.zeros((0, *extents), inner.dtype.numpy()))
        )
    return [*state, *rows]


def _final(low: Lowering, made: Loop, node: Node, number: int, expr: Any) -> Value:
    """A loop-carried value after the loop."""
    declared = node.source.outputs[number]
    shape = [
        settle(low, declared, axis) if axis in made.free[number] else extent
        for axis, extent in enumerate(made.shapes[number])
    ]
    return refine(low, expr, shape, made.kinds[number])


def _rows(low: Lowering, declared: ir.Value, expr: Any, count: Any, made: Loop, row: Value) -> Value:
    """What a loop collected."""
    inner = [settle(low, declared, 1 + i) if d is None else d for i, d in enumerate(made.row_shape(row))]
    dtype = "int64" if row.dtype == "shape" else row.dtype
    return refine(low, expr, [settle(low, declared, 0) if count is None else count, *inner], dtype)


@contextlib.contextmanager
def _forgetting(body: ir.Graph) -> Iterator[Any]:
    """A function that forgets the shapes inferred in a body: they held for the first iteration alone.

    They are back when the block ends.
    """
    kept: dict[ir.Value, ir.Shape | None] = {}

    def forget() -> None:
        for node in ir.traversal.RecursiveGraphIterator(body):
            for value in node.outputs:
                kept.setdefault(value, value.shape)
                value.shape = None

    try:
        yield forget
    finally:
        for value, shape in kept.items():
            value.shape = shape


def scan(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value] | None:
    """Scan of opset 9 and later, and of opset 8 for batches of constant size without sequence lengths."""
    body, scanned = node.get("body"), int(node.get("num_scan_inputs", 0))
    if body is None or not scanned:
        return None
    if node.opset < 9:
        return _scan8(low, node, inputs, body, scanned)
    given = [v for v in inputs if v is not None]
    if len(given) != len(inputs):
        return None
    state, xs = given[: len(given) - scanned], given[len(given) - scanned :]
    outputs = len(body.outputs) - len(state)
    axes = [int(a) for a in node.get("scan_input_axes") or [0] * scanned]
    backward = [bool(d) for d in node.get("scan_input_directions") or [0] * scanned]
    result = _scan(low, node, body, state, xs, axes, backward)
    flips = [bool(d) for d in node.get("scan_output_directions") or [0] * outputs]
    places = [int(a) for a in node.get("scan_output_axes") or [0] * outputs]
    rows = [_place(low, r, a, f) for r, a, f in zip(result[len(state) :], places, flips, strict=True)]
    return [*result[: len(state)], *rows]


def _scan(
    low: Lowering,
    node: Node,
    body: ir.Graph,
    state: list[Value],
    xs: list[Value],
    axes: list[int],
    backward: list[bool],
) -> list[Value]:
    """State after the last slice, and what was collected, along axis 0 in order of the iterations."""
    axes = [axis % len(x.shape) for x, axis in zip(xs, axes, strict=True)]
    length = xs[0].shape[axes[0]]
    count = len(state)

    def slices(index: Any, sources: Sequence[Any]) -> list[Value]:
        return [
            _typed(low, low.emit(_slice, source, index, axis, back, name="scan_slice"), x.dtype)
            for source, x, axis, back in zip(sources, xs, axes, backward, strict=True)
        ]

    if isinstance(length, int) and 0 < length * max(len(body), 1) <= _SHORT:
        rows: list[list[Value]] = [[] for _ in body.outputs[count:]]
        for number in range(length):
            ends = low.inline(body, [*state, *slices(number, [low.tensor(x) for x in xs])])
            state = ends[:count]
            for collected, row in zip(rows, ends[count:], strict=True):
                collected.append(row)
        return [*state, *(stack(low, collected) for collected in rows)]
    captured = Captured(low, body)
    sources = [low.bind(low.tensor(x)) for x in xs]
    own = len(captured.arguments)

    def iterate(index: Value, values: list[Value], params: list[Any]) -> tuple[Value | None, list[Value], list[Value]]:
        with captured.inside(params[:own]):
            ends = low.inline(body, [*values, *slices(index.plain(), params[own:])])
            ends = [_declared(low, e, o) for e, o in zip(ends, body.outputs, strict=True)]
        return None, ends[:count], ends[count:]

    limit: Any = length
    begins = None
    if not isinstance(length, int):
        limit = low.bind(relax.op.reshape(low.bind(relax.op.shape_to_tensor(relax.ShapeExpr([length]))), ()))
        begins = low.emit(_begins, limit, None, name="begins")
    elif length == 0:
        begins = relax.const(False, "bool")
    with _forgetting(body) as vary:
        made = Loop(low, low.node, state, limit, [*captured.arguments, *sources], iterate, vary)
        found = made.emit(begins)
    values = [_final(low, made, node, i, expr) for i, expr in enumerate(found[:count])]
    return [
        *values,
        *(_rows(low, ir.Value(), e, length, made, r) for e, r in zip(found[count:], made.rows, strict=True)),
    ]


def _typed(low: Lowering, expr: Any, dtype: str) -> Value:
    return refine(low, expr, dims(expr.ty.shape.values), dtype)


def _slice(x: Any, index: Any, axis: int, backward: bool) -> Any:
    """One slice along an axis, counted from its end where the scan runs backward."""
    shape = list(x.shape)

    def element(*at: Any) -> Any:
        number = index if isinstance(index, int) else index()
        if backward:
            number = shape[axis] - 1 - number
        return x(*at[:axis], number, *at[axis:])

    return te.compute([*shape[:axis], *shape[axis + 1 :]], element, name="scan_slice")


def _place(low: Lowering, rows: Value, axis: int, backward: bool) -> Value:
    """Collected rows with the iterations along `axis`, the last first where asked."""
    expr, rank = rows.plain(), len(rows.shape)
    if backward:
        expr = low.bind(relax.op.flip(expr, 0))
    axis %= rank
    if axis:
        order = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
        expr = low.bind(relax.op.permute_dims(expr, order))
    return _typed(low, expr, rows.dtype)


def _scan8(low: Lowering, node: Node, inputs: list[Value | None], body: ir.Graph, scanned: int) -> list[Value]:
    """Opset 8: everything has a batch axis in front, and each element of the batch is a scan of its own."""
    lengths, given = inputs[0], [v for v in inputs[1:] if v is not None]
    batch = given[0].shape[0]
    if lengths is not None or not isinstance(batch, int) or batch < 1:
        raise UnsupportedError("its batch or its sequence lengths are known only when the model runs; use opset 9")
    directions = [bool(d) for d in node.get("directions") or [0] * scanned]
    count = len(given) - scanned
    results = []
    for number in range(batch):
        parts = [
            _typed(low, low.emit(_slice, low.tensor(v), number, 0, False, name="scan_batch"), v.dtype) for v in given
        ]
        results.append(_scan(low, node, body, parts[:count], parts[count:], [0] * scanned, directions))
    return [stack(low, values) for values in zip(*results, strict=True)]
