"""Volumes and up-sampled images as stacks of images, so that the kernels for images compute on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import OP, const, static
from optkit.compiler.operators.windows import Windows


def stack_depths(data: te.Tensor, window: Windows, depths: Any, block: int, fill: float = 0) -> te.Tensor:
    """(N, C[/b], D, H, W[, b]) -> (N * OD, KD * C[/b], H, W[, b]): every output depth with the depths it reads.

    Outside of the volume there is `fill`.
    """
    shape = static(data.shape)
    n, channels, d, h, w = shape[:5]
    taps, stride, dilation, begin = window.kernel[0], window.strides[0], window.dilations[0], window.begins[0]

    def element(i: Any, c: Any, y: Any, x: Any, *v: Any) -> Any:
        at = i % depths * stride + c // channels * dilation - begin
        read = data(i // depths, c % channels, at, y, x, *v)
        return te.if_then_else(tirx.all(at >= 0, at < d), read, const(fill, str(data.dtype)))

    lanes = [block] if block else []
    return te.compute((n * depths, taps * channels, h, w, *lanes), element, name="stack_depths")


def unstack_depths(data: te.Tensor, n: Any, depths: Any) -> te.Tensor:
    """(N * OD, O/b, H, W, b) -> (N, O/b, OD, H, W, b)."""
    _, blocks, h, w, b = static(data.shape)
    return te.compute(
        (n, blocks, depths, h, w, b), lambda i, c, z, y, x, v: data[i * depths + z, c, y, x, v], name="unstack_depths"
    )


INTERLEAVE = "interleave"
"""Mark of a block that puts every sum of a convolution to a place of its own."""
STRIDES = "optkit.strides"
"""Its annotation: of how many places down and across."""


def interleave_phases(
    data: te.Tensor, strides: Sequence[int], begins: Sequence[int], out: Sequence[Any], whole: bool
) -> te.Tensor:
    """(N, S * S * O/b, QH, QW, b), phase by phase -> (N, O/b, OH, OW, b), one pixel of every phase in turn.

    Args:
        whole: whether every sum has a place.
    """
    n, blocks, _, _, b = static(data.shape)
    (sy, sx), (by, bx) = strides, begins
    own = blocks // (sy * sx)

    def element(i: Any, c: Any, y: Any, x: Any, v: Any) -> Any:
        phase = (y + by) % sy * sx + (x + bx) % sx
        return data[i, phase * own + c, (y + by) // sy, (x + bx) // sx, v]

    attrs = {OP: INTERLEAVE, STRIDES: f"{sy} {sx}"} if whole else {}
    return te.compute((n, own, *out, b), element, name="interleave_phases", attrs=attrs)


def interleave_volumes(data: te.Tensor, strides: Sequence[int], out: Sequence[int]) -> te.Tensor:
    """(N, phases * O/b, D * H, W, b), phase by phase -> (N, O/b, OD, OH, OW, b), one voxel of every phase in turn."""
    n, blocks, _, _, b = static(data.shape)
    sz, sy, sx = strides
    own, height = blocks // (sz * sy * sx), out[1] // sy

    def element(i: Any, c: Any, z: Any, y: Any, x: Any, v: Any) -> Any:
        phase = (z % sz * sy + y % sy) * sx + x % sx
        return data[i, phase * own + c, z // sz * height + y // sy, x // sx, v]

    return te.compute((n, own, *out, b), element, name="interleave_volumes")


__all__ = ["INTERLEAVE", "STRIDES", "interleave_phases", "interleave_volumes", "stack_depths", "unstack_depths"]
