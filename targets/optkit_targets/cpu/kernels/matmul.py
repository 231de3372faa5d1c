"""Matrix product with packed columns: rows x column blocks of accumulators in registers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tvm.tirx import IndexMap

from optkit.compiler.operators.common import BITS
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tile import register_tile
from optkit_targets.cpu.kernels.tools import (
    PARALLEL_ELEMENTS,
    View,
    arithmetic,
    divisors,
    extent,
    finish,
    inline_rest,
    kinds,
    look,
    number,
    parallel,
    write_dtype,
)


class MatmulRule:
    """Takes functions with a block annotated "matmul".

    Weights that are integers in groups have a block "dequantize" before it, and a template of their own: it computes
    the weights of a column tile once, into the cache, where several row tiles read them, and else where they are
    multiplied, so that what is read from memory are the integers.
    """

    name = "cpu.matmul"
    templates: ClassVar[Mapping[str, int]] = {"packed": 1}

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template; its tile is the parameter, and whether weights (0) or rows (1) stay in the cache meanwhile."""
        view = look(func)
        if "matmul" not in view.ops:
            return None
        sch, block = view.sch, view.ops["matmul"]
        if number(sch, block, "optkit.tall"):
            return None  # in tile registers, or else by what answers for anything
        spatial, _ = kinds(sch, block)
        rows, blocks, lanes = (extent(sch, loop) for loop in spatial[-3:])
        if blocks is None or lanes is None:
            return None
        params = {name: number(sch, block, f"optkit.{name}") for name in ("rows", "blocks", "order")}
        limit = target.registers
        tiles = (params["rows"],) if rows is None else divisors(rows, limit)
        space = {"rows": tiles, "blocks": divisors(blocks, limit), "order": (0, 1)}
        dtype = arithmetic(sch, block)

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen, lanes, target)

        version, layout = self.templates["packed"], f"MK NK{lanes}n"
        if "dequantize" in view.ops:
            return [Choice(self.name, "grouped", 1, params, space, apply, compute="float32", layout=layout)]
        return [Choice(self.name, "packed", version, params, space, apply, compute=dtype, layout=layout)]


def schedule(view: View, params: Mapping[str, int], lanes: int, target: Target) -> Any:
    """Apply the template."""
    sch, product, pack = view.sch, view.ops["matmul"], view.ops.get("pack")
    out, real = view.last, view.ops.get("dequantize")
    columns = extent(sch, sch.get_loops(out)[-1]) or 0
    whole = columns % (lanes * params["blocks"]) == 0
    rows = extent(sch, kinds(sch, product)[0][-3]) or 0
    panel = real if whole and rows > params["rows"] and not params["order"] else None
    inline_rest(view, [block for block in (product, pack, panel) if block is not None])
    if whole:
        tile, reduce, at = _inside_epilogue(sch, product, out, params, lanes)
        store = out
        if panel is not None:
            sch.compute_at(panel, at, preserve_unit_loops=True)
            sch.vectorize(sch.get_loops(panel)[-1])
    else:
        tile, reduce, store = _own_nest(sch, product, params)
        vectorize_rows(sch, out, lanes)
    if real is not None and extent(sch, reduce[-1]) == 2:
        sch.unroll(reduce[-1])  # both codes of a byte: shifts by constants
    register_tile(sch, product, store, tile, reduce, target)
    if pack is not None:
        schedule_pack(sch, pack)
    return finish(sch)


def schedule_pack(sch: Any, pack: Any) -> None:
    """Vectors along the columns of an activation that is packed, blocks of columns in parallel."""
    *outer, w = sch.get_loops(pack)
    if write_dtype(sch, pack) == BITS:  # pairs are written together
        w = sch.fuse(outer.pop(), w)
    sch.vectorize(w)
    parallel(sch, *outer)


def _inside_epilogue(
    sch: Any, product: Any, out: Any, params: Mapping[str, int], lanes: int
) -> tuple[tuple[Any, Any, Any], list[Any], Any]:
    """Compute the product into the epilogue's tile; also the loop that has all row tiles of a column tile inside."""
    batch_axes = len(kinds(sch, product)[0]) - 3
    flatten_rows(sch, out, batch_axes)
    *lead, n = sch.get_loops(out)
    batch, inner = lead[:batch_axes], lead[batch_axes:]
    if not inner:
        # Every leading axis is symbolic: rows are walked one at a time.
        batch, inner = lead, []
    no, ni, v = sch.split(n, [None, params["blocks"], lanes])
    outer = None
    if inner:
        m = sch.fuse(*inner) if len(inner) > 1 else inner[0]
        mo, mi = sch.split(m, [None, params["rows"]])
        if params["order"]:
            sch.reorder(*batch, mo, no, mi, ni, v)
            at = parallel(sch, *batch, mo, no)
        else:
            sch.reorder(*batch, no, mo, mi, ni, v)
            outer = parallel(sch, *batch, no)
            at = mo
    else:
        sch.reorder(*batch, no, ni, v)
        at = parallel(sch, *batch, no)
    sch.compute_at(product, at, preserve_unit_loops=True)
    sch.set_scope(product, 0, "local")
    loops = sch.get_loops(product)
    reduce = len(kinds_of(sch, product)[1])
    m, nb, v = loops[-reduce - 3 : -reduce]
    return (m, nb, v), loops[-reduce:], outer


def flatten_rows(sch: Any, out: Any, batch_axes: int) -> None:
    """Rows of several axes become one axis of the block itself: a tile then never straddles two loops."""
    extents = [extent(sch, loop) for loop in sch.get_loops(out)]
    if len(extents) - batch_axes <= 2 or None in extents[batch_axes:]:
        return

    def flat(*index: Any) -> tuple[Any, ...]:
        row: Any = 0
        for i, size in zip(index[batch_axes:-1], extents[batch_axes:-1], strict=True):
            row = row * size + i
        return (*index[:batch_axes], row, index[-1])

    sch.transform_block_layout(out, IndexMap.from_func(flat, ndim=len(extents)))


def kinds_of(sch: Any, block: Any) -> tuple[list[int], list[int]]:
    """Indices of a block's spatial and reduction axes."""
    axes = list(sch.get(block).iter_vars)
    return [i for i, a in enumerate(axes) if a.iter_type == 0], [i for i, a in enumerate(axes) if a.iter_type == 2]


def _own_nest(sch: Any, product: Any, params: Mapping[str, int]) -> tuple[tuple[Any, Any, Any], list[Any], Any]:
    """Columns do not fill whole tiles: the product goes to a buffer, the epilogue is a pass of its own."""
    (*batch, m, nb, v), reduce = kinds(sch, product)
    mo, mi = sch.split(m, [None, params["rows"]])
    no, ni = sch.split(nb, [None, params["blocks"]])
    sch.reorder(*batch, no, mo, mi, ni, v, *reduce)
    at = sch.fuse(*batch, no, mo)
    store = sch.cache_write(product, 0, "local")
    sch.parallel(at)
    sch.reverse_compute_at(store, at, preserve_unit_loops=True)
    return (mi, ni, v), reduce, store


def vectorize_rows(sch: Any, out: Any, lanes: int) -> None:
    """The epilogue as a pass of its own."""
    *lead, n = sch.get_loops(out)
    columns = extent(sch, n) or 0
    width = next(w for w in (lanes, lanes // 2, lanes // 4, 1) if w and columns % w == 0)
    if width > 1:
        _, n = sch.split(n, [None, width])
        sch.vectorize(n)
    if columns >= PARALLEL_ELEMENTS:
        parallel(sch, *lead)
