"""The float model that a quantized one is measured against."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optkit.debug.structure import DEQUANTIZE, QUANTIZE, QuantizedLayer


def strip_activations(model: ir.Model) -> ir.Model:
    """A copy in which activations are not quantized: whoever reads DQ(Q(x)) reads x. Weights stay as they are.

    For models that came quantized, of which there is no float form. Where a quantizer left a Relu to the range of a
    QuantizeLinear, the copy is another function; nothing in the graph tells.
    """
    copy = model.clone()
    for node in list(copy.graph):
        if node.op_type != DEQUANTIZE or node.inputs[0] is None:
            continue
        quantize = node.inputs[0].producer()
        if quantize is None or quantize.op_type != QUANTIZE or quantize.inputs[0] is None:
            continue
        source = quantize.inputs[0]
        out = node.outputs[0]
        if out.is_graph_output():
            same = ir.Node("", "Identity", [source], outputs=[ir.Value(name=out.name, shape=out.shape, type=out.type)])
            same.name = node.name
            copy.graph.insert_before(node, same)
            out.name = f"{out.name}_quantized"
            ir.convenience.replace_all_uses_with(out, same.outputs[0], replace_graph_outputs=True)
            copy.graph.remove(node, safe=True)
        else:
            ir.convenience.replace_all_uses_with(out, source)
            copy.graph.remove(node, safe=True)
    return copy


def float_constants(layer: QuantizedLayer, model: ir.Model) -> dict[int, np.ndarray | None]:
    """The float model's arrays for the layer's weights and biases; None where it has no such node or constant.

    Quantization writes Gemm's alpha and beta into them; a bias that it added was zero.
    """
    twin = next((n for n in model.graph if n.name == layer.node.name and n.op_type == layer.node.op_type), None)
    found: dict[int, np.ndarray | None] = dict.fromkeys(layer.constants)
    if twin is None:
        return found
    for index, quantized in layer.constants.items():
        value = twin.inputs[index] if index < len(twin.inputs) else None
        if value is None:
            found[index] = np.zeros_like(quantized) if index == 2 else None
            continue
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            continue
        array = np.asarray(tensor.numpy(), quantized.dtype)
        key = {1: "alpha", 2: "beta"}.get(index)
        if layer.node.op_type == "Gemm" and key is not None:
            factor = twin.attributes.get_float(key, 1.0) / layer.node.attributes.get_float(key, 1.0)
            array = np.asarray(array * factor, quantized.dtype)
        if index == 2 and array.shape != quantized.shape and array.size in (1, quantized.size):
            array = np.broadcast_to(array.reshape(-1), quantized.shape).copy()
        found[index] = array
    return found
