"""Softmax and normalization: the threads of a warp share a row, those of several warps a long one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import DataType, s_tir, tirx

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, annotation, extent, finish, look, read_dtype, write_dtype
from optkit_targets.cuda.kernels.device_code import around, bound
from optkit_targets.cuda.kernels.tools import LOAD_BITS, MAX_THREADS, WARP, place_stage

_BLOCK = 128
"""Threads of a block of several rows."""
_THREADS = (4, 8, 16, *range(WARP, MAX_THREADS + 1, WARP))
_ROWS = (1, 2, 4, 8, 16, 32)
_FEW, _MANY = 8, 32
"""Elements of a thread before another warp takes part: where most multiprocessors have no row, and where they have."""
_REGISTERS = 64
"""Elements that a thread keeps; of more, every pass reads the row again."""
_VECTORS = {"float32", "float16", "int8", "uint8", "int32"}


class RowsRule:
    """Takes functions of rows with stages annotated "row_map" and "row_whole", a sum that threads may divide."""

    name = "cuda.rows"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `threads` threads a row, which load `lanes` elements at once, and `rows` rows a block."""
        view = look(func)
        sums = [b for b in view.blocks if _kind(view, b) == "row_whole"]
        if not sums or "row_map" not in view.ops:
            return None
        *lead, size = (extent(view.sch, loop) for loop in view.sch.get_loops(view.last))
        if any(extent(view.sch, view.sch.get_loops(b)[-1]) != size for b in sums):
            return None

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            if chosen["rows"] > 1 and chosen["threads"] > WARP:
                raise ValueError("rows that warps share have blocks of their own, for they wait for each other")
            if chosen["threads"] > WARP and (size is None or (chosen["threads"] - WARP) * chosen["lanes"] >= size):
                raise ValueError("a warp would have no part of the row, nor a sum of it")
            return schedule(look(function), chosen["threads"], chosen["rows"], chosen["lanes"])

        dtype = read_dtype(view.sch, sums[0])
        widest = LOAD_BITS // DataType(dtype).bits if dtype in _VECTORS else 1
        lanes = tuple(n for n in (1, 2, 4, 8) if n <= widest and (size or 1) % n == 0)
        count = 1
        for number in lead:
            count *= number or target.cores * _BLOCK
        threads = _threads(size, count, lanes[-1], target.cores)
        params = {"threads": threads, "rows": _rows(threads, count, target.cores), "lanes": lanes[-1]}
        space = {"threads": _THREADS, "rows": _ROWS, "lanes": lanes}
        return [Choice(self.name, "rows", 2, params, space, apply, compute=dtype)]


def _kind(view: View, block: Any) -> str:
    return str(annotation(view.sch, block, "optkit.op") or "")


def _threads(size: int | None, count: int, lanes: int, cores: int) -> int:
    """Threads of one of `count` rows: one a vector up to a warp, more where these would have too much to do."""
    if size is None:
        return WARP
    vectors, each = -(-size // lanes), _FEW if count * 4 <= cores else _MANY
    wanted = max(min(vectors, WARP), min(-(-size // each), -(-vectors // WARP) * WARP))
    return next((n for n in _THREADS if n >= wanted), MAX_THREADS)


def _rows(threads: int, count: int, cores: int) -> int:
    """Rows of a block: several, as long as every multiprocessor has a block."""
    rows = _BLOCK // threads if threads <= WARP else 1
    while rows > 1 and rows * threads > WARP and count < rows * cores:
        rows //= 2
    return rows


def schedule(view: View, threads: int, rows: int, lanes: int) -> Any:
    """Apply the template.

    Every pass over a row has the same loops over a thread's vectors, so that nvcc keeps in registers what one of them
    loads and the next loads again.
    """
    sch, (out, *forks) = view.sch, _ends(view)
    kinds = {id(b): _kind(view, b) for b in view.blocks}
    before = [b for b in view.blocks[:-1] if b is not out]
    for block in before:
        if kinds[id(block)] in ("", "row_map"):
            # Cheaper to compute an exponential again than to keep a row of them in shared memory.
            sch.compute_inline(block)
    kept = [b for b in before if kinds[id(b)] not in ("", "row_map")]
    loads = {id(b): _loads(sch, b, lanes) for b in (*kept, out) if b is out or kinds[id(b)] == "row_whole"}
    store = sch.cache_write(out, 0, "local") if lanes > 1 and write_dtype(sch, out) in _VECTORS else out
    *lead, _ = sch.get_loops(store)
    block, group = _group(sch, lead, rows)
    sch.bind(block, "blockIdx.x")
    if threads <= WARP:
        sch.bind(group, "threadIdx.y")
    chunk, vector = _share(sch, _divide(sch, store, threads, lanes))
    if store is out:
        sch.unroll(vector)
    else:
        sch.vectorize(vector)
        sch.compute_at(out, chunk, preserve_unit_loops=True)
        sch.unroll(sch.get_loops(out)[-1])
    for fork in forks:
        copies = [] if store is out else [sch.cache_write(fork, 0, "local")]
        for block in (fork, *copies):
            sch.reverse_compute_at(block, chunk, preserve_unit_loops=True)
        sch.unroll(sch.get_loops(fork)[-1])
        for block in copies:
            sch.vectorize(sch.get_loops(block)[-1])
    for stage in loads[id(out)]:
        place_stage(sch, stage, chunk, 1)
    parts: list[str] = []
    for block in reversed(kept):
        if kinds[id(block)] != "row_whole":
            sch.compute_at(block, group, preserve_unit_loops=True)
            sch.set_scope(block, 0, "local")
            continue
        part = block
        if threads > WARP:
            # Every warp leaves its part in shared memory, and every thread adds them up.
            part = sch.rfactor(_divide(sch, block, threads, lanes)[1], 0)
            sch.compute_at(block, group, preserve_unit_loops=True)
            sch.set_scope(part, 0, "shared")
        sch.set_scope(block, 0, "local")
        sch.compute_at(part, group, preserve_unit_loops=True)
        if part is block:
            loops = _divide(sch, block, threads, lanes)
        else:
            # Of the parts' loops the one over warps comes first, before those over rows.
            warp, *_, chunk, thread, vector = sch.get_loops(part)[-len(sch.get(part).iter_vars) :]
            loops = [chunk, warp, thread, vector]
            parts.append(sch.get(part).name_hint)
        chunk, vector = _share(sch, loops)
        sch.unroll(vector)
        for stage in loads[id(block)]:
            place_stage(sch, stage, chunk, 1)
    func = finish(sch)
    for fork in forks if store is not out else []:
        func = _from_registers(func, sch.get(store), sch.get(fork))
    if rows > 1:
        func = _guard_rows(func)
    elif parts:
        func = _bound_parts(func, parts, int(sch.get(out).iter_vars[-1].dom.extent))
    return _checked(func, sum(kinds[id(b)] == "row_whole" for b in kept))


def _ends(view: View) -> list[Any]:
    """The block that writes the rows, and one behind it that makes another result of them, where there is one."""
    sch, last = view.sch, view.last
    inside = sch.mod["main"].body.block.alloc_buffers
    read = [region.source for region in sch.get(last).reads]

    def result(block: Any) -> bool:
        written = sch.get(block).writes[0].source
        return not any(written.same_as(buffer) for buffer in inside) and any(written.same_as(each) for each in read)

    return [*(block for block in view.blocks[:-1] if result(block)), last]


def _from_registers(func: Any, copy: Any, fork: Any) -> Any:
    """The function whose block `fork` reads what `copy` writes to memory from where that has it."""
    memory, kept = copy.writes[0].source, copy.reads[0].source

    def near(block: Any) -> Any:
        if block.name_hint != fork.name_hint:
            return block
        loads = tvm_ffi.structural_map(
            block, [(tvm.ir.TensorLoad, lambda n: tirx.BufferLoad(kept, n.indices) if n.source.same_as(memory) else n)]
        )
        return tvm_ffi.structural_map(
            loads,
            [(tvm.ir.TensorRegion, lambda n: tirx.BufferRegion(kept, n.region) if n.source.same_as(memory) else n)],
        )

    return func.with_body(tvm_ffi.structural_map(func.body, [(s_tir.SBlock, near)]))


def _checked(func: Any, sums: int) -> Any:
    """The function; where TVM sees no sum of threads, it gives each of them its part for the whole, without a word."""
    found: list[Any] = []

    def note(node: Any) -> None:
        if node.attr_key == "reduce_scope":
            found.append(node)

    lowered = s_tir.transform.LowerCrossThreadReduction()(tvm.IRModule({"main": func}))
    tvm_ffi.structural_walk(lowered["main"].body, [(tirx.AttrStmt, note)])
    if len(found) != sums:
        raise ValueError(f"TVM divides {len(found)} of {sums} sums among threads")
    return func


def _group(sch: Any, lead: list[Any], rows: int) -> tuple[Any, Any]:
    """Loops over thread blocks and over the rows of one, these of one axis: TVM then finds all axes in the index."""
    extents = [extent(sch, loop) for loop in lead]
    last = len(lead) - 1
    if None in extents or (rows > 1 and sum(n != 1 for n in extents) > 1):
        last = max((i for i, n in enumerate(extents) if n != 1), default=0)
        if last > 0:
            # An open axis behind another one cannot be divided at all.
            rows = min(rows, 1 << ((extents[last] or 1) - 1).bit_length())
            block, group = sch.split(lead[last], [None, rows])
            return sch.fuse(*lead[:last], block), group
    block, group = sch.split(sch.fuse(*lead[: last + 1]) if last else lead[0], [None, rows])
    return block, group


def _divide(sch: Any, block: Any, threads: int, lanes: int) -> list[Any]:
    """The loop over a row as loops over chunks, warps where there are several, threads and neighbouring elements."""
    factors = [threads // WARP, WARP] if threads > WARP else [threads]
    return list(sch.split(sch.get_loops(block)[-1], [None, *factors, lanes]))


def _share(sch: Any, loops: list[Any]) -> tuple[Any, Any]:
    """Bind what `_divide` made; the loops over a thread's chunks and over the elements of one."""
    chunk, *warp, thread, vector = loops
    sch.reorder(*warp, thread, chunk, vector)
    sch.bind(thread, "threadIdx.x")
    for loop in warp:
        sch.bind(loop, "threadIdx.y")
    if (extent(sch, chunk) or _REGISTERS + 1) * (extent(sch, vector) or 1) <= _REGISTERS:
        sch.unroll(chunk)
    return chunk, vector


def _loads(sch: Any, block: Any, lanes: int) -> list[Any]:
    """Copies in registers of what `block` reads along a row."""
    found = sch.get(block)
    along, size = found.iter_vars[-1].var, found.iter_vars[-1].dom.extent
    return [
        sch.cache_read(block, index, "local", [block])
        for index, read in enumerate(found.reads)
        if lanes > 1
        and read.source.scope() == "global"
        and str(read.source.dtype) in _VECTORS
        and tvm_ffi.structural_equal(read.source.shape[-1], size)
        and read.region[-1].min.same_as(along)
    ]


def _bound_parts(func: Any, parts: list[str], size: int) -> Any:
    """Nothing of what is past a row in the parts of its sum: `compute_at` forgets that condition.

    It stands in the value, for TVM takes no sum for one of threads whose condition joins its axes.
    """

    def bounded(realize: Any) -> Any:
        block = realize.block
        if block.name_hint not in parts:
            return realize
        warp, *_, chunk, thread, vector = block.iter_vars
        at = chunk.var
        for axis in (warp, thread, vector):
            at = at * axis.dom.extent + axis.var
        store, nothing = block.body, block.init.value
        total = type(store.value)(store.value.a, tirx.if_then_else(at < size, store.value.b, nothing))
        return around(realize, tirx.BufferStore(store.buffer, total, store.indices))

    return func.with_body(tvm_ffi.structural_map(func.body, [(s_tir.SBlockRealize, bounded)]))


def _guard_rows(func: Any) -> Any:
    """One condition around all that is done for a row: repeated at every step, it would make nvcc load the row anew."""
    groups: list[Any] = []
    found: list[Any] = []

    def note(loop: Any) -> None:
        if loop.kind == tirx.ForKind.THREAD_BINDING and loop.thread_binding.thread_tag == "threadIdx.y":
            groups.append(loop)

    def free(realize: Any) -> Any:
        kept = tirx.const(True, "bool")
        for part in _conjuncts(realize.predicate):
            if any(v.same_as(groups[0].loop_var) for v in tirx.analysis.undefined_vars(part)):
                found.append(part)
            else:
                kept = tirx.all(kept, part)
        return s_tir.SBlockRealize(realize.iter_values, kept, realize.block)

    def guard(loop: Any) -> Any:
        if not any(loop.loop_var.same_as(group.loop_var) for group in groups):
            return loop
        return bound("threadIdx.y", loop.loop_var, loop.extent, tirx.IfThenElse(found[0], loop.body, None))

    tvm_ffi.structural_walk(func.body, [(tirx.For, note)])
    body = tvm_ffi.structural_map(func.body, [(s_tir.SBlockRealize, free)])
    return func.with_body(tvm_ffi.structural_map(body, [(tirx.For, guard)])) if found else func


def _conjuncts(condition: Any) -> list[Any]:
    if isinstance(condition, tirx.And):
        return [*_conjuncts(condition.a), *_conjuncts(condition.b)]
    return [condition]
