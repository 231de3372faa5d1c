"""Slice and Split, whose parameters may be tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm_ffi
from tvm import relax, sym, te, tirx
from tvm.ir import Range

from optkit.compiler.converters import imported
from optkit.compiler.converters.dynamic import complete, runtime_extents, some_extents
from optkit.compiler.converters.extents import count_axes, declared, known_extents, tensor, vector
from optkit.compiler.joins import PART
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import plans
from optkit.compiler.operators import shapes as define
from optkit.compiler.operators.layout import take_blocks, take_channels
from optkit.compiler.values import INJECTIVE, OPAQUE, PLAIN, Value


def slices(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value] | None:
    """Slice whose starts, ends, axes or steps are not constants."""
    x, starts, ends, axes, steps = [*inputs, None, None][:5]
    if x is None or x.dtype == "shape" or starts is None or ends is None:
        return None
    if all(v is None or v.const is not None or v.dtype == "shape" for v in (starts, ends, axes, steps)):
        if all(v is None or v.const is not None for v in (starts, ends, axes, steps)):
            back = _backwards(low, x, starts, ends, axes, steps)
            return back or imported.convert(low, node, [x, _extreme(low, starts), _extreme(low, ends), *inputs[3:]])
        cuts = _cuts(x, starts, ends, axes, steps)
        if cuts:
            names, first, last = (list(column) for column in zip(*cuts, strict=True))
            return low.wrap(relax.op.strided_slice(x.plain(), names, first, last, assume_inbound=True))
    count, rank = count_axes(node, starts), len(x.shape)
    first, last = vector(low, starts, "int64"), vector(low, ends, "int64")
    names = relax.const(np.arange(count)) if axes is None else vector(low, axes, "int64")
    each = relax.const(np.ones(count, "int64")) if steps is None else vector(low, steps, "int64")
    plan = low.emit(plans.sliced, first, last, names, each, tensor(low, x), name="slices")
    shape = complete(low, node) or some_extents(low, plan, 2 * rank, rank, low.node)
    return low.wrap(low.emit(define.slices, tensor(low, x), plan, *shape, name="slice", kind=INJECTIVE))


def _backwards(
    low: Lowering, x: Value, starts: Value, ends: Value, axes: Value | None, steps: Value | None
) -> Value | None:
    """A Slice that goes backwards along some axis, of known extents; None for others.

    In a kernel of its own: TVM 0.27 takes quotients of what goes down for quotients by negative numbers and mixes up
    remainders of these, where a reader divides the axis.
    """
    if steps is None or steps.const is None or (steps.const > 0).all() or x.const is not None:
        return None
    assert starts.const is not None and ends.const is not None
    names = range(len(starts.const)) if axes is None or axes.const is None else axes.const
    cuts: dict[int, range] = {}
    for name, start, end, step in zip(names, starts.const, ends.const, steps.const, strict=True):
        axis = int(name) % len(x.shape)
        extent = x.shape[axis]
        if not isinstance(extent, int) or not step:
            return None
        cuts[axis] = range(*slice(int(start), int(end), int(step)).indices(extent))
    if not all(cuts.values()):
        return None

    def body(data: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            return data(*(cuts[d].start + at * cuts[d].step if d in cuts else at for d, at in enumerate(i)))

        shape = [len(cuts[d]) if d in cuts else extent for d, extent in enumerate(data.shape)]
        return te.compute(tuple(shape), element, name="slice")

    return low.wrap(low.emit(body, x.plain(), name="slice", kind=OPAQUE))


def _extreme(low: Lowering, places: Value) -> Value:
    """Constant starts or ends, those beyond any axis as far beyond as can be, which TVM knows what to make of."""
    assert places.const is not None
    given = places.const.astype("int64")
    limits = np.iinfo("int64")
    given = np.where(given >= _MOST, limits.max, np.where(given <= -_MOST, limits.min, given))
    return Value(low, given.shape, "int64", const=given)


def _cuts(
    x: Value, starts: Value, ends: Value, axes: Value | None, steps: Value | None
) -> list[tuple[int, Any, Any]] | None:
    """(axis, start, end) of a Slice by steps of one whose ends are extents, inside of what is cut.

    None where only a run can tell whether a number counts from the end.
    """
    first, last = known_extents(starts), known_extents(ends)
    names = list(range(len(first or []))) if axes is None else known_extents(axes)
    each = [1] * len(first or []) if steps is None else known_extents(steps)
    if first is None or last is None or names is None or each is None or any(step != 1 for step in each):
        return None
    analyzer = sym.Analyzer()
    found = []
    for axis, start, end in zip(names, first, last, strict=True):
        size = x.shape[axis % len(x.shape)]
        for var in _variables(start, end, size):
            analyzer.bind(var, Range(0, _MOST))
        begin, limit = (_inside(analyzer, place, size) for place in (start, end))
        if begin is None or limit is None:
            return None
        ordered = _proved(analyzer, begin, limit)
        found.append((axis % len(x.shape), begin, limit if ordered else te.max(begin, limit)))
    return found


_MOST = 1 << 31
"""No axis is so long."""


def _variables(*extents: Any) -> list[Any]:
    found: list[Any] = []
    for extent in extents:
        if not isinstance(extent, int):
            tvm_ffi.structural_walk(extent, (tirx.Var, found.append))
    return found


def _inside(analyzer: Any, place: Any, size: Any) -> Any | None:
    """A start or an end of Slice as a number from 0 to `size`; None where its sign is not known.

    An axis is taken to be no shorter than what is cut off it, as it is where the cut is a negative constant.
    """
    below = place < 0 if isinstance(place, int) else _proved(analyzer, place, -1)
    if below:
        place = 0 if isinstance(place, int) and place <= -_MOST else size + place
        if not _proved(analyzer, 0, place):
            place = te.max(place, 0)
    elif not _proved(analyzer, 0, place):
        cut = analyzer.simplify(size - place)
        return place if isinstance(cut, tirx.IntImm) and int(cut) >= 0 else None
    return place if _proved(analyzer, place, size) else size if _proved(analyzer, size, place) else te.min(place, size)


def _proved(analyzer: Any, less: Any, more: Any) -> bool:
    """Whether less <= more, always."""
    if isinstance(less, int) and isinstance(more, int):
        return less <= more
    if isinstance(more, int) and more >= _MOST:
        return True
    return bool(analyzer.can_prove(less <= more))


def split(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value] | None:
    """Split into parts whose sizes a tensor holds, or a blocked image into parts of its channels."""
    x, sizes = inputs[0], inputs[1] if len(inputs) > 1 else None
    if x is not None and x.dtype != "shape" and len(x.shape) >= 3 and int(node.get("axis", 0)) % len(x.shape) == 1:
        channels = _channels(node, x.shape[1], sizes)
        if channels is not None and x.block != PLAIN:
            return _blocked_parts(low, x, channels)
    if x is None or sizes is None or sizes.const is not None or sizes.dtype == "shape":
        return None
    axis = int(node.get("axis", 0)) % len(x.shape)
    known = [declared(low, node, i) for i in range(node.outputs)]
    lengths = [None if shape is None else shape[axis] for shape in known]
    given = vector(low, sizes, "int64")
    if any(length is None for length in lengths):
        lengths = runtime_extents(low, given, node.outputs, low.node)
    parts = []
    for part, length in enumerate(lengths):
        shape = [length if d == axis else extent for d, extent in enumerate(x.shape)]
        expr = low.emit(define.part, x.plain(), given, part, axis, *shape, name="split", kind=INJECTIVE)
        parts.append(low.wrap(expr))
    return parts


def _channels(node: Node, total: Any, sizes: Value | None) -> list[int] | None:
    """The sizes of the parts, None where they are not known."""
    given = node.get("split") if sizes is None else sizes.const
    if given is not None:
        return [int(n) for n in given]
    if sizes is not None or not isinstance(total, int):
        return None
    size = -(-total // node.outputs)
    return [*[size] * (node.outputs - 1), total - size * (node.outputs - 1)]


def _blocked_parts(low: Lowering, x: Value, channels: list[int]) -> list[Value]:
    b, parts, first = x.block, [], 0
    whole = not any(count % b for count in channels)
    for count in channels:
        block = first // b
        if whole:
            args = take_blocks, x.form(b), block, count // b
            expr = low.emit(*args, name="split", kind=INJECTIVE, marks={PART: block})
        else:
            expr = low.emit(take_channels, x.form(b), first, count, name="split", kind=INJECTIVE)
        parts.append(low.blocked((x.shape[0], count, *x.shape[2:]), x.dtype, b, expr))
        first += count
    return parts


CONVERTERS: dict[str, Converter] = {"Slice": slices, "Split": split}
