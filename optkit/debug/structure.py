"""The quantized layers of a Q/DQ graph, found from its QuantizeLinear and DequantizeLinear nodes alone.

So they are found in models of other quantizers too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optkit.errors import OptkitError
from optkit.measure.reference import Reference

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MOVES = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
"""Hand on the integers of their input, whose error is their readers' then."""


@dataclass(frozen=True)
class Grid:
    """The integers of a quantized activation: x becomes (clip(rint(x / scale) + zero, low, high) - zero) * scale."""

    scale: np.ndarray
    zero: np.ndarray
    low: int
    high: int
    axis: int

    def codes(self, x: np.ndarray) -> np.ndarray:
        """Integers of `x`, as float64, not yet clipped."""
        scale, zero = self._spread(self.scale, x), self._spread(self.zero, x)
        return np.asarray(np.rint(x.astype(np.float32) / scale.astype(np.float32)) + zero, np.float64)

    def real(self, codes: np.ndarray) -> np.ndarray:
        """What clipped integers stand for, float32."""
        scale, zero = self._spread(self.scale, codes), self._spread(self.zero, codes)
        return np.asarray((np.clip(codes, self.low, self.high) - zero) * scale, np.float32)

    def _spread(self, parameter: np.ndarray, x: np.ndarray) -> np.ndarray:
        if parameter.size == 1:
            return parameter.reshape(())
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return parameter.reshape(shape)


@dataclass(frozen=True)
class Activation:
    """Input `index` of a layer: `tensor`, in integers `quantized`."""

    index: int
    tensor: str
    quantized: str
    grid: Grid


@dataclass(frozen=True)
class QuantizedLayer:
    """A node that reads dequantized tensors.

    Attributes:
        constants: dequantized weights and biases, by the index of the input.
        delivered: the QuantizeLinear through whose output the next layers read it; None: they read floats.
    """

    node: ir.Node
    activations: tuple[Activation, ...]
    constants: dict[int, np.ndarray]
    delivered: ir.Node | None

    @property
    def name(self) -> str:
        """The node's name."""
        return label(self.node)


def label(node: ir.Node) -> str:
    """The name a node is spoken of by."""
    return node.name or node.outputs[0].name or node.op_type


def is_quantized(model: ir.Model) -> bool:
    """Whether Q/DQ nodes are in it."""
    return any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in model.graph.all_nodes())


def quantized_layers(model: ir.Model) -> list[QuantizedLayer]:
    """Every node of the main graph that computes on dequantized tensors, in graph order.

    A model output that is dequantized is the layer of its DequantizeLinear.
    """
    found = []
    for node in model.graph:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            if node.op_type == DEQUANTIZE and any(v.is_graph_output() for v in node.outputs):
                made = _activation(node.outputs[0], 0)
                if made is not None:
                    found.append(QuantizedLayer(node, (made,), {}, None))
            continue
        if node.op_type in _MOVES:
            continue
        activations, constants = [], {}
        for index, value in enumerate(node.inputs):
            made = _activation(value, index)
            if made is not None:
                activations.append(made)
            elif (array := _constant(model, value)) is not None:
                constants[index] = array
        if activations or constants:
            found.append(QuantizedLayer(node, tuple(activations), constants, delivery(node)))
    return found


def delivery(node: ir.Node) -> ir.Node | None:
    """The first QuantizeLinear behind a node with no product between."""
    seen: set[ir.Node] = set()
    front: Sequence[ir.Node] = [node]
    while front:
        users = [user for n in front for v in n.outputs for user, _ in v.uses() if user not in seen]
        for user in users:
            if user.op_type == QUANTIZE:
                return user
        seen.update(users)
        front = [user for user in dict.fromkeys(users) if user.op_type not in (*PRODUCTS, DEQUANTIZE)]
    return None


def grid_of(node: ir.Node) -> Grid | None:
    """The integers that a QuantizeLinear or DequantizeLinear of constant parameters speaks of."""
    scale = _initializer(node.inputs[1])
    zero = _initializer(node.inputs[2]) if len(node.inputs) > 2 else None
    integer = node.outputs[0] if node.op_type == QUANTIZE else node.inputs[0]
    if scale is None or integer is None or integer.dtype is None or scale.ndim > 1:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and zero is None:
        return None
    if not integer.dtype.is_integer():
        return None
    bits, signed = integer.dtype.bitwidth, integer.dtype.is_signed()
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    axis = node.attributes.get_int("axis", 1)
    wide = np.zeros(1) if zero is None else zero.astype(np.float64)
    return Grid(scale.astype(np.float32), wide, low, high, axis)


def _activation(value: ir.Value | None, index: int) -> Activation | None:
    dequantize = None if value is None else value.producer()
    if dequantize is None or dequantize.op_type != DEQUANTIZE or dequantize.inputs[0] is None:
        return None
    quantize = dequantize.inputs[0].producer()
    if quantize is None or quantize.op_type != QUANTIZE or quantize.inputs[0] is None:
        return None
    if _initializer(quantize.inputs[0]) is not None:
        return None
    grid = grid_of(quantize)
    if grid is None:
        return None
    return Activation(index, quantize.inputs[0].name or "", quantize.outputs[0].name or "", grid)


def _initializer(value: ir.Value | None) -> np.ndarray | None:
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _constant(model: ir.Model, value: ir.Value | None) -> np.ndarray | None:
    """The array of a value that is computed from dequantized constants only, else None."""
    if value is None or value.producer() is None:
        return None
    cone: dict[ir.Node, None] = {}
    front = [value.producer()]
    while front:
        node = front.pop()
        if node is None or node in cone:
            continue
        cone[node] = None
        for source in node.inputs:
            if source is None or _initializer(source) is not None:
                continue
            if source.producer() is None:
                return None
            front.append(source.producer())
    if not any(node.op_type == DEQUANTIZE for node in cone):
        return None
    try:
        graph = ir.convenience.extract(model.graph, [], [value])
        part = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
        return next(iter(Reference(part).run({}).values()))
    except (OptkitError, ValueError):
        return None
