"""Channel shuffle (Zhang et al., "ShuffleNet", 2018, section 3.1) without leaving the blocked layout.

Exporters write it as three nodes: channels divided into groups, the two axes swapped, and the channels put together
again. The first two make nothing until someone asks for their plain form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from optkit.compiler.lowering import Lowering
from optkit.compiler.operators.layout import shuffle_blocks
from optkit.compiler.values import INJECTIVE, PLAIN, Deferred, Value

_SWAP = [0, 2, 1]


class Divided(Deferred):
    """A blocked image (N, C, *S) as (N, groups, C / groups, *S); `swapped`, as (N, C / groups, groups, *S)."""

    def __init__(self, low: Lowering, image: Value, groups: int, swapped: bool = False) -> None:
        n, channels, *space = image.shape
        axes = (channels // groups, groups) if swapped else (groups, channels // groups)
        super().__init__(low, (n, *axes, *space), image.dtype)
        self.image, self.groups, self.swapped = image, groups, swapped

    def make_plain(self) -> Any:
        """A reshape and a transposition of the image's plain form."""
        n, channels, *space = self.image.shape
        divided = (n, self.groups, channels // self.groups, *space)
        expr = self.low.bind(relax.op.reshape(self.image.plain(), divided))
        axes = [*_SWAP, *range(len(_SWAP), len(divided))]
        return self.low.bind(relax.op.permute_dims(expr, axes)) if self.swapped else expr


def reshape(low: Lowering, x: Value, target: Sequence[int]) -> Value | None:
    """A Reshape that divides a blocked image's channels, or puts swapped ones together again; None for others."""
    if isinstance(x, Divided):
        image = x.image
        return shuffled(low, image, x.groups) if x.swapped and _is(target, image.shape) else None
    if x.block == PLAIN or len(target) != len(x.shape) + 1 or not all(isinstance(d, int) for d in x.shape):
        return None
    groups, n, channels = int(target[1]), *x.shape[:2]
    if groups < 1 or channels % groups or not _is(target, (n, groups, channels // groups, *x.shape[2:])):
        return None
    return Divided(low, x, groups)


def transpose(low: Lowering, x: Value, axes: Sequence[int]) -> Value | None:
    """A Transpose that swaps the two axes of divided channels; None for others."""
    if not isinstance(x, Divided) or x.swapped or list(axes) != [*_SWAP, *range(len(_SWAP), len(x.shape))]:
        return None
    return Divided(low, x.image, x.groups, True)


def _is(target: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a Reshape to `target`, where at most one extent may be left open, gives this shape."""
    return len(target) == len(shape) and all(a in (b, -1) for a, b in zip(target, shape, strict=True))


def shuffled(low: Lowering, image: Value, groups: int) -> Value:
    """The image with the first channels of all groups first, then the second ones."""
    b = image.block
    expr = low.emit(shuffle_blocks, image.form(b), image.shape[1], groups, name="shuffle", kind=INJECTIVE)
    return low.blocked(image.shape, image.dtype, b, expr)
