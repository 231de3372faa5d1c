"""Activations, clamps, chains and operators without effect."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graphs import build, fused, skipped, weights

NUMBERS = {
    name: np.float32(value).reshape(())
    for name, value in {
        "zero": 0,
        "one": 1,
        "two": 2,
        "three": 3,
        "six": 6,
        "minus": -1,
        "half": 0.5,
        "sixth": 1 / 6,
        "root": np.sqrt(2),
        "inverse": np.sqrt(0.5),
    }.items()
}


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("a = Relu(x)  y = Relu(a)", ["Relu"]),
        ("a = Relu(x)  y = Clip(a, minus, six)", ["Clip"]),
        ("a = Clip(x, minus, six)  y = Relu(a)", ["Clip"]),
        ("a = Clip(x, minus, two)  b = Clip(a, zero, six)  y = Clip(b, , one)", ["Clip"]),
        ("a = Clip(x, three, six)  y = Clip(a, minus, two)", ["Clip"]),
        ("a = Max(x, zero)  y = Min(a, six)", ["Clip"]),
        ("a = Min(six, x)  y = Max(a, zero)", ["Clip"]),
        ("y = Max(zero, x)", ["Relu"]),
        ("a = Clip(x, zero)  y = Relu(a)", ["Relu"]),
        ("a = Clip(x)  y = Relu(a)", ["Relu"]),
    ],
)
def test_clamps_merge(body: str, after: list[str]) -> None:
    assert fused(build(body, **NUMBERS), atol=0)[0] == after


def test_clamp_with_two_readers_stays() -> None:
    found, result = fused(build("a = Clip(x, minus, six)  b = Relu(a)  y = Add(a, b)", **NUMBERS))
    assert found == ["Clip", "Relu", "Add"]
    assert skipped(result) == {"Relu_0": "Clip_0 is not merged: a has 2 consumers"}


def test_min_by_a_larger_tensor_is_no_clamp() -> None:
    assert fused(build("y = Min(x, k)", k=weights(1, 1, 1, 1, 1), outputs="float[a,b,c,d,e] y"))[0] == ["Min"]


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("a = Add(x, three)  b = Clip(a, zero, six)  c = Mul(x, b)  y = Div(c, six)", ["HardSwish"]),
        ("a = Add(three, x)  b = Clip(a, zero, six)  c = Div(b, six)  y = Mul(c, x)", ["HardSwish"]),
        ("a = Add(x, three)  b = Clip(a, zero, six)  c = Mul(b, sixth)  y = Mul(x, c)", ["HardSwish"]),
        ("a = Add(x, three)  r = Relu(a)  b = Min(r, six)  c = Div(b, six)  y = Mul(x, c)", ["HardSwish"]),
        ("a = HardSigmoid<alpha=0.16666667, beta=0.5>(x)  y = Mul(x, a)", ["HardSwish"]),
        ("a = Add(x, three)  b = Clip(a, zero, six)  y = Div(b, six)", ["HardSigmoid"]),
        ("a = Sigmoid(x)  y = Mul(x, a)", ["Sigmoid", "Mul"]),
        ("a = HardSigmoid(x)  y = Mul(x, a)", ["HardSigmoid", "Mul"]),
        ("a = Add(x, two)  b = Clip(a, zero, six)  y = Div(b, six)", ["Add", "Clip", "Div"]),
    ],
)
def test_hardswish(body: str, after: list[str]) -> None:
    assert fused(build(body, **NUMBERS))[0] == after


def test_hardswish_after_a_convolution_keeps_the_convolution_intact() -> None:
    body = "v = Conv(x, w)  a = Add(v, three)  b = Clip(a, zero, six)  c = Mul(v, b)  y = Div(c, six)"
    assert fused(build(body, w=weights(4, 3, 3, 3), **NUMBERS))[0] == ["Conv", "HardSwish"]


def test_hardswish_whose_gate_is_read_by_others_stays() -> None:
    body = "a = Add(x, three)  b = Clip(a, zero, six)  c = Mul(x, b)  d = Div(c, six)  y = Add(d, b)"
    found, result = fused(build(body, **NUMBERS))
    assert found == ["Add", "Clip", "Mul", "Div", "Add"]
    assert "b has 2 consumers" in skipped(result)["Div_0"]


GELU = [
    "d = Div(x, root)  e = Erf(d)  f = Add(e, one)  g = Mul(x, f)  y = Mul(g, half)",
    "d = Mul(x, inverse)  e = Erf(d)  f = Add(one, e)  g = Mul(f, half)  y = Mul(x, g)",
    "h = Mul(half, x)  d = Div(x, root)  e = Erf(d)  f = Add(e, one)  y = Mul(h, f)",
    "d = Div(x, root)  e = Erf(d)  f = Add(e, one)  g = Mul(x, f)  y = Div(g, two)",
]


@pytest.mark.parametrize("body", GELU)
def test_gelu(body: str) -> None:
    assert fused(build(body, opset=20, **NUMBERS), atol=1e-6)[0] == ["Gelu"]
    assert "Erf" in fused(build(body, opset=18, **NUMBERS))[0]


def test_almost_gelu_stays() -> None:
    body = "d = Div(x, two)  e = Erf(d)  f = Add(e, one)  g = Mul(x, f)  y = Mul(g, half)"
    assert "Erf" in fused(build(body, opset=20, **NUMBERS))[0]


@pytest.mark.parametrize(
    "step",
    [
        "Identity(a)",
        "Dropout(a)",
        "Transpose<perm=[0,1,2,3]>(a)",
        "Cast<to=1>(a)",
        "Add(a, zero)",
        "Sub(a, zero)",
        "Mul(one, a)",
        "Div(a, one)",
        "Pad(a, nothing)",
        "Clip(a)",
        "Sum(a)",
        "Concat<axis=1>(a)",
        "Reshape(a, shape)",
    ],
)
def test_no_effect_is_removed(step: str) -> None:
    model = build(
        f"a = Relu(x)  b = {step}  y = Sigmoid(b)",
        nothing=np.zeros(8, np.int64),
        shape=np.array([0, 3, 8, 8], np.int64),
        **NUMBERS,
    )
    assert fused(model, atol=0)[0] == ["Relu", "Sigmoid"]


@pytest.mark.parametrize("step", ["Sub(zero, a)", "Div(one, a)", "Mul(a, two)", "Add(a, minus)"])
def test_arithmetic_with_effect_is_kept(step: str) -> None:
    model = build(f"a = Sigmoid(x)  b = {step}  y = Sigmoid(b)", **NUMBERS)
    assert len(fused(model)[0]) == 3


def test_zero_that_adds_an_axis_is_kept() -> None:
    model = build("y = Add(x, wide)", outputs="float[a,b,c,d,e] y", wide=np.zeros((1,) * 5, np.float32))
    assert fused(model)[0] == ["Add"]


def test_output_names_survive_removal() -> None:
    model = build("a = Relu(x)  y = Identity(a)  z = Identity(x)", outputs="float[n,3,8,8] y, float[n,3,8,8] z")
    assert fused(model)[0] == ["Relu", "Identity"]


def test_two_names_of_one_output_both_survive() -> None:
    model = build("y = Relu(x)  z = Identity(y)", outputs="float[n,3,8,8] y, float[n,3,8,8] z")
    assert fused(model)[0] == ["Relu", "Identity"]


def test_chains() -> None:
    model = build(
        "a = Transpose<perm=[0,2,3,1]>(x)  b = Transpose<perm=[0,3,1,2]>(a)  c = Reshape(b, s)  d = Reshape(c, t)"
        "  e = Cast<to=11>(d)  f = Cast<to=1>(e)  y = Relu(f)",
        "float[2,3,8,8] x",
        s=np.array([2, -1], np.int64),
        t=np.array([2, 3, 4, 16], np.int64),
    )
    assert fused(model, atol=0)[0] == ["Reshape", "Relu"]


def test_lossy_cast_and_copied_axes_stay() -> None:
    model = build(
        "a = Cast<to=6>(x)  b = Cast<to=1>(a)  c = Reshape(b, s)  y = Reshape(c, t)",
        "float[2,3,8,8] x",
        "float[a,b,c,d] y",
        s=np.array([4, 96], np.int64),
        t=np.array([0, 3, 4, 8], np.int64),
    )
    assert fused(model, atol=0)[0] == ["Cast", "Cast", "Reshape", "Reshape"]


def test_transposes_whose_first_is_read_twice() -> None:
    model = build(
        "a = Transpose<perm=[0,2,3,1]>(x)  b = Transpose<perm=[0,3,1,2]>(a)  c = Relu(a)  d = Relu(b)"
        "  e = Transpose<perm=[0,3,1,2]>(c)  y = Add(d, e)"
    )
    assert fused(model, atol=0)[0] == ["Transpose", "Relu", "Relu", "Transpose", "Add"]
