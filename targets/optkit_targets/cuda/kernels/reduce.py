"""Reductions: warps share rows that lie in one piece, of others a thread has a result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.s_tir import Schedule, ScheduleError

from optkit.compiler.operators.scalars import Scalar, smallest
from optkit.compiler.operators.scalars import largest as greatest
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import REDUCE, View, extent, finish, kinds, look, read_dtype, same
from optkit_targets.cuda.kernels.tools import WARP, largest, launch, load_stage, staged, unroll

_FEW = 16
"""Elements of a row that a thread reduces no slower than a warp does."""
_LONG = 2048
"""Elements of a row that several warps share where rows are few."""
_WARPS = 8
"""Of a multiprocessor, before which rows are few."""
_AHEAD = 8
"""Loads in flight of a thread."""


class ReduceRule:
    """Takes functions with one block that reduces; others are inlined, or follow element by element."""

    name = "cuda.reduce"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `lanes` threads a row, `threads` threads a block."""
        view = look(func)
        block = _inlined(view)
        if block is None:
            return None
        rows, length = (_product(view.sch, loops) for loops in kinds(view.sch, block))
        lanes: tuple[int, ...] = (1,)
        if _in_one_piece(view.sch, block) and (length is None or length > _FEW):
            few = rows is not None and rows < target.cores * _WARPS and (length or 0) >= _LONG
            lanes = (256, WARP) if few else (WARP, 256)

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen["lanes"], chosen["threads"])

        params, space = {"lanes": lanes[0], "threads": 256}, {"lanes": lanes, "threads": (256, 512)}
        return [Choice(self.name, "reduce", 1, params, space, apply, compute=read_dtype(view.sch, block))]


def _inlined(view: View) -> Any:
    """The block that reduces, with all but the output inlined; None where there is another or nothing follows it."""
    sch = view.sch
    for block in view.blocks:
        axes = sch.get(block).iter_vars
        if len(sch.get_loops(block)) != len(axes) or any(axis.iter_type not in (0, REDUCE) for axis in axes):
            return None
    found = [block for block in view.blocks if kinds(sch, block)[1]]
    if len(found) != 1:
        return None
    (block,) = found
    try:
        for other in view.blocks[:-1]:
            if not same(sch, other, block):
                sch.compute_inline(other)
    except ScheduleError:
        return None
    sizes = [[extent(sch, loop) for loop in kinds(sch, b)[0]] for b in (block, view.last)]
    # Open extents are no numbers: then there have to be as many axes.
    alike = len(sizes[0]) == len(sizes[1]) if None in sizes[0] + sizes[1] else _of(sizes[0]) == _of(sizes[1])
    return block if alike else None


def _of(sizes: list[int | None]) -> int | None:
    return None if None in sizes else math.prod(size or 1 for size in sizes)


def _product(sch: Schedule, loops: list[Any]) -> int | None:
    """Iterations; None where a loop is open."""
    return _of([extent(sch, loop) for loop in loops])


def _in_one_piece(sch: Schedule, block: Any) -> bool:
    """Whether neighbours in memory are of one row."""
    body = sch.get(block)
    spatial = [axis.var for axis in body.iter_vars if axis.iter_type != REDUCE]
    along = []
    for read in body.reads:
        region = [r for r, size in zip(read.region, read.source.shape, strict=True) if size != 1] or read.region
        used = tirx.analysis.undefined_vars(region[-1].min)
        along.append(not any(var.same_as(axis) for var in used for axis in spatial) and bool(used))
    return bool(along) and all(along)


def schedule(view: View, lanes: int, threads: int) -> Any:
    """Apply the template."""
    block = _inlined(view)
    return _shared(view, block, lanes, threads) if lanes > 1 else _alone(view, block, threads)


def _shared(view: View, block: Any, lanes: int, threads: int) -> Any:
    """Lanes reduce every so many elements of a row, then what they have."""
    sch = view.sch
    out = None if same(sch, view.last, block) else view.last
    spatial, steps = kinds(sch, block)
    if not spatial:
        spatial = [sch.add_unit_loop(steps[0])]
    sch.fuse(*spatial)
    _, lane = sch.split(sch.fuse(*steps), [None, lanes])
    part = sch.rfactor(lane, 0)
    row, step, lane = sch.get_loops(part)
    rows, row = sch.split(row, [None, largest(extent(sch, row) or 1, threads // lanes)])
    for loop, axis in ((rows, "blockIdx.x"), (row, "threadIdx.y"), (lane, "threadIdx.x")):
        sch.bind(loop, axis)
    step, few = sch.split(step, [None, min(_AHEAD, extent(sch, step) or 1)])
    sch.reorder(lane, step, few)
    sch.unroll(few)
    sch.decompose_reduction(part, step)
    sch.reverse_compute_at(block, row, preserve_unit_loops=True)
    lane, *ones = sch.get_loops(block)[2:]
    if ones:
        sch.reorder(*ones, lane)
    sch.bind(lane, "threadIdx.x")
    _keep(sch, part)
    if out is not None:
        _keep(sch, block)
        sch.reverse_compute_at(out, row, preserve_unit_loops=True)
    return finish(sch)


def _alone(view: View, block: Any, threads: int) -> Any:
    """Neighbouring threads have neighbouring results."""
    sch = view.sch
    spatial, steps = kinds(sch, block)
    length = _product(sch, steps)
    row = len(steps) == 1 and length is not None and length <= _FEW and _in_one_piece(sch, block) and staged(sch, block)
    if not spatial:
        spatial = [sch.add_unit_loop(steps[0])]
    # Where no thread is idle, loads stand behind no condition and are made together.
    exact = largest(_product(sch, spatial) or 1, threads)
    out = sch.cache_write(block, 0, "local") if same(sch, view.last, block) else view.last
    thread = launch(sch, spatial, exact if exact >= WARP else threads)
    sch.reverse_compute_at(out, thread, preserve_unit_loops=True)
    _keep(sch, block)
    steps = sch.get_loops(block)[-len(steps) :]
    if row:
        load_stage(sch, block, 0, thread, 1)
    if length is not None and length <= 4 * _FEW:
        unroll(sch, steps)
    elif (size := extent(sch, steps[-1])) is not None:
        outer, inner = sch.split(steps[-1], [None, largest(size, _AHEAD)])
        steps = [*steps[:-1], outer]
        sch.unroll(inner)
    sch.decompose_reduction(block, steps[0])
    return finish(sch)


def _keep(sch: Schedule, block: Any) -> None:
    """What a block writes, in registers."""
    for i in range(len(sch.get(block).writes)):
        sch.set_scope(block, i, "local")


def _register(name: str, step: Scalar, limit: Any, infinity: float) -> None:
    """Tell TVM that maxima (minima) through which NaNs go may be made of parts.

    As global functions, which outlive Python: TVM keeps its reducers until after that has ended.
    """

    def combined(a: Any, b: Any) -> list[Any]:
        return [step(a[0], b[0])]

    def least(values: Any) -> list[Any]:
        dtype = str(values[0].ty.dtype)
        if dtype.startswith("float"):
            return [tirx.const(infinity, dtype)]
        return [limit(dtype) if "int" in dtype else tirx.const(0, dtype)]

    functions = [
        tvm_ffi.register_global_func(f"optkit.{name}.{function.__name__}", function, override=True)
        for function in (combined, least)
    ]
    tvm_ffi.get_global_func("s_tir.schedule.RegisterReducer")(1, *functions)


_register("greatest", greatest, tirx.min_value, float("-inf"))
_register("smallest", smallest, tirx.max_value, float("inf"))
