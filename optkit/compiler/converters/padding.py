"""Pad in every mode: by known numbers in the layout that an image has, by tensors through a plan of what is read."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler.converters.dynamic import complete, some_extents
from optkit.compiler.converters.extents import count_axes, refuse, tensor, vector
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import plans
from optkit.compiler.operators import shapes as define
from optkit.compiler.operators.common import const, simplified
from optkit.compiler.values import INJECTIVE, PLAIN, Value

_REAL = ("float32", "float16")


def pad(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Pad, whose pads, value and axes may be tensors."""
    x, pads, value, axes = [*inputs, None, None, None][:4]
    if x is None or pads is None:
        return None
    mode = str(node.get("mode", "constant"))
    fixed = pads.const is not None and (value is None or value.const is not None) and axes is None
    if fixed and mode == "constant" and x.dtype in _REAL and x.block == PLAIN:
        return None
    if mode not in define.PADDING:
        raise refuse(node, f"mode {mode!r} is unknown")
    ends = _ends(x, pads, axes)
    if ends is not None and (ends >= 0).all() and x.dtype in _REAL and x.const is None:
        if value is None:
            return _surrounded(low, x, mode, ends, 0.0)
        if value.const is not None:
            return _surrounded(low, x, mode, ends, float(value.const.reshape(())))
    rank, count = len(x.shape), count_axes(node, pads) // 2
    names = relax.const(np.arange(count)) if axes is None else vector(low, axes, "int64")
    data = tensor(low, x)
    plan = low.emit(plans.padded, vector(low, pads, "int64"), names, data, name="padding")
    known = None if ends is None else _shape(x, ends)
    shape = known or complete(low, node) or some_extents(low, plan, rank, rank, low.node)
    filler = tensor(low, value, x.dtype) if value is not None else relax.const(np.zeros((), x.dtype), x.dtype)
    return low.wrap(low.emit(define.pad, data, plan, filler, mode, *shape, name="pad", kind=INJECTIVE))


def _ends(x: Value, pads: Value, axes: Value | None) -> np.ndarray | None:
    """Elements in front of and behind every axis, (axes, 2); None where a tensor says."""
    if pads.const is None or (axes is not None and axes.const is None):
        return None
    rank = len(x.shape)
    ends = np.zeros((rank, 2), int)
    given = pads.const.reshape(2, -1).T
    names = range(len(given)) if axes is None or axes.const is None else [int(a) % rank for a in axes.const.flat]
    ends[list(names)] = given
    return ends


def _shape(x: Value, ends: np.ndarray) -> list[Any]:
    return [simplified(extent + int(both)) for extent, both in zip(x.shape, ends.sum(1), strict=True)]


def _surrounded(low: Lowering, x: Value, mode: str, ends: np.ndarray, value: float) -> Value:
    """Padding by known numbers, of images in the layout they have."""
    block = x.block if len(x.shape) > 2 and not ends[:2].any() else PLAIN
    if block != PLAIN and mode == "constant" and value and x.shape[1] % block:
        block = PLAIN  # what is past the last channel would be of that number, too, and it may be infinite
    before, after = zip(*ends.tolist(), *([[0, 0]] if block != PLAIN else []), strict=True)
    filler = const(value, x.dtype)
    made = low.emit(define.surround, x.form(block), mode, before, after, filler, name="pad", kind=INJECTIVE)
    return low.blocked(tuple(_shape(x, ends)), x.dtype, block, made)


CONVERTERS: dict[str, Converter] = {"Pad": pad}
