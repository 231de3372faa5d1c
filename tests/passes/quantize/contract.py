"""The form of a quantized graph that the compiler relies on, checked node by node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def check_contract(model: ir.Model) -> None:
    """Every rule of what `Quantize` may write; asserts with the node's name."""
    outputs = set(model.graph.outputs)
    quantized: set[ir.Value] = set()
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            source, scale, zero = node.inputs
            assert scale.const_value.numpy().dtype == np.float32 and scale.const_value.numpy().shape == ()
            assert np.isfinite(scale.const_value.numpy()) and scale.const_value.numpy() > 0
            assert zero.const_value.numpy().dtype in (np.uint8, np.int8) and zero.const_value.numpy().shape == ()
            if zero.const_value.numpy().dtype == np.int8:
                assert zero.const_value.numpy() == 0
            assert source not in quantized, f"{source.name} has two QuantizeLinear"
            assert node.outputs[0] not in outputs
            assert {user.op_type for user, _ in node.outputs[0].uses()} == {"DequantizeLinear"}, node.name
            quantized.add(source)
        if node.op_type == "DequantizeLinear":
            source, scale, zero = node.inputs
            assert len(node.outputs[0].uses()) == 1, f"{node.name}: one DequantizeLinear a consumer"
            assert node.outputs[0] not in outputs, f"{node.name} is a model output"
            if source.const_value is None:
                q = source.producer()
                assert q.op_type == "QuantizeLinear"
                assert (q.inputs[1], q.inputs[2]) == (scale, zero), node.name
            else:
                _check_constant(node)
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            _check_bias(node)
    for node in model.graph:
        _check_shared(node)


def _check_constant(node: ir.Node) -> None:
    q, scale, zero = (v.const_value.numpy() for v in node.inputs)
    assert q.dtype in (np.int8, np.int32) and zero.dtype == q.dtype and not zero.any()
    assert scale.dtype == np.float32 and zero.shape == scale.shape
    assert np.isfinite(scale).all() and (scale >= np.finfo(np.float32).tiny).all(), node.name
    if q.dtype == np.int8:
        assert q.min(initial=0) >= -127
    if scale.ndim:
        assert scale.shape == (q.shape[node.attributes["axis"].as_int()],)


def _check_bias(node: ir.Node) -> None:
    dequantize = [v.producer() if v is not None else None for v in node.inputs]
    if dequantize[0] is None or dequantize[0].op_type != "DequantizeLinear":
        return
    weight = dequantize[1]
    assert weight is not None and weight.inputs[0].dtype == ir.DataType.INT8, node.name
    if len(dequantize) > 2 and node.inputs[2] is not None:
        bias = dequantize[2]
        assert bias.inputs[0].dtype == ir.DataType.INT32, node.name
        expected = dequantize[0].inputs[1].const_value.numpy() * weight.inputs[1].const_value.numpy()
        np.testing.assert_array_equal(bias.inputs[1].const_value.numpy(), expected)


def _check_shared(node: ir.Node) -> None:
    """Concat and data movement: one scale and zero point for all they read and write."""
    if node.op_type not in ("Concat", "MaxPool", "Reshape", "Transpose", "Flatten", "Slice", "Split", "Squeeze"):
        return
    read = [v.producer() for v in node.inputs if v is not None and v.producer() is not None]
    read = [p for p in read if p.op_type == "DequantizeLinear"]
    if not read:
        return
    written = [u for v in node.outputs for u, _ in v.uses() if u.op_type == "QuantizeLinear"]
    assert written, f"{node.name} reads int8 and writes float"
    assert len({(n.inputs[1], n.inputs[2]) for n in (*read, *written)}) == 1, node.name
