"""If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from tvm import relax

from optkit.compiler.converters.repeat import loop, scan
from optkit.compiler.lists import like, make, tensors
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.subgraphs import Captured, define, equal, refine, scalar, settle
from optkit.compiler.values import Value, dims
from optkit.errors import UnsupportedError


def if_(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value] | None:
    """If: a function that calls the function of one branch; a constant condition leaves one branch alone.

    Refuses branches whose outputs differ in rank or in the length of a sequence.
    """
    condition = inputs[0]
    then, other = node.get("then_branch"), node.get("else_branch")
    if condition is None or then is None or other is None:
        return None
    if condition.const is not None:
        return low.inline(then if bool(condition.const.reshape(-1)[0]) else other, [])
    captured = Captured(low, then, other)
    sides = [_branch(low, f"{low.node}_{word}", g, captured) for word, g in (("then", then), ("else", other))]
    (first, results), (second, others) = sides
    _check(node, results, others)

    def body(params: list[Any]) -> Any:
        return relax.If(params[0], first.call(params[1:]), second.call(params[1:]))

    flag = scalar(low, condition)
    choose = define(low, low.node, [flag.ty, *captured.types], body)
    found = low.bind(choose.call([flag, *captured.arguments]))
    pairs = list(zip(tensors(results), tensors(others), strict=True))
    declared = [output for output, r in zip(node.source.outputs, results, strict=False) for _ in tensors([r])]
    leaves = [_join(low, low.bind(relax.TupleGetItem(found, i)), a, b, declared[i]) for i, (a, b) in enumerate(pairs)]
    rest = iter(leaves)
    return [like(result, rest) for result in results]


def _branch(low: Lowering, name: str, graph: ir.Graph, captured: Captured) -> tuple[Any, list[Value]]:
    results: list[Value] = []

    def body(params: list[Any]) -> Any:
        with captured.inside(params):
            results.extend(low.inline(graph, []))
            return relax.Tuple([low.tensor(v) for v in tensors(results)])

    return define(low, name, captured.types, body, dataflow=True), results


def _check(node: Node, results: Sequence[Value], others: Sequence[Value]) -> None:
    where = f"node {node.name!r} (If)"
    if [make(r) for r in results] != [make(o) for o in others]:
        raise UnsupportedError(
            f"{where}: its branches give sequences of different lengths, or one gives an empty optional; "
            "which one is known only when the model runs"
        )
    for a, b in zip(tensors(results), tensors(others), strict=True):
        if a.dtype != b.dtype and "shape" not in (a.dtype, b.dtype):
            raise UnsupportedError(f"{where}: its branches give {a.dtype} and {b.dtype}")
        if a.dtype != "shape" and b.dtype != "shape" and len(a.shape) != len(b.shape):
            raise UnsupportedError(
                f"{where}: its branches give {len(a.shape)} and {len(b.shape)} dimensions, and which one is known "
                "only when the model runs; make the condition a constant, or the branches alike"
            )


def _join(low: Lowering, expr: Any, a: Value, b: Value, declared: ir.Value) -> Value:
    """One shape for what either branch gives: extents that differ are found when the model runs."""
    dtype = "int64" if a.dtype == "shape" else a.dtype
    if expr.ty.shape is not None:
        return refine(low, expr, dims(expr.ty.shape.values), dtype)
    shape = [
        x if isinstance(x, int) and equal(x, y) else settle(low, declared, axis)
        for axis, (x, y) in enumerate(zip(a.shape, b.shape, strict=True))
    ]
    return refine(low, expr, shape, dtype)


CONVERTERS: dict[str, Converter] = {"If": if_, "Loop": loop, "Scan": scan}
