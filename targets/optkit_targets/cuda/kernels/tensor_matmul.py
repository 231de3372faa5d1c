"""Matrix products on tensor cores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from optkit.compiler.operator import MATMUL, Operator
from optkit.compiler.operators.common import static
from optkit.compiler.operators.matmul import row_split
from optkit_targets.cpu.kernels.tools import View, inline_rest
from optkit_targets.cuda.kernels.device_code import SHORT
from optkit_targets.cuda.kernels.tensor import (
    STEP,
    WORD,
    Axes,
    TensorCoreRule,
    Tiled,
    compute_product,
    constant_weights,
    from_outside,
    shape,
)
from optkit_targets.cuda.kernels.tiles import Tile

VECTOR = {compute: 4 * terms for compute, terms in WORD.items()}
"""Elements of 16 bytes, which a row is copied in."""


class TensorMatmulRule(TensorCoreRule):
    """Takes products with constant weights, whose rows are whole vectors.

    Of a single row too: most of an instruction's work is for nothing then, but weights are read as fast as they come.
    """

    name, template, kind = "cuda.tensor_matmul", "gemm", MATMUL
    mark, beside = "matmul", frozenset({"crop"})

    def find(self, view: View, operator: Operator) -> Tiled | None:
        """Of any number of leading axes, open ones among them: rows are one list."""
        sch, block = view.sch, view.ops["matmul"]
        if operator.kind != MATMUL:
            return None
        _, k, n = operator.sizes
        if k < STEP[operator.compute] or k % VECTOR[operator.compute] or n % SHORT:
            return None
        vector = VECTOR[operator.compute]
        together = int(sch.get(block).reads[1].source.shape[2])  # columns
        if not constant_weights(view, block, operator.compute, [n // together, k // vector, together, vector]):
            return None
        source = sch.get(block).reads[0].source
        sums, out = (sch.get(b).writes[0].source for b in (block, view.last))
        *lead, depth = static(source.shape)
        batch, rows = row_split([*lead, depth])
        if depth != k or not from_outside(view, source) or static(out.shape)[-1] != n:
            return None
        if static(sums.shape)[len(batch) :] != [rows, n // together, together] or len(sums.shape) != len(batch) + 3:
            return None
        # What ends in another shape has as many numbers; of open extents it has to be the product's own.
        if len(out.shape) != len(lead) + 1 if batch else math.prod(shape(out) or ()) != rows * n:
            return None
        numbers = vector // WORD[operator.compute], together // SHORT, k // vector, n // SHORT, 0 if batch else rows
        return Tiled(operator, "OptkitMatmul", numbers, None if batch else 1, fours=together // SHORT)

    def schedule(self, view: View, found: Tiled, tile: Tile) -> Any:
        """Threads of a tile are neighbouring columns, which lie side by side."""
        sch, product = view.sch, view.ops["matmul"]
        reads = [read.source for read in sch.get(product).reads]
        data = static(reads[0].shape)
        batch, inner = row_split(data)
        inline_rest(view, [product])
        *lead, n = sch.get_loops(view.last)
        rows = sch.fuse(*lead) if len(lead) > 1 else lead[0]
        columns, v = sch.split(n, [None, SHORT])
        fours = static(reads[1].shape)[2] // SHORT

        def index(i: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
            *at, o, column = i
            row = at[0]
            for extent, place in zip([*batch, inner][1:], at[1:], strict=True):
                row = row * extent + place
            return 0, o * fours + column // SHORT, row, column % SHORT

        axes = Axes((), rows, columns, v, index)
        count = [math.prod(data[:-1])] if batch else []
        return compute_product(view, product, found, tile, lambda _: [(buffer, ()) for buffer in reads], axes, count)
