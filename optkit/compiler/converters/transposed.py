"""ConvTranspose: as one convolution where the phases of its stride are output channels, else in the general form.

With stride s along an axis, output o + begin = q * s + r takes input q - j by tap r + j * s: for every phase r a
convolution over the input with the taps r, r + s, r + 2s ... in reverse. All phases read the same inputs, so they
are one convolution with s times the output channels, whose results are then interleaved (Shi et al., "Is the
deconvolution layer the same as a convolutional layer?", 2016).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax, sym, tirx

from optkit.compiler.converters import conv as convolution
from optkit.compiler.converters.accumulation import BYTES
from optkit.compiler.converters.extents import refuse
from optkit.compiler.converters.geometry import static_shape
from optkit.compiler.epilogues import EPILOGUE
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import windows as general
from optkit.compiler.operators.common import simplified
from optkit.compiler.operators.conv import Window
from optkit.compiler.operators.volume import interleave_phases, interleave_volumes
from optkit.compiler.operators.windows import Windows
from optkit.compiler.packing import pad_axis, round_up
from optkit.compiler.values import INJECTIVE, OUT_FUSABLE, PLAIN, Accumulated, Dequantized, QuantizedWeight, Value


def conv_transpose(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """ConvTranspose in any number of dimensions."""
    x, weight, bias = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
    assert x is not None and weight is not None
    window, out = geometry(node, weight.shape[2:], x.shape[2:])
    groups = int(node.get("group", 1))
    known = weight.const is not None and (bias is None or bias.const is not None)
    images = len(x.shape) == 4 and static_shape(x, 1) and x.dtype in ("float32", "float16")
    plain_taps = all(d == 1 or k == 1 for d, k in zip(window.dilations, window.kernel, strict=True))
    begins = all(isinstance(b, int) and b >= 0 for b in window.begins)
    if known and images and plain_taps and groups == 1 and begins:
        plan = _phases(x, weight, window, out)
        if all(isinstance(pad, int) for pad in plan.pads):
            return _by_phases(low, node, x, weight, bias, window, out, plan)
    if known and groups == 1 and _apart(x, weight, window, out):
        return _volume(low, node, x, weight, bias, window.strides)
    if not all(isinstance(b, int) for b in window.begins):
        raise refuse(node, "its padding depends on a symbolic extent; fix it with --input-shape")
    filters = weight.shape[1] * groups
    counts = (*x.shape, *weight.shape[1:])
    low.record(node, x.dtype, math.prod(d for d in counts if isinstance(d, int)), "it has no template")
    args = x.plain(), weight.plain(), window, out, groups
    expr = low.emit(general.conv_transpose, *args, name="conv_transpose", kind=OUT_FUSABLE)
    return convolution.finish(low, x, filters, out, expr, bias)


def geometry(node: Node, kernel: Sequence[int], size: Sequence[Any]) -> tuple[Windows, list[Any]]:
    """The window, its paddings resolved, and the output's extents (ConvTranspose, total_padding)."""
    rank = len(kernel)
    strides, dilations = (list(node.get(name) or [1] * rank) for name in ("strides", "dilations"))
    extra = list(node.get("output_padding") or [0] * rank)
    pads = list(node.get("pads") or [0] * (2 * rank))
    auto, wanted = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if auto == "VALID":
        pads = [0] * (2 * rank)
    begins, ends, out = [], [], []
    for i in range(rank):
        full = strides[i] * (size[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1
        begin, end = pads[i], pads[i + rank]
        if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
            # output_shape may name the batch and the channels too.
            extent = wanted[len(wanted) - rank + i] if wanted is not None else size[i] * strides[i]
            total = full - extent
            if isinstance(total, int):
                total = max(total, 0)
            small = total // 2
            begin, end = (small, total - small) if auto == "SAME_UPPER" else (total - small, small)
            out.append(extent)
        else:
            out.append(full - begin - end)
        begins.append(begin)
        ends.append(end)
    extents = [simplified(extent) for extent in out]
    return Windows(tuple(kernel), tuple(strides), tuple(dilations), tuple(begins), tuple(ends)), extents


@dataclass(frozen=True)
class _Phases:
    """The convolution of all phases: taps, padding (top, left, bottom, right) and output extents, maybe open ones."""

    taps: tuple[int, ...]
    pads: tuple[Any, ...]
    sizes: tuple[Any, ...]


def _phases(x: Value, weight: Value, window: Windows, out: Sequence[Any]) -> _Phases:
    simplify = sym.Analyzer().simplify

    def known(extent: Any) -> Any:
        value = extent if isinstance(extent, int) else simplify(extent)
        return int(value) if isinstance(value, tirx.IntImm) else value

    taps = [-(-k // s) for k, s in zip(weight.shape[2:], window.strides, strict=True)]
    steps = [known((o - 1 + begin) // s + 1) for o, begin, s in zip(out, window.begins, window.strides, strict=True)]
    first = [begin // s for begin, s in zip(window.begins, window.strides, strict=True)]
    # Output step q of a phase reads inputs q - taps + 1 to q; those before `first` are never used.
    lead = [t - 1 - f for t, f in zip(taps, first, strict=True)]
    sizes = [known(step - f) for step, f in zip(steps, first, strict=True)]
    trail = [known(n + t - 1 - e - s) for n, t, e, s in zip(sizes, taps, lead, x.shape[2:], strict=True)]
    return _Phases(tuple(taps), (*lead, *trail), tuple(sizes))


def _by_phases(
    low: Lowering,
    node: Node,
    x: Value,
    weight: Value,
    bias: Value | None,
    window: Windows,
    out: Sequence[Any],
    plan: _Phases,
) -> Value:
    assert weight.const is not None
    channels, filters, *_ = weight.shape
    strides, taps = window.strides, plan.taps
    phases = list(itertools.product(*[range(s) for s in strides]))
    room = round_up(filters, low.target.lanes) if len(phases) > 1 else filters

    def by_phase(array: np.ndarray) -> np.ndarray:
        """(C, O, KH, KW) -> (phases * room, C, *taps)."""
        packed = np.zeros((len(phases), room, channels, *taps), array.dtype)
        for p, phase in enumerate(phases):
            own = array[:, :, *[slice(r, None, s) for r, s in zip(phase, strides, strict=True)]]
            reverse = own[:, :, ::-1, ::-1].swapaxes(0, 1)
            # A phase with fewer taps lacks the last ones, which reversed are the first.
            packed[p, :filters, :, taps[0] - own.shape[2] :, taps[1] - own.shape[3] :] = reverse
        return packed.reshape(-1, channels, *taps)

    def column(values: np.ndarray, fill: float) -> np.ndarray:
        """A number a filter, for every phase."""
        return np.tile(pad_axis(values, 0, room, fill), len(phases))

    flat = by_phase(weight.const)
    wide = Value(low, flat.shape, weight.dtype, const=flat)
    if isinstance(weight, QuantizedWeight) and weight.zero is None and (weight.scale.size == 1 or weight.axis == 1):
        scale = weight.scale if weight.scale.size == 1 else column(weight.scale, 1.0)
        wide = QuantizedWeight(low, by_phase(weight.q), scale, 0, flat)
    offset = None
    if bias is not None and bias.const is not None:
        offset = Value(low, (len(flat),), bias.dtype, const=column(bias.const, 0.0))
    top, left, bottom, right = plan.pads
    plain = Window((taps[0], taps[1]), (1, 1), (1, 1), (top, left, bottom, right))
    made = convolution.images(low, node, x, wide, offset, plain, room)
    shape, b = (x.shape[0], filters, *out), made.block
    if len(phases) == 1:
        return low.blocked(shape, x.dtype, b, made.form(b))
    begins = [begin % s for begin, s in zip(window.begins, strides, strict=True)]
    equal = sym.Analyzer().can_prove_equal
    whole = not any(begins) and all(equal(o, n * s) for o, n, s in zip(out, plan.sizes, strides, strict=True))
    marks = _marks(low, channels, whole)

    def interleave(expr: Any) -> Any:
        args = expr, strides, begins, out, whole
        return low.emit(interleave_phases, *args, name="interleave_phases", kind=INJECTIVE, marks=marks)

    if isinstance(made, Accumulated):
        return _uncorrected(low, made, shape, room, interleave)
    return low.blocked(shape, x.dtype, b, interleave(made.form(b)))


_DEEP = 16
"""Channels whose sums tensor cores take in any arithmetic."""


def _marks(low: Lowering, channels: int, whole: bool) -> dict[str, int]:
    """Attributes of what interleaves what was just summed: tensor cores write their sums to where they belong.

    Args:
        whole: whether every sum has a place.
    """
    tensor = low.target.has("async_copy") and low.records[-1].compute in BYTES and channels >= _DEEP
    return {EPILOGUE: 1} if tensor and whole else {}


def _apart(x: Value, weight: Value, window: Windows, out: Sequence[Any]) -> bool:
    """Whether it is of volumes, and every input is multiplied into outputs of its own."""
    if len(x.shape) != 5 or not static_shape(x, 1, 2, 3, 4) or x.dtype not in ("float32", "float16"):
        return False
    whole = [extent * step for extent, step in zip(x.shape[2:], window.strides, strict=True)]
    own = tuple(weight.shape[2:]) == tuple(window.strides) and not any((*window.begins, *window.ends))
    return own and list(out) == whole


def _volume(low: Lowering, node: Node, x: Value, weight: Value, bias: Value | None, strides: Sequence[int]) -> Value:
    """Of volumes whose steps do not overlap: a pointwise convolution of images, depths below each other."""
    assert weight.const is not None
    n, channels, depth, height, width = x.shape
    filters, lanes = weight.shape[1], low.target.lanes
    phases, room = math.prod(strides), round_up(filters, lanes)
    quantized = (
        isinstance(weight, QuantizedWeight) and weight.zero is None and (weight.scale.size == 1 or weight.axis == 1)
    )
    source = x.affine.q if isinstance(x, Dequantized) and quantized else x
    block = source.block if source.block >= lanes else lanes if channels >= lanes else PLAIN
    form = source.form(block)
    inner = [*form.ty.shape.values[:2], depth * height, width, *([block] if block else [])]
    images = low.blocked(
        (n, channels, depth * height, width), source.dtype, block, low.bind(relax.op.reshape(form, inner))
    )

    def by_phase(array: np.ndarray) -> np.ndarray:
        """(C, O, KD, KH, KW) -> (phases * room, C, 1, 1)."""
        moved = pad_axis(array, 1, room).transpose(2, 3, 4, 1, 0)
        return np.ascontiguousarray(moved.reshape(phases * room, channels, 1, 1))

    def column(values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """A number a filter, for every phase."""
        return np.tile(pad_axis(values, 0, room, fill), phases)

    packed = by_phase(weight.const)
    wide = Value(low, packed.shape, weight.dtype, const=packed)
    if source is not x:
        assert isinstance(x, Dequantized) and isinstance(weight, QuantizedWeight)
        images = Dequantized(low, replace(x.affine, q=images))
        scale = weight.scale if weight.scale.size == 1 else column(weight.scale, 1.0)
        wide = QuantizedWeight(low, by_phase(weight.q), scale, 0, packed)
    offset = None
    if bias is not None and bias.const is not None:
        offset = Value(low, (phases * room,), bias.dtype, const=column(bias.const))
    made = convolution.images(low, node, images, wide, offset, Window((1, 1), (1, 1), (1, 1), (0, 0, 0, 0)), room)
    out = [extent * step for extent, step in zip((depth, height, width), strides, strict=True)]
    shape, b = (n, filters, *out), made.block

    def interleave(expr: Any) -> Any:
        return low.emit(interleave_volumes, expr, strides, out, name="interleave_volumes", kind=INJECTIVE)

    if isinstance(made, Accumulated):
        return _uncorrected(low, made, shape, room, interleave)
    return low.blocked(shape, x.dtype, b, interleave(made.form(b)))


def _uncorrected(
    low: Lowering, made: Accumulated, shape: tuple[Any, ...], room: int, interleave: Callable[[Any], Any]
) -> Accumulated:
    """Sums of all phases as one channel each: what a zero point adds differs with the taps; scales do not."""
    b = made.block
    corrections = relax.const(made.bias.reshape(1, -1, 1, 1, b))
    acc, own = interleave(low.bind(relax.op.add(made.acc, corrections))), room // b
    return Accumulated(low, shape, acc, b, np.zeros_like(made.bias[:own]), made.scale[:own])


CONVERTERS: dict[str, Converter] = {"ConvTranspose": conv_transpose}
