"""One small network in the node patterns of many tools, numbers chosen so that every runtime computes the same.

Scales are powers of two and biases whole numbers of the accumulator's steps: then float32 holds every product and sum
exactly, and a compiled model must give ONNX Runtime's numbers to the bit.

The patterns were read off models of: ONNX Runtime 1.32.0 (`quantize_static`), NNCF 3.4.0 (`nncf.quantize` on ONNX),
torchao 0.18.0 (`prepare_pt2e`, `convert_pt2e` and `torch.onnx.export(dynamo=True)` of PyTorch 2.13.0), Brevitas 0.13.4
(`export_onnx_qcdq`); those spelled out are what LSQ-like training code exports (Esser et al., 2020, section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.compiler.bundle import Bundle

STEP = 2.0**-4
"""Of every activation."""
Activation = Callable[[Bundle, str], str]
Weight = Callable[[Bundle, tuple[int, ...]], str]


@dataclass(frozen=True)
class Dialect:
    """How a tool writes an activation's and a weight's quantization; weights have their channels first."""

    name: str
    activation: Activation
    weight: Weight
    opset: int = 18
    linear: str = "Gemm"


def network(dialect: Dialect) -> Bundle:
    """A stem, a depthwise convolution, a residual sum, a join and a linear layer, with float biases."""
    b = Bundle(opset=dialect.opset)

    def conv(x: str, channels: int, out: int, size: int, group: int = 1) -> str:
        w = dialect.weight(b, (out, channels // group, size, size))
        return str(b.op("Conv", x, w, bias(b, out), group=group, pads=[size // 2] * 4))

    def act(x: str) -> str:
        return dialect.activation(b, x)

    x = act(b.input(2, 3, 8, 9))
    stem = act(b.op("Relu", conv(x, 3, 20, 3)))
    deep = act(b.op("Relu", conv(stem, 20, 20, 3, 20)))
    joined = act(b.op("Relu", b.op("Add", act(conv(deep, 20, 20, 1)), stem)))
    both = b.op("Concat", joined, act(conv(stem, 20, 12, 1)), axis=1)
    pooled = b.op("MaxPool", both, kernel_shape=[8, 9])
    flat = b.op("Reshape", pooled, b.const(np.array([2, 32])))
    w = dialect.weight(b, (10, 32))
    if dialect.linear == "Gemm":
        y = b.op("Gemm", flat, w, bias(b, 10), transB=1)
    else:
        y = b.op("Add", b.op("MatMul", flat, b.op("Transpose", w, perm=[1, 0])), bias(b, 10))
    b.case(y, "logits")
    b.case(joined, "sum")
    return b


PRODUCTS = 5
"""Convolutions and matrix products of the network."""


def bias(b: Bundle, size: int) -> str:
    """Float32, a whole number of the largest step of products, so of every one."""
    return b.const((b.generator.integers(-200, 200, size) * STEP * 2.0**-7).astype("float32"))


def integers(b: Bundle, shape: tuple[int, ...], low: int = -127, high: int = 127) -> np.ndarray:
    """Whole numbers of any size in the range, its ends among them."""
    q: np.ndarray = b.generator.integers(low, high, shape, endpoint=True)
    q.reshape(-1)[:2] = low, high
    return q


def scales(b: Bundle, size: int) -> np.ndarray:
    """Powers of two, one a channel."""
    return (2.0 ** b.generator.integers(-9, -6, size)).astype("float32")


def number(b: Bundle, value: float, dtype: str = "float32") -> str:
    """A scalar."""
    return b.const(np.array(value, dtype))


# Activations


def pair(b: Bundle, x: str, dtype: str = "uint8", zero: int = 100) -> str:
    """QuantizeLinear and one DequantizeLinear for all readers."""
    step, z = number(b, STEP), number(b, zero, dtype)
    return str(b.op("DequantizeLinear", b.op("QuantizeLinear", x, step, z), step, z))


def signed_pair(b: Bundle, x: str) -> str:
    """int8 about a zero point, as torchao's XNNPACK quantizer has it."""
    return pair(b, x, "int8", -28)


def computed_pair(b: Bundle, x: str) -> str:
    """A scale that is divided at run time, of one element, and no zero point."""
    step = b.op("Div", b.const(np.array([STEP * 255], "float32")), b.const(np.array([255], "float32")))
    return str(b.op("DequantizeLinear", b.op("QuantizeLinear", x, step), step))


def narrow_pair(b: Bundle, x: str) -> str:
    """Four bits of uint8, by a Clip of integers."""
    step, z = number(b, STEP), number(b, 0, "uint8")
    q = b.op("Clip", b.op("QuantizeLinear", x, step, z), number(b, 0, "uint8"), number(b, 15, "uint8"))
    return str(b.op("DequantizeLinear", q, step, z))


def spelled_out(b: Bundle, x: str) -> str:
    """Div, Round, Add, Clip, Sub, Mul."""
    r = b.op("Add", b.op("Round", b.op("Div", x, number(b, STEP))), number(b, 101))
    q = b.op("Clip", r, number(b, 0), number(b, 255))
    return str(b.op("Mul", b.op("Sub", q, number(b, 101)), number(b, STEP)))


def learned_step(b: Bundle, x: str) -> str:
    """Mul, Clip, Round, Mul, symmetric."""
    r = b.op("Clip", b.op("Mul", x, number(b, 1 / STEP)), number(b, -128), number(b, 127))
    return str(b.op("Mul", b.op("Round", r), number(b, STEP)))


def clamped(b: Bundle, x: str) -> str:
    """Max and Min for the Clip, an even zero point before rounding, 6 bits."""
    r = b.op("Round", b.op("Add", b.op("Div", x, number(b, STEP)), number(b, 20)))
    q = b.op("Min", b.op("Max", r, number(b, 0)), number(b, 63))
    return str(b.op("Mul", b.op("Sub", q, number(b, 20)), number(b, STEP)))


def stored(b: Bundle, x: str) -> str:
    """Spelled out around integers that are stored."""
    r = b.op("Add", b.op("Round", b.op("Div", x, number(b, STEP))), number(b, 99))
    q = b.op("Cast", b.op("Clip", r, number(b, 0), number(b, 255)), to=2)
    return str(b.op("Mul", b.op("Sub", b.op("Cast", q, to=1), number(b, 99)), number(b, STEP)))


# Weights


def plain(b: Bundle, shape: tuple[int, ...]) -> str:
    """int8, a scale a channel, no zero point."""
    q = b.const(integers(b, shape).astype("int8"))
    return str(b.op("DequantizeLinear", q, b.const(scales(b, shape[0])), axis=0))


def unsigned(b: Bundle, shape: tuple[int, ...]) -> str:
    """uint8 about 128, a scale a tensor."""
    q = b.const((integers(b, shape) + 128).astype("uint8"))
    return str(b.op("DequantizeLinear", q, number(b, 2.0**-8), number(b, 128, "uint8")))


def asymmetric(b: Bundle, shape: tuple[int, ...]) -> str:
    """uint8 about any zero point, one a channel."""
    q = b.const(integers(b, shape, 0, 255).astype("uint8"))
    zero = b.generator.integers(0, 256, shape[0]).astype("uint8")
    return str(b.op("DequantizeLinear", q, b.const(scales(b, shape[0])), b.const(zero), axis=0))


def four_bits(b: Bundle, shape: tuple[int, ...]) -> str:
    """uint4 about 8."""
    import ml_dtypes

    q = b.const(integers(b, shape, 0, 15).astype(ml_dtypes.uint4))
    zero = b.const(np.full(shape[0], 8, ml_dtypes.uint4))
    return str(b.op("DequantizeLinear", q, b.const(scales(b, shape[0])), zero, axis=0))


def float_weight(b: Bundle, shape: tuple[int, ...], zero: int = 0) -> tuple[str, list[str]]:
    """A float weight of whole steps, and its parameters."""
    step = scales(b, shape[0])
    w = integers(b, shape) * step.reshape(-1, *[1] * (len(shape) - 1))
    return b.const(w.astype("float32")), [b.const(step), b.const(np.full(shape[0], zero, "int8"))]


def fake(b: Bundle, shape: tuple[int, ...]) -> str:
    """A float weight, quantized and dequantized when the model runs."""
    w, parameters = float_weight(b, shape)
    return str(b.op("DequantizeLinear", b.op("QuantizeLinear", w, *parameters, axis=0), *parameters, axis=0))


def clipped_fake(b: Bundle, shape: tuple[int, ...]) -> str:
    """The same with integers clipped to a narrow range between."""
    w, parameters = float_weight(b, shape)
    q = b.op("Clip", b.op("QuantizeLinear", w, *parameters, axis=0), number(b, -7, "int8"), number(b, 7, "int8"))
    return str(b.op("DequantizeLinear", q, *parameters, axis=0))


def clipped_integers(b: Bundle, shape: tuple[int, ...]) -> str:
    """An int8 initializer, clipped."""
    q = b.op("Clip", b.const(integers(b, shape).astype("int8")), number(b, -127, "int8"), number(b, 127, "int8"))
    zero = b.const(np.zeros(shape[0], "int8"))
    return str(b.op("DequantizeLinear", q, b.const(scales(b, shape[0])), zero, axis=0))


def spelled_out_weight(b: Bundle, shape: tuple[int, ...]) -> str:
    """Div, Round, Clip, Mul with a scale a channel."""
    w, (step, _) = float_weight(b, shape)
    wide = b.op("Reshape", step, b.const(np.array([-1, *[1] * (len(shape) - 1)])))
    r = b.op("Round", b.op("Div", w, wide))
    return str(b.op("Mul", b.op("Clip", r, number(b, -127), number(b, 127)), wide))


def cast_weight(b: Bundle, shape: tuple[int, ...]) -> str:
    """An int8 initializer, cast and scaled."""
    q = b.op("Cast", b.const(integers(b, shape).astype("int8")), to=1)
    step = scales(b, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return str(b.op("Mul", q, b.const(step)))


DIALECTS = [
    Dialect("ONNX Runtime, U8S8 per channel, float bias", pair, plain),
    Dialect("ONNX Runtime, U8U8", pair, asymmetric),
    Dialect("ONNX Runtime, weights of four bits", pair, four_bits, opset=21),
    Dialect("ONNX Runtime, AddQDQPairToWeight", pair, fake),
    Dialect("NNCF, scales computed", computed_pair, plain),
    Dialect("torchao, PT2E", signed_pair, plain, linear="MatMul"),
    Dialect("Brevitas, TorchScript", signed_pair, clipped_integers),
    Dialect("Brevitas, dynamo, 4 bits", narrow_pair, clipped_fake),
    Dialect("Brevitas, shifted uint8", pair, unsigned, linear="MatMul"),
    Dialect("spelled out", spelled_out, spelled_out_weight),
    Dialect("learned steps", learned_step, spelled_out_weight, linear="MatMul"),
    Dialect("Max and Min, 6 bits", clamped, cast_weight),
    Dialect("integers cast", stored, cast_weight, linear="MatMul"),
]
