"""Integer products and quantized operators against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler.bundle import Bundle


def integers(bundle: Bundle, dtype: str, *shape: int) -> np.ndarray:
    low, high = (0, 256) if dtype == "uint8" else (-128, 128)
    return bundle.generator.integers(low, high, shape).astype(dtype)


def test_matmul_integer() -> None:
    """Constant and computed weights, zero points of the tensor and of each column, known or given at run time."""
    bundle = Bundle(21)
    for kind, weights in (("uint8", "int8"), ("int8", "uint8")):
        x = bundle.input(3, 5, 37, dtype=kind, values=integers(bundle, kind, 3, 5, 37))
        w = integers(bundle, weights, 37, 21)
        narrow = (w // 2 + (60 if weights == "uint8" else 0)).astype(weights)
        zero = bundle.input(dtype=kind, values=np.array(13))
        column = bundle.const((np.arange(21) % 5 + (64 if weights == "uint8" else 0)).astype(weights))
        for name, b in (("const", bundle.const(narrow)), ("given", bundle.input(37, 21, dtype=weights, values=w))):
            label = f"{kind} x {weights} {name}"
            bundle.case(bundle.op("MatMulInteger", x, b), label)
            bundle.case(bundle.op("MatMulInteger", x, b, zero), f"{label}, a's zero point")
            bundle.case(bundle.op("MatMulInteger", x, b, zero, column), f"{label}, both")
    bundle.check()


def test_conv_integer() -> None:
    """The padding holds the zero point, whenever that is known."""
    bundle = Bundle(21)
    kind = "uint8"  # ONNX Runtime has no other
    x = bundle.input(2, 6, 9, 11, dtype=kind, values=integers(bundle, kind, 2, 6, 9, 11))
    w = integers(bundle, kind, 8, 6, 3, 3) // 2 + 64
    zeros = bundle.input(dtype=kind, values=np.array(7)), bundle.const(np.array(9, kind))
    offset = bundle.const(np.array(100, kind))
    for name, weight in (("const", bundle.const(w)), ("given", bundle.input(*w.shape, dtype=kind, values=w))):
        bundle.case(bundle.op("ConvInteger", x, weight, zeros[0], offset), f"{name}")
        for zero in zeros:
            bundle.case(bundle.op("ConvInteger", x, weight, zero, offset, pads=[1, 2, 0, 1]), f"{name} padded")
        more = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 1, 1, 1]}
        bundle.case(bundle.op("ConvInteger", x, weight, zeros[0], offset, **more), f"{name} strided")
    bundle.check()


def test_dynamic_quantization() -> None:
    """As ONNX Runtime's quantize_dynamic writes it: DynamicQuantizeLinear, MatMulInteger, Cast, Mul."""
    bundle = Bundle(21)
    for number, values in enumerate((bundle.normal(4, 48), np.abs(bundle.normal(4, 48)) + 1, np.zeros((4, 48)))):
        x = bundle.input(4, 48, values=values)
        q, scale, zero = bundle.op("DynamicQuantizeLinear", x, outputs=3)
        weight = bundle.const(integers(bundle, "int8", 48, 32))
        sums = bundle.op("Cast", bundle.op("MatMulInteger", q, weight, zero), to=1)
        bundle.case(bundle.op("Mul", sums, scale), f"product {number}")
        for value, name in ((q, "bytes"), (scale, "scale"), (zero, "zero point")):
            bundle.case(value, f"{name} {number}")
    bundle.check()


@pytest.mark.parametrize("known", [True, False], ids=["constants", "run time"])
def test_qlinear_products(known: bool) -> None:
    """Parameters as constants, absorbed by the packed kernels, and as inputs."""
    bundle = Bundle(21)

    def parameter(array: Any) -> str:
        array = np.asarray(array)
        return bundle.const(array) if known else bundle.input(*array.shape, dtype=str(array.dtype), values=array)

    for kind, zero in (("uint8", 120), ("int8", -5)):
        zeros = [parameter(np.array(z, kind)) for z in (zero, zero + 7)]
        x = bundle.input(2, 5, 24, dtype=kind, values=integers(bundle, kind, 2, 5, 24))
        b = bundle.const(integers(bundle, "int8", 24, 20))
        column, step = parameter(np.zeros(20, "int8")), parameter(np.linspace(0.01, 0.02, 20).astype("float32"))
        scales = [parameter(np.float32(s)) for s in (0.05, 0.4)]
        args = (x, scales[0], zeros[0], b, step, column, scales[1], zeros[1])
        bundle.case(bundle.op("QLinearMatMul", *args), f"matmul {kind}")
        image = bundle.input(1, 8, 7, 9, dtype=kind, values=integers(bundle, kind, 1, 8, 7, 9))
        weight = bundle.const(integers(bundle, "int8", 6, 4, 3, 3))
        step, offset = parameter(np.linspace(0.01, 0.02, 6).astype("float32")), parameter(np.zeros(6, "int8"))
        bias = bundle.const(bundle.generator.integers(-900, 900, 6).astype("int32"))
        args = (image, scales[0], zeros[0], weight, step, offset, scales[1], zeros[1], bias)
        bundle.case(bundle.op("QLinearConv", *args, group=2, pads=[1, 1, 1, 1], strides=[1, 2]), f"conv {kind}")
    bundle.check_steps(rare=2e-2)


def quantized(bundle: Bundle, kind: str, *shape: int) -> tuple[str, str, str]:
    x = bundle.input(*shape, dtype=kind, values=integers(bundle, kind, *shape))
    return x, bundle.const(np.float32(0.03)), bundle.const(np.array(3, kind))


def test_quantized_operators() -> None:
    """Those of com.microsoft that quantize_static emits in the QOperator format."""
    bundle = Bundle(21)
    ms: dict[str, Any] = {"domain": "com.microsoft"}
    for kind in ("uint8", "int8"):
        a, b = quantized(bundle, kind, 1, 4, 6, 5), quantized(bundle, kind, 1, 4, 6, 5)
        # No round ratio to 0.03: ties would fall to whichever rounding came before.
        y = bundle.const(np.float32(0.0473)), bundle.const(np.array(11, kind))
        for op in ("QLinearAdd", "QLinearMul"):
            bundle.case(bundle.op(op, *a, *b, *y, **ms), f"{op} {kind}", kind, [1, 4, 6, 5])
        bundle.case(bundle.op("QLinearLeakyRelu", *a, *y, alpha=0.3, **ms), f"leaky {kind}", kind, [1, 4, 6, 5])
        bundle.case(bundle.op("QLinearConcat", *y, *a, *b, axis=1, **ms), f"concat {kind}", kind, [1, 8, 6, 5])
        small = bundle.const(np.float32(0.004)), bundle.const(np.array(1, kind))
        bundle.case(bundle.op("QLinearSigmoid", *a, *small, **ms), f"sigmoid {kind}", kind, [1, 4, 6, 5])
        bundle.case(bundle.op("QLinearGlobalAveragePool", *a, *small, **ms), f"global mean {kind}", kind, [1, 4, 1, 1])
        pool = {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [0, 1, 0, 1]}
        bundle.case(bundle.op("QLinearAveragePool", *a, *y, **pool, **ms), f"mean {kind}", kind, [1, 4, 3, 5])
    bundle.check_steps(rare=2e-2)


def test_float_results_of_integer_products() -> None:
    """QGemm without y_scale, MatMulIntegerToFloat, MatMulNBits in 4 and 8 bits."""
    bundle = Bundle(21)
    ms: dict[str, Any] = {"domain": "com.microsoft"}
    a = quantized(bundle, "uint8", 6, 40)
    weight, step = integers(bundle, "int8", 40, 16), bundle.const(np.linspace(0.01, 0.02, 16).astype("float32"))
    zero = bundle.const(np.zeros(16, "int8"))
    bias = bundle.const(bundle.generator.integers(-900, 900, 16).astype("int32"))
    flipped = bundle.const(np.ascontiguousarray(weight.T))
    bundle.case(bundle.op("QGemm", *a, flipped, step, zero, bias, transB=1, **ms), "gemm", "float32", [6, 16])
    real = bundle.const(bundle.normal(16))
    args = (a[0], bundle.const(weight), a[1], step, a[2], zero, real)
    bundle.case(bundle.op("MatMulIntegerToFloat", *args, **ms), "matmul to float", "float32", [6, 16])
    x = bundle.input(3, 72)
    for bits, blob in ((4, 16), (8, 32)):
        packed = bundle.const(integers(bundle, "uint8", 16, 3, blob))
        scale = bundle.const(bundle.normal(16, 3, scale=0.1))
        zeros = bundle.const(integers(bundle, "uint8", 16, 2 if bits == 4 else 3))
        sizes = {"K": 72, "N": 16, "bits": bits, "block_size": 32}
        bundle.case(bundle.op("MatMulNBits", x, packed, scale, **sizes, **ms), f"{bits} bits", "float32", [3, 16])
        bundle.case(
            bundle.op("MatMulNBits", x, packed, scale, zeros, **sizes, **ms),
            f"{bits} bits, zero points",
            "float32",
            [3, 16],
        )
    bundle.check()
