"""Matrix products: a thread holds rows x column blocks in registers; few rows divide the depth over a warp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, divisors, extent, finish, inline_rest, kinds, look, read_dtype
from optkit_targets.cuda.kernels.intrinsics import contract_products, use_dp4a
from optkit_targets.cuda.kernels.tools import MAX_THREADS, load_stage, staged, unroll


class MatmulRule:
    """Takes functions with a block annotated "matmul"."""

    name = "cuda.matmul"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `rows` x `blocks` a thread, `ty` x `tx` threads a block."""
        view = look(func)
        if "matmul" not in view.ops:
            return None
        sch, block = view.sch, view.ops["matmul"]
        spatial, reduce = kinds(sch, block)
        rows, blocks, lanes = (extent(sch, loop) for loop in spatial[-3:])
        if rows is None or blocks is None or lanes is None:
            return None
        # Rows may be several axes of the output; a tile must not straddle the last of them.
        last = extent(sch, sch.get_loops(view.last)[-2]) or 1
        params = _tile(rows, last, blocks, target.cores)
        space = {
            "rows": divisors(last, 8),
            "blocks": divisors(blocks, 4),
            "ty": (1, 2, 4, 8, 16),
            "tx": (8, 16, 32, 64),
        }
        dtype = read_dtype(sch, block)
        dot = dtype == "uint8" and len(reduce) == 2 and extent(sch, reduce[-1]) == 4 and target.has("int8_dot")

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen, dot)

        compute = "int8" if dtype == "uint8" else dtype
        return [Choice(self.name, "tiled", 1, params, space, apply, compute=compute)]


def _tile(rows: int, last: int, blocks: int, cores: int) -> dict[str, int]:
    """Tiles of up to 4 x 2 while every multiprocessor keeps 256 threads; thread blocks of about 128 threads."""
    best = (1, 1)
    for m in divisors(last, 4):
        for n in divisors(blocks, 2):
            if m * n > best[0] * best[1] and rows // m * (blocks // n) >= cores * 256:
                best = (m, n)
    ty = min(8, rows // best[0])
    return {"rows": best[0], "blocks": best[1], "ty": ty, "tx": 16 if ty >= 8 else 64}


def schedule(view: View, params: Mapping[str, int], dot: bool) -> Any:
    """Apply the template."""
    sch, product = view.sch, view.ops["matmul"]
    spatial, reduce = kinds(sch, product)
    batch_axes, steps = len(spatial) - 3, len(reduce)
    lanes = extent(sch, spatial[-1]) or 1
    stages = "pack" not in view.ops and staged(sch, product)
    if params["ty"] * params["tx"] > MAX_THREADS:
        raise ValueError(f"{params['ty']} x {params['tx']} threads are more than {MAX_THREADS}")
    inline_rest(view, [product])
    out = view.last
    *lead, n = sch.get_loops(out)
    batch, inner = lead[:batch_axes], lead[batch_axes:]
    if not inner:
        # Every leading axis is symbolic: rows are walked one at a time.
        inner = [sch.add_unit_loop(n)]
    no, ni, v = sch.split(n, [None, params["blocks"], lanes])
    mo, mi = sch.split(sch.fuse(*inner) if len(inner) > 1 else inner[0], [None, params["rows"]])
    nb, nt = sch.split(no, [None, params["tx"]])
    mb, mt = sch.split(mo, [None, params["ty"]])
    sch.reorder(*batch, mb, nb, mt, nt, mi, ni, v)
    if batch:
        sch.bind(sch.fuse(*batch) if len(batch) > 1 else batch[0], "blockIdx.z")
    for loop, axis in ((mb, "blockIdx.x"), (nb, "blockIdx.y"), (mt, "threadIdx.y"), (nt, "threadIdx.x")):
        sch.bind(loop, axis)
    sch.compute_at(product, nt, preserve_unit_loops=True)
    sch.set_scope(product, 0, "local")
    loops = sch.get_loops(product)
    tile, reduce = loops[-steps - 3 : -steps], loops[-steps:]
    if steps == 2:
        step, four = reduce
        sch.reorder(step, *tile, four)
    else:
        (step,) = reduce
        sch.reorder(step, *tile)
    if stages:
        load_stage(sch, product, 0, step, 1)
        load_stage(sch, product, 1, step, 2)
    unroll(sch, tile)
    init = sch.decompose_reduction(product, step)
    unroll(sch, sch.get_loops(init)[-3:])
    unroll(sch, (mi, ni, v))
    return use_dp4a(finish(sch)) if dot else contract_products(finish(sch))
