"""Operators whose target shape is a tensor: constant, declared by the model, or known only when it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax, te

from optkit.compiler.converters import imported, padding, shuffle, slicing
from optkit.compiler.converters.dynamic import complete, runtime_extents
from optkit.compiler.converters.extents import declared, known_extents, refuse, tensor, vector
from optkit.compiler.converters.general import broadcast
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import plans
from optkit.compiler.operators import shapes as define
from optkit.compiler.operators.common import const
from optkit.compiler.values import INJECTIVE, Value


def _length(node: Node, value: Value) -> int:
    if len(value.shape) != 1 or not isinstance(value.shape[0], int):
        raise refuse(node, "the rank of its result is known only at run time; give its shape input a fixed length")
    return int(value.shape[0])


def _target(low: Lowering, node: Node, rank: int, sizes: Callable[..., te.Tensor], *tensors: Any) -> Sequence[Any]:
    """The declared shape of the result, else what `sizes(*tensors)` computes when the model runs.

    Symbolic extents that `sizes` reads must be those of its tensors: it is a kernel.
    """
    shape = complete(low, node)
    if shape is not None:
        return shape
    return runtime_extents(low, low.emit(sizes, *tensors, name="sizes"), rank, low.node)


def constant(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Constant in each of its forms but strings and sparse tensors."""
    for name, dtype in (("value_int", "int64"), ("value_ints", "int64"), ("value_float", "float32")):
        if node.get(name) is not None:
            return _constant(low, np.array(node.get(name), dtype))
    if node.get("value_floats") is not None:
        return _constant(low, np.array(node.get("value_floats"), "float32"))
    value = node.get("value")
    if not isinstance(value, np.ndarray):
        raise refuse(node, f"a constant given as {', '.join(node.attributes)} is not supported; give it as value")
    return _constant(low, value)


def _constant(low: Lowering, array: np.ndarray) -> Value:
    return Value(low, tuple(array.shape), array.dtype.name, const=array)


def shape_of(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Shape where the chosen extents are known; symbolic ones are left to TVM's shape expressions."""
    x = inputs[0]
    if x is None or x.dtype == "shape":
        return None
    chosen = list(x.shape)[node.get("start", 0) : node.get("end", None)]
    return _constant(low, np.array(chosen, "int64")) if all(isinstance(d, int) for d in chosen) else None


def size_of(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Size: the number of elements."""
    x = inputs[0]
    assert x is not None
    total = math.prod(x.shape)
    if isinstance(total, int):
        return _constant(low, np.array(total, "int64"))
    return low.wrap(low.emit(lambda count: te.compute((), lambda: count, name="size"), total, name="size"))


def reshape(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Reshape to a shape that a tensor holds, and parts of a channel shuffle."""
    x, target = inputs[0], inputs[1] if len(inputs) > 1 else None
    if x is None or target is None or target.dtype == "shape" or x.dtype == "shape":
        return None
    if target.const is not None:
        return shuffle.reshape(low, x, [int(extent) for extent in target.const])
    allow = bool(node.get("allowzero", 0))
    given = vector(low, target, "int64")
    data = x.plain()
    shape = _target(low, node, _length(node, target), lambda t, d: plans.reshaped(t, d, allow), given, data)
    return reshaped(low, data, shape)


def reshaped(low: Lowering, data: Any, shape: Sequence[Any]) -> Value:
    """`data` with another shape of as many elements, which may be none."""
    if any(isinstance(d, int) and d == 0 for d in shape):
        # Relax takes 0 for "as before", and a library cannot hold a constant of nothing.
        return low.wrap(low.emit(_nothing, data, *shape, name="nothing"))
    return low.wrap(relax.op.reshape(data, shape))


def _nothing(data: te.Tensor, *shape: Any) -> te.Tensor:
    return te.compute(shape, lambda *_: const(0, data.dtype))


def expand(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Expand: numpy's broadcasting to a shape that may be a tensor."""
    x, target = inputs[0], inputs[1]
    assert x is not None and target is not None
    source, known = ((len(x.shape),) if x.dtype == "shape" else x.shape), known_extents(target)
    if known is not None:
        shape: Sequence[Any] = broadcast([source, known])
    else:
        rank = max(_length(node, target), len(source))
        given = vector(low, target, "int64")
        shape = _target(low, node, rank, plans.expanded, given, tensor(low, x))
    return low.wrap(low.emit(define.expand, tensor(low, x), *shape, name="expand", kind=INJECTIVE))


def tile(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Tile by counts that a tensor holds."""
    x, repeats = inputs[0], inputs[1]
    if x is None or repeats is None or repeats.const is not None or repeats.dtype == "shape":
        return None
    given, data = vector(low, repeats, "int64"), x.plain()
    shape = _target(low, node, len(x.shape), plans.tiled, given, data)
    return low.wrap(low.emit(define.tile, x.plain(), *shape, name="tile", kind=INJECTIVE))


def _same(sizes: te.Tensor) -> te.Tensor:
    return te.compute(sizes.shape, lambda i: sizes(i), name="sizes")


def constant_of_shape(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """ConstantOfShape: one number everywhere."""
    target = inputs[0]
    assert target is not None
    value = np.asarray(node.get("value", np.zeros(1, "float32"))).reshape(())
    shape: Sequence[Any] | None = known_extents(target)
    if shape is None:
        given = vector(low, target, "int64")
        shape = _target(low, node, _length(node, target), _same, given)
    return low.wrap(relax.op.full(shape, relax.const(value, value.dtype.name), value.dtype.name))


def squeeze(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value] | None:
    """Squeeze; that an open axis has one element is what the model says, and is checked when it runs."""
    x, axes = inputs[0], inputs[1] if len(inputs) > 1 else None
    if x is None or x.dtype == "shape" or x.const is not None:
        return None
    rank = len(x.shape)
    chosen = node.get("axes") if axes is None else None if axes.const is None else axes.const.reshape(-1)
    if axes is not None and chosen is None:
        rest = rank - _length(node, axes)
        data = x.plain()
        flags = low.emit(plans.named, vector(low, axes, "int64"), data, True, name="named")
        shape = _target(low, node, rest, lambda f, d: plans.reduced(f, d, rest, False), flags, data)
        return reshaped(low, data, shape)
    ones = [d for d, extent in enumerate(x.shape) if isinstance(extent, int) and extent == 1]
    if chosen is None:
        known = declared(low, node)
        if any(not isinstance(d, int) for d in x.shape) and (known is None or len(known) != rank - len(ones)):
            raise refuse(node, "which axes have one element is known only when the model runs; name them in axes")
        dropped = set(ones)
    else:
        dropped = {int(a) % rank for a in chosen}
    wrong = [d for d in sorted(dropped) if isinstance(x.shape[d], int) and x.shape[d] != 1]
    if wrong:
        raise refuse(node, f"axis {wrong[0]} has {x.shape[wrong[0]]} elements, not one")
    data = x.plain()
    if dropped - set(ones):
        single = [1 if d in dropped else extent for d, extent in enumerate(x.shape)]
        data = low.bb.match_cast(data, relax.TensorType(single, data.ty.dtype))
    return reshaped(low, data, [extent for d, extent in enumerate(x.shape) if d not in dropped])


def unsqueeze(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value] | None:
    """Unsqueeze by axes that a tensor holds."""
    x, axes = inputs[0], inputs[1] if len(inputs) > 1 else None
    if axes is not None and axes.const is not None and axes.const.ndim == 0:
        # ONNX asks for a list; function bodies of its own schemas give a number
        return imported.convert(low, node, [x, Value(low, (1,), axes.dtype, const=axes.const.reshape(1))])
    if x is None or axes is None or axes.const is not None or x.dtype == "shape":
        return None
    rank = len(x.shape) + _length(node, axes)
    given, data = vector(low, axes, "int64"), x.plain()
    shape = _target(low, node, rank, plans.unsqueezed, given, data)
    return reshaped(low, x.plain(), shape)


CONVERTERS: dict[str, Converter] = {
    **slicing.CONVERTERS,
    **padding.CONVERTERS,
    "Constant": constant,
    "Shape": shape_of,
    "Size": size_of,
    "Reshape": reshape,
    "Expand": expand,
    "Tile": tile,
    "ConstantOfShape": constant_of_shape,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
}
