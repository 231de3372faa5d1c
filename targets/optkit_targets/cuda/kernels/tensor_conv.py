"""Convolution on tensor cores, as an implicit matrix product of positions x channels."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.tirx import IndexMap

from optkit.compiler.operator import CONV, Operator
from optkit_targets.cpu.kernels.tools import View, inline_rest
from optkit_targets.cuda.kernels.device_code import SHORT
from optkit_targets.cuda.kernels.tensor import (
    STEP,
    Axes,
    TensorCoreRule,
    Tiled,
    compute_product,
    constant_weights,
    from_outside,
    shape,
)
from optkit_targets.cuda.kernels.tiles import Tile


class TensorConvRule(TensorCoreRule):
    """Takes convolutions that are not grouped, whose sums fill half an instruction."""

    name, template, kind = "cuda.tensor_conv", "implicit_gemm", CONV
    mark, beside = "conv", frozenset({"pad", "crop"})

    def find(self, view: View, operator: Operator) -> Tiled | None:
        """Any stride, dilation and padding; batches of any size."""
        sch, conv, pad = view.sch, view.ops["conv"], view.ops.get("pad")
        s = operator.named()
        if operator.kind != CONV or s["groups"] != 1 or s["b"] != SHORT:
            return None
        blocks = -(-s["c"] // SHORT), -(-s["o"] // SHORT)
        terms = blocks[0] * SHORT * s["kh"] * s["kw"]
        if 2 * terms < STEP[operator.compute]:
            return None
        packed = [blocks[1], blocks[0], s["kh"], s["kw"], 1, SHORT, SHORT]
        fill = 0 if pad is None else _padding(sch.get(pad))
        if fill is None or not constant_weights(view, conv, operator.compute, packed):
            return None
        data = sch.get(conv if pad is None else pad).reads[0].source
        if shape(data, 1) != [blocks[0], s["h"], s["w"], SHORT] or not from_outside(view, data):
            return None
        height, width = operator.output()
        sums, out = (shape(sch.get(block).writes[0].source, 1) for block in (conv, view.last))
        if sums not in ([blocks[1], height, width, SHORT], [blocks[1], height * width, SHORT]):
            return None  # rounded up to a register tile
        if out != [blocks[1], height, width, SHORT]:
            return None
        window = (s["kh"], s["kw"], s["sh"], s["sw"], s["dh"], s["dw"], s["pt"], s["pl"])
        numbers = (*blocks, s["h"], s["w"], height, width, *window, f"{fill}u")
        batch = shape(data)
        return Tiled(operator, "OptkitConv", numbers, batch[0] if batch else None)

    def schedule(self, view: View, found: Tiled, tile: Tile) -> Any:
        """Threads of a tile are neighbouring positions: so their four channels lie side by side."""
        sch, conv = view.sch, view.ops["conv"]
        if len(sch.get(conv).writes[0].source.shape) == 5:
            width = found.operator.output()[1]
            sch.transform_layout(conv, ("write", 0), lambda n, o, y, x, v: (n, o, y * width + x, v))
            flat = IndexMap.from_func(lambda n, o, y, x, *rest: (n, o, y * width + x, *rest), ndim=10)
            sch.transform_block_layout(conv, flat)
        inline_rest(view, [conv])
        data, weights = (read.source for read in sch.get(conv).reads)
        n, c, y, x, v = sch.get_loops(view.last)
        axes = Axes((n,), sch.fuse(y, x), c, v, lambda i: (i[0], i[1], i[2], i[3]), columns_outside=True)
        return compute_product(view, conv, found, tile, lambda batch: [(data, batch), (weights, ())], axes)


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
