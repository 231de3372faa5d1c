"""Kernels that read or write a tensor at its place in another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from optkit.compiler.operator import CONV, DEPTHWISE, NOMINAL, OPERATOR, Operator
from optkit.errors import CompileError

_ADDRESS = "tirx.address_of"


def moved(func: Any, places: Mapping[int, tuple[int, int]]) -> Any:
    """The kernel with some of its parameters, tensors (N, C/b, ...), as a range of blocks of larger ones.

    Args:
        places: by parameter: its first block in the larger tensor, and how many that has.

    Raises:
        CompileError: the kernel does more with such a parameter than to load, to store and to point to elements.
    """
    params = list(func.params)
    ranges = {}
    for index, (first, total) in places.items():
        old = params[index]
        extents = [old.shape[0], tirx.const(total, "int64"), *old.shape[2:]]
        params[index] = tirx.decl_buffer(extents, str(old.dtype), str(old.name))
        ranges[old] = params[index], first

    def shifted(indices: Any, first: int) -> list[Any]:
        n, block, *rest = indices
        return [n, block + tirx.const(first, block.ty.dtype), *rest] if first else list(indices)

    def load(node: Any) -> Any:
        place = ranges.get(node.source)
        return node if place is None else tirx.BufferLoad(place[0], shifted(node.indices, place[1]))

    def store(node: Any) -> Any:
        place = ranges.get(node.buffer)
        return node if place is None else tirx.BufferStore(place[0], node.value, shifted(node.indices, place[1]))

    def region(node: Any) -> Any:
        place = ranges.get(node.source)
        if place is None:
            return node
        n, block, *rest = node.region
        if place[1]:
            start = block.min + tirx.const(place[1], block.min.ty.dtype)
            block = tvm.ir.Range.from_min_extent(start, block.extent)
        return tirx.BufferRegion(place[0], [n, block, *rest])

    callbacks = [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store), (tvm.ir.TensorRegion, region)]
    body = tvm_ffi.structural_map(func.body, callbacks)
    if any(_mentions(body, old) for old in ranges):
        raise CompileError("a kernel looks at a tensor, which lies in another one, as a whole")
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs, func.span)


def movable(func: Any, index: int, images: int, device_code: bool) -> bool:
    """Whether `moved` takes a kernel, as it is before it is scheduled, with this parameter.

    Where there are several images, or any number of them, 0, nothing may point into them: it would not know where the
    next one begins. So may the device code of products do, but for convolutions'.
    """
    buffer = func.params[index]
    if len(getattr(buffer, "shape", ())) < 2 or not isinstance(buffer.shape[1], int | tirx.IntImm):
        return False
    try:
        moved(func, {index: (0, int(buffer.shape[1]))})
    except CompileError:
        return False
    return images == 1 or not (_points(func.body, buffer) or (device_code and _feeds(func, buffer)))


def _mentions(body: Any, buffer: Any) -> bool:
    found = False

    def look(var: Any) -> None:
        nonlocal found
        found = found or var.same_as(buffer)

    tvm_ffi.structural_walk(body, (tvm.ir.Var, look))
    return found


def _points(body: Any, buffer: Any) -> bool:
    """Whether an address of one of the tensor's elements is taken."""
    found = False

    def look(call: Any) -> None:
        nonlocal found
        address = getattr(call.op, "name", "") == _ADDRESS
        found = found or (address and call.args[0].source.same_as(buffer))

    tvm_ffi.structural_walk(body, (tvm.ir.Call, look))
    return found


def _feeds(func: Any, buffer: Any) -> bool:
    """Whether a product reads the tensor, or what is made of it: padding, for example."""
    root = getattr(getattr(func.body, "block", None), "body", None)
    blocks: list[Any] = []
    if root is not None:
        tvm_ffi.structural_walk(root, (tvm.s_tir.SBlock, blocks.append))
    reached = [buffer]
    for block in blocks:
        if not any(read.source.same_as(each) for read in block.reads for each in reached):
            continue
        text = block.annotations.get(OPERATOR) or block.annotations.get(NOMINAL)
        if text is not None and Operator.parse(str(text)).kind not in (CONV, DEPTHWISE):
            return True
        reached += [write.source for write in block.writes]
    return False
