"""Reading images between their pixels: GridSample and DeformConv.

Both first find, for every point, the pixels it takes and their weights; what reads the channels then is a weighted
gather, whatever the interpolation, the padding and the number of dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.interpolation import Mode, Tir, tap
from optkit.compiler.operators.loops import T, cell, independent, loops

_WRITTEN = 8
"""Taps written out as a sum; more are a reduction."""


def _reflect(x: Any, low: Any, high: Any) -> Any:
    """x mirrored at the borders until it lies between them (GridSample, padding_mode="reflection")."""
    zero, span = const(0, "float32"), high - low
    safe = tirx.max(span, const(1e-6, "float32"))
    # Twice the span brings it back to where it was.
    away = tirx.abs(x - low)
    turn = tirx.floor(away / safe)
    rest = away - turn * span
    odd = turn - const(2, "float32") * tirx.floor(turn * const(0.5, "float32")) > const(0.5, "float32")
    inside = tirx.Select(odd, high - rest, low + rest)
    return tirx.Select(span > zero, inside, low)


def grid_taps(data: te.Tensor, grid: te.Tensor, mode: str, padding: str, align: bool) -> list[te.Tensor]:
    """Pixels and weights of every grid point: (N, P, taps) int32, within the image, and float32.

    Args:
        data: (N, C, *spatial), of which only the shape is read.
        grid: (N, P, rank); the last axis names positions from the innermost axis outwards.
        mode: "nearest", "linear" or "cubic".
        padding: "zeros", "border" or "reflection".
        align: whether -1 and 1 are the centres of the corner pixels, or their outer edges.
    """
    batches, points, rank = static(grid.shape)
    size = static(data.shape)[2:]
    rule = Mode(mode, "", "", -0.75, False, False)
    first, count = (0, 1) if mode == "nearest" else rule.window(1.0)
    offsets = list(itertools.product(range(first, first + count), repeat=rank))
    half, one, zero = (const(v, "float32") for v in (0.5, 1, 0))

    def place(value: Any, extent: Any) -> tuple[Any, Any, Any]:
        """The position along one axis as a cell, and its borders."""
        length = Tir.real(extent)
        x = (value + one) * half * (length - one) if align else ((value + one) * length - one) * half
        if mode == "nearest":
            x = tirx.nearbyint(x)
        low, high = (zero, length - one) if align else (-half, length - half)
        kept = cell("float32", x)
        outside = tirx.any(kept[0] < low, kept[0] > high)
        if padding == "border" and mode != "cubic":
            # Cubic taps are moved to the border one by one, as ONNX Runtime and PyTorch do.
            kept[0] = tirx.Select(outside, tirx.max(tirx.min(kept[0], length - one), zero), kept[0])
        elif padding == "reflection":
            kept[0] = tirx.Select(outside, _reflect(kept[0], low, high), kept[0])
        # Far outside is as good as outside, and its integer exists; a NaN goes there too.
        kept[0] = tirx.min(tirx.max(kept[0], const(-4, "float32")), length + const(4, "float32"))
        return kept, low, high

    def pixel(index: Any, extent: Any, low: Any, high: Any) -> tuple[Any, Any]:
        """The pixel read for an index that may lie outside, and whether it counts."""
        if padding == "reflection":
            real = Tir.real(index)
            mirrored = _reflect(real, low, high).astype("int32")
            index = tirx.Select(tirx.any(real < low, real > high), mirrored, index)
        last = Tir.whole(extent) - 1
        counts = tirx.all(index >= 0, index <= last) if padding == "zeros" else tirx.const(True, "bool")
        return tirx.max(tirx.min(index, last), 0), counts

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        (_, points_in), (pixels, weights) = inputs, outputs
        with T.parallel(0, batches) as n, independent(points) as p:
            places = [place(points_in[n, p, rank - 1 - d].astype("float32"), size[d]) for d in range(rank)]
            choices: list[list[tuple[Any, Any]]] = []
            for (x, low, high), extent in zip(places, size, strict=True):
                along = []
                for offset in range(first, first + count):
                    if mode == "nearest":
                        index, weight = x[0].astype("int32"), one
                    else:
                        index, weight = tap(rule, Tir, x[0], offset, one, extent)
                    at, counts = pixel(index, extent, low, high)
                    along.append((cell("int32", at), cell("float32", tirx.Select(counts, weight, zero))))
                choices.append(along)
            for t, corner in enumerate(offsets):
                flat: Any = tirx.const(0, "int32")
                weight = one
                for d, along in enumerate(choices):
                    at, share = along[corner[d] - first]
                    flat = flat * Tir.whole(size[d]) + at[0]
                    weight = weight * share[0]
                pixels[n, p, t] = flat
                weights[n, p, t] = weight

    shape = (batches, points, len(offsets))
    found: list[te.Tensor] = loops([shape, shape], ["int32", "float32"], [data, grid], body, "grid_taps")
    return found


def gather_taps(data: te.Tensor, pixels: te.Tensor, weights: te.Tensor, groups: int) -> te.Tensor:
    """out[n, c, p] = sum over t of data[n, c, pixels[n, g, p, t]] * weights[n, g, p, t], g the group of c.

    Data are (N, C, S), pixels and weights (N, groups, P, taps). One tap is a choice: the weight is 0 or 1.
    """
    n, channels, _ = static(data.shape)
    points, taps = static(pixels.shape)[2:]
    dtype = str(data.dtype)
    kind = "float64" if dtype == "float64" else "float32"
    per = channels // groups
    shape = (n, channels, points)

    def one(i: Any, c: Any, p: Any, t: Any) -> Any:
        g = c // per
        return data[i, c, pixels[i, g, p, t]].astype(kind) * weights[i, g, p, t].astype(kind)

    if taps == 1:

        def chosen(i: Any, c: Any, p: Any) -> Any:
            at = i, c // per, p, 0
            return tirx.Select(weights(*at) > 0.5, data[i, c, pixels(*at)], const(0, dtype))

        return te.compute(shape, chosen, name="sample")
    if taps <= _WRITTEN:

        def written(i: Any, c: Any, p: Any) -> Any:
            total = one(i, c, p, 0)
            for t in range(1, taps):
                total = total + one(i, c, p, t)
            return total.astype(dtype)

        return te.compute(shape, written, name="sample")
    k = te.reduce_axis((0, taps), "k")
    total = te.compute(shape, lambda i, c, p: te.sum(one(i, c, p, k), axis=k), name="sample")
    return total if dtype == kind else te.compute(shape, lambda *i: total(*i).astype(dtype), name="cast")


def deformed_taps(
    data: te.Tensor,
    offset: te.Tensor,
    mask: te.Tensor | None,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    begins: tuple[int, int],
) -> list[te.Tensor]:
    """Pixels and weights (N, groups, K * P, 4) of a deformable convolution (Dai et al., 2017, equations 2 to 4).

    Args:
        data: (N, C, H, W), of which only the shape is read.
        offset: (N, groups, K, 2, OH, OW), height first.
        mask: (N, groups, K, OH, OW) or None; Zhu et al., "Deformable ConvNets v2", 2018.
    """
    n, groups, taps, _, oh, ow = static(offset.shape)
    size = static(data.shape)[2:]
    zero = const(0, "float32")

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        (_, shift, *modulation), (pixels, weights) = inputs, outputs
        with T.parallel(0, n * groups) as ng, independent(taps) as k, independent(oh) as y, independent(ow) as x:
            i, g = ng // groups, ng % groups
            bases, parts = [], []
            for d, (out, step) in enumerate(((y, k // kernel[1]), (x, k % kernel[1]))):
                grid = (out * strides[d] - begins[d] + step * dilations[d]).astype("float32")
                at = cell("float32", grid + shift[i, g, k, d, y, x].astype("float32"))
                length = Tir.real(size[d])
                at[0] = tirx.min(tirx.max(at[0], const(-4, "float32")), length + const(4, "float32"))
                low = cell("int32", tirx.floor(at[0]).astype("int32"))
                bases.append(low)
                parts.append(cell("float32", at[0] - low[0].astype("float32")))
            scale = modulation[0][i, g, k, y, x].astype("float32") if modulation else const(1, "float32")
            place = (k * oh + y) * ow + x
            for t, (v, u) in enumerate(itertools.product((0, 1), repeat=2)):
                weight, flat = scale, tirx.const(0, "int32")
                for d, side in enumerate((v, u)):
                    last = Tir.whole(size[d]) - 1
                    index = bases[d][0] + side
                    share = parts[d][0] if side else const(1, "float32") - parts[d][0]
                    weight = weight * tirx.Select(tirx.all(index >= 0, index <= last), share, zero)
                    flat = flat * (last + 1) + tirx.max(tirx.min(index, last), 0)
                pixels[i, g, place, t] = flat
                weights[i, g, place, t] = weight

    shape = (n, groups, taps * oh * ow, 4)
    tensors = [t for t in (data, offset, mask) if t is not None]
    found: list[te.Tensor] = loops([shape, shape], ["int32", "float32"], tensors, body, "deformed_taps")
    return found


def affine_grid(theta: te.Tensor, size: Sequence[Any], align: bool) -> te.Tensor:
    """AffineGrid: theta (N, rank, rank + 1) applied to every position of a grid of `size` -> (N, *size, rank).

    Positions run over [-1, 1], innermost axis first: from corner centre to corner centre with `align`, else over
    the centres of pixels whose outer edges are there.
    """
    rank = len(size)
    dtype = str(theta.dtype)
    kind = "float64" if dtype == "float64" else "float32"

    def along(index: Any, extent: Any) -> Any:
        place, count, one = index.astype(kind), tirx.Cast(kind, extent), const(1, kind)
        if align:
            return place * const(2, kind) / tirx.max(count - one, one) - one
        return (place * const(2, kind) + one) / count - one

    def element(n: Any, *i: Any) -> Any:
        *place, d = i
        total = theta[n, d, rank].astype(kind)
        for j in range(rank):
            axis = rank - 1 - j
            total = total + theta[n, d, j].astype(kind) * along(place[axis], size[axis])
        return total.astype(dtype)

    return te.compute((theta.shape[0], *size, rank), element, name="affine_grid")


__all__ = ["affine_grid", "deformed_taps", "gather_taps", "grid_taps"]
