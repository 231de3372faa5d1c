"""Convolutions over images whose height and width are open, at several sizes, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from optkit.compiler.build import build as compile_model
from optkit.registry import find_target
from tests.compiler.bundle import relative, run
from tests.graphs import build, session, weights

SIZES = ((1, 9, 11), (2, 16, 14), (1, 5, 23), (1, 70, 150))
DENSE, DEPTHWISE, GROUPED = weights(20, 3, 3, 3, scale=0.3), weights(20, 1, 5, 5, seed=1), weights(20, 10, 3, 3, seed=2)
CASES = {
    "padded": "y = Conv<pads=[1,1,1,1]>(x, w)",
    "strided": "y = Conv<pads=[1,0,0,1], strides=[2,3]>(x, w)",
    "dilated": "y = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w)",
    "pointwise": "y = Conv(x, p)",
    "same size": 'y = Conv<auto_pad="SAME_UPPER">(x, w)',
    "bias and relu": "c = Conv(x, w, b) y = Relu(c)",
    "depthwise": "c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) y = Conv<group=20, pads=[2,2,2,2], strides=[2,1]>(r, d)",
    "grouped": "c = Conv<pads=[1,1,1,1]>(x, w) y = Conv<group=2>(c, g)",
    "pooled": "c = Conv<pads=[1,1,1,1]>(x, w) m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(c) "
    "a = AveragePool<kernel_shape=[2,3], strides=[1,2]>(m) y = Conv(a, q)",
    "gated": "c = Conv(x, w, b) i = GlobalAveragePool(c) s = Sigmoid(i) t = Mul(c, s) m = GlobalMaxPool(t) "
    "y = Add(t, m)",
    "transposed": "c = Conv(x, w) u = ConvTranspose<strides=[2,2]>(c, u2) y = Conv(u, q)",
    "transposed, overlapping": "c = Conv(x, w) u = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(c, u4) y = Relu(u)",
    "joined": "c = Conv<pads=[1,1,1,1]>(x, v) r = Relu(c) e = Conv<pads=[1,1,1,1]>(r, v2) s = Relu(e) "
    "f = Conv<pads=[1,1,1,1]>(s, v2) t = Relu(f) j = Concat<axis=1>(r, s, t) k = Conv(j, v3) "
    "l = Relu(k) o = Concat<axis=1>(l, s) y = Conv<pads=[1,1,1,1]>(o, v4)",
    "by rows of tiles": "c = Conv<pads=[1,1,1,1], strides=[4,4]>(x, v5, b5) r = Relu(c) "
    "d0 = Conv<pads=[1,0,1,2]>(r, v6) e = Relu(d0) y = Conv<pads=[1,1,1,1]>(e, v6)",
    "by tiles": "c = Conv<pads=[1,1,1,1], strides=[16,16]>(x, v5, b5) r = Relu(c) "
    "d0 = Conv<pads=[1,0,1,2]>(r, v6) y = Relu(d0)",
    "two ways to one size": "a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w) c = Conv<strides=[2,2]>(x, p) y = Add(a, c)",
}
CONSTANTS = {"w": DENSE, "d": DEPTHWISE, "g": GROUPED, "p": weights(20, 3, 1, 1, seed=3), "b": weights(20, seed=4)}
CONSTANTS |= {
    "q": weights(8, 20, 1, 1, seed=5),
    "u2": weights(20, 20, 2, 2, seed=6),
    "u4": weights(20, 20, 4, 4, seed=7),
}
CONSTANTS |= {"v": weights(16, 3, 3, 3, seed=8), "v2": weights(16, 16, 3, 3, seed=9, scale=0.2)}
CONSTANTS |= {"v5": weights(64, 3, 3, 3, seed=12), "b5": weights(64, seed=13), "v6": weights(64, 64, 3, 3, seed=14)}
CONSTANTS |= {"v3": weights(16, 48, 1, 1, seed=10, scale=0.2), "v4": weights(16, 32, 3, 3, seed=11, scale=0.2)}


RULES = {"cpu.conv", "cpu.depthwise", "cpu.pool", "cpu.winograd", "cpu.turn", "cpu.injective"}


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
@pytest.mark.parametrize("name", CASES)
def test_every_size_is_right(name: str, target: str) -> None:
    model = build(CASES[name], inputs="float[n,3,h,w0] x", **CONSTANTS)
    built = compile_model(model, find_target(target))
    assert {kernel.rule for kernel in built.kernels} <= RULES
    assert not [kernel.refused for kernel in built.kernels if kernel.refused]
    reference = session(model)
    for n, h, w in SIZES:
        x = np.random.default_rng(h).standard_normal((n, 3, h, w)).astype(np.float32)
        expected = reference.run(None, {"x": x})[0]
        (found,) = run(built, [x])
        assert found.shape == expected.shape and relative(expected, found) < 1e-5


def test_many_channels_are_summed_by_winograds_algorithm() -> None:
    """Of an open batch too: as three kernels where the images of a usual size have few rows of tiles, else one."""
    target = find_target("cpu")
    for inputs, name, count in (
        ("float[n,3,h,w0] x", "by tiles", 3),
        ("float[1,3,h,w0] x", "by tiles", 3),
        ("float[2,3,h,w0] x", "by tiles", 1),
        ("float[n,3,h,w0] x", "by rows of tiles", 2),
        ("float[n,3,9,w0] x", "by rows of tiles", 6),
    ):
        kernels = compile_model(build(CASES[name], inputs=inputs, **CONSTANTS), target).kernels
        assert [kernel.rule for kernel in kernels].count("cpu.winograd") == count


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_images_as_large_as_others_keep_their_layout(mode: str) -> None:
    """Batch and channels are those of the image, which only extents say."""
    body = f"""
        a = Conv<pads=[1,1,1,1]>(x, v) c = Conv<pads=[1,1,1,1], strides=[2,2]>(a, v2) n = Shape<start=0, end=1>(c)
        s = Shape<start=2, end=4>(a) e = Concat<axis=0>(n, f, s) u = Resize<mode="{mode}">(c, , , e)
        j = Concat<axis=1>(u, a) y = Conv<pads=[1,1,1,1]>(j, v4)
    """
    constants = {name: CONSTANTS[name] for name in ("v", "v2", "v4")} | {"f": np.array([16])}
    model = build(body, inputs="float[n,3,h,w0] x", **constants)
    built = compile_model(model, find_target("cpu"))
    assert [kernel.name for kernel in built.kernels if "to_plain" in kernel.name] == ["to_plain1"]  # the output
    for n, h, w in SIZES:
        x = np.random.default_rng(h).standard_normal((n, 3, h, w)).astype(np.float32)
        assert relative(session(model).run(None, {"x": x})[0], run(built, [x])[0]) < 1e-5


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_only_the_height_is_open(target: str) -> None:
    """Images that lose rows: what is made is counted, and the columns are told from the rows."""
    body = """
        c = Conv(x, w) d = Conv(c, v7) p = MaxPool<kernel_shape=[3,3]>(d) t = Tanh(p)
        a = AveragePool<kernel_shape=[2,2]>(t)
        y = Conv<dilations=[2,1], pads=[1,0,1,0]>(a, v7)
    """
    constants = {"w": CONSTANTS["w"], "v7": weights(20, 20, 3, 3, seed=16, scale=0.2)}
    model = build(body, inputs="float[2,3,h,19] x", **constants)
    built = compile_model(model, find_target(target))
    assert not [kernel.refused for kernel in built.kernels if kernel.refused]
    for h in (12, 17, 40):
        x = np.random.default_rng(h).standard_normal((2, 3, h, 19)).astype(np.float32)
        assert relative(session(model).run(None, {"x": x})[0], run(built, [x])[0]) < 1e-5


def test_in_integers() -> None:
    body = """
        q = QuantizeLinear(x, s, z) e = DequantizeLinear(q, s, z) u = DequantizeLinear(v, t)
        c = Conv<pads=[1,1,1,1]>(e, u) r = Relu(c) q2 = QuantizeLinear(r, s, z) y = DequantizeLinear(q2, s, z)
    """
    integers = np.random.default_rng(0).integers(-127, 127, (20, 3, 3, 3)).astype(np.int8)
    numbers = {"s": np.float32(1 / 32), "z": np.uint8(100), "v": integers, "t": np.float32(1 / 256)}
    model = build(body, inputs="float[n,3,h,w0] x", **numbers)
    built = compile_model(model, find_target("cpu"))
    assert [record.compute for record in built.nodes] == ["int8"]
    for n, h, w in SIZES:
        x = np.random.default_rng(h).standard_normal((n, 3, h, w)).astype(np.float32)
        assert np.array_equal(run(built, [x])[0], session(model).run(None, {"x": x})[0])


def test_padding_that_depends_on_the_size_is_left_to_others() -> None:
    model = build('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', inputs="float[n,3,9,w0] x", w=DENSE)
    from optkit.errors import OptkitError

    try:
        built = compile_model(model, find_target("cpu"))
    except OptkitError:
        return  # refused is right too
    x = weights(2, 3, 9, 13)
    assert relative(session(model).run(None, {"x": x})[0], run(built, [x])[0]) < 1e-5


def test_what_is_rounded_to_bfloat16_is_read_once() -> None:
    """Code for it comes out where its lanes are chosen one by one, and it is bound to variables on the way."""
    body = """
        c = ConvTranspose<strides=[1,2], pads=[1,0,1,0]>(x, w0, b0) t = Tanh(c) u = Neg(t)
        k = Concat<axis=1>(t, u) y = Conv<group=2, strides=[1,3], pads=[1,1,1,1]>(k, w1, b1)
    """
    given = {"w0": weights(16, 1, 3, 2), "b0": weights(1), "w1": weights(6, 1, 3, 1), "b1": weights(6)}
    model = build(body, inputs="float[n,16,h,w] x", **given)
    for node in model.graph:
        if "Conv" in node.op_type:
            node.metadata_props["optkit.compute_type"] = "bfloat16"
    assert [record.compute for record in compile_model(model, find_target("znver4")).nodes] == ["bfloat16"] * 2
