"""How each operator on (N, C, L) is written on (N, C, 1, L): images of one row.

A function here is given a node and what changes its operands, and gives the attributes and operands of the node that
does the same on images, or None where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from optkit.compiler.product_writer import constant, operand

RANK, ROW = 3, 2
"""Axes of what is not an image yet, and where its row comes in."""


class Operands(Protocol):
    """What the walk over a graph knows of a node's operands."""

    def image(self, value: ir.Value) -> ir.Value:
        """A tensor of `RANK` axes as an image."""

    def known(self, array: np.ndarray, value: ir.Value) -> ir.Value:
        """An initializer in the place of a constant."""

    def weight(self, value: ir.Value) -> ir.Value | None:
        """Weights (O, I, K) as (O, I, 1, K), None where they are not constant."""

    def is_image(self, value: ir.Value | None) -> bool:
        """Whether a value is an image already."""


@dataclass(frozen=True)
class Written:
    """A node on images.

    Attributes:
        flat: whether its results have no row, and are those of the node it stands for.
    """

    inputs: Sequence[ir.Value | None]
    attributes: dict[str, Any]
    flat: bool = False


Writer = Callable[[ir.Node, Operands], Written | None]


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """A node's attributes by name."""
    return {attribute.name: attribute.value for attribute in node.attributes.values()}


def rank_of(value: ir.Value | None) -> int | None:
    """How many axes a value has, None where that is not known."""
    return None if value is None or value.shape is None else len(value.shape)


def convolution(node: ir.Node, operands: Operands) -> Written | None:
    """Conv and ConvTranspose of constant weights, whether or not what they read is an image already."""
    x, weight = node.inputs[0], node.inputs[1]
    if x is None or weight is None or rank_of(weight) != RANK:
        return None
    wide = operands.weight(weight)
    if wide is None:
        return None
    return Written([operands.image(x), wide, *node.inputs[2:]], _windows(attributes_of(node)))


def _windows(attributes: dict[str, Any]) -> dict[str, Any]:
    """Strides, paddings and the like of a window one row high."""
    for name, row in (("strides", 1), ("dilations", 1), ("kernel_shape", 1), ("output_padding", 0)):
        if name in attributes:
            attributes[name] = [row, *attributes[name]]
    if "output_shape" in attributes:
        *outer, length = attributes["output_shape"]
        attributes["output_shape"] = [*outer, 1, length]
    if "pads" in attributes:
        begin, end = attributes["pads"]
        attributes["pads"] = [0, begin, 0, end]
    return attributes


def _pool(node: ir.Node, operands: Operands) -> Written | None:
    x = node.inputs[0]
    if x is None or not operands.is_image(x) or len(node.outputs) != 1:
        return None
    return Written([operands.image(x)], _windows(attributes_of(node)))


def _vectors(node: ir.Node, operands: Operands) -> Written | None:
    """Operators of an image and vectors over channels or numbers."""
    x, *rest = node.inputs
    if x is None or not operands.is_image(x) or len(node.outputs) != 1:
        return None
    return Written([operands.image(x), *rest], attributes_of(node))


def _broadcast(node: ir.Node, operands: Operands) -> Written | None:
    """Element by element, with numpy's broadcasting."""
    if len(node.outputs) != 1 or not any(operands.is_image(v) for v in node.inputs):
        return None
    inputs: list[ir.Value | None] = []
    for value in node.inputs:
        array = constant(value)
        rank = rank_of(value)
        if value is None or (rank is not None and rank < ROW):
            inputs.append(value)
        elif rank is not None and rank > RANK:
            return None
        elif array is not None:
            shape = (*array.shape[:-1], 1, array.shape[-1])
            inputs.append(operands.known(array.reshape(shape), value))
        elif rank == RANK or operands.is_image(value):
            inputs.append(operands.image(value))
        else:
            return None
    return Written(inputs, attributes_of(node))


def _quantization(node: ir.Node, operands: Operands) -> Written | None:
    """QuantizeLinear and DequantizeLinear, of one scale or one a channel."""
    x, *rest = node.inputs
    if x is None or not operands.is_image(x) or "block_size" in node.attributes:
        return None
    attributes = attributes_of(node)
    if "axis" in attributes or any(rank_of(value) != 0 for value in rest if value is not None):
        attributes["axis"] = _axis(attributes.get("axis", 1))
    return Written([operands.image(x), *rest], attributes)


def _axis(axis: int) -> int:
    """The same axis of an image."""
    axis %= RANK
    return axis + (axis >= ROW)


def _concat(node: ir.Node, operands: Operands) -> Written | None:
    given = [value for value in node.inputs if value is not None]
    if not any(operands.is_image(v) for v in given):
        return None
    if any(rank_of(v) != RANK and not operands.is_image(v) for v in given):
        return None
    axis = node.attributes["axis"].as_int()
    return Written([operands.image(value) for value in given], {"axis": _axis(axis)})


def _split(node: ir.Node, operands: Operands) -> Written | None:
    x, *rest = node.inputs
    if x is None or not operands.is_image(x):
        return None
    attributes = attributes_of(node)
    return Written([operands.image(x), *rest], {**attributes, "axis": _axis(attributes.get("axis", 0))})


def _slice(node: ir.Node, operands: Operands) -> Written | None:
    """Slice along axes that are known; without any they are the first ones."""
    x, starts, ends, axes, steps = (*node.inputs, None, None)[:5]
    given = constant(starts if axes is None else axes)
    if given is None or x is None or starts is None or not operands.is_image(x):
        return None
    along = range(given.size) if axes is None else [int(axis) for axis in given.reshape(-1)]
    moved = operands.known(np.array([_axis(axis) for axis in along], "int64"), starts if axes is None else axes)
    if moved.dtype != starts.dtype:
        return None
    return Written([operands.image(x), starts, ends, moved, steps], attributes_of(node))


def _pad(node: ir.Node, operands: Operands) -> Written | None:
    """Pad of all axes by known paddings."""
    x, *rest = node.inputs
    pads = constant(rest[0]) if rest else None
    if pads is None or pads.size != 2 * RANK or x is None or not operands.is_image(x):
        return None
    if len(rest) > 2 and rest[2] is not None:
        return None
    begins, ends = (np.insert(half, ROW, 0) for half in (pads[:RANK], pads[RANK:]))
    rest[0] = operands.known(np.concatenate([begins, ends]), operand(node, 1))
    return Written([operands.image(x), *rest], attributes_of(node))


def _resize(node: ir.Node, operands: Operands) -> Written | None:
    """Resize to known sizes or by known scales; a row stays one."""
    x, *rest = node.inputs
    if x is None or not operands.is_image(x) or {"axes", "keep_aspect_ratio_policy"} & node.attributes.keys():
        return None
    inputs: list[ir.Value | None] = [operands.image(x)]
    for place, value in enumerate(rest):
        array = constant(value)
        if value is None or (array is not None and not array.size):
            inputs.append(value)
        elif array is None or array.size != RANK or not place:
            return None
        else:
            inputs.append(operands.known(np.insert(array, ROW, 1), value))
    return Written(inputs, attributes_of(node))


def _reduce(node: ir.Node, operands: Operands) -> Written | None:
    """Reductions along the length: of an image, along both of its sides."""
    x, *rest = node.inputs
    attributes = attributes_of(node)
    axes = constant(rest[0]) if rest else np.array(attributes.get("axes", []))
    if x is None or axes is None or not operands.is_image(x) or [int(a) % RANK for a in axes.reshape(-1)] != [ROW]:
        return None
    sides = np.array([ROW, ROW + 1], "int64")
    if rest:
        rest[0] = operands.known(sides, operand(node, 1))
    else:
        attributes["axes"] = sides.tolist()
    return Written([operands.image(x), *rest], attributes, flat=not attributes.get("keepdims", 1))


CONVOLUTIONS = ("Conv", "ConvTranspose")
"""What makes images of lines; all others go on with what is one."""
WRITERS: dict[str, Writer] = {
    **dict.fromkeys(CONVOLUTIONS, convolution),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "Clip", "Cast", "Identity"), _vectors),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "PRelu"), _broadcast),
    **dict.fromkeys(("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Gelu", "Erf"), _vectors),
    **dict.fromkeys(("Elu", "Selu", "Celu", "Mish", "Softplus", "Softsign", "ThresholdedRelu", "Swish"), _vectors),
    **dict.fromkeys(("Exp", "Log", "Neg", "Abs", "Sqrt", "Reciprocal"), _vectors),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantization),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"), _reduce),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
}
