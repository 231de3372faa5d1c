"""Matrix products on tensor cores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optkit.compiler.operator import MATMUL, OPERATOR, Operator
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, annotation, inline_rest, look, read_dtype, same
from optkit_targets.cuda.kernels.tensor import (
    GROUP,
    SHORT,
    SPACE,
    STEP,
    SUM,
    THREADS,
    WEIGHT,
    Sums,
    has_tensor_cores,
    tile_size,
    use_device_code,
)

ROWS = 16
"""Rows of an instruction; of fewer most of its work would be for nothing."""
VECTOR = {"uint8": 16, "float16": 8}
"""Elements of 16 bytes, which a row is copied in."""


@dataclass(frozen=True)
class Product:
    """What is computed: the numbers that device code is made for."""

    dtype: str
    operator: Operator

    def call(self, rows: int, columns: int) -> str:
        """The device function."""
        s = self.operator.named()
        return (
            f"OptkitMatmul<{SUM[self.dtype]}, {rows}, {columns}, {s['k'] // SHORT}, {s['n'] // SHORT}, {s['m']}>::run"
        )


class TensorMatmulRule:
    """Takes products of bytes and halves with constant weights, whose rows are whole vectors."""

    name = "cuda.tensor_matmul"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: a tile of `rows` and `columns`."""
        if not has_tensor_cores(target):
            return None
        found = _product(look(func))
        if found is None:
            return None
        s = found.operator.named()

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), found, chosen["rows"], chosen["columns"])

        compute = "int8" if found.dtype == "uint8" else found.dtype
        params = tile_size(1, s["m"], s["n"], target.cores)
        return [Choice(self.name, "gemm", 1, params, SPACE, apply, found.operator.macs(), compute)]


def _product(view: View) -> Product | None:
    if "matmul" not in view.ops or set(view.ops) - {"matmul", "crop"}:
        return None
    sch, block = view.sch, view.ops["matmul"]
    text = annotation(sch, block, OPERATOR)
    if text is None or same(sch, block, view.last):
        return None
    operator, dtype = Operator.parse(str(text)), read_dtype(sch, block)
    if operator.kind != MATMUL or dtype not in STEP:
        return None
    m, k, n = operator.sizes
    if m < ROWS or k < STEP[dtype] or k % VECTOR[dtype] or n % SHORT:
        return None
    reads = [read.source for read in sch.get(block).reads]
    group = GROUP[dtype]
    if len(reads) != 2 or str(reads[1].dtype) != WEIGHT[dtype]:
        return None
    data, weights, sums = (list(map(int, b.shape)) for b in (*reads, sch.get(block).writes[0].source))
    if weights != [n // SHORT, k // group, SHORT, group] or sums != [m, n // SHORT, SHORT]:
        return None
    if data[-1] != k or math.prod(data) != m * k:
        return None
    if any(write.source.same_as(reads[0]) for b in view.blocks for write in sch.get(b).writes):
        return None
    return Product(dtype, operator)


def schedule(view: View, found: Product, rows: int, columns: int) -> Any:
    """Apply the template."""
    sch, product = view.sch, view.ops["matmul"]
    inline_rest(view, [product])
    *lead, n = sch.get_loops(view.last)
    down, mi = sch.split(sch.fuse(*lead) if len(lead) > 1 else lead[0], [None, rows])
    across, ci, v = sch.split(n, [None, columns // SHORT, SHORT])
    sch.reorder(across, down, mi, ci, v)
    for loop, axis in ((across, "blockIdx.y"), (down, "blockIdx.x")):
        sch.bind(loop, axis)
    sch.compute_at(product, down, preserve_unit_loops=True)
    sch.set_scope(product, 0, "shared")
    # Neighbouring threads write neighbouring columns.
    _, thread = sch.split(sch.fuse(mi, ci), [None, THREADS])
    sch.bind(thread, "threadIdx.x")
    sch.vectorize(v)
    outermost, column, row = (sch.get(loop).loop_var for loop in (sch.get_loops(product)[2], across, down))
    name = found.call(rows, columns)
    sums = Sums(name, "tensor_matmul", outermost, column, row, rows, columns, lambda i: (i[1], i[0], i[2]))
    return use_device_code(sch, sums)
