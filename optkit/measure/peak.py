"""What the arithmetic of a CPU can do at most, measured: chains of multiply-adds that stay in registers."""

from __future__ import annotations

import time
from typing import Any

import ml_dtypes
import numpy as np
import tvm
from tvm import te

from optkit.compiler.build import tvm_target
from optkit.compiler.operators.common import BITS, OP, accumulator, factor
from optkit.compiler.planning import instruction_terms
from optkit.compiler.schedule import schedule_module
from optkit.compiler.stack import pipeline
from optkit.errors import CompileError
from optkit.target import Target

ROWS = 4
"""Of the tile: with two or four vectors of columns, more sums than latency times ports and fewer than registers."""
_STEPS, _ROUNDS, _VECTORS = 1 << 16, 25, 8
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
    terms, lanes = instruction_terms(compute, target), target.lanes
    if compute == "bfloat16" and terms == 1:
        compute = "float32"  # no instruction for it: bfloat16 is widened
    left, right = _TYPES.get(compute, _TYPES["float32"])
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
    out = te.compute(
        (ROWS, blocks * lanes), lambda m, n: tile[m, n // lanes, n % lanes], name="crop", attrs={OP: "crop"}
    )
    machine = tvm_target(target)
    with machine:
        module, _ = schedule_module(tvm.IRModule({"probe": te.create_prim_func([data, weight, out])}), target)
        named = module["probe"].with_attr("global_symbol", "probe")
        probe = tvm.compile(tvm.IRModule({"probe": named}), machine, tir_pipeline=pipeline())["probe"]
    arguments = [
        tvm.runtime.tensor(np.zeros([int(d) for d in t.shape], str(t.dtype)) + _one(str(t.dtype)))
        for t in (data, weight)
    ]
    arguments.append(tvm.runtime.tensor(np.zeros((ROWS, blocks * lanes), kind)))
    best = min(_seconds(probe, arguments) for _ in range(_ROUNDS))
    return 2.0 * ROWS * blocks * lanes * terms * _STEPS / best


def _one(dtype: str) -> Any:
    half = np.array(0.5, ml_dtypes.bfloat16).view(np.uint16)
    return half if dtype == BITS else np.asarray(1, dtype)


def _seconds(probe: Any, arguments: list[Any]) -> float:
    begin = time.perf_counter()
    probe(*arguments)
    return time.perf_counter() - begin
