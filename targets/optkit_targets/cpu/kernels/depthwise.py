"""Depthwise convolution: padding per channel block and band of rows, taps unrolled over a row tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from optkit.compiler.operator import OPERATOR, Operator
from optkit.compiler.planning import band
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.intrinsics import word_product
from optkit_targets.cpu.kernels.tools import (
    View,
    annotation,
    arithmetic,
    divisors,
    extent,
    finish,
    inline_rest,
    look,
    number,
    parallel,
)

OPEN_BAND = 8
"""Rows of a band of images of any height."""


class DepthwiseRule:
    """Takes functions with a block annotated "depthwise"."""

    name = "cpu.depthwise"
    templates: ClassVar[Mapping[str, int]] = {"depthwise": 1}

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `rows` positions in registers, `band` output rows a padded band."""
        view = look(func)
        if "depthwise" not in view.ops:
            return None
        sch, block = view.sch, view.ops["depthwise"]
        loops = sch.get_loops(block)
        height, tiled, lanes = extent(sch, loops[2]), extent(sch, loops[3]), extent(sch, loops[4])
        bands = (OPEN_BAND,) if height is None else divisors(height, height)
        given = number(sch, block, "optkit.band") or (OPEN_BAND if height is None else band(height))
        params = {"rows": number(sch, block, "optkit.rows"), "band": given}
        space = {"rows": (params["rows"],) if tiled is None else divisors(tiled, target.registers), "band": bands}
        operator = annotation(sch, block, OPERATOR)
        # bfloat16 is widened before the taps read it.
        dtype = arithmetic(sch, block) if operator is None else Operator.parse(str(operator)).compute

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen, target)

        version, layout = self.templates["depthwise"], f"NCHW{lanes}c CHW{lanes}c"
        return [Choice(self.name, "depthwise", version, params, space, apply, compute=dtype, layout=layout)]


def schedule(view: View, params: Mapping[str, int], target: Target) -> Any:
    """Apply the template."""
    sch, conv = view.sch, view.ops["depthwise"]
    before = [view.ops[kind] for kind in ("words", "pad") if kind in view.ops]
    inline_rest(view, [conv, *before])
    out = view.last
    n, c, y, x, v = sch.get_loops(out)
    yo, yi = sch.split(y, [None, params["band"]])
    xo, xi = sch.split(x, [None, params["rows"]])
    # Blocks may be of several vectors, as tile registers read them.
    parts, v = sch.split(v, [None, min(extent(sch, v) or 0, target.lanes)])
    sch.reorder(n, c, parts, yo, yi, xo, xi, v)
    outer = parallel(sch, n, c, parts, yo)
    sch.compute_at(conv, xo, preserve_unit_loops=True)
    sch.set_scope(conv, 0, "local")
    _, _, _, tile, vector, ky, kx = sch.get_loops(conv)[-7:]
    sch.reorder(ky, kx, tile, vector)
    lanes = extent(sch, vector) or 0
    words = "words" in view.ops and target.has("int8_vector")
    if not words:
        sch.vectorize(vector)
    init = sch.decompose_reduction(conv, ky)
    for loop in (tile, kx, ky):
        sch.unroll(loop)
    for block in (out, init):
        *_, a, w = sch.get_loops(block)
        sch.vectorize(w)
        sch.unroll(a)
    for block in before:
        sch.compute_at(block, outer, preserve_unit_loops=True)
        *_, w = sch.get_loops(block)
        sch.vectorize(w)
    if words:
        sch.tensorize(vector, word_product(lanes, broadcast=False))
    return finish(sch)
