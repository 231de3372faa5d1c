"""Constants behind a DequantizeLinear, as int8 initializers with zero point 0 where that is exact.

(q - zero) * scale is what a weight is, whatever computes q: an initializer, a QuantizeLinear of a float one, a Clip
to a narrower range between them. With v = q - zero it is (v - 0) * scale, and v is an int8 wherever it fits: all of
(u)int4, uint8 about 128, and other zero points where the far end is not used. Movers behind it (a transposed linear
layer) move v and the scales instead.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.graph import add_constant, is_op, nodes
from optkit_passes.recognize.constants import evaluate

_NARROW = ("INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2")
_MOVERS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten")


def recognize_weights(model: ir.Model) -> list[Finding]:
    """Rewrite every constant DequantizeLinear in place; a finding for each one that changed or could not."""
    findings = []
    for node in nodes(model):
        if is_op(node, "DequantizeLinear") and isinstance(node.graph, ir.Graph):
            found = _integers(node)
            if found is not None:
                findings.append(found)
    # In graph order: a mover behind a mover follows.
    movers = (node for node in nodes(model) if is_op(node, *_MOVERS) and isinstance(node.graph, ir.Graph))
    findings += [
        Finding("changed", _name(node), f"{node.op_type} of a quantized weight computed")
        for node in movers
        if _move(node)
    ]
    return findings


def _integers(node: ir.Node) -> Finding | None:
    q, scale, zero = _operands(node)
    data = node.inputs[0]
    if q is None or scale is None or data is None or data.dtype is None or data.dtype.name not in (*_NARROW, "INT32"):
        return None
    if zero is None or scale.dtype != np.float32:
        return None
    if "block_size" in node.attributes and node.attributes["block_size"].as_int():
        return None
    axis = None if scale.size == 1 else _axis(node, q.ndim)
    if axis is not None and (scale.ndim != 1 or axis >= q.ndim or q.shape[axis] != scale.size):
        return None
    direct = data.is_initializer()
    if data.dtype.name == "INT32":
        if direct:
            return None
        _write(node, q, scale, zero, axis)
        return Finding("changed", _name(node), "integers of a constant bias computed")
    moved = q.astype(np.int32) - _spread(zero.astype(np.int32), q.ndim, axis)
    fits = moved.size == 0 or (moved.min() >= -128 and moved.max() <= 127)
    if not fits:
        if not direct:
            _write(node, q.astype(data.dtype.numpy()), scale, zero, axis)
        text = "weight: less the zero point it leaves int8; sums of the inputs make up for that"
        return Finding("note", _name(node), text) if _multiplied(node) else None
    changed = [] if direct else ["computed"]
    if zero.any():
        changed.append("moved to zero point 0")
    if data.dtype.name != "INT8":
        changed.append(f"{data.dtype.name.lower()} as int8")
    if not changed and len(node.inputs) > 2 and scale.ndim == (0 if axis is None else 1):
        return None
    _write(node, moved.astype(np.int8), scale, np.zeros(scale.shape, np.int8), axis)
    return Finding("changed", _name(node), f"weight: {', '.join(changed)}") if changed else None


def _multiplied(node: ir.Node) -> bool:
    """Whether a product takes it for its weight."""
    return any(is_op(user, "Conv", "ConvTranspose", "Gemm", "MatMul") and at < 2 for user, at in node.outputs[0].uses())


def _operands(node: ir.Node) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Integers, scales and zero points, these zeros where there are none; None for what is no constant."""
    q, scale = evaluate(node.inputs[0]), evaluate(node.inputs[1])
    if q is None or scale is None:
        return q, scale, None
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = np.zeros(scale.shape, q.dtype) if given is None else evaluate(given)
    if zero is not None and zero.shape != scale.shape:
        zero = zero.reshape(scale.shape) if zero.size == scale.size else None
    return q, scale, zero


def _axis(node: ir.Node, rank: int) -> int:
    axis = node.attributes.get_int("axis", 1)
    return 0 if rank == 1 else axis % rank


def _spread(parameter: np.ndarray, rank: int, axis: int | None) -> np.ndarray:
    return parameter.reshape(()) if axis is None else parameter.reshape([-1 if k == axis else 1 for k in range(rank)])


def _write(node: ir.Node, q: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int | None) -> None:
    """Give a DequantizeLinear these constants; one number for the scale where it is one."""
    graph, data = node.graph, node.inputs[0]
    assert data is not None
    stem = data.name or "weight"
    shape = () if axis is None else scale.shape
    arrays = q, scale.reshape(shape), zero.astype(q.dtype).reshape(shape)
    names = f"{stem}_quantized", f"{stem}_scale", f"{stem}_zero_point"
    made = [add_constant(graph, name, array) for name, array in zip(names, arrays, strict=True)]
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    for index, value in enumerate(made):
        node.replace_input_with(index, value)
    node.attributes.pop("axis", None)
    if axis is not None:
        node.attributes["axis"] = ir.AttrInt64("axis", axis)


def _move(node: ir.Node) -> bool:
    """Compute a mover of a constant weight on its integers; False where the scales' axis does not survive."""
    source = node.inputs[0]
    owner = None if source is None else source.producer()
    if owner is None or not is_op(owner, "DequantizeLinear") or node.outputs[0].is_graph_output():
        return False
    q, scale, zero = _operands(owner)
    if q is None or scale is None or zero is None or "block_size" in owner.attributes:
        return False
    axis = None if scale.size == 1 else _axis(owner, q.ndim)
    moved = evaluate_mover(node, q)
    if moved is None:
        return False
    if axis is not None:
        # Where every element has its channel written on it, the moved tensor says along which axis they lie.
        channels = np.broadcast_to(_spread(np.arange(scale.size), q.ndim, axis), q.shape)
        after = evaluate_mover(node, np.ascontiguousarray(channels))
        found = None if after is None else _axis_of(after, scale.size)
        if found is None:
            return False
        axis = found
    out = node.outputs[0]
    new = ir.node("DequantizeLinear", list(owner.inputs), name=f"{node.name}_weight")
    new.outputs[0].shape, new.outputs[0].type = out.shape, out.type
    assert node.graph is not None
    node.graph.insert_before(node, new)
    _write(new, moved, scale, zero, axis)
    name, out.name = out.name, None
    new.outputs[0].name = name
    ir.convenience.replace_all_uses_with(out, new.outputs[0])
    node.graph.remove(node, safe=True)
    return True


def _axis_of(channels: np.ndarray, count: int) -> int | None:
    for axis in range(channels.ndim):
        if channels.shape[axis] == count:
            expected = _spread(np.arange(count), channels.ndim, axis)
            if (channels == expected).all():
                return axis
    return None


def evaluate_mover(node: ir.Node, array: np.ndarray) -> np.ndarray | None:
    """What a mover makes of an array."""
    if is_op(node, "Identity"):
        return array
    if is_op(node, "Transpose"):
        return np.ascontiguousarray(array.transpose(node.attributes.get_ints("perm", None)))
    shape = node.outputs[0].shape
    if shape is None or not shape.is_static():
        return None
    return array.reshape(shape.numpy())


def _name(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type


__all__ = ["recognize_weights"]
