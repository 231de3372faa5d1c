"""Matrix products on tensor cores."""

from __future__ import annotations

import math
from typing import Any

from optkit.compiler.operator import MATMUL, Operator
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
        """Of any number of leading axes, none of them open."""
        sch, block = view.sch, view.ops["matmul"]
        if operator.kind != MATMUL:
            return None
        m, k, n = operator.sizes
        if k < STEP[operator.compute] or k % VECTOR[operator.compute] or n % SHORT:
            return None
        vector = VECTOR[operator.compute]
        if not constant_weights(view, block, operator.compute, [n // SHORT, k // vector, SHORT, vector]):
            return None
        source = sch.get(block).reads[0].source
        data, sums, out = (
            shape(buffer) for buffer in (source, *(sch.get(b).writes[0].source for b in (block, view.last)))
        )
        if data is None or out is None or sums != [m, n // SHORT, SHORT] or not from_outside(view, source):
            return None
        if (data[-1], math.prod(data), out[-1], math.prod(out)) != (k, m * k, n, m * n):
            return None
        numbers = vector // WORD[operator.compute], k // vector, n // SHORT, m
        return Tiled(operator, "OptkitMatmul", numbers)

    def schedule(self, view: View, found: Tiled, tile: Tile) -> Any:
        """Threads of a tile are neighbouring columns, which lie side by side."""
        sch, product = view.sch, view.ops["matmul"]
        reads = [read.source for read in sch.get(product).reads]
        inline_rest(view, [product])
        *lead, n = sch.get_loops(view.last)
        rows = sch.fuse(*lead) if len(lead) > 1 else lead[0]
        columns, v = sch.split(n, [None, SHORT])
        axes = Axes((), rows, columns, v, lambda i: (0, i[1], i[0], i[2]))
        return compute_product(view, product, found, tile, lambda _: [(buffer, ()) for buffer in reads], axes)
