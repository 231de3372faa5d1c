"""Q/DQ graphs against ONNX Runtime without its optimizations: the same integers, but for rare ties."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compiler.bundle import BUNDLED, Bundle

UNSIGNED, SIGNED = ("uint8", 117), ("int8", 0)
Type = tuple[str, int]
WHERE = [("cpu", UNSIGNED), ("cpu", SIGNED), ("x86-64-v3", UNSIGNED)]


def scalar(b: Bundle, value: float, dtype: str) -> str:
    return b.const(np.array(value, dtype))


def uneven(scale: float) -> float:
    """A scale near the given one whose ratio to others is no small fraction: such would make ties of halves."""
    return scale * (1 + float(np.sin(scale * 1e4)) / 50)


def quantize(b: Bundle, x: str, scale: float, kind: Type) -> str:
    """QuantizeLinear."""
    return str(b.op("QuantizeLinear", x, scalar(b, uneven(scale), "float32"), scalar(b, kind[1], kind[0])))


def real(b: Bundle, x: str, scale: float, kind: Type) -> str:
    """DequantizeLinear of what `quantize` made."""
    return str(b.op("DequantizeLinear", x, scalar(b, uneven(scale), "float32"), scalar(b, kind[1], kind[0])))


def pair(b: Bundle, x: str, scale: float, kind: Type) -> str:
    """Quantize and dequantize."""
    return real(b, quantize(b, x, scale, kind), scale, kind)


def weight(b: Bundle, shape: tuple[int, ...], axis: int, per_channel: bool, fan: int) -> tuple[str, np.ndarray]:
    """A dequantized int8 weight that keeps the variance of what it multiplies, and its scales."""
    q = b.generator.integers(-127, 128, shape).astype("int8")
    size = shape[axis] if per_channel else 1
    scale = ((0.5 + b.generator.random(size)) / (73 * np.sqrt(fan))).astype("float32")
    if not per_channel:
        return str(b.op("DequantizeLinear", b.const(q), b.const(scale[0]), scalar(b, 0, "int8"))), scale
    zero = b.const(np.zeros(size, "int8"))
    return str(b.op("DequantizeLinear", b.const(q), b.const(scale), zero, axis=axis)), scale


def bias(b: Bundle, size: int, scale: np.ndarray) -> str:
    """A dequantized int32 bias in units of the accumulator."""
    wide = np.broadcast_to(scale, (size,)).astype("float32")
    q = np.rint(b.normal(size) * 0.3 / wide).astype("int32")
    return str(b.op("DequantizeLinear", b.const(q), b.const(wide), b.const(np.zeros(size, "int32")), axis=0))


def conv(
    b: Bundle,
    x: str,
    channels: int,
    out: int,
    kernel: tuple[int, ...],
    group: int = 1,
    scale: float = 0.03,
    per_channel: bool = True,
    with_bias: bool = True,
    **attributes: Any,
) -> str:
    """A convolution of dequantized operands; `scale` is that of its input."""
    fan = channels // group * int(np.prod(kernel))
    w, scales = weight(b, (out, channels // group, *kernel), 0, per_channel, fan)
    extra = [bias(b, out, scales * np.float32(uneven(scale)))] if with_bias else []
    return str(b.op("Conv", x, w, *extra, group=group, **attributes))


GEOMETRIES: list[tuple[str, int, int, tuple[int, int], tuple[int, int], int, dict[str, Any]]] = [
    ("stem of three channels", 3, 24, (15, 13), (3, 3), 1, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("SqueezeNet's stem width", 3, 32, (5, 223), (3, 3), 1, {"strides": [2, 2]}),
    ("prime width", 16, 32, (3, 113), (3, 3), 1, {"pads": [1, 1, 1, 1]}),
    ("one by one", 17, 33, (5, 7), (1, 1), 1, {}),
    ("one by one, strided", 24, 48, (8, 9), (1, 1), 1, {"strides": [2, 2]}),
    ("asymmetric padding", 5, 17, (10, 11), (3, 4), 1, {"pads": [0, 2, 1, 0]}),
    ("SAME_UPPER", 8, 16, (10, 11), (4, 3), 1, {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ("dilation", 16, 16, (12, 11), (3, 3), 1, {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    ("ShuffleNet, 80 channels a group", 240, 240, (3, 3), (1, 1), 3, {}),
    ("ResNeXt 32x4", 128, 128, (5, 5), (3, 3), 32, {"pads": [1, 1, 1, 1]}),
    ("groups that straddle blocks", 30, 42, (6, 5), (3, 3), 6, {"pads": [1, 1, 1, 1]}),
    ("depthwise", 32, 32, (14, 14), (3, 3), 32, {"pads": [1, 1, 1, 1]}),
    ("depthwise, odd channels", 17, 17, (13, 11), (3, 3), 17, {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("depthwise multiplier two", 12, 24, (8, 8), (3, 3), 12, {"pads": [1, 1, 1, 1]}),
]


@pytest.mark.parametrize(("target", "kind"), WHERE)
def test_convolutions(target: str, kind: Type) -> None:
    """Padding reads as the zero point; every convolution is integer and uses the dot product of the target."""
    b = Bundle()
    for i, (label, channels, out, size, kernel, group, attributes) in enumerate(GEOMETRIES):
        x = pair(b, b.input(2, channels, *size), 0.03, kind)
        y = conv(b, x, channels, out, kernel, group, per_channel=i % 3 != 0, with_bias=i % 4 != 0, **attributes)
        b.case(quantize(b, y, 0.04, kind), label)
    built = b.check_steps(target)
    assert [r.compute for r in built.nodes] == ["int8"] * len(GEOMETRIES), built.nodes
    word = "vpdpbusd" if target == "cpu" and built.target.has("int8_dot") else "vpmaddwd"
    assert len(re.findall(rf"\b{word}\b", built.assembly())) > 100


@pytest.mark.parametrize(("target", "kind"), WHERE)
def test_volumes(target: str, kind: Type) -> None:
    """Depths outside of the volume read as the zero point too; phases of a transposed convolution differ in sums."""
    b = Bundle()
    volumes: list[tuple[str, int, int, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ("odd channels, padded", 19, 21, (4, 5, 3), (3, 3, 3), {"pads": [1, 1, 1, 1, 1, 1]}),
        ("few channels", 3, 18, (5, 6, 7), (2, 3, 2), {"pads": [1, 0, 2, 0, 1, 0]}),
        ("strided and dilated", 16, 18, (7, 9, 8), (3, 2, 3), {"strides": [2, 1, 2], "dilations": [2, 3, 1]}),
        ("one by one", 32, 17, (3, 4, 5), (1, 1, 1), {}),
        ("SAME", 8, 6, (5, 6, 7), (3, 4, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 2, 2]}),
    ]
    for i, (label, channels, out, size, kernel, attributes) in enumerate(volumes):
        x = pair(b, b.input(2, channels, *size), 0.03, kind)
        y = conv(b, x, channels, out, kernel, per_channel=i % 3 != 0, with_bias=i % 2 != 0, **attributes)
        b.case(quantize(b, b.op("Relu", y) if i % 2 else y, 0.04, kind), label)
    for channels, out, step, per_channel in ((32, 20, (2, 2, 2), True), (7, 9, (1, 2, 3), False)):
        x = pair(b, b.input(2, channels, 3, 4, 2), 0.03, kind)
        w, scales = weight(b, (channels, out, *step), 1, per_channel, channels)
        added = bias(b, out, scales * np.float32(uneven(0.03)))
        y = b.op("ConvTranspose", x, w, added, strides=list(step), kernel_shape=list(step))
        b.case(quantize(b, y, 0.04, kind), f"up by {step}")
    built = b.check_steps(target)
    assert [r.compute for r in built.nodes] == ["int8"] * (len(volumes) + 2), built.nodes


TRANSPOSED: list[tuple[str, int, int, tuple[int, int], tuple[int, int], dict[str, Any]]] = [
    ("U-Net's", 32, 24, (5, 7), (2, 2), {"strides": [2, 2]}),
    ("FCN's", 5, 5, (6, 6), (4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("uneven taps", 16, 17, (6, 5), (3, 3), {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]}),
    ("no stride", 20, 7, (6, 5), (3, 3), {}),
    ("asymmetric", 8, 33, (4, 5), (3, 5), {"strides": [3, 2], "pads": [0, 1, 2, 1]}),
]


@pytest.mark.parametrize(("target", "kind"), WHERE)
def test_transposed_convolutions(target: str, kind: Type) -> None:
    """Every phase of the stride is integer."""
    b = Bundle()
    for i, (label, channels, out, size, kernel, attributes) in enumerate(TRANSPOSED):
        x = pair(b, b.input(2, channels, *size), 0.03, kind)
        w, scales = weight(b, (channels, out, *kernel), 1, i % 2 == 0, channels * int(np.prod(kernel)))
        extra = [bias(b, out, scales * np.float32(uneven(0.03)))] if i % 3 != 2 else []
        b.case(quantize(b, b.op("ConvTranspose", x, w, *extra, **attributes), 0.04, kind), label)
    built = b.check_steps(target)
    assert [r.compute for r in built.nodes] == ["int8"] * len(TRANSPOSED), built.nodes


@st.composite
def chain(draw: st.DrawFn) -> dict[str, Any]:
    """Sizes of a small network."""
    return {
        "channels": draw(st.sampled_from([3, 5, 16, 17, 24])),
        "out": draw(st.sampled_from([5, 16, 17, 40])),
        "size": (draw(st.integers(5, 14)), draw(st.sampled_from([5, 8, 11, 13, 37]))),
        "kernel": draw(st.tuples(st.integers(1, 5), st.integers(1, 5))),
        "stride": draw(st.integers(1, 2)),
        "kind": draw(st.sampled_from([UNSIGNED, SIGNED, ("uint8", 0), ("int8", -5)])),
        "activation": draw(st.sampled_from(["", "Relu", "Clip", "HardSwish"])),
        "per_channel": draw(st.booleans()),
    }


@BUNDLED
@given(st.lists(chain(), min_size=4, max_size=4))
def test_any_chain(cases: list[dict[str, Any]]) -> None:
    """Two convolutions with an activation between, and a residual sum."""
    b = Bundle()
    for c in cases:
        kind, out = c["kind"], c["out"]
        x = pair(b, b.input(1, c["channels"], *c["size"]), 0.03, kind)
        y = conv(b, x, c["channels"], out, c["kernel"], strides=[c["stride"]] * 2, auto_pad="SAME_UPPER")
        if c["activation"] == "Clip":
            y = b.op("Clip", y, b.const(np.float32(-0.7)), b.const(np.float32(1.2)))
        elif c["activation"]:
            y = b.op(c["activation"], y)
        y = pair(b, y, 0.04, kind)
        z = conv(b, y, out, out, (1, 1), scale=0.04, per_channel=c["per_channel"])
        b.case(quantize(b, z, 0.035, kind), f"{c}")
        total = b.op("Relu", b.op("Add", pair(b, z, 0.035, kind), y))
        b.case(quantize(b, total, 0.05, kind), f"{c} plus residual")
    b.check_steps()


@pytest.mark.parametrize(("target", "kind"), WHERE)
def test_between_convolutions(target: str, kind: Type) -> None:
    """Moves and comparisons stay integer; means sum integers; joins with different scales requantize."""
    b = Bundle()
    x = pair(b, b.input(2, 3, 13, 11, free="n"), 0.03, kind)
    stem = pair(b, conv(b, x, 3, 21, (3, 3)), 0.04, kind)
    other = pair(b, conv(b, x, 3, 16, (3, 3)), 0.05, kind)
    alike = pair(b, conv(b, x, 3, 16, (3, 3)), 0.04, kind)

    def then(value: str, channels: int, label: str, scale: float = 0.04) -> None:
        """Requantize a value and convolve it."""
        again = pair(b, value, scale, kind)
        b.case(quantize(b, conv(b, again, channels, 5, (1, 1), scale=scale), 0.05, kind), label)

    then(b.op("MaxPool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 21, "maximum")
    then(b.op("AveragePool", stem, kernel_shape=[2, 2], strides=[2, 2]), 21, "mean", 0.02)
    then(b.op("Concat", stem, alike, axis=1), 37, "join of equal scales")
    then(b.op("Concat", alike, stem, axis=1), 37, "join of equal scales, whole blocks first")
    then(b.op("Concat", stem, other, axis=1), 37, "join of different scales")
    then(b.op("Resize", stem, "", b.const(np.array([1, 1, 2, 2], "float32")), mode="nearest"), 21, "resize")
    then(b.op("Add", other, alike), 16, "sum", 0.06)
    then(b.op("Relu", stem), 21, "Relu after the pair")
    then(b.op("Mul", stem, pair(b, b.op("Sigmoid", stem), 1 / 256, UNSIGNED)), 21, "gate")
    for i, part in enumerate(b.op("Split", stem, b.const([5, 16]), outputs=2, axis=1)):
        then(part, (5, 16)[i], f"split {i}")
    shuffled = b.op("Reshape", stem, b.const([0, 3, 7, 11, 9]))
    shuffled = b.op("Reshape", b.op("Transpose", shuffled, perm=[0, 2, 1, 3, 4]), b.const([0, 21, 11, 9]))
    then(shuffled, 21, "channel shuffle")
    mean = pair(b, b.op("GlobalAveragePool", stem), 0.01, kind)
    b.case(quantize(b, b.op("GlobalAveragePool", stem), 0.01, kind), "global mean")
    flat = b.op("Flatten", mean)
    w, scales = weight(b, (10, 21), 0, True, 21)
    dense = b.op("Gemm", flat, w, bias(b, 10, scales * np.float32(uneven(0.01))), transB=1)
    b.case(quantize(b, dense, 0.02, kind), "classifier")
    clipped = conv(b, x, 3, 7, (1, 1))
    for low, high in ((0.0, 1.0), (0.5, 3.0)):
        clipped = b.op("Clip", clipped, b.const(np.float32(low)), b.const(np.float32(high)))
    b.case(quantize(b, clipped, 0.04, kind), "clips that overlap")
    built = b.check_steps(target)
    assert {r.compute for r in built.nodes} == {"int8"}, [r for r in built.nodes if r.compute != "int8"]


@pytest.mark.parametrize(("target", "kind"), WHERE)
def test_matrix_products(target: str, kind: Type) -> None:
    b = Bundle()
    for shape, n, per_channel in [
        ((1, 64), 10, True),
        ((3, 17), 33, False),
        ((2, 7, 30), 48, True),
        ((2, 3, 5, 19), 7, True),
        ((49, 32), 64, False),
    ]:
        k = shape[-1]
        x = pair(b, b.input(*shape), 0.03, kind)
        w, _ = weight(b, (k, n), 1, per_channel, k)
        b.case(quantize(b, b.op("MatMul", x, w), 0.04, kind), f"MatMul {shape} x {n}")
        v, scales = weight(b, (k, n), 1, per_channel, k)
        c = bias(b, n, scales * np.float32(uneven(0.03)))
        b.case(quantize(b, b.op("Relu", b.op("Add", b.op("MatMul", x, v), c)), 0.04, kind), f"{shape} with bias")
        if len(shape) == 2:
            u, scales = weight(b, (n, k), 0, per_channel, k)
            c = bias(b, n, scales * np.float32(uneven(0.03)))
            b.case(quantize(b, b.op("Gemm", x, u, c, transB=1), 0.04, kind), f"Gemm {shape} x {n}")
            row = b.op("Reshape", c, b.const([1, n]))
            b.case(quantize(b, b.op("Gemm", x, u, row, transB=1), 0.04, kind), f"Gemm {shape} x {n}, bias a row")
    free = pair(b, b.input(5, 24, free="batch"), 0.03, kind)
    w, _ = weight(b, (24, 20), 1, True, 24)
    b.case(quantize(b, b.op("MatMul", free, w), 0.04, kind), "symbolic batch")
    built = b.check_steps(target)
    assert {r.compute for r in built.nodes} == {"int8"}, [r for r in built.nodes if r.compute != "int8"]


def test_what_stays_in_floats_says_why() -> None:
    b = Bundle(opset=21)
    x = pair(b, b.input(1, 3, 6, 6), 0.03, UNSIGNED)
    plain = b.input(1, 3, 6, 6)
    w, _ = weight(b, (4, 3, 1, 1), 0, True, 3)
    b.case(quantize(b, b.op("Conv", plain, w), 0.04, UNSIGNED), "input")
    q = b.generator.integers(0, 255, (4, 3, 1, 1)).astype("int16")
    odd = b.op("DequantizeLinear", b.const(q), scalar(b, 0.01, "float32"), scalar(b, 120, "int16"))
    b.case(quantize(b, b.op("Conv", x, odd), 0.04, UNSIGNED), "weights")
    y, z = (pair(b, b.input(4, 4), 0.03, UNSIGNED) for _ in "ab")
    b.case(quantize(b, b.op("MatMul", y, z), 0.04, UNSIGNED), "two activations")
    built = b.check_steps()
    assert [(r.compute, r.reason) for r in built.nodes] == [
        ("float32", "its input is not quantized"),
        ("float32", "its weights are not int8"),
        ("float32", "both operands are activations"),
    ]


def test_integers_at_the_edges() -> None:
    """Quantized inputs and outputs of a model, saturation, and a pair that only changes the zero point."""
    b = Bundle()
    whole = b.generator.integers(0, 256, (1, 5, 6, 6))
    x = real(b, b.input(1, 5, 6, 6, dtype="uint8", values=whole), 0.02, ("uint8", 128))
    signed = real(b, b.input(1, 5, 6, 6, dtype="int8", values=whole - 128), 0.02, ("int8", 0))
    b.case(quantize(b, conv(b, x, 5, 18, (3, 3), scale=0.02), 0.04, ("int8", 3)), "unsigned in, signed out")
    b.case(quantize(b, conv(b, signed, 5, 18, (3, 3), scale=0.02), 0.04, UNSIGNED), "signed in, unsigned out")
    b.case(quantize(b, x, 0.001, ("uint8", 128)), "saturation at both ends")
    b.case(quantize(b, x, 0.02, ("uint8", 120)), "another zero point")
    b.case(quantize(b, x, 0.02, ("int8", 0)), "another type")
    b.case(b.op("DequantizeLinear", b.const(whole.astype("uint8")), scalar(b, 0.5, "float32")), "constant")
    b.check_steps()
