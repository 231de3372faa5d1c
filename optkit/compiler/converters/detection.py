"""NonMaxSuppression and TopK."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import relax

from optkit.compiler.converters.extents import declared, numbers, refuse, runtime_extent, vector
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import device_sorting, sorting, suppression
from optkit.compiler.values import OPAQUE, PLAIN, Value


def _product(extents: Sequence[Any]) -> Any:
    return math.prod(extents[1:], start=extents[0]) if extents else 1


def top_k(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    """TopK along any axis; results are always sorted, which `sorted=0` allows."""
    x = inputs[0]
    assert x is not None
    axis = int(node.get("axis", -1)) % len(x.shape)
    size = x.shape[axis]
    k = _count(low, node, inputs[1] if len(inputs) > 1 else None, axis)
    if isinstance(k, int) and isinstance(size, int) and k > size:
        raise refuse(node, f"it asks for {k} of {size} elements; ask for fewer")
    lead, trail = x.shape[:axis], x.shape[axis + 1 :]
    flat = low.bind(relax.op.reshape(x.plain(), (_product(lead), size, _product(trail))))
    largest = bool(node.get("largest", 1))
    operator = device_sorting.top_k if low.target.device == "cuda" else sorting.top_k
    both = low.emit(operator, flat, k, largest, name="top_k", kind=OPAQUE)
    shape = (*lead, k, *trail)
    parts = [low.bind(relax.TupleGetItem(both, i)) for i in (0, 1)]
    return [low.wrap(relax.op.reshape(part, shape)) for part in parts]


def _count(low: Lowering, node: Node, k: Value | None, axis: int) -> Any:
    """k as an extent: constant, an attribute (before opset 10), declared, or found at run time."""
    if k is None:
        return int(node.get("k"))
    known = numbers(k)
    if known is not None:
        return int(known[0])
    for output in (0, 1)[: node.outputs]:
        shape = declared(low, node, output)
        if shape is not None and isinstance(shape[axis], int):
            return shape[axis]
    return runtime_extent(low, vector(low, k, "int64"), f"{low.node}_k")


def non_max_suppression(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """NonMaxSuppression; the number of boxes is found at run time and checked where the model declares it."""
    boxes, scores = inputs[:2]
    most, iou, score = (inputs[i] if i < len(inputs) else None for i in (2, 3, 4))
    assert boxes is not None and scores is not None
    centered = bool(node.get("center_point_box", 0))
    args = [
        boxes.plain(),
        scores.plain(),
        _scalar(low, most, "int64", 0),
        _scalar(low, iou, "float32", 0.0),
        _scalar(low, score, "float32", None),
    ]
    made: Any = device_sorting if low.target.device == "cuda" else suppression
    selected = low.emit(made.select_boxes, *args, centered, name="select_boxes", kind=OPAQUE)
    kept, counts = (low.bind(relax.TupleGetItem(selected, i)) for i in (0, 1))
    count = low.emit(suppression.total, counts, name="total", kind=OPAQUE)
    shape = declared(low, node)
    fixed = shape[0] if shape and isinstance(shape[0], int) else None
    found = runtime_extent(low, count, f"{low.node}_boxes", fixed)
    classes = scores.shape[1]
    out = low.emit(made.gather_boxes, kept, counts, classes, found, name="gather_boxes", kind=OPAQUE)
    return low.blocked((found, 3), "int64", PLAIN, out)


def _scalar(low: Lowering, value: Value | None, dtype: str, default: Any) -> Any:
    """A number where it is constant, else a tensor of one element."""
    if value is None:
        return default
    known = numbers(value)
    if known is None:
        return vector(low, value, dtype)
    return int(known[0]) if dtype == "int64" else float(known[0])


CONVERTERS: dict[str, Converter] = {"TopK": top_k, "NonMaxSuppression": non_max_suppression}
