"""Window and global reductions over blocked activations: vectors over channels, the window in registers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, arithmetic, divisors, extent, finish, inline_rest, look, parallel


class PoolRule:
    """Takes functions with a block annotated "pool"."""

    name = "cpu.pool"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `rows` windows at a time."""
        view = look(func)
        if "pool" not in view.ops:
            return None
        sch = view.sch
        width, lanes = (extent(sch, loop) for loop in sch.get_loops(view.ops["pool"])[3:5])
        options = (1,) if width is None else divisors(width, 8)
        dtype = arithmetic(sch, view.ops["pool"])

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen)

        return [
            Choice(
                self.name,
                "window",
                1,
                {"rows": options[-1]},
                {"rows": options},
                apply,
                compute=dtype,
                layout=f"NCHW{lanes}c",
            )
        ]


def schedule(view: View, params: Mapping[str, int]) -> Any:
    """Apply the template."""
    sch, pool, pad = view.sch, view.ops["pool"], view.ops.get("pad")
    inline_rest(view, [pool] if pad is None else [pool, pad])
    out = view.last
    direct = sch.get(out).same_as(sch.get(pool))
    n, c, y, x, v = sch.get_loops(pool)[:5] if direct else sch.get_loops(out)
    xo, _ = sch.split(x, [None, params["rows"]])
    if direct:
        store = sch.cache_write(pool, 0, "local")
        at = xo
        parallel(sch, n, c, y)
        sch.reverse_compute_at(store, at, preserve_unit_loops=True)
    else:
        store = out
        parallel(sch, n, c, y)
        sch.compute_at(pool, xo, preserve_unit_loops=True)
        sch.set_scope(pool, 0, "local")
    tile, vector, ky, kx = sch.get_loops(pool)[-4:]
    sch.reorder(ky, kx, tile, vector)
    sch.vectorize(vector)
    init = sch.decompose_reduction(pool, ky)
    sch.unroll(tile)
    for block in (store, init):
        *_, a, w = sch.get_loops(block)
        sch.vectorize(w)
        sch.unroll(a)
    if pad is not None:
        *outer, _, v = sch.get_loops(pad)
        sch.vectorize(v)
        parallel(sch, *outer)
    return finish(sch)
