"""Gather, GatherElements and GatherND; their indices may be anything, and nothing outside the data is read."""

from __future__ import annotations

import numpy as np
from tvm import relax

from optkit.compiler.converters.extents import refuse, tensor
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import gathers as define
from optkit.compiler.operators.gathers import known
from optkit.compiler.values import INJECTIVE, OPAQUE, Value

# Opaque, so that no template of a product or a reduction meets a gather as its epilogue; one slice moves as it is.


def gather(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Gather: slices along an axis; of constants by constants, a constant. Leaves single extents to TVM's shapes."""
    x, indices = inputs[0], inputs[1]
    assert x is not None and indices is not None
    if x.dtype == "shape" and indices.const is not None and indices.const.ndim == 0:
        return None
    axis = int(node.get("axis", 0)) % len(x.shape)
    extent = x.shape[axis]
    if indices.const is None or not isinstance(extent, int):
        if indices.const is not None and indices.const.ndim == 0:
            return low.wrap(low.emit(define.pick, tensor(low, x), axis, int(indices.const), name="gather", kind=OPAQUE))
        at = tensor(low, indices)
        return low.wrap(low.emit(define.gather, tensor(low, x), at, axis, False, name="gather", kind=OPAQUE))
    places = known(indices.const, extent)
    if x.const is not None and extent:
        found = np.asarray(np.take(x.const, places, axis), order="C")
        return Value(low, tuple(found.shape), x.dtype, const=found)
    if places.ndim == 0:
        kind = INJECTIVE if extent else OPAQUE
        return low.wrap(low.emit(define.pick, tensor(low, x), axis, int(places), name="pick", kind=kind))
    at = relax.const(places, "int64")
    return low.wrap(low.emit(define.gather, tensor(low, x), at, axis, extent > 0, name="gather", kind=OPAQUE))


def gather_elements(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """GatherElements: one element for every index."""
    x, indices = inputs[0], inputs[1]
    assert x is not None and indices is not None
    axis = int(node.get("axis", 0)) % len(x.shape)
    args = [tensor(low, x), tensor(low, indices)]
    return low.wrap(low.emit(define.gather_elements, *args, axis, name="gather_elements", kind=OPAQUE))


def gather_nd(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """GatherND: a slice for every vector of indices."""
    x, indices = inputs[0], inputs[1]
    assert x is not None and indices is not None
    batches = int(node.get("batch_dims", 0))
    depth = indices.shape[-1]
    if not isinstance(depth, int):
        raise refuse(node, "how many axes it looks up is known only at run time; fix the last extent of its indices")
    if batches + depth > len(x.shape):
        raise refuse(node, f"its indices name {batches + depth} axes of a tensor that has {len(x.shape)}")
    args = [tensor(low, x), tensor(low, indices)]
    return low.wrap(low.emit(define.gather_nd, *args, batches, name="gather_nd", kind=OPAQUE))


CONVERTERS: dict[str, Converter] = {"Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd}

__all__ = ["CONVERTERS"]
