"""Direct and pointwise convolution: a register tile of accumulators, epilogue fused into it.

Positions x output channel blocks are held in registers while the reduction runs over input blocks, kernel
rows, kernel columns and channels, so every loaded weight vector serves `rows` positions and every broadcast
input serves `blocks` vectors (the blocked direct convolution of Zhang, Franchetti and Low, "High Performance
Zero-Memory Overhead Direct Convolutions", ICML 2018, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tile import register_tile
from optkit_targets.cpu.kernels.tools import (
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
    schedule_pad,
)


class ConvRule:
    """Takes functions with a block annotated "conv"."""

    name = "cpu.conv"
    templates: ClassVar[Mapping[str, int]] = {"direct": 1, "pointwise": 1}

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template; its tile is the parameter, and what stays in the cache meanwhile. Rows may have any width.

        Order 0 goes over all positions with a share of the weights, order 1 over all weights with a share of the
        positions.
        """
        view = look(func)
        if "conv" not in view.ops:
            return None
        sch, block = view.sch, view.ops["conv"]
        if number(sch, block, "optkit.tall"):
            return None  # in tile registers, or else by what answers for anything
        loops = sch.get_loops(block)
        pointwise = len(kinds(sch, block)[0]) == 4
        blocks, tiled = extent(sch, loops[1]), extent(sch, loops[2] if pointwise else loops[3])
        lanes = extent(sch, loops[3] if pointwise else loops[4])
        if blocks is None or lanes is None:
            return None
        params = {name: number(sch, block, f"optkit.{name}") for name in ("rows", "blocks", "order")}
        limit = target.registers
        rows = (params["rows"],) if tiled is None else divisors(tiled, limit)
        space = {"rows": rows, "blocks": divisors(blocks, limit), "order": (0, 1)}
        dtype = arithmetic(sch, block)

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen, pointwise, target)

        template = "pointwise" if pointwise else "direct"
        version, layout = self.templates[template], f"NCHW{lanes}c OIHW{lanes}o"
        return [Choice(self.name, template, version, params, space, apply, compute=dtype, layout=layout)]


def schedule(view: View, params: Mapping[str, int], pointwise: bool, target: Target) -> Any:
    """Apply the template."""
    sch, conv = view.sch, view.ops["conv"]
    pad = view.ops.get("pad")
    inline_rest(view, [conv] if pad is None else [conv, pad])
    out = view.last
    if pointwise:
        # Rows and columns become one axis of the block itself: a tile then never straddles two loops.
        width = extent(sch, sch.get_loops(out)[3])
        sch.transform_block_layout(out, lambda n, c, y, x, v: (n, c, y * width + x, v))
        n, c, p, v = sch.get_loops(out)
    else:
        n, c, y, x, v = sch.get_loops(out)
    co, ci = sch.split(c, [None, params["blocks"]])
    if pointwise:
        xo, xi = sch.split(p, [None, params["rows"]])
        outer = (n, xo, co) if params["order"] else (n, co, xo)
        sch.reorder(*outer, ci, xi, v)
        at = parallel(sch, *outer)
    else:
        xo, xi = sch.split(x, [None, params["rows"]])
        outer = (n, y, co) if params["order"] else (n, co, y)
        sch.reorder(*outer, xo, ci, xi, v)
        parallel(sch, *outer)
        at = xo
    sch.compute_at(conv, at, preserve_unit_loops=True)
    sch.set_scope(conv, 0, "local")
    inner = sch.get_loops(conv)[-len(sch.get(conv).iter_vars) :]
    spatial, reduce = inner[: 4 if pointwise else 5], inner[4 if pointwise else 5 :]
    register_tile(sch, conv, out, (spatial[1], spatial[-2], spatial[-1]), reduce, target)
    if pad is not None:
        schedule_pad(sch, pad)
    return finish(sch)
