"""Convolution on tensor cores, as an implicit matrix product of positions x channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.sym import Analyzer
from tvm.tirx import IndexMap

from optkit.compiler.operator import CONV, NOMINAL, Operator
from optkit.compiler.operators.common import static
from optkit.compiler.operators.volume import INTERLEAVE, STRIDES
from optkit_targets.cpu.kernels.tools import View, annotation, extent, inline_rest
from optkit_targets.cuda.kernels.device_code import SHORT
from optkit_targets.cuda.kernels.tensor import (
    STEP,
    WORD,
    Axes,
    TensorCoreRule,
    Tiled,
    compute_product,
    constant_weights,
    depth_of,
    from_outside,
    shape,
    span_of,
)
from optkit_targets.cuda.kernels.tiles import Tile

_IMAGE = 4
"""Axes of an image in blocks of channels."""
_FAR = 2**31
"""Words of a tensor whose places are not 32-bit numbers."""


class TensorConvRule(TensorCoreRule):
    """Takes convolutions whose sums fill half an instruction, and those in groups that are not too small."""

    name, template, kind = "cuda.tensor_conv", "implicit_gemm", CONV
    mark, beside = "conv", frozenset({"pad", "crop", INTERLEAVE})

    def find(self, view: View, operator: Operator) -> Tiled | None:
        """Any stride, dilation and padding; batches and images of any size."""
        sch, conv, pad = view.sch, view.ops["conv"], view.ops.get("pad")
        s, out = operator.named(), static(sch.get(view.last).writes[0].source.shape)[1:]
        if operator.kind != CONV or len(out) != _IMAGE or not isinstance(out[-1], int) or out[-1] % SHORT:
            return None
        b, c, groups, span = out[-1], s["b"], s["groups"], span_of(operator)
        words = c // WORD[operator.compute]
        blocks = -(-s["c"] // c), -(-s["o"] // b)
        if groups > 1 and not span:
            return None
        depth = depth_of(operator)
        terms = depth * c * s["kh"] * s["kw"]
        if words * WORD[operator.compute] != c or words not in (1, 2, 4):
            return None
        if groups == 1 and 2 * terms < STEP[operator.compute]:
            return None
        packed = [blocks[1], depth, s["kh"], s["kw"], 1, b, c]
        fill = 0 if pad is None else _padding(sch.get(pad))
        if fill is None or not constant_weights(view, conv, operator.compute, packed):
            return None
        data = sch.get(conv if pad is None else pad).reads[0].source
        sums = static(sch.get(conv).writes[0].source.shape)[1:]
        if not from_outside(view, data):
            return None
        fours, batch = b // SHORT, shape(data)
        if annotation(sch, conv, NOMINAL) is not None:
            if not _opened(operator, static(data.shape)[1:], sums, out, blocks, _strides(view)):
                return None
            numbers = conv_numbers(operator, fours, 1, fill, opened=True)
            return Tiled(operator, "OptkitConv", numbers, None, 1, span, fours=fours)
        if shape(data, 1) != [blocks[0], s["h"], s["w"], c]:
            return None
        height, width = operator.output()
        if sums not in ([blocks[1], height, width, b], [blocks[1], height * width, b]):
            return None  # rounded up to a register tile
        sy, sx = _strides(view)
        if out != [blocks[1] // (sy * sx), height * sy, width * sx, b]:
            return None
        # Positions of all images are one list where they can be: so only the last tile of all is not full.
        images = batch[0] if batch and math.prod(batch) // WORD[operator.compute] < _FAR else 1
        numbers = conv_numbers(operator, fours, images, fill)
        whole = batch[0] // images if batch else None
        return Tiled(operator, "OptkitConv", numbers, whole, images, span, fours=fours)

    def schedule(self, view: View, found: Tiled, tile: Tile) -> Any:
        """Threads of a tile are neighbouring positions, or fours of a position's channels, which lie side by side."""
        sch, conv = view.sch, view.ops["conv"]
        opened = annotation(sch, conv, NOMINAL) is not None
        strides = _strides(view)
        inline_rest(view, [conv])
        n, c, y, x, v = sch.get_loops(view.last)
        if INTERLEAVE in view.ops:
            # Output channels are phases, which pixels come from in turn.
            y, yi = sch.split(y, [None, strides[0]])
            x, xi = sch.split(x, [None, strides[1]])
            sch.reorder(n, yi, xi, c, y, x, v)
            c = sch.fuse(yi, xi, c)
        fours = (extent(sch, v) or SHORT) // SHORT
        sums = sch.get(conv).writes[0].source
        cut, pixels = tile.cut, len(sums.shape) == 5
        across = sums.shape[3] if opened else found.operator.output()[1]
        flattened = pixels and cut is None and not opened

        def flat(n: Any, o: Any, *rest: Any) -> tuple[Any, ...]:
            """Fours of channels as one axis, and positions too where tiles are of plain lists of known ones."""
            axes = 3 if pixels else 2
            (*place, v), steps = rest[:axes], rest[axes:]
            if flattened:
                place = [place[0] * across + place[1]]
            return (n, o, *place, v, *steps) if fours == 1 else (n, o * fours + v // SHORT, *place, v % SHORT, *steps)

        if flattened or fours > 1:
            sch.transform_block_layout(conv, IndexMap.from_func(flat, ndim=len(sch.get(conv).iter_vars)))
            sch.transform_layout(conv, ("write", 0), IndexMap.from_func(flat, ndim=len(sums.shape)))
        data, weights = (read.source for read in sch.get(conv).reads)
        four, v = sch.split(v, [fours, SHORT])
        listed, count = found.listed > 1, math.prod(found.operator.output())
        batch: tuple[Any, ...] = () if listed else (n,)
        if listed:
            sch.reorder(c, n)
        places = [y, x] if cut is None else cut.loops(sch, y, x)
        positions = sch.fuse(*([n] if listed else []), *places)

        def index(i: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
            image = i[0] if listed else 0
            two = pixels and not flattened
            if cut is None:
                position = image * count + (i[2] * across + i[3] if two else i[2])
            else:
                position = cut.position(image, *((i[2], i[3]) if two else (i[2] // across, i[2] % across)))
            return 0 if listed else i[0], i[1], position, i[-1]

        axes = Axes(batch, positions, c, v, index, four if fours > 1 else None, True)
        # Where a second image begins tells how far images are apart, also where they lie in larger ones.
        second = [(data, (1,))] if listed else []
        extents = [*data.shape[2:4], *sums.shape[2:4]] if opened else []
        return compute_product(
            view, conv, found, tile, lambda batch: [(data, batch), (weights, ())], axes, extents, second
        )


def _strides(view: View) -> tuple[int, int]:
    """Places down and across that a position's sums belong to."""
    if INTERLEAVE not in view.ops:
        return 1, 1
    sy, sx = str(annotation(view.sch, view.ops[INTERLEAVE], STRIDES)).split()
    return int(sy), int(sx)


def _opened(
    operator: Operator,
    data: list[Any],
    sums: list[Any],
    out: list[Any],
    blocks: tuple[int, int],
    strides: tuple[int, int],
) -> bool:
    """Whether a convolution of images of open size is what device code takes it for.

    Args:
        data, sums, out: extents behind the batch.
        blocks: of channels, in and out.
        strides: places of a position's sums, down and across.
    """
    s, (own, *places, b), equal = operator.named(), out, Analyzer().can_prove_equal
    each = own * math.prod(strides)
    ends = [data[0], data[-1], each, sums[0], sums[-1]] == [blocks[0], s["b"], blocks[1], blocks[1], b]
    return ends and all(equal(n * step, place) for n, step, place in zip(sums[1:-1], strides, places, strict=True))


def conv_numbers(
    operator: Operator, fours: int, images: int, fill: int = 0, opened: bool = False
) -> tuple[object, ...]:
    """What the device code is made for, behind the tile's numbers (`OptkitConv`).

    Args:
        fours: in a block of channels out.
        images: whose positions are one list.
        fill: the word of what is read outside of an image.
        opened: whether it is told the images' extents when it runs.
    """
    s = operator.named()
    blocks = -(-s["c"] // s["b"]), -(-s["o"] // (SHORT * fours))
    extents: tuple[int, ...] = (s["h"], s["w"], *operator.output())
    if opened:
        extents = (0, 0, *(int(sum(s[side] for side in sides) > 0) for sides in (("pt", "pb"), ("pl", "pr"))))
    bands = blocks[0], span_of(operator) or s["o"], s["c"] // s["groups"], s["o"] // s["groups"]
    counts = s["b"] // WORD[operator.compute], fours, depth_of(operator), blocks[1] * fours, *bands, images
    window = (s[name] for name in ("kh", "kw", "sh", "sw", "dh", "dw", "pt", "pl"))
    return (*counts, *extents, *window, f"{fill}u")


def _padding(block: Any) -> int | None:
    """The word that padding reads; None where it is no constant, or more than padding happens there."""
    value = block.body.value if isinstance(block.body, tirx.BufferStore) else None
    if not isinstance(value, tvm.ir.Call) or not value.op.name.endswith("if_then_else"):
        return None
    _, inside, outside = value.args
    if isinstance(inside, tirx.Cast) and str(inside.value.ty.dtype) == "bfloat16":
        inside = inside.value  # a padded copy of bfloat16 is float32, which holds it exactly
    if not isinstance(inside, tvm.ir.TensorLoad):
        return None
    if isinstance(outside, tirx.FloatImm):
        return 0 if outside.value == 0 else None
    return int(outside.value) * 0x01010101 if isinstance(outside, tirx.IntImm) else None
