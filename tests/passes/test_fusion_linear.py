"""Batch norms, scales, biases and padding move into the linear operator before them."""

from __future__ import annotations

import numpy as np
import pytest
from optkit_passes.fusion.linear import COPY_LIMIT

from tests.graphs import build, fused, skipped, weights


def norm(channels: int, seed: int = 3) -> dict[str, np.ndarray]:
    return {
        "g": weights(channels, seed=seed),
        "b": weights(channels, seed=seed + 1),
        "m": weights(channels, seed=seed + 2),
        "v": np.abs(weights(channels, seed=seed + 3)) + 0.1,
    }


@pytest.mark.parametrize("bias", [False, True])
def test_batchnorm_goes_into_convolution(bias: bool) -> None:
    extra = {"cb": weights(6, seed=9)} if bias else {}
    conv = "c = Conv<pads=[1,1,1,1]>(x, w, cb)" if bias else "c = Conv<pads=[1,1,1,1]>(x, w)"
    model = build(
        f"{conv}  y = BatchNormalization<epsilon=0.01>(c, g, b, m, v)", w=weights(6, 3, 3, 3), **norm(6), **extra
    )
    found, result = fused(model)
    assert found == ["Conv"]
    assert [(f.action, f.where, f.reason) for f in result.findings] == [
        ("changed", "Conv_0", "absorbed BatchNormalization_0")
    ]


@pytest.mark.parametrize("group", [1, 3])
def test_batchnorm_goes_into_transposed_convolution(group: int) -> None:
    model = build(
        f"c = ConvTranspose<group={group}, strides=[2,2]>(x, w)  y = BatchNormalization(c, g, b, m, v)",
        w=weights(3, 2, 3, 3),
        **norm(2 * group),
    )
    assert fused(model)[0] == ["ConvTranspose"]


@pytest.mark.parametrize(("transposed", "beta"), [(0, 1.0), (1, 0.5)])
def test_batchnorm_goes_into_gemm(transposed: int, beta: float) -> None:
    shape = (5, 7) if transposed else (7, 5)
    model = build(
        f"c = Gemm<alpha=0.25, beta={beta}, transB={transposed}>(x, w, cb)  y = BatchNormalization(c, g, b, m, v)",
        "float[n,7] x",
        "float[a,b] y",
        w=weights(*shape),
        cb=weights(5, seed=8),
        **norm(5),
    )
    assert fused(model)[0] == ["Gemm"]


def test_depthwise_convolution() -> None:
    model = build("c = Conv<group=3>(x, w)  y = BatchNormalization(c, g, b, m, v)", w=weights(3, 1, 3, 3), **norm(3))
    assert fused(model)[0] == ["Conv"]


def test_convolution_with_two_readers_keeps_its_batchnorm() -> None:
    model = build(
        "c = Conv(x, w)  n1 = BatchNormalization(c, g, b, m, v)  r = Relu(c)  y = Add(n1, r)",
        w=weights(6, 3, 3, 3),
        **norm(6),
    )
    found, result = fused(model)
    assert found == ["Conv", "BatchNormalization", "Relu", "Add"]
    assert skipped(result) == {"Conv_0": "BatchNormalization_0 is not fused: c has 2 consumers"}


def test_convolution_that_is_an_output_keeps_its_batchnorm() -> None:
    model = build(
        "c = Conv(x, w)  y = BatchNormalization(c, g, b, m, v)",
        outputs="float[a,b,e,d] y, float[a,b,e,d] c",
        w=weights(6, 3, 3, 3),
        **norm(6),
    )
    found, result = fused(model)
    assert found == ["Conv", "BatchNormalization"]
    assert "c is an output of the model" in skipped(result)["Conv_0"]


def test_small_shared_weight_is_copied_not_changed() -> None:
    model = build(
        "c = Conv(x, w)  d = BatchNormalization(c, g, b, m, v)  e = Conv(x, w)  y = Add(d, e)",
        w=weights(6, 3, 3, 3),
        **norm(6),
    )
    found, result = fused(model)
    assert found == ["Conv", "Conv", "Add"]
    np.testing.assert_array_equal(result.model.graph.initializers["w"].const_value.numpy(), weights(6, 3, 3, 3))


def test_large_shared_weight_is_left_alone() -> None:
    channels = COPY_LIMIT // 4 // 9 // 3 + 1
    model = build(
        "c = Conv(x, w)  d = BatchNormalization(c, g, b, m, v)  e = Conv(x, w)  y = Add(d, e)",
        w=weights(channels, 3, 3, 3),
        **norm(channels),
    )
    found, result = fused(model)
    assert found == ["Conv", "BatchNormalization", "Conv", "Add"]
    assert skipped(result) == {"Conv_0": "BatchNormalization_0 is not fused: weight w is shared by 2 nodes"}


def test_shared_bias_and_norm_parameters_are_not_corrupted() -> None:
    model = build(
        "c = Conv(x, w, g)  d = BatchNormalization(c, g, b, m, v)  e = Conv(x, u, g)"
        "  h = BatchNormalization(e, b, g, m, v)  y = Add(d, h)",
        w=weights(6, 3, 3, 3),
        u=weights(6, 3, 3, 3, seed=5),
        **norm(6),
    )
    assert fused(model)[0] == ["Conv", "Conv", "Add"]


@pytest.mark.parametrize(
    "step", ["Mul(c, k)", "Mul(k, c)", "Div(c, k)", "Add(c, k)", "Add(k, c)", "Sub(c, k)", "Sub(k, c)"]
)
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1,), ()])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_per_channel_arithmetic_goes_into_weights(step: str, shape: tuple[int, ...], op: str) -> None:
    w = weights(6, 3, 3, 3) if op == "Conv" else weights(3, 6, 3, 3)
    model = build(f"c = {op}(x, w, cb)  y = {step}", w=w, cb=weights(6, seed=2), k=weights(*shape, seed=4) + 2)
    assert fused(model)[0] == [op]


@pytest.mark.parametrize(
    ("step", "k", "reason"),
    [
        ("Mul(c, k)", weights(6, 6), "is not one number a channel"),
        ("Add(c, k)", weights(5, 6, 6, 6)[:, :, :1, :1] * 0 + 1, "is not one number a channel"),
        ("Div(c, k)", np.zeros((6, 1, 1), np.float32), "it divides by zero"),
        ("Div(k, c)", weights(6, 1, 1), "the operator is the divisor"),
    ],
)
def test_other_arithmetic_stays(step: str, k: np.ndarray, reason: str) -> None:
    model = build(f"c = Conv(x, w)  y = {step}", "float[5,3,8,8] x", w=weights(6, 3, 3, 3), k=k)
    result = fused(model, rtol=np.inf)[1] if "zero" in reason else fused(model)[1]
    assert result.model.graph[0].op_type == "Conv"
    assert len(result.model.graph) == 2
    assert reason in skipped(result)["Conv_0"]


def test_a_constant_that_broadcasts_one_channel_to_many_stays() -> None:
    model = build("c = Conv(x, w)  y = Mul(c, k)", w=weights(1, 3, 3, 3), k=weights(4, 1, 1))
    assert fused(model)[0] == ["Conv", "Mul"]


def test_residual_add_is_not_a_finding() -> None:
    model = build("c = Conv<pads=[1,1,1,1]>(x, w)  y = Add(c, x)", w=weights(3, 3, 3, 3))
    assert fused(model)[1].findings == ()


@pytest.mark.parametrize("step", ["Add(c, k)", "Sub(c, k)", "Sub(k, c)"])
def test_matrix_product_with_bias_becomes_gemm(step: str) -> None:
    model = build(
        f"c = MatMul(x, w)  y = {step}", "float[n,7] x", "float[a,b] y", w=weights(7, 5), k=weights(5, seed=2)
    )
    found, result = fused(model)
    assert found == ["Gemm"]
    assert result.model.graph[0].name == "MatMul_0"


def test_batched_product_keeps_its_add_but_takes_a_scale() -> None:
    model = build(
        "c = MatMul(x, w)  d = Mul(c, s)  y = Add(d, k)",
        "float[n,4,7] x",
        "float[a,b,c1] y",
        w=weights(7, 5),
        k=weights(5, seed=2),
        s=weights(5, seed=3),
    )
    assert fused(model)[0] == ["MatMul", "Add"]


def test_scale_goes_into_a_batchnorm_that_stays() -> None:
    model = build(
        "r = Relu(x)  c = BatchNormalization(r, g, b, m, v)  d = Mul(c, s)  y = Add(d, k)",
        s=weights(3, 1, 1, seed=11),
        k=weights(3, 1, 1, seed=12),
        **norm(3),
    )
    assert fused(model)[0] == ["Relu", "BatchNormalization"]


def test_int8_weights_are_not_touched() -> None:
    model = build(
        "w = DequantizeLinear(q, s, z)  c = Conv(x, w)  y = Mul(c, k)",
        q=np.arange(27 * 6, dtype=np.int8).reshape(6, 3, 3, 3),
        s=np.float32(0.1).reshape(()),
        z=np.int8(0).reshape(()),
        k=weights(6, 1, 1),
    )
    found, result = fused(model)
    assert found == ["DequantizeLinear", "Conv", "Mul"]
    assert skipped(result) == {"Conv_0": "Mul_0 is not fused: the weight of Conv is no constant"}


PADS = np.array([0, 0, 1, 2, 0, 0, 3, 0], np.int64)


@pytest.mark.parametrize("own", ["", "<pads=[1,0,0,1]>"])
def test_padding_goes_into_convolution(own: str) -> None:
    model = build(f"p = Pad(x, a)  y = Conv{own}(p, w)", w=weights(6, 3, 3, 3), a=PADS)
    found, result = fused(model)
    assert found == ["Conv"]
    assert list(result.model.graph[0].attributes.get_ints("pads")) == ([2, 2, 3, 1] if own else [1, 2, 3, 0])


def test_padding_with_axes_and_two_readers() -> None:
    model = build(
        "p = Pad(x, a, , ax)  c = Conv(p, w)  d = Conv(p, w)  y = Add(c, d)",
        w=weights(6, 3, 3, 3),
        a=np.array([1, 2, 3, 4], np.int64),
        ax=np.array([-1, 2], np.int64),
    )
    assert fused(model)[0] == ["Conv", "Conv", "Add"]


@pytest.mark.parametrize(
    ("pad", "conv", "amounts", "reason"),
    [
        ('Pad<mode="reflect">(x, a)', "Conv(p, w)", PADS, "its mode is reflect"),
        ("Pad(x, a, one)", "Conv(p, w)", PADS, "it does not pad with zeros"),
        ("Pad(x, a)", 'Conv<auto_pad="SAME_UPPER">(p, w)', PADS, "auto_pad"),
        ("Pad(x, a)", "Conv(p, w)", np.array([1, 0, 0, 0, 0, 0, 0, 0], np.int64), "the batch or the channels"),
        ("Pad(x, a)", "Conv(p, w)", np.array([0, 0, -1, 0, 0, 0, 0, 0], np.int64), "it crops"),
    ],
)
def test_other_padding_stays(pad: str, conv: str, amounts: np.ndarray, reason: str) -> None:
    model = build(f"p = {pad}  y = {conv}", w=weights(6, 3, 3, 3), a=amounts, one=np.float32(1).reshape(()))
    found, result = fused(model)
    assert found == ["Pad", "Conv"]
    assert reason in skipped(result)["Conv_0"]
