"""Networks over lines are compiled as ones over images of one row, and compute what they did."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optkit.compiler.build import build as compile_model
from optkit.compiler.lines import lines_as_images
from optkit.registry import find_target
from optkit.tidy import infer_shapes
from tests.compiler.bundle import relative, run
from tests.graphs import build, session, weights

THROUGH = {
    "relu": "b = Relu(a)",
    "leaky relu": "b = LeakyRelu<alpha=0.2>(a)",
    "clip": "b = Clip(a, low, high)",
    "prelu": "b = PRelu(a, c1)",
    "a number": "b = Mul(a, number)",
    "a number a sample": "b = Mul(a, samples)",
    "a number a channel": "b = Add(a, c1)",
    "a whole line": "b = Sub(a, line)",
    "an input": "b = Add(a, z)",
    "a gate of channels": "g = GlobalAveragePool(a) s = Sigmoid(g) b = Mul(a, s)",
    "the least of channels": "g = GlobalMaxPool(a) s = Tanh(g) b = Min(a, s)",
    "residual": "c = Conv<pads=[2,2]>(a, w1) b = Add(a, c)",
    "batch normalization": "b = BatchNormalization(a, v0, v1, v1, v2)",
    "instance normalization": "b = InstanceNormalization(a, v0, v1)",
    "pool": "b = MaxPool<kernel_shape=[3], strides=[2], pads=[1,1]>(a)",
    "rounded up": "b = MaxPool<kernel_shape=[3], strides=[2], ceil_mode=1>(a)",
    "average": "b = AveragePool<kernel_shape=[3], pads=[1,1], count_include_pad=1>(a)",
    "channels joined": "c = Conv<pads=[2,2]>(a, w1) b0 = Concat<axis=1>(a, c) b = Conv(b0, wj)",
    "lines joined": "c = Conv(a, w1) b = Concat<axis=-1>(a, c)",
    "split": "b0, b1 = Split<axis=1, num_outputs=2>(a) b2 = Sigmoid(b1) b3 = Mul(b0, b2) b = Concat<axis=1>(b3, b0)",
    "cut": "b = Slice(a, starts, ends, axes, steps)",
    "cut along the first axes": "b = Slice(a, firsts, lasts)",
    "two cuts joined": "c = Slice(a, one, nine, length) d = Slice(a, one, last, length) b = Concat<axis=2>(c, d)",
    "padded": 'b = Pad<mode="reflect">(a, pads)',
    "padded by a number": "b = Pad(a, pads, number)",
    "resized": 'b = Resize<mode="linear">(a, , scales)',
    "nearest": 'b = Resize<mode="nearest">(a, , , sizes)',
    "up": "b = ConvTranspose<strides=[2], pads=[1,1], output_padding=[1]>(a, wt)",
    "depthwise": "b = Conv<group=20, pads=[2,2]>(a, wd)",
    "causal": "c = Pad(a, before) b = Conv<dilations=[2]>(c, w1)",
    "same": 'b = Conv<auto_pad="SAME_UPPER", strides=[2]>(a, w1)',
    "mean kept": "g = ReduceMean(a, length) b = Sub(a, g)",
    "length doubled": "b = Concat<axis=2>(a, a)",
}
"""Operators between two convolutions, of which each goes on with images."""
APART = {
    "transposed": "t = Transpose<perm=[0,2,1]>(a) u = Relu(t) b = Transpose<perm=[0,2,1]>(u)",
    "softmax": "b = Softmax<axis=2>(a)",
    "a matrix of an input": "b = Mul(a, m)",
    "normalized rows": "b = LayerNormalization<axis=-1>(a, line1)",
    "indices": "b, i = MaxPool<kernel_shape=[2], strides=[2]>(a)",
    "mean over channels": "g = ReduceMean(a, channels) b = Sub(a, g)",
    "the size of an input": "b = Resize<mode='nearest'>(a, , , given)".replace("'", '"'),
}
"""Operators that go on with lines."""
CONSTANTS = {
    "w0": weights(20, 3, 5, scale=0.3),
    "w1": weights(20, 20, 5, seed=1, scale=0.1),
    "w2": weights(6, 20, 3, seed=2, scale=0.1),
    "wj": weights(20, 40, 1, seed=3, scale=0.1),
    "wt": weights(20, 20, 4, seed=4, scale=0.1),
    "wd": weights(20, 1, 5, seed=5, scale=0.4),
    "v0": weights(20, seed=6) + 2,
    "v1": weights(20, seed=7),
    "v2": np.abs(weights(20, seed=8)) + 1,
    "c1": weights(20, 1, seed=9),
    "line": weights(20, 31, seed=10),
    "line1": weights(31, seed=11),
    "samples": weights(31, seed=12),
    "number": np.float32(0.5),
    "low": np.float32(-0.4),
    "high": np.float32(0.6),
    "starts": np.array([-2, 4]),
    "ends": np.array([-25, 20]),
    "axes": np.array([-1, 1]),
    "steps": np.array([-2, 1]),
    "firsts": np.array([0, 2, 3]),
    "lasts": np.array([2, 18, -1]),
    "one": np.array([1]),
    "nine": np.array([9]),
    "last": np.array([-1]),
    "pads": np.array([0, 0, 2, 0, 0, 3]),
    "before": np.array([0, 0, 8, 0, 0, 0]),
    "scales": np.array([1, 1, 2], np.float32),
    "sizes": np.array([2, 20, 45]),
    "length": np.array([2]),
    "channels": np.array([1]),
}
LINES = "float[a,b,c] y"
INPUTS = "float[2,3,31] x, float[2,20,31] z, float[20,31] m, int64[3] given"
FEEDS = {
    "x": weights(2, 3, 31, seed=20),
    "z": weights(2, 20, 31, seed=21),
    "m": weights(20, 31, seed=22),
    "given": np.array([2, 20, 40]),
}


def between(body: str) -> ir.Model:
    """Two convolutions with something between them, of which some reads are inputs."""
    last = "w3" if body.startswith("b = Slice") else "w2"  # of which 16 channels are left
    text = f"a = Conv<pads=[2,2]>(x, w0) {body} y = Conv(b, {last})"
    used = {name: array for name, array in CONSTANTS.items() if name in text}
    reads = [each for each in INPUTS.split(", ") if f" {each.split()[1]}" in text or f"({each.split()[1]}" in text]
    return build(text, inputs=", ".join(reads), outputs=LINES, w3=weights(6, 16, 3, seed=2, scale=0.1), **used)


def counted(model: ir.Model) -> Counter[str]:
    """Operators of the model as it is compiled."""
    infer_shapes(model)
    return Counter(node.op_type for node in lines_as_images(model).graph)


def compare(model: ir.Model) -> None:
    """A build on the CPU and ONNX Runtime compute the same, and name their outputs alike."""
    built = compile_model(model, find_target("cpu"))
    inputs = [FEEDS[value.name or ""] for value in model.graph.inputs]
    expected = session(model).run(None, {v.name: array for v, array in zip(model.graph.inputs, inputs, strict=True)})
    for want, found in zip(expected, run(built, inputs), strict=True):
        assert want.shape == found.shape and relative(want, found) < 1e-5


@pytest.mark.parametrize("name", THROUGH)
def test_what_lies_between_convolutions_goes_on_with_images(name: str) -> None:
    model = between(THROUGH[name])
    counts = counted(model)
    assert counts["Squeeze"] == 1
    assert counts["Unsqueeze"] == len(model.graph.inputs)
    compare(model)


@pytest.mark.parametrize("name", APART)
def test_what_is_not_written_for_images_reads_lines(name: str) -> None:
    model = between(APART[name])
    assert counted(model)["Squeeze"] >= 2
    compare(model)


def test_a_mean_of_a_line_is_one_of_an_image() -> None:
    model = build(
        "a = Conv(x, w0) g = ReduceMean<keepdims=0>(a, length) y = Relu(g)",
        inputs="float[2,3,31] x",
        outputs="float[a,b] y",
        **{name: CONSTANTS[name] for name in ("w0", "length")},
    )
    assert not counted(model)["Squeeze"]
    compare(model)


def test_models_of_images_stay_as_they_are() -> None:
    model = build("y = Conv(x, w)", inputs="float[2,3,9,9] x", w=weights(4, 3, 3, 3))
    assert lines_as_images(model) is model


def test_names_are_the_models_own() -> None:
    """An input may have the name that a new initializer would have."""
    model = build(
        "a = Conv(row, w0) r = Relu(a) y = Conv(r, w1)",
        inputs="float[2,3,31] row",
        outputs=LINES,
        **{name: CONSTANTS[name] for name in ("w0", "w1")},
    )
    built = compile_model(model, find_target("cpu"))
    assert relative(session(model).run(None, {"row": FEEDS["x"]})[0], run(built, [FEEDS["x"]])[0]) < 1e-5


def test_more_axes_than_a_line_has() -> None:
    model = build(
        "a = Conv(x, w0) y = Add(a, more)",
        inputs="float[2,3,31] x",
        outputs="float[a,b,c,d] y",
        w0=CONSTANTS["w0"],
        more=weights(2, 1, 20, 1, seed=13),
    )
    compare(model)


@pytest.mark.parametrize("length", [12, 27])
def test_cuts_of_an_open_length_are_joined(length: int) -> None:
    names = ("w0", "one", "nine", "last", "length")
    model = build(
        "a = Conv<pads=[2,2]>(x, w0) c = Slice(a, one, nine, length) d = Slice(a, one, last, length) "
        "y = Concat<axis=2>(c, d)",
        inputs="float[n,3,l] x",
        outputs=LINES,
        **{name: CONSTANTS[name] for name in names},
    )
    built = compile_model(model, find_target("cpu"))
    x = weights(2, 3, length, seed=3)
    expected = session(model).run(None, {"x": x})[0]
    (found,) = run(built, [x])
    assert expected.shape == found.shape and relative(expected, found) < 1e-5


@pytest.mark.parametrize("length", [3, 11, 27])
def test_transposed_to_an_odd_length_beside_its_negation(length: int) -> None:
    """One pass over 2 n - 1 columns, halved to find what each is made of."""
    body = """
        m = MaxPool<kernel_shape=[3], strides=[3]>(x)
        u = ConvTranspose<strides=[2], pads=[1,1], output_padding=[1]>(m, w) r = Relu(u)
        t = Neg(r) j = Concat<axis=1>(r, t) y = Conv(j, v)
    """
    model = build(body, inputs="float[n,3,l] x", outputs=LINES, w=weights(3, 3, 4), v=weights(3, 6, 1))
    built = compile_model(model, find_target("cpu"))
    x = weights(2, 3, length, seed=3)
    expected = session(model).run(None, {"x": x})[0]
    (found,) = run(built, [x])
    assert expected.shape == found.shape and relative(expected, found) < 1e-5


def test_branches_are_written_too() -> None:
    model = build(
        "y = If(c) <then_branch = a () => (t) { t = Conv(x, w0) }, else_branch = b () => (e) { e = Conv(x, w1) }>",
        inputs="float[2,3,31] x, bool c",
        outputs=LINES,
        w0=weights(4, 3, 3),
        w1=weights(4, 3, 3, seed=1),
    )
    built = compile_model(model, find_target("cpu"))
    for chosen in (True, False):
        inputs = [FEEDS["x"], np.array(chosen)]
        expected = session(model).run(None, {"x": inputs[0], "c": inputs[1]})[0]
        assert relative(expected, run(built, inputs)[0]) < 1e-5


def test_integers_go_on_as_integers() -> None:
    """From one quantized convolution to the next, with a residual and a pool, as ONNX Runtime computes them."""
    body = """
        q = QuantizeLinear(x, s, z) e = DequantizeLinear(q, s, z)
        u0 = DequantizeLinear<axis=0>(v0, t) c0 = Conv<pads=[2,2]>(e, u0) r0 = Relu(c0)
        q0 = QuantizeLinear(r0, s, z0) e0 = DequantizeLinear(q0, s, z0)
        u1 = DequantizeLinear<axis=0>(v1, t) c1 = Conv<pads=[1,1]>(e0, u1)
        q1 = QuantizeLinear(c1, s, z) e1 = DequantizeLinear(q1, s, z)
        a = Add(e1, e0) r1 = Relu(a)
        q2 = QuantizeLinear(r1, s, z0) e2 = DequantizeLinear(q2, s, z0)
        p = MaxPool<kernel_shape=[2], strides=[2]>(e2)
        q3 = QuantizeLinear(p, s, z0) e3 = DequantizeLinear(q3, s, z0)
        u2 = DequantizeLinear<axis=1>(v2, t) c2 = ConvTranspose<strides=[2]>(e3, u2)
        q4 = QuantizeLinear(c2, s, z) y = DequantizeLinear(q4, s, z)
    """
    generator = np.random.default_rng(0)
    shapes = {"v0": (16, 3, 5), "v1": (16, 16, 3), "v2": (16, 16, 2)}
    integers = {name: generator.integers(-127, 127, shape).astype(np.int8) for name, shape in shapes.items()}
    numbers = {"s": np.float32(1 / 32), "z": np.uint8(100), "z0": np.uint8(0), "t": np.full(16, 2**-9, np.float32)}
    model = build(body, inputs="float[2,3,31] x", outputs=LINES, **integers, **numbers)
    built = compile_model(model, find_target("cpu"))
    assert [record.compute for record in built.nodes] == ["int8"] * 3
    expected = session(model).run(None, {"x": FEEDS["x"]})[0]
    assert np.array_equal(expected, run(built, [FEEDS["x"]])[0])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    length=st.integers(9, 40),
    channels=st.integers(1, 40),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    batch=st.integers(1, 3),
    free=st.booleans(),
)
def test_any_geometry(
    length: int, channels: int, kernel: int, stride: int, dilation: int, batch: int, free: bool
) -> None:
    """Also of a length that is open."""
    model = build(
        f"a = Conv<pads=[2,1], strides=[{stride}], dilations=[{dilation}]>(x, w0) r = Relu(a) "
        f"y = Conv<pads=[{kernel - 1},0], group={channels}>(r, w1)",
        inputs=f"float[{'n,5,l' if free else f'{batch},5,{length}'}] x",
        outputs=LINES,
        w0=weights(channels, 5, kernel, scale=0.2),
        w1=weights(channels, 1, kernel, seed=1),
    )
    built = compile_model(model, find_target("cpu"))
    x = weights(batch, 5, length, seed=2)
    expected = session(model).run(None, {"x": x})[0]
    (found,) = run(built, [x])
    assert expected.shape == found.shape and relative(expected, found) < 1e-5
