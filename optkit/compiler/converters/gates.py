"""One number a channel against a whole image: squeeze and excitation (Hu et al. 2018), and whatever scales alike.

Fusion would put the multiplication behind the convolution that makes the numbers, and that convolution would be
done again for every position of the image. So the numbers are made first, in a kernel that nothing joins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te

from optkit.compiler.lowering import Lowering
from optkit.compiler.values import OPAQUE, Value


def hold(low: Lowering, inputs: Sequence[Value | None]) -> list[Value | None]:
    """The operands, those of an image of one position complete before they meet a larger image."""
    large = any(v is not None and _rank(v) > 2 and not _is_point(v) for v in inputs)
    return [_held(low, v) if large and v is not None and _is_point(v) else v for v in inputs]


def _rank(value: Value) -> int:
    return 0 if value.dtype in ("shape", "sequence") else len(value.shape)


def _is_point(value: Value) -> bool:
    """Whether it comes in blocks, from a convolution, with one position of several channels."""
    if value.const is not None or _rank(value) < 3 or value.dtype not in ("float32", "float16") or not value.block:
        return False
    return all(isinstance(d, int) and d == 1 for d in value.shape[2:]) and value.shape[1] != 1


def _held(low: Lowering, value: Value) -> Value:
    made = low.emit(_copy, value.form(value.block), name="hold", kind=OPAQUE)
    return low.blocked(value.shape, value.dtype, value.block, made)


def _copy(data: te.Tensor) -> Any:
    return te.compute(data.shape, lambda *i: data(*i), name="hold")


__all__ = ["hold"]
