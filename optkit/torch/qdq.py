"""Reads what a model with Q/DQ nodes quantizes: tensors with their scales, and layers with their integer weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir


@dataclass(frozen=True)
class QuantizedTensor:
    """An activation that a QuantizeLinear reads.

    Attributes:
        name: of the float tensor.
        group: name of the scale's initializer, which tensors with the same parameters share.
        scale, zero_point: the parameters.
        readers: names of the nodes that read it dequantized.
        everyone: whether no node reads it in float; model outputs do not count.
    """

    name: str
    group: str
    scale: float
    zero_point: int
    readers: tuple[str, ...]
    everyone: bool


@dataclass(frozen=True)
class QuantizedProduct:
    """A convolution or matrix product with an integer weight.

    Attributes:
        name: of the node.
        source: name of the float tensor it reads quantized, or None.
        q: int8 weight.
        scale: float32, (channels,) or a scalar.
        bias: whether its bias is an integer too.
    """

    name: str
    source: str | None
    q: np.ndarray
    scale: np.ndarray
    bias: bool


def read_tensors(model: ir.Model) -> list[QuantizedTensor]:
    """Every quantized activation, in graph order."""
    found = []
    for node in model.graph:
        if node.op_type != "QuantizeLinear":
            continue
        value, scale = node.inputs[0], _array(node.inputs[1])
        zero = _array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
        if value is None or scale is None or scale.size != 1 or zero is None:
            continue
        readers = [
            reader.name or ""
            for dequantize, _ in node.outputs[0].uses()
            for reader, _ in dequantize.outputs[0].uses()
            if dequantize.op_type == "DequantizeLinear"
        ]
        others = [reader for reader, _ in value.uses() if reader is not node]
        group = node.inputs[1].name if node.inputs[1] is not None else None
        pair = float(scale.reshape(())), int(zero.reshape(()))
        found.append(QuantizedTensor(str(value.name), str(group), *pair, tuple(dict.fromkeys(readers)), not others))
    return found


def read_products(model: ir.Model) -> list[QuantizedProduct]:
    """Every layer with an integer weight, in graph order."""
    found = []
    for node in model.graph:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or node.inputs[1] is None:
            continue
        weight = _dequantized(node.inputs[1])
        if weight is None:
            continue
        source = None if node.inputs[0] is None else node.inputs[0].producer()
        if source is not None and source.op_type == "DequantizeLinear" and source.inputs[0] is not None:
            source = source.inputs[0].producer()
        read = source.inputs[0] if source is not None and source.op_type == "QuantizeLinear" else None
        bias = len(node.inputs) > 2 and node.inputs[2] is not None and _dequantized(node.inputs[2]) is not None
        name = None if read is None else str(read.name)
        found.append(QuantizedProduct(str(node.name), name, *weight, bias))
    return found


def _dequantized(value: ir.Value) -> tuple[np.ndarray, np.ndarray] | None:
    """Integers and scale of a constant behind a DequantizeLinear."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        return None
    q, scale = _array(node.inputs[0]), _array(node.inputs[1])
    return None if q is None or scale is None else (q, scale)


def _array(value: ir.Value | None) -> np.ndarray | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()
