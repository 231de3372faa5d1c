"""Softmax and normalization over rows: every stage of a row while it is in L1, rows in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import tirx
from tvm.sym import Analyzer

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, annotation, extent, finish, look, read_dtype


class RowsRule:
    """Takes functions whose stages are annotated "row_map", "row_lanes", "row_rest", "row_half" and "row_total"."""

    name = "cpu.rows"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template without parameters."""
        view = look(func)
        if "row_lanes" not in view.ops or ("row_map" not in view.ops and not _ends_in_numbers(view)):
            return None

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), target.lanes)

        dtype = read_dtype(view.sch, view.blocks[0])
        return [Choice(self.name, "rows", 1, {}, {}, apply, compute=dtype)]


def _ends_in_numbers(view: View) -> bool:
    """Whether a row becomes a number."""
    return bool(annotation(view.sch, view.last, "optkit.op") == "row_total")


def schedule(view: View, lanes: int) -> Any:
    """Apply the template."""
    sch = view.sch
    stages = {id(b): str(annotation(sch, b, "optkit.op") or "") for b in view.blocks}
    out = view.last
    for block in view.blocks[:-1]:
        if not stages[id(block)]:
            sch.compute_inline(block)
    kept = [b for b in view.blocks if stages[id(b)] or b is out]
    lead = sch.get_loops(out) if _ends_in_numbers(view) else sch.get_loops(out)[:-1]
    row = sch.fuse(*lead) if len(lead) > 1 else lead[0]
    sch.parallel(row)
    for block in reversed(kept[:-1]):
        sch.compute_at(block, row, preserve_unit_loops=True)
        # Stages of one row belong to one thread: "local" keeps short ones in registers.
        if stages[id(block)] != "row_map":
            sch.set_scope(block, 0, "local")
    for block in kept:
        schedule_stage(sch, block, stages[id(block)], lanes)
    return finish(sch)


def schedule_stage(sch: Any, block: Any, kind: str, lanes: int) -> None:
    """Vectors along a row."""
    loops = sch.get_loops(block)
    if kind == "row_lanes":
        v, k = loops[-2:]
        sch.reorder(k, v)
        sch.vectorize(v)
        init = sch.decompose_reduction(block, k)
        sch.vectorize(sch.get_loops(init)[-1])
        steps = extent(sch, k) or 0
        if steps > 1:
            # The last vector may be partial; the others then need no condition, which would make them scalar.
            sch.loop_partition(k, [steps - 1, None])
    elif kind == "row_rest":
        # Where nothing is left its first step, which would begin with this, is none.
        sch.decompose_reduction(block, loops[-1])
    elif kind == "row_half":
        sch.vectorize(loops[-1])
    elif kind != "row_total":
        _vectorize_row(sch, loops[-1], lanes)


def _vectorize_row(sch: Any, loop: Any, lanes: int) -> None:
    size = extent(sch, loop)
    if size is None:
        # Rows of open length are vectors where they are whole ones of them.
        rest = Analyzer().simplify(tirx.floormod(sch.get(loop).extent, lanes))
        size = lanes if isinstance(rest, tirx.IntImm) and not int(rest) else 0
    width = next((w for w in (lanes, lanes // 2, 4) if w > 1 and size >= w), 1)
    if width > 1:
        if size % width:
            loop, _ = sch.loop_partition(loop, [size // width * width, None])
        _, inner = sch.split(loop, [None, width])
        sch.vectorize(inner)
