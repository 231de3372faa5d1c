"""Weights with zero points, of int8 and narrower types, and float biases: in integers, as ONNX Runtime has it."""

from __future__ import annotations

import numpy as np
import pytest

from optkit.registry import find_target
from optkit.target import Target
from tests.compiler.bundle import Bundle
from tests.compiler.test_lower_integer import GEOMETRIES, SIGNED, UNSIGNED, Type, pair, quantize, scalar

WHERE = [("cpu", UNSIGNED), ("cpu", SIGNED), ("x86-64-v3", UNSIGNED)]


def weight(b: Bundle, shape: tuple[int, ...], axis: int, per_channel: bool, fan: int, kind: str = "uint8") -> str:
    """A dequantized weight about any zero point, as `quantize_static` writes it with weight_type=QUInt8."""
    low = 0 if kind == "uint8" else -128
    q = b.generator.integers(low, low + 256, shape).astype(kind)
    size = shape[axis] if per_channel else 1
    zero = b.generator.integers(low, low + 256, size).astype(kind)
    zero[0] = low + 255  # the far end, where q - zero needs nine bits
    scale = ((0.5 + b.generator.random(size)) / (110 * np.sqrt(fan))).astype("float32")
    if not per_channel:
        return str(b.op("DequantizeLinear", b.const(q), b.const(scale[0]), b.const(zero[0])))
    return str(b.op("DequantizeLinear", b.const(q), b.const(scale), b.const(zero), axis=axis))


@pytest.mark.parametrize(("target", "kind"), WHERE)
def test_convolutions(target: str, kind: Type) -> None:
    b = Bundle()
    plain = [g for g in GEOMETRIES if g[5] in (1, g[1]) and not (g[5] > 1 and g[1] != g[2])]
    for i, (label, channels, out, size, kernel, group, attributes) in enumerate(plain):
        x = pair(b, b.input(2, channels, *size), 0.03, kind)
        w = weight(b, (out, channels // group, *kernel), 0, i % 3 != 0, channels // group * int(np.prod(kernel)))
        y = b.op("Conv", x, w, b.const(b.normal(out)), group=group, **attributes)
        b.case(quantize(b, y, 0.06, kind), label)
    built = b.check_steps(target)
    assert [r.compute for r in built.nodes] == ["int8"] * len(plain), built.nodes


@pytest.mark.parametrize(("target", "kind"), WHERE)
def test_volumes(target: str, kind: Type) -> None:
    """Where channels do not fill blocks, what fills them would count; there it is computed in real numbers."""
    b = Bundle()
    for channels, pads in ((32, [1, 0, 1, 0, 2, 1]), (19, [0] * 6)):
        x = pair(b, b.input(2, channels, 4, 5, 6), 0.03, kind)
        w = weight(b, (20, channels, 3, 3, 3), 0, True, channels * 27)
        b.case(quantize(b, b.op("Conv", x, w, b.const(b.normal(20)), pads=pads), 0.06, kind), f"{channels} channels")
    built = b.check_steps(target)
    assert [r.compute for r in built.nodes] == ["int8", "float32"], built.nodes


@pytest.mark.parametrize(("target", "kind"), WHERE)
def test_matrix_products(target: str, kind: Type) -> None:
    b = Bundle()
    for shape, n, per_channel in [((1, 64), 10, True), ((2, 7, 30), 48, True), ((2, 3, 5, 19), 7, False)]:
        k = shape[-1]
        x = pair(b, b.input(*shape), 0.03, kind)
        for type_ in ("uint8", "int8"):
            y = b.op("MatMul", x, weight(b, (k, n), 1, per_channel, k, type_))
            b.case(quantize(b, b.op("Add", y, b.const(b.normal(n))), 0.06, kind), f"{shape} x {n}, {type_}")
        if len(shape) == 2:
            y = b.op("Gemm", x, weight(b, (n, k), 0, per_channel, k), b.const(b.normal(n)), transB=1)
            b.case(quantize(b, y, 0.06, kind), f"Gemm {shape} x {n}")
    free = pair(b, b.input(5, 24, free="batch"), 0.03, kind)
    b.case(quantize(b, b.op("MatMul", free, weight(b, (24, 20), 1, True, 24)), 0.06, kind), "symbolic batch")
    built = b.check_steps(target)
    assert {r.compute for r in built.nodes} == {"int8"}, [r for r in built.nodes if r.compute != "int8"]


@pytest.mark.parametrize("target", ["cortex-a72", "cortex-a76"])
def test_where_signed_bytes_are_multiplied(target: str) -> None:
    """Data and zero points are moved by 128 there; run here by the host's variant of the target."""
    from optkit.compiler.host import host_variant

    machine: Target = host_variant(find_target(target))
    b = Bundle()
    x = pair(b, b.input(1, 20, 9, 8), 0.03, UNSIGNED)
    for group in (1, 20):
        w = weight(b, (20, 20 // group, 3, 3), 0, True, 180 // group)
        b.case(quantize(b, b.op("Conv", x, w, group=group, pads=[1, 1, 1, 1]), 0.06, UNSIGNED), f"{group} groups")
    rows = pair(b, b.input(3, 30), 0.03, UNSIGNED)
    b.case(quantize(b, b.op("MatMul", rows, weight(b, (30, 12), 1, True, 30)), 0.06, UNSIGNED), "rows")
    assert {r.compute for r in b.check_steps(machine).nodes} == {"int8"}


def test_what_fits_int8_without_its_zero_point() -> None:
    """uint8 about 128; any zero point whose far end is not used."""
    b = Bundle()
    x = pair(b, b.input(1, 8, 6, 6), 0.03, UNSIGNED)
    for low, zero in ((0, 128), (10, 120), (100, 200)):
        q = b.generator.integers(low, low + 120, (16, 8, 1, 1)).astype("uint8")
        w = b.op("DequantizeLinear", b.const(q), scalar(b, 0.004, "float32"), scalar(b, zero, "uint8"))
        b.case(quantize(b, b.op("Conv", x, w), 0.06, UNSIGNED), f"about {zero}")
    assert {r.compute for r in b.check_steps().nodes} == {"int8"}


def test_a_bias_that_int32_cannot_hold() -> None:
    """Beside weights of a dead channel any bias is large; it must not wrap around."""
    b = Bundle()
    x = pair(b, b.input(1, 4, 5, 5), 0.03, UNSIGNED)
    q = b.const(b.generator.integers(-127, 128, (3, 4, 1, 1)).astype("int8"))
    scales = b.const(np.array([0.01, 1e-12, 0.01], "float32"))
    w = b.op("DequantizeLinear", q, scales, b.const(np.zeros(3, "int8")), axis=0)
    b.case(quantize(b, b.op("Conv", x, w, b.const(np.array([0.1, 1.5, -0.2], "float32"))), 0.03, UNSIGNED), "conv")
    rows = pair(b, b.input(2, 4), 0.03, UNSIGNED)
    q = b.const(b.generator.integers(-127, 128, (4, 3)).astype("int8"))
    w = b.op("DequantizeLinear", q, scales, b.const(np.zeros(3, "int8")), axis=1)
    y = b.op("Gemm", rows, w, b.const(np.array([0.1, 1.5, -0.2], "float32")))
    b.case(quantize(b, y, 0.03, UNSIGNED), "rows")
    assert [r.reason for r in b.check_steps().nodes] == ["its bias leaves int32"] * 2


def test_groups_with_zero_points_say_why() -> None:
    b = Bundle()
    x = pair(b, b.input(1, 8, 5, 5), 0.03, UNSIGNED)
    w = weight(b, (8, 4, 1, 1), 0, True, 4)
    b.case(quantize(b, b.op("Conv", x, w, group=2), 0.06, UNSIGNED), "two groups")
    assert [r.reason for r in b.check_steps().nodes] == ["its weights are in groups and have zero points"]
