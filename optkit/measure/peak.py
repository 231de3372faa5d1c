"""What the arithmetic of a CPU can do at most, measured: chains of multiply-adds that stay in registers."""

from __future__ import annotations

import time
from typing import Any

import ml_dtypes
import numpy as np
import tvm
from tvm import te

from optkit.compiler.build import tvm_target
from optkit.compiler.matrix_tiles import BYTES as TILE_BYTES
from optkit.compiler.matrix_tiles import COLUMNS
from optkit.compiler.matrix_tiles import ROWS as TILE_ROWS
from optkit.compiler.operators.common import BITS, OP, accumulator, factor
from optkit.compiler.planning import in_tiles, instruction_terms
from optkit.compiler.schedule import schedule_module
from optkit.compiler.stack import pipeline
from optkit.errors import CompileError
from optkit.target import Target

ROWS = 4
"""Of the tile: with two or four vectors of columns, more sums than latency times ports and fewer than registers."""
_STEPS, _ROUNDS, _VECTORS, _PLACES = 1 << 16, 25, 8, 4
_TYPES = {"float32": ("float32", "float32"), "int8": ("uint8", "int8"), "bfloat16": (BITS, BITS)}


def measure_peak(target: Target, compute: str) -> float:
    """Operations a second, a multiply-add counted as two, that one core does in this arithmetic.

    The loop is a matrix product of a register tile by the target's own rules, over so few operands that they stay in
    registers, but for a vector a step that lies in the nearest cache. float16 is computed in float32.

    Raises:
        CompileError: the target does not run here.
    """
    reason = target.runs_here()
    if reason is not None:
        raise CompileError(f"a peak can only be measured where the code runs: {reason}")
    terms = instruction_terms(compute, target)
    if compute == "bfloat16" and terms == 1:
        compute = "float32"  # no instruction for it: bfloat16 is widened
    kinds = _TYPES.get(compute, _TYPES["float32"])
    operands, operations = (_tiles if in_tiles(compute, target) else _vectors)(kinds, terms, target)
    machine = tvm_target(target)
    with machine:
        module, _ = schedule_module(tvm.IRModule({"probe": te.create_prim_func(operands)}), target)
        named = module["probe"].with_attr("global_symbol", "probe")
        probe = tvm.compile(tvm.IRModule({"probe": named}), machine, tir_pipeline=pipeline())["probe"]
    *reads, out = operands
    arguments = [
        tvm.runtime.tensor(np.zeros([int(d) for d in t.shape], str(t.dtype)) + _one(str(t.dtype))) for t in reads
    ]
    arguments.append(tvm.runtime.tensor(np.zeros([int(d) for d in out.shape], str(out.dtype))))
    return operations / min(_seconds(probe, arguments) for _ in range(_ROUNDS))


def _vectors(kinds: tuple[str, str], terms: int, target: Target) -> tuple[list[te.Tensor], float]:
    """A product in vector registers, and its operations."""
    (left, right), lanes = kinds, target.lanes
    blocks = 4 if target.registers >= 32 else 2
    data = te.placeholder((ROWS, terms), left, "data")
    weight = te.placeholder((_VECTORS + blocks, lanes, terms), right, "weight")
    k, r = te.reduce_axis((0, _STEPS), "k"), te.reduce_axis((0, terms), "r")
    kind = accumulator(left)

    def element(m: Any, o: Any, v: Any) -> Any:
        return te.sum(
            factor(data[m, r], data, kind) * factor(weight[k % _VECTORS + o, v, r], weight, kind), axis=[k, r]
        )

    attrs = {OP: "matmul", "optkit.rows": ROWS, "optkit.blocks": blocks}
    tile = te.compute((ROWS, blocks, lanes), element, name="matmul", attrs=attrs)
    return [data, weight, _crop(tile)], 2.0 * ROWS * blocks * lanes * terms * _STEPS


def _tiles(kinds: tuple[str, str], terms: int, target: Target) -> tuple[list[te.Tensor], float]:
    """A product in tile registers, two tiles of rows by two of columns, and its operations."""
    (left, right), rows, blocks, groups = kinds, 2 * TILE_ROWS, 2, TILE_BYTES // 4
    data = te.placeholder((_PLACES, rows, groups * terms), left, "data")
    weight = te.placeholder((_PLACES, blocks, groups, COLUMNS, terms), right, "weight")
    k, i, r = (te.reduce_axis((0, extent), name) for name, extent in (("k", _STEPS), ("i", groups), ("r", terms)))
    kind = accumulator(left)

    def element(m: Any, o: Any, v: Any) -> Any:
        read = factor(data[k % _PLACES, m, i * terms + r], data, kind)
        return te.sum(read * factor(weight[k % _PLACES, o, i, v, r], weight, kind), axis=[k, i, r])

    attrs = {OP: "matmul", "optkit.rows": rows, "optkit.tall": 2, "optkit.blocks": blocks}
    tile = te.compute((rows, blocks, COLUMNS), element, name="matmul", attrs=attrs)
    return [data, weight, _crop(tile)], 2.0 * rows * blocks * COLUMNS * groups * terms * _STEPS


def _crop(tile: te.Tensor) -> te.Tensor:
    rows, blocks, lanes = (int(d) for d in tile.shape)
    return te.compute(
        (rows, blocks * lanes), lambda m, n: tile[m, n // lanes, n % lanes], name="crop", attrs={OP: "crop"}
    )


def _one(dtype: str) -> Any:
    half = np.array(0.5, ml_dtypes.bfloat16).view(np.uint16)
    return half if dtype == BITS else np.asarray(1, dtype)


def _seconds(probe: Any, arguments: list[Any]) -> float:
    begin = time.perf_counter()
    probe(*arguments)
    return time.perf_counter() - begin
