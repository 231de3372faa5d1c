"""Convolution on tensor cores, as an implicit matrix product of positions x channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx import IndexMap

from optkit.compiler.operator import OPERATOR, Operator
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, annotation, inline_rest, look, read_dtype, same
from optkit_targets.cuda.kernels.tensor import (
    GROUP,
    SHORT,
    SPACE,
    STEP,
    SUM,
    THREADS,
    WEIGHT,
    Sums,
    has_tensor_cores,
    tile_size,
    use_device_code,
)


@dataclass(frozen=True)
class Convolution:
    """What is computed: the numbers that device code is made for.

    Attributes:
        fill: a word of what is read outside the image.
    """

    dtype: str
    operator: Operator
    fill: int

    def call(self, rows: int, columns: int) -> str:
        """The device function."""
        s = self.operator.named()
        blocks = (-(-s["c"] // SHORT), -(-s["o"] // SHORT))
        window = (s["kh"], s["kw"], s["sh"], s["sw"], s["dh"], s["dw"], s["pt"], s["pl"])
        numbers = (rows, columns, *blocks, s["h"], s["w"], *self.operator.output(), *window)
        return f"OptkitConv<{SUM[self.dtype]}, {', '.join(map(str, numbers))}, {self.fill}u>::run"


class TensorConvRule:
    """Takes convolutions of bytes and halves, not grouped, deep enough to fill half an instruction."""

    name = "cuda.tensor_conv"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: a tile of `rows` positions and `columns` channels."""
        if not has_tensor_cores(target):
            return None
        found = _convolution(look(func))
        if found is None:
            return None
        s, (height, width) = found.operator.named(), found.operator.output()

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), found, chosen["rows"], chosen["columns"])

        compute = "int8" if found.dtype == "uint8" else found.dtype
        params = tile_size(s["n"], height * width, s["o"], target.cores)
        return [Choice(self.name, "implicit_gemm", 1, params, SPACE, apply, found.operator.macs(), compute)]


def _convolution(view: View) -> Convolution | None:
    if "conv" not in view.ops or set(view.ops) - {"conv", "pad", "crop"}:
        return None
    sch, conv, pad = view.sch, view.ops["conv"], view.ops.get("pad")
    text = annotation(sch, conv, OPERATOR)
    if text is None or same(sch, conv, view.last):
        return None
    operator, dtype = Operator.parse(str(text)), read_dtype(sch, conv)
    s = operator.named()
    if dtype not in STEP or s["groups"] != 1 or s["b"] != SHORT or 2 * s["c"] < STEP[dtype]:
        return None
    reads = [read.source for read in sch.get(conv).reads]
    depth, group = -(-s["c"] // SHORT), GROUP[dtype]
    kernel = [-(-s["o"] // SHORT), depth, s["kh"], s["kw"], SHORT // group, SHORT, group]
    if len(reads) != 2 or str(reads[1].dtype) != WEIGHT[dtype] or list(map(int, reads[1].shape)) != kernel:
        return None
    data, fill = reads[0], 0
    if pad is not None:
        value = _padding(sch.get(pad))
        if value is None:
            return None
        data, fill = sch.get(pad).reads[0].source, value
    if list(map(int, data.shape)) != [s["n"], depth, s["h"], s["w"], SHORT]:
        return None
    if any(write.source.same_as(data) for block in view.blocks for write in sch.get(block).writes):
        return None
    height, width = operator.output()
    positions = list(map(int, sch.get(conv).writes[0].source.shape))[2:-1]
    if positions not in ([height, width], [height * width]):
        return None  # rounded up to a register tile
    return Convolution(dtype, operator, fill)


def _padding(block: Any) -> int | None:
    """The word that padding reads; None where it is no constant, or more than padding happens there."""
    value = block.body.value if isinstance(block.body, tirx.BufferStore) else None
    if not isinstance(value, tvm.ir.Call) or not value.op.name.endswith("if_then_else"):
        return None
    _, inside, outside = value.args
    if not isinstance(inside, tvm.ir.TensorLoad):
        return None
    if isinstance(outside, tirx.FloatImm):
        return 0 if outside.value == 0 else None
    return int(outside.value) * 0x01010101 if isinstance(outside, tirx.IntImm) else None


def schedule(view: View, found: Convolution, rows: int, columns: int) -> Any:
    """Apply the template."""
    sch, conv = view.sch, view.ops["conv"]
    if len(sch.get(conv).writes[0].source.shape) == 5:
        width = found.operator.output()[1]
        sch.transform_layout(conv, ("write", 0), lambda n, o, y, x, v: (n, o, y * width + x, v))
        flat = IndexMap.from_func(lambda n, o, y, x, *rest: (n, o, y * width + x, *rest), ndim=10)
        sch.transform_block_layout(conv, flat)
    inline_rest(view, [conv])
    n, c, y, x, v = sch.get_loops(view.last)
    across, ci = sch.split(c, [None, columns // SHORT])
    down, pi = sch.split(sch.fuse(y, x), [None, rows])
    sch.reorder(n, across, down, ci, pi, v)
    for loop, axis in ((n, "blockIdx.z"), (across, "blockIdx.y"), (down, "blockIdx.x")):
        sch.bind(loop, axis)
    sch.compute_at(conv, down, preserve_unit_loops=True)
    sch.set_scope(conv, 0, "shared")
    _, thread = sch.split(sch.fuse(ci, pi), [None, THREADS])
    sch.bind(thread, "threadIdx.x")
    sch.vectorize(v)
    outermost, column, row, image = (sch.get(loop).loop_var for loop in (sch.get_loops(conv)[3], across, down, n))
    name = found.call(rows, columns)
    sums = Sums(name, "tensor_conv", outermost, column, row, rows, columns, lambda i: (i[1], i[2], i[3]), (image,))
    return use_device_code(sch, sums)
