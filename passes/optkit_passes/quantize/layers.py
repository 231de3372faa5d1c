"""The quantized layers of a Q/DQ model beside their float selves, and how to give them other integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optkit.errors import PassError
from optkit.transform import PassContext
from optkit_passes.quantize.anchors import Anchor, make_anchor
from optkit_passes.quantize.roles import ANCHORS
from optkit_passes.quantize.weights import bias_scale


@dataclass(frozen=True)
class QuantizedLayer:
    """A convolution or matrix product with an integer weight.

    Attributes:
        node: in the quantized model.
        anchor: the same node in the float model, with its float32 weight and bias.
        weight: the DequantizeLinear of its weight.
        bias: that of its bias; None where the bias is float, or there is none.
    """

    node: ir.Node
    anchor: Anchor
    weight: ir.Node
    bias: ir.Node | None = None

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name or ""

    @property
    def q(self) -> np.ndarray:
        """int8, the weight's shape."""
        return _array(self.weight.inputs[0])

    @property
    def top(self) -> int:
        """Largest magnitude of its integers: 2^(bits-1) - 1 for the fewest bits that hold them."""
        reach = int(np.abs(self.q.astype(np.int64)).max(initial=1))
        return int(2 ** int(np.ceil(np.log2(reach + 1))) - 1)

    @property
    def scale(self) -> np.ndarray:
        """float32, a scalar or one a channel."""
        return _array(self.weight.inputs[1])

    @property
    def real(self) -> np.ndarray:
        """float64: what the integers stand for."""
        q = self.q
        shape = [1] * q.ndim
        if self.scale.ndim:
            shape[self.weight.attributes.get_int("axis", 1)] = -1
        return np.asarray(q.astype(np.float64) * self.scale.astype(np.float64).reshape(shape))

    @property
    def real_bias(self) -> np.ndarray | None:
        """float64 (channels,): what the bias's integers stand for; None where they are not there."""
        if self.bias is None:
            return None
        return np.asarray(_array(self.bias.inputs[0]).astype(np.float64) * _array(self.bias.inputs[1]))

    def set_weight(self, q: np.ndarray) -> None:
        """Replace the weight's integers."""
        _replace(self.weight.inputs[0], q.astype(np.int8))

    def set_bias(self, bias: np.ndarray) -> bool:
        """Replace the bias, float64 (channels,), by the nearest integers of its scale; whether that changed one."""
        assert self.bias is not None
        steps = np.rint(bias / _array(self.bias.inputs[1]).astype(np.float64))
        integers = np.clip(steps, -(2**31) + 1, 2**31 - 1).astype(np.int32)
        changed = not np.array_equal(integers, _array(self.bias.inputs[0]))
        _replace(self.bias.inputs[0], integers)
        return changed

    def set_scale(self, scale: np.ndarray) -> None:
        """Replace the weight's scales, and the bias's with them; the bias keeps its value."""
        bias = self.real_bias
        _replace(self.weight.inputs[1], scale.astype(np.float32))
        if self.bias is not None and bias is not None:
            source = self.node.inputs[0]
            producer = None if source is None else source.producer()
            assert producer is not None
            step = float(_array(producer.inputs[1]).reshape(()))
            _replace(self.bias.inputs[1], bias_scale(scale.astype(np.float32), step))
            self.set_bias(bias)


def quantized_layers(model: ir.Model, context: PassContext) -> tuple[list[QuantizedLayer], list[tuple[str, str]]]:
    """The layers in graph order, and (name, reason) of those that cannot be touched.

    Raises:
        PassError: no quantization went before, or the float model is not that of this one.
    """
    if context.unquantized is None:
        raise PassError("it repairs what quantize lost, so it has to come after quantize in the same pipeline")
    floats = {node.name: node for node in context.unquantized.graph}
    found, left = [], []
    for node in model.graph:
        if node.op_type not in ANCHORS or len(node.inputs) < 2:
            continue
        weight = _dequantized(node.inputs[1], np.int8)
        if weight is None:
            continue
        name = node.name or ""
        anchor = make_anchor(floats[name]) if name in floats else "the float model does not have it"
        if isinstance(anchor, str):
            left.append((name, anchor))
        elif anchor.weight is None or anchor.weight.shape != _array(weight.inputs[0]).shape:
            left.append((name, "its weight is not that of the float model"))
        elif _shared(weight):
            left.append((name, "its weight is shared with another layer"))
        else:
            bias = _dequantized(node.inputs[2], np.int32) if len(node.inputs) > 2 else None
            found.append(QuantizedLayer(node, anchor, weight, bias if bias is not None and not _shared(bias) else None))
    return found, left


def levels(graph: ir.Graph, layers: Iterable[QuantizedLayer]) -> list[list[QuantizedLayer]]:
    """The layers in groups: what is in one depends on earlier groups only."""
    own = {layer.node: layer for layer in layers}
    depth: dict[ir.Value, int] = {}
    found: dict[int, list[QuantizedLayer]] = {}
    for node in graph:
        here = max((depth.get(v, 0) for v in node.inputs if v is not None), default=0)
        if node in own:
            found.setdefault(here, []).append(own[node])
            here += 1
        depth.update(dict.fromkeys(node.outputs, here))
    return [found[key] for key in sorted(found)]


def _dequantized(value: ir.Value | None, dtype: type) -> ir.Node | None:
    """The DequantizeLinear behind a value, if it is that of a constant of this type."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    tensor = node.inputs[0].const_value
    return node if tensor is not None and tensor.numpy().dtype == dtype else None


def _shared(node: ir.Node) -> bool:
    values = [node.outputs[0], node.inputs[0]]
    return any(v is None or len(v.uses()) > 1 or v.is_graph_output() for v in values)


def _array(value: ir.Value | None) -> np.ndarray:
    assert value is not None and value.const_value is not None
    return np.asarray(value.const_value.numpy())


def _replace(value: ir.Value | None, array: np.ndarray) -> None:
    """Another constant of the same shape and type."""
    assert value is not None
    value.const_value = ir.tensor(array.reshape(_array(value).shape), name=value.name)
