"""What integer tensors made of shapes hold, as far as it is known before the model runs.

Exporters compute the target of a Reshape with Shape, Gather, Concat and arithmetic to keep the batch dynamic.
Followed element by element, most of it is known: an element is an int, or the symbol of an axis ("batch").
Known tensors become constants, and a Reshape to [batch, 4, 16] of a [batch, 64] becomes one to [0, 4, 16].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from optkit_passes.graph import add_constant, bypass, can_bypass, constant, is_op, nodes

Element = int | str | None
"""An int, the name of a symbolic axis, or None where it is unknown."""

_LONGEST = 64  # elements; longer integer tensors are indices, not shapes
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    # ONNX divides integers towards zero; shapes are positive, so this is the same.
    "Div": lambda a, b: a // b,
}


def fold_shapes(model: ir.Model) -> bool:
    """Replace what is known by constants; returns whether anything was."""
    known: dict[ir.Value, np.ndarray] = {}
    changed = False
    for node in nodes(model):
        found = _evaluate(node, known)
        if found is not None and found.size <= _LONGEST:
            known[node.outputs[0]] = found
            changed |= _to_constant(node, found)
        elif is_op(node, "Reshape"):
            changed |= _simplify_reshape(node, known)
    return changed


def _elements(value: ir.Value | None, known: dict[ir.Value, np.ndarray]) -> np.ndarray | None:
    """The elements of an integer tensor, as an object array; None where nothing is known of it."""
    if value is None:
        return None
    if value in known:
        return known[value]
    array = constant(value)
    if array is None or array.size > _LONGEST or array.dtype.kind not in "iu":
        return None
    return array.astype(object)


def _axes(shape: ir.Shape) -> np.ndarray:
    found = np.empty(len(shape), object)
    found[:] = [d if isinstance(d, int) else d.value for d in shape]
    return found


def _evaluate(node: ir.Node, known: dict[ir.Value, np.ndarray]) -> np.ndarray | None:
    if not is_op(node, "Shape", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Identity", "Cast", *_ARITHMETIC):
        return None
    data = node.inputs[0]
    if is_op(node, "Shape"):
        if data is None or data.shape is None:
            return None
        return _axes(data.shape)[node.attributes.get_int("start", 0) : node.attributes.get_int("end", None)]
    inputs = [_elements(value, known) for value in node.inputs]
    if not any(value in known for value in node.inputs) or any(x is None for x in inputs):
        return None
    arrays = [x for x in inputs if x is not None]
    first = arrays[0]
    match node.op_type:
        case "Identity":
            return first
        case "Cast":
            return first if node.attributes.get_int("to") in (ir.DataType.INT64, ir.DataType.INT32) else None
        case "Gather":
            return np.asarray(
                np.take(first, arrays[1].astype(np.int64), axis=node.attributes.get_int("axis", 0)), object
            )
        case "Concat":
            return np.concatenate(arrays)
        case "Squeeze":
            return first.reshape(()) if first.shape == (1,) else None
        case "Unsqueeze":
            return first.reshape(1) if first.ndim == 0 and arrays[1].size == 1 else None
        case "Slice":
            return _slice(arrays)
    left, right = np.broadcast_arrays(first, arrays[1])
    return _arithmetic(_ARITHMETIC[node.op_type], left, right)


def _slice(arrays: list[np.ndarray]) -> np.ndarray | None:
    data, *numbers = arrays
    if data.ndim != 1 or any(n.size != 1 or not isinstance(n.item(), int) for n in numbers):
        return None
    start, end, _axis, step = [n.item() for n in numbers] + [0, 1][len(numbers) - 2 :]
    # A negative end past the beginning means "to the very first" only when stepping backwards: leave that.
    return data[start:end:step] if step > 0 else None


def _arithmetic(operator: Callable[[int, int], int], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found = np.empty(a.shape, object)
    for at in np.ndindex(a.shape):
        x: Element = a.item(*at)
        y: Element = b.item(*at)
        # Negative numbers would divide differently, and no shape holds them.
        found[at] = operator(x, y) if isinstance(x, int) and isinstance(y, int) and x >= 0 and y > 0 else None
    return found


def _to_constant(node: ir.Node, found: np.ndarray) -> bool:
    """Replace a node whose result is known to the last element."""
    kind = node.outputs[0].dtype
    if kind is None or not all(isinstance(x, int) for x in found.flat) or node.outputs[0].is_graph_output():
        return False
    value = add_constant(node.graph, f"{node.outputs[0].name}_known", found.astype(kind.numpy()))
    if not can_bypass(node, value):
        return False
    bypass(node, value)
    return True


def _simplify_reshape(node: ir.Node, known: dict[ir.Value, np.ndarray]) -> bool:
    """A computed target becomes a constant where at most one axis has to be found out at run time.

    0 copies an axis of the input, -1 is what remains.
    """
    data, target, result = node.inputs[0], node.inputs[1], node.outputs[0].shape
    if data is None or constant(target) is not None:
        return False
    elements = _elements(target, known)
    if elements is None:
        if result is None:
            return False
        elements = _axes(result)
    dims: list[int] = []
    source = data.shape or ()
    for at, element in enumerate(elements):
        if isinstance(element, str) and at < len(source) and element == getattr(source[at], "value", None):
            dims.append(0)
        elif isinstance(element, int) and element != 0:
            dims.append(int(element))
        else:
            dims.append(-1)
    # A length of 0 is -1 here, which is ambiguous when another axis is 0 as well.
    if dims.count(-1) > 1 or any(isinstance(e, int) and e == 0 for e in elements):
        return False
    node.replace_input_with(1, add_constant(node.graph, f"{node.name}_shape", np.array(dims, np.int64)))
    node.attributes.pop("allowzero", None)
    return True
