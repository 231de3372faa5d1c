"""Quantized models whose every integer tensor is an output, and inputs that go to the ends of their ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from optkit.model import load_model
from optkit.pipeline import Pipeline
from optkit.tidy import infer_shapes
from optkit.transform import PassContext, Sample
from tests.compiler.bundle import Bundle
from tests.graphs import session

Feed = Mapping[str, np.ndarray]
LARGEST = float(np.finfo("float32").max)


def residual_network() -> ir.Model:
    """A small CNN with a residual sum, a depthwise convolution, a join, pools and a linear layer, quantized by us."""
    b = Bundle(seed=3)

    def conv(x: str, channels: int, out: int, size: int, group: int = 1, **attributes: object) -> str:
        fan = channels // group * size * size
        w = b.const(b.normal(out, channels // group, size, size, scale=float(np.sqrt(2 / fan))))
        return str(b.op("Conv", x, w, b.const(b.normal(out) / 4), group=group, pads=[size // 2] * 4, **attributes))

    x = b.input(1, 3, 17, 15)
    stem = b.op("Relu", conv(x, 3, 20, 3, strides=[2, 2]))
    block = b.op("Relu", b.op("Add", conv(b.op("Relu", conv(stem, 20, 20, 3)), 20, 20, 3), stem))
    deep = b.op("Clip", conv(block, 20, 20, 3, 20), b.const(np.float32(0)), b.const(np.float32(6)))
    both = b.op("Concat", conv(deep, 20, 12, 1), b.op("MaxPool", conv(block, 20, 20, 1), kernel_shape=[1, 1]), axis=1)
    pooled = b.op("AveragePool", b.op("Relu", both), kernel_shape=[2, 2], strides=[2, 2])
    last = b.op("HardSwish", conv(pooled, 32, 24, 3))
    flat = b.op("Flatten", b.op("GlobalAveragePool", last))
    dense = b.op("Relu", b.op("Gemm", flat, b.const(b.normal(24, 18) / 5), b.const(b.normal(18))))
    b.case(b.op("Gemm", dense, b.const(b.normal(18, 10) / 4)), "logits")
    return quantized(b.model())


def shared_network(path: Path) -> ir.Model:
    """A model of the shared folder, its batch 1, quantized by us after the default passes."""
    from optkit.model import bind_shapes

    model = load_model(path)
    batch = {v.name or "": (1, *list(v.shape or ())[1:]) for v in model.graph.inputs}
    bind_shapes(model, {name: [int(d) for d in shape] for name, shape in batch.items()})
    return quantized(model)


def quantized(model: ir.Model) -> ir.Model:
    """Folded, fused and quantized, ranges from normal numbers."""
    shapes = {v.name or "": [int(d) for d in v.shape or ()] for v in model.graph.inputs}

    def samples() -> Iterator[Sample]:
        generator = np.random.default_rng(11)
        for _ in range(4):
            yield {name: generator.standard_normal(shape).astype("float32") for name, shape in shapes.items()}

    return Pipeline.parse("@int8").run(model, PassContext(calibration=samples)).model


def saturating_network() -> ir.Model:
    """Weights at both ends of int8 times bytes that are all 255 or 0: pairs of products leave 16 bits.

    Scales are powers of two and sums below 2^24, so that float32 is exact too.
    """
    b = Bundle(seed=4)
    step, byte = b.const(np.float32(0.5)), b.const(np.uint8(0))
    wide = b.const(np.float32(2.0**12))
    zero = b.const(np.uint8(128))

    def real(q: np.ndarray) -> str:
        return str(b.op("DequantizeLinear", b.const(q), b.const(np.float32(0.25)), b.const(np.int8(0))))

    def close(y: str, label: str) -> str:
        q = b.op("QuantizeLinear", y, wide, zero)
        b.case(b.op("DequantizeLinear", q, wide, zero), label)
        return str(q)

    x = b.input(1, 32, 6, 7)
    data = b.op("DequantizeLinear", b.op("QuantizeLinear", x, step, byte), step, byte)
    rows = np.stack(
        [np.full(288, v) for v in (127, -127, -128)] + [np.tile([127, -128], 144), np.arange(288) % 256 - 128]
    )
    every = np.resize(rows, (20, 288)).reshape(20, 32, 3, 3).astype("int8")
    close(b.op("Conv", data, real(every), pads=[1, 1, 1, 1]), "dense")
    close(b.op("Conv", data, real(np.ascontiguousarray(every[:, :, :1, :1]))), "pointwise")
    deep = np.resize(rows, (32, 9)).reshape(32, 1, 3, 3).astype("int8")
    close(b.op("Conv", data, real(deep), group=32, pads=[1, 1, 1, 1]), "depthwise")
    close(b.op("Conv", data, real(np.ascontiguousarray(every[:16, :16])), group=2, pads=[1, 1, 1, 1]), "groups")
    flat = b.op("Reshape", data, b.const(np.array([42, 32])))
    close(b.op("MatMul", flat, real(np.ascontiguousarray(every[:, :, 0, 0].T))), "rows")
    u8 = (every[:, :, :1, :1].astype("int16") + 128).astype("uint8")
    far = b.op("DequantizeLinear", b.const(u8), b.const(np.float32(0.25)), b.const(np.uint8(255)))
    close(b.op("Conv", data, far), "weights about 255")
    return b.model()


def expose(model: ir.Model) -> list[str]:
    """Make every quantized tensor an output, beside those that the model has; their names."""
    names = []
    for node in model.graph:
        value = node.outputs[0]
        if node.op_type == "QuantizeLinear" and not value.is_graph_output():
            model.graph.outputs.append(value)
            names.append(str(value.name))
    infer_shapes(model)
    return names


def feeds(model: ir.Model) -> dict[str, Feed]:
    """Ordinary and extreme inputs, by what they are."""
    generator = np.random.default_rng(5)
    (source,) = model.graph.inputs
    shape = [int(d) for d in source.shape or ()]
    name = str(source.name)
    ends = np.where(generator.integers(0, 2, shape), LARGEST, -LARGEST)
    arrays = {
        "ordinary": generator.standard_normal(shape),
        "small": generator.standard_normal(shape) / 64,
        "zeros": np.zeros(shape),
        "all bytes 255": np.full(shape, LARGEST),
        "all bytes 0": np.full(shape, -LARGEST),
        "both ends": ends,
        "ties": generator.integers(-300, 300, shape) / 64,
    }
    return {label: {name: array.astype("float32")} for label, array in arrays.items()}


def reference(model: ir.Model, feed: Feed) -> list[np.ndarray]:
    """ONNX Runtime's outputs, its optimizations off."""
    return list(session(model).run(None, dict(feed)))
