"""Reductions and their kin: axes as attributes, constants, or tensors that only the running model knows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import tvm_ffi
from tvm import relax, te, tirx

from optkit.compiler.converters import cumulative, pool
from optkit.compiler.converters.dynamic import complete, runtime_extents
from optkit.compiler.converters.extents import declared, refuse, tensor, vector
from optkit.compiler.converters.rows import row_kind, row_lanes, rows_of
from optkit.compiler.converters.shapes import reshaped
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import plans
from optkit.compiler.operators import reductions as define
from optkit.compiler.operators.rows import reduced as row_reduced
from optkit.compiler.values import Value

_TVM = ("float32", "float16")
_ROWS = ("ReduceMean", *(name for name, reduction in define.REDUCTIONS.items() if reduction.combine != "prod"))


def reduce(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Any of the Reduce operators, on any type of number."""
    x, axes = inputs[0], inputs[1] if len(inputs) > 1 else None
    assert x is not None
    if node.op_type in ("ReduceMean", "ReduceMax"):
        pooled = pool.reduce_images(low, node, inputs)
        if pooled is not None:
            return pooled
    rank, keep = len(x.shape), bool(node.get("keepdims", 1))
    known = _known_axes(node, axes, rank)
    if known is None:
        known = _declared_axes(x.shape, declared(low, node), keep)
    if known is None:
        assert axes is not None
        return _named(low, node, x, axes)
    extents = [x.shape[d] for d in known]
    if _along_rows(low, node, x, known):
        return _by_rows(low, node, x, known)
    if known and x.dtype in _TVM and x.const is None and not define.empty(extents) and axes is not None:
        return _by_tvm(low, node, x, known)
    return _typed(low, node, x, lambda data: define.along(data, known, keep), math.prod(extents))


def _along_rows(low: Lowering, node: Node, x: Value, axes: Sequence[int]) -> bool:
    """Whether a reduction is one of rows that lie in one piece, which a CPU's vectors share."""
    if low.target.device != "cpu" or x.dtype not in _TVM or x.const is not None or node.op_type not in _ROWS:
        return False
    inner = [d for d, extent in enumerate(x.shape) if extent != 1]
    reduced = [d for d in inner if d in axes]
    length = math.prod(x.shape[d] for d in reduced)
    short = isinstance(length, int) and length < 2 * low.target.lanes
    return bool(reduced) and not short and inner[-len(reduced) :] == reduced


def _by_rows(low: Lowering, node: Node, x: Value, axes: Sequence[int]) -> Value:
    rows = rows_of(low, x, axes)
    reduction = define.REDUCTIONS["ReduceSum" if node.op_type == "ReduceMean" else node.op_type]

    def kernel(data: te.Tensor) -> te.Tensor:
        return row_reduced(data, row_lanes(low), reduction, data.shape[-1] if node.op_type == "ReduceMean" else None)

    made = low.emit(kernel, rows.expr, name=node.op_type.lower(), kind=row_kind(low))
    keep = bool(node.get("keepdims", 1))
    return reshaped(
        low, made, [1 if d in axes else extent for d, extent in enumerate(x.shape) if keep or d not in axes]
    )


def _known_axes(node: Node, axes: Value | None, rank: int) -> list[int] | None:
    """Axes that are known at compile time, ascending; None where a tensor holds them."""
    if axes is not None and axes.const is None and axes.shape != (0,):
        return None
    given = node.get("axes") if axes is None else [] if axes.const is None else axes.const.reshape(-1).tolist()
    if not given:
        return [] if node.get("noop_with_empty_axes", 0) else list(range(rank))
    found = sorted({int(a) % rank for a in given if -rank <= int(a) < rank})
    if len(found) != len(set(given)):
        raise refuse(node, f"axes {list(given)} are not axes of a tensor of rank {rank}")
    return found


def _declared_axes(shape: Sequence[Any], result: list[Any] | None, keep: bool) -> list[int] | None:
    """The axes that lead from one shape to another; None where several sets do, or an extent is open."""
    if result is None or any(d is None for d in result):
        return None
    same = tvm_ffi.structural_equal
    if keep:
        return [d for d, (a, b) in enumerate(zip(shape, result, strict=True)) if not same(a, b)]
    found = {}
    for axes in itertools.combinations(range(len(shape)), len(shape) - len(result)):
        rest = [shape[d] for d in range(len(shape)) if d not in axes]
        if all(same(a, b) for a, b in zip(rest, result, strict=True)):
            # sets that differ in axes of one element only give the same numbers
            found[tuple(d for d in axes if not same(shape[d], 1))] = list(axes)
    return next(iter(found.values())) if len(found) == 1 else None


def _by_tvm(low: Lowering, node: Node, x: Value, axes: list[int]) -> Value | None:
    """Float reductions over known axes as Relax operators, which fuse with their neighbours."""
    keep = bool(node.get("keepdims", 1))
    # TVM's maximum of a row of -inf is the lowest finite number, so maxima and minima are ours.
    simple = {"ReduceSum": "sum", "ReduceMean": "mean"}
    name = simple.get(node.op_type)
    if name is None:
        return _typed(low, node, x, lambda data: define.along(data, axes, keep), math.prod(x.shape[d] for d in axes))
    return low.wrap(getattr(relax.op, name)(x.plain(), axis=axes, keepdims=keep))


def _named(low: Lowering, node: Node, x: Value, axes: Value) -> Value:
    """Axes that only the tensor knows."""
    keep, none = bool(node.get("keepdims", 1)), bool(node.get("noop_with_empty_axes", 0))
    if len(axes.shape) != 1 or not isinstance(axes.shape[0], int):
        raise refuse(node, "how many axes it reduces is known only at run time; make the axes a constant")
    data = tensor(low, x)
    flags = low.emit(plans.named, vector(low, axes, "int64"), data, none, name="named")
    shape = complete(low, node)
    if shape is None:
        rank = len(x.shape) if keep else len(x.shape) - axes.shape[0]
        shape = runtime_extents(low, low.emit(plans.reduced, flags, data, rank, keep, name="sizes"), rank, low.node)
    size, elements = math.prod(shape), math.prod(x.shape)
    if isinstance(size, int) and isinstance(elements, int):
        fold: Any = elements // max(size, 1)
    else:
        fold = tirx.floordiv(elements, size)
    flat = _typed(low, node, x, define.along_named, fold, flags, size, fold)
    return reshaped(low, flat.plain(), shape)


def _typed(low: Lowering, node: Node, x: Value, domain: Any, count: Any, *more: Any) -> Value:
    """The operator over `domain(data, *more)`, in a type wide enough; `count` or the last of `more` are reduced."""
    dtype = "int64" if x.dtype == "shape" else x.dtype
    reduction = define.REDUCTIONS.get(node.op_type)
    wide = {"float16": "float32", "bool": "int8"}.get(dtype, dtype)
    if node.op_type == "ReduceMean" and not dtype.startswith("float"):
        wide = "int64"
    elif (node.op_type == "ReduceLogSumExp" or (reduction and reduction.real)) and not dtype.startswith("float"):
        wide = "float64"

    def body(data: te.Tensor, *given: Any) -> te.Tensor:
        over = domain(data, *given)
        if node.op_type == "ReduceMean":
            return define.mean(over, given[-1] if given else count, wide, dtype)
        if node.op_type == "ReduceLogSumExp":
            return define.log_sum_exp(over, wide, dtype)
        assert reduction is not None
        return define.reduce(over, reduction, wide, dtype)

    return low.wrap(low.emit(body, tensor(low, x), *more, name=node.op_type.lower()))


CONVERTERS: dict[str, Converter] = {
    **dict.fromkeys([*define.REDUCTIONS, "ReduceMean", "ReduceLogSumExp"], reduce),
    **cumulative.CONVERTERS,
}
