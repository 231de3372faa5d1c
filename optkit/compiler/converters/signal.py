"""DFT, STFT, windows, MelWeightMatrix and Range."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax

from optkit.compiler.converters.extents import declared, refuse
from optkit.compiler.converters.matmul import matmul
from optkit.compiler.converters.rows import reshape
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import signal as define
from optkit.compiler.values import PLAIN, Value

op = relax.op
LONGEST = 4096
"""Points of a Fourier transform: it is a matrix product with a matrix of their square."""


def _size(node: Node, value: Value | None, shape: list[Any] | None, axis: int) -> int:
    """An extent that a constant gives, or else the declared shape of the output."""
    if value is not None and value.const is not None:
        return int(value.const.reshape(-1)[0])
    if shape is None or not isinstance(shape[axis], int):
        raise refuse(node, "its size is computed at run time and its output has no static shape; make it constant")
    return int(shape[axis])


def _static(node: Node, shape: list[Any] | None) -> list[int]:
    if shape is None or not all(isinstance(d, int) for d in shape):
        raise refuse(node, "its output has no static shape; give one with --input-shape, or make its inputs constant")
    return [int(d) for d in shape]


def window(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """HannWindow, HammingWindow and BlackmanWindow of a size that is constant or declared."""
    size = _size(node, inputs[0], declared(low, node), 0)
    array = define.window(size, node.op_type, bool(node.get("periodic", 1)))
    dtype = ir.DataType(int(node.get("output_datatype", 1))).numpy()
    return Value(low, (size,), dtype.name, const=array.astype(dtype))


def mel_weights(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """MelWeightMatrix; its shape is declared, or follows from constants."""
    given = [v for v in inputs if v is not None]
    shape = declared(low, node)
    if shape is None or not all(isinstance(d, int) for d in shape):
        shape = [_size(node, inputs[1], None, 0) // 2 + 1, _size(node, inputs[0], None, 0)]
    dtype = ir.DataType(int(node.get("output_datatype", 1))).numpy().name
    return low.wrap(low.emit(define.mel_weights, *[v.plain() for v in given], shape, dtype, name="mel_weights"))


def arange(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Range whose length is declared; one that is shape arithmetic is left to the next converter."""
    start, _, delta = inputs
    shape = declared(low, node)
    if start is None or delta is None or shape is None or shape[0] is None:
        return None
    if any(v is not None and v.dtype == "shape" for v in inputs) or start.dtype != delta.dtype:
        return None
    return low.wrap(low.emit(define.arange, start.plain(), delta.plain(), shape[0], name="range"))


def dft(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """DFT along one axis; an axis that is known at run time only is chosen among all that fit."""
    x = inputs[0]
    assert x is not None
    shape = _static(node, declared(low, node))
    rank = len(x.shape)
    if not all(isinstance(d, int) for d in x.shape[1:]):
        raise refuse(node, "its signal has symbolic axes; fix them with --input-shape")
    if node.opset < 20:
        return _transform(low, node, x, inputs[1] if len(inputs) > 1 else None, int(node.get("axis", 1)), shape)
    given = inputs[2] if len(inputs) > 2 else None
    length = inputs[1] if len(inputs) > 1 else None
    if given is None or given.const is not None:
        axis = -2 if given is None or given.const is None else int(given.const.reshape(-1)[0])
        return _transform(low, node, x, length, axis % rank, shape)
    fitting = [a for a in range(rank - 1) if _fits(x.shape, shape, a)]
    wanted = low.bind(op.reshape(given.plain(), relax.ShapeExpr([1] * rank)))
    negative = low.bind(op.less(wanted, relax.const(0, given.dtype)))
    wanted = low.bind(op.where(negative, low.bind(op.add(wanted, relax.const(rank, given.dtype))), wanted))
    result: Any = None
    for axis in fitting:
        found = _transform(low, node, x, length, axis, shape).plain()
        if result is not None:
            here = low.bind(op.equal(wanted, relax.const(axis, given.dtype)))
            found = low.bind(op.where(here, found, result))
        result = found
    if result is None:
        raise refuse(node, "no axis of its input fits its declared output; export it with a constant axis")
    return low.wrap(result)


def _fits(source: Any, target: list[int], axis: int) -> bool:
    return all(a == b for i, (a, b) in enumerate(zip(source[:-1], target[:-1], strict=True)) if i != axis)


def _transform(low: Lowering, node: Node, x: Value, length: Value | None, axis: int, shape: list[int]) -> Value:
    inverse, onesided = bool(node.get("inverse", 0)), bool(node.get("onesided", 0))
    axis %= len(x.shape)
    points, channels = int(x.shape[axis]), int(x.shape[-1])
    if (inverse and onesided) or not onesided:
        size = _size(node, length, shape, axis)
    elif length is None:
        size = points
    elif length.const is None:
        raise refuse(node, "dft_length is known at run time only; make it constant")
    else:
        size = int(length.const.reshape(-1)[0])
    return _multiply(low, node, x, axis, (points, size, channels, inverse, onesided), shape)


@functools.lru_cache(maxsize=8)
def _matrix(points: int, size: int, channels: int, inverse: bool, onesided: bool, dtype: str) -> np.ndarray:
    return define.fourier_matrix(points, size, channels, inverse, onesided).astype(dtype)


def _multiply(
    low: Lowering, node: Node, x: Value, axis: int, what: tuple[int, int, int, bool, bool], shape: list[int]
) -> Value:
    points, size, channels = what[:3]
    if max(points, size) > LONGEST:
        raise refuse(node, f"its {max(points, size)} points are more than {LONGEST}, the most that are compiled")
    rank = len(x.shape)
    order = [a for a in range(rank - 1) if a != axis] + [axis, rank - 1]
    kind = "float64" if x.dtype == "float64" else "float32"
    expr = x.plain() if x.dtype == kind else low.bind(op.astype(x.plain(), kind))
    expr = expr if order == sorted(order) else low.bind(op.permute_dims(expr, order))
    lead = [x.shape[a] for a in order[:-2]]
    flat = reshape(low, expr, [*lead, points * channels])
    matrix = _matrix(*what, kind)
    rows = low.blocked((*lead, points * channels), kind, PLAIN, flat)
    weights = Value(low, matrix.shape, kind, const=matrix)
    known = matmul(low, node, [rows, weights]) if kind == "float32" and rank > 2 else None
    out = known.plain() if known is not None else low.bind(op.matmul(flat, weights.plain()))
    out = reshape(low, out, [*lead, shape[axis], shape[-1]])
    if order != sorted(order):
        out = low.bind(op.permute_dims(out, [order.index(a) for a in range(rank)]))
    return low.wrap(out if kind == x.dtype else op.astype(out, x.dtype))


def stft(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """STFT: frames under a window, transformed; the hop may be known at run time only, and so may the length."""
    padded: list[Value | None] = [*inputs, *[None] * (4 - len(inputs))]
    x, step, taps, length = padded[:4]
    assert x is not None and step is not None
    shape = _static(node, declared(low, node))
    onesided = bool(node.get("onesided", 1))
    given = None if taps is None else taps.plain()
    if taps is not None:
        size = int(taps.shape[0])
    elif length is not None and length.const is not None:
        size = int(length.const.reshape(-1)[0])
    elif not onesided:
        size = shape[2]
    elif length is not None:
        return _runtime_stft(low, x, step, length, shape)
    else:
        raise refuse(node, "it has neither a window nor a frame length; export it with one")
    # ONNX's inference counts frequencies and frames differently where a window is given (onnx 1.23).
    shape[2] = size // 2 + 1 if onesided else size
    if step.const is not None and isinstance(x.shape[1], int):
        shape[1] = (x.shape[1] - size) // int(step.const.reshape(-1)[0]) + 1
    framed = low.emit(define.frames, x.plain(), step.plain(), given, shape[1], size, name="frames")
    return _multiply(low, node, low.wrap(framed), 2, (size, size, int(x.shape[2]), False, onesided), shape)


def _runtime_stft(low: Lowering, x: Value, step: Value, length: Value, shape: list[int]) -> Value:
    """The number of frequencies leaves two lengths possible: the kernel reads which."""
    most = 2 * shape[2] - 1
    framed = low.emit(define.frames, x.plain(), step.plain(), None, shape[1], most, name="frames")
    out = low.emit(define.short_transform, framed, length.plain(), shape[2], name="short_transform")
    return low.wrap(out if x.dtype == "float64" else op.astype(out, x.dtype))


CONVERTERS: dict[str, Converter] = {
    **dict.fromkeys(define.WINDOWS, window),
    "MelWeightMatrix": mel_weights,
    "Range": arange,
    "DFT": dft,
    "STFT": stft,
}
