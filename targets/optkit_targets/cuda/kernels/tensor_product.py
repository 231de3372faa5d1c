"""Products of two activations on tensor cores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tvm import tirx

from optkit.compiler.operator import BATCH_MATMUL, Operator
from optkit.compiler.operators.common import unflatten
from optkit_targets.cpu.kernels.tools import View, inline_rest
from optkit_targets.cuda.kernels.device_code import SHORT
from optkit_targets.cuda.kernels.tensor import (
    LARGEST_GRID,
    STEP,
    Axes,
    TensorCoreRule,
    Tiled,
    compute_product,
    from_outside,
    shape,
)
from optkit_targets.cuda.kernels.tensor_matmul import VECTOR
from optkit_targets.cuda.kernels.tiles import Tile


class TensorProductRule(TensorCoreRule):
    """Takes batches of products, not of bytes, (M, K) x (K, N) or (N, K), whose rows are whole vectors."""

    name, template, kind = "cuda.tensor_product", "batch_gemm", BATCH_MATMUL
    mark, beside = "matmul", frozenset({"pack", "crop"})

    def find(self, view: View, operator: Operator) -> Tiled | None:
        """Of known extents; leading axes are equal, or 1 in one of the two."""
        sch, block = view.sch, view.ops["matmul"]
        if operator.kind != BATCH_MATMUL or operator.compute == "int8" or "pack" not in view.ops:
            return None
        batch, m, k, n = operator.sizes
        vector = VECTOR[operator.compute]
        left, right = _operands(view)
        sums, out = (shape(sch.get(b).writes[0].source) for b in (block, view.last))
        lead = _lead(out, operator)
        if lead is None or sums != [*lead, m, n // SHORT, SHORT] or batch > LARGEST_GRID:
            return None
        if k % vector or k < STEP[operator.compute] or n % SHORT or str(right.dtype) != str(left.dtype):
            return None
        transposed = _transposed(view)
        if not transposed and n % vector:
            return None
        second = [n, k] if transposed else [k, n]
        for buffer, ends in ((left, [m, k]), (right, second)):
            extents = shape(buffer)
            if extents is None or extents[-2:] != ends or not from_outside(view, buffer):
                return None
        numbers = k // SHORT, n, m, int(transposed)
        return Tiled(operator, "OptkitProduct", numbers, batch)

    def schedule(self, view: View, found: Tiled, tile: Tile) -> Any:
        """Threads of a tile are neighbouring columns, which lie side by side."""
        sch, product = view.sch, view.ops["matmul"]
        operands = _operands(view)
        extents = [shape(buffer) or [] for buffer in operands]
        lead = _lead(shape(sch.get(view.last).writes[0].source), found.operator) or []
        inline_rest(view, [product])
        *outer, m, n = sch.get_loops(view.last)
        images = (sch.fuse(*outer) if len(outer) > 1 else outer[0],) if outer else ()
        columns, v = sch.split(n, [None, SHORT])

        def place(loops: Sequence[Any]) -> list[tuple[Any, Sequence[Any]]]:
            at = unflatten(loops[0], lead) if loops else []
            return [
                (buffer, [p if e != 1 else 0 for p, e in zip(at, whole[:-2], strict=True)])
                for buffer, whole in zip(operands, extents, strict=True)
            ]

        def index(i: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
            image = functools.reduce(lambda flat, e: flat * e[1] + e[0], zip(i[:-3], lead, strict=True), 0)
            return image, i[-2], i[-3], i[-1]

        return compute_product(view, product, found, tile, place, Axes(images, m, columns, v, index))


def _operands(view: View) -> tuple[Any, Any]:
    """Left and right operand, as they come."""
    packed = view.sch.get(view.ops["pack"]).writes[0].source
    reads = [read.source for read in view.sch.get(view.ops["matmul"]).reads]
    (left,) = [buffer for buffer in reads if not buffer.same_as(packed)]
    return left, view.sch.get(view.ops["pack"]).reads[0].source


def _lead(out: list[int] | None, operator: Operator) -> list[int] | None:
    """The leading extents of a result of this operator; None where it is laid out in another way."""
    _, m, _, n = operator.sizes
    return out[:-2] if out is not None and out[-2:] == [m, n] else None


def _transposed(view: View) -> bool:
    """Whether the right operand's rows are columns of what is multiplied."""
    block = view.sch.get(view.ops["pack"])
    step = block.iter_vars[-2].var
    value = block.body.value
    while isinstance(value, tirx.Cast):
        value = value.value
    return any(var.same_as(step) for var in tirx.analysis.undefined_vars(value.indices[-1]))
