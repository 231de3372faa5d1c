"""Where Q and DQ go: every rule on a graph of a few nodes, written as ONNX text."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from optkit_passes.quantize import Quantize

from optkit.transform import PassContext
from tests.graphs import build, weights
from tests.passes.quantize.contract import check_contract

CONV = {f"w{i}": weights(4, 4, 3, 3, seed=i, scale=0.2) for i in range(4)} | {"v": weights(4, 3, 3, 3, scale=0.2)}


def quantized(
    body: str, outputs: str = "float[a,b,c,d] y", options: Quantize | None = None, **constants: np.ndarray
) -> ir.Model:
    body = body.replace("Conv(", "Conv<pads=[1,1,1,1]>(")
    used = {n: a for n, a in (CONV | constants).items() if f", {n})" in body or f", {n}," in body or n in constants}
    model = build(body, outputs=outputs, **used)
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(2)]
    result = (options or Quantize()).run(model, PassContext(calibration=lambda: iter(samples)))
    check_contract(result.model)
    return result.model


def tensors(model: ir.Model) -> list[str]:
    """Names of the tensors that are quantized, in graph order."""
    return [n.inputs[0].name for n in model.graph if n.op_type == "QuantizeLinear"]


def reads(model: ir.Model, name: str) -> list[bool]:
    """For each input of the node that makes `name`: whether it comes from a DequantizeLinear."""
    (node,) = [n for n in model.graph if n.outputs[0].name == name]
    producers = [v.producer() if v is not None else None for v in node.inputs]
    return [p is not None and p.op_type == "DequantizeLinear" for p in producers]


def params(model: ir.Model) -> dict[str, tuple[float, int]]:
    return {
        n.inputs[0].name: tuple(v.const_value.numpy().item() for v in n.inputs[1:])
        for n in model.graph
        if n.op_type == "QuantizeLinear"
    }


@pytest.mark.parametrize(
    "activation",
    [
        "b = Relu(a)",
        "lo = Constant<value=float {0}>() hi = Constant<value=float {6}>() b = Clip(a, lo, hi)",
        "b = LeakyRelu(a)",
        "b = PRelu(a, s)",
        "b = HardSwish(a)",
        "b = Sigmoid(a)",
        "b = Tanh(a)",
        "g = Sigmoid(a) b = Mul(a, g)",
        "g = HardSigmoid(a) b = Mul(g, a)",
        "t = Add(a, s) u = Relu(t) k = Mul(u, s) b = Mul(a, k)",
        "t = Div(a, s) e = Erf(t) o = Add(e, s) h = Mul(a, o) b = Mul(h, s)",
    ],
)
def test_quantized_after_the_activation(activation: str) -> None:
    model = quantized(f"a = Conv(x, v) {activation} y = Conv(b, w0)", s=np.full((4, 1, 1), 0.5, np.float32))
    assert tensors(model) == ["x", "b"]


def test_model_outputs_stay_float_even_if_read() -> None:
    model = quantized("a = Conv(x, v) b = Relu(a) y = Conv(b, w0)", "float[a,b,c,d] b, float[e,f,g,h] y")
    assert tensors(model) == ["x", "b"]
    assert {v.name for v in model.graph.outputs} == {"b", "y"}


RESIDUAL = "a = Conv(x, v) r = Relu(a) b = Conv(r, w0) s = Add(b, r) t = Relu(s) y = Conv(t, w1)"


def test_residual_is_added_on_the_accumulator_of_its_convolution() -> None:
    model = quantized(RESIDUAL)
    assert tensors(model) == ["x", "r", "t"]
    assert reads(model, "s") == [False, True]


def test_residual_add_is_int8_on_both_sides_if_asked() -> None:
    model = quantized(RESIDUAL, options=Quantize(fuse_residual=False))
    assert tensors(model) == ["x", "r", "b", "t"]
    assert reads(model, "s") == [True, True]


def test_of_two_products_the_first_is_the_accumulator() -> None:
    model = quantized("a = Conv(x, v) b = Conv(a, w0) c = Conv(a, w1) s = Add(c, b) y = Conv(s, w0)")
    assert tensors(model) == ["x", "a", "c", "s"]
    assert reads(model, "s") == [True, False]


def test_last_add_stays_float_because_nothing_reads_it_in_int8() -> None:
    model = quantized("a = Conv(x, v) b = Conv(a, w0) y = Add(b, a)")
    assert tensors(model) == ["x", "a"]


def test_add_with_something_float_stays_float() -> None:
    model = quantized("a = Conv(x, v) f = Softmax(a) s = Add(a, f) y = Conv(s, w0)")
    assert tensors(model) == ["x", "s"]
    assert reads(model, "s") == [False, False]


def test_squeeze_and_excitation() -> None:
    body = """a = Conv(x, v) b = Relu(a) p = GlobalAveragePool(b) q = Conv(p, w0) g = HardSigmoid(q)
    m = Mul(b, g) y = Conv(m, w1)"""
    assert tensors(quantized(body)) == ["x", "b", "p", "g", "m"]


def test_concat_and_pool_share_parameters() -> None:
    body = """a = Conv(x, v) r = Relu(a) b = Conv(x, v) s = Sigmoid(b) c = Concat<axis=1>(r, s)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c) y = Conv(p, k)"""
    model = quantized(body, k=weights(2, 8, 3, 3))
    assert tensors(model) == ["x", "r", "s", "c", "p"]
    found = params(model)
    assert len({found[n] for n in "rscp"}) == 1 and found["x"] != found["r"]


def test_concat_range_is_the_union() -> None:
    body = "a = Conv(x, v) r = Relu(a) b = Conv(x, v) n = Neg(b) c = Concat<axis=1>(r, n) y = Conv(c, k)"
    scale, zero = params(quantized(body, k=weights(2, 8, 3, 3)))["c"]
    separate = quantized(
        "a = Conv(x, v) r = Relu(a) b = Conv(x, v) n = Neg(b) p = Conv(r, w0) q = Conv(n, w1) y = Add(p, q)"
    )
    (rs, rz), (ns, nz) = params(separate)["r"], params(separate)["n"]
    assert scale * (255 - zero) == pytest.approx(max(rs * (255 - rz), ns * (255 - nz)), abs=scale)
    assert -scale * zero == pytest.approx(min(-rs * rz, -ns * nz), abs=scale)


def test_channel_shuffle_is_transparent() -> None:
    body = """s5 = Constant<value=int64[5] {-1,2,2,8,8}>() s4 = Constant<value=int64[4] {-1,4,8,8}>()
    a = Conv(x, v) r = Relu(a)
    b = Reshape(r, s5) t = Transpose<perm=[0,2,1,3,4]>(b) c = Reshape(t, s4) y = Conv(c, w0)"""
    model = quantized(body)
    assert tensors(model) == ["x", "r", "b", "t", "c"]
    assert len(set(params(model).values())) == 2


def test_split_halves_share_parameters() -> None:
    body = (
        "a = Conv(x, v) r = Relu(a) b, c = Split<axis=1, num_outputs=2>(r) p = Conv(b, k) q = Conv(c, k) y = Add(p, q)"
    )
    model = quantized(body, k=weights(2, 2, 3, 3))
    assert tensors(model) == ["x", "r", "c", "b"] or tensors(model) == ["x", "r", "b", "c"]
    assert len(set(params(model).values())) == 2


@pytest.mark.parametrize(("mode", "names"), [("nearest", ["x", "a", "r"]), ("linear", ["x", "r"])])
def test_only_nearest_resize_is_transparent(mode: str, names: list[str]) -> None:
    model = quantized(
        f'a = Conv(x, v) r = Resize<mode="{mode}">(a, , sc) y = Conv(r, w0)', sc=np.array([1, 1, 2, 2], np.float32)
    )
    assert tensors(model) == names


def test_pooling_before_anything_quantized_stays_float() -> None:
    assert tensors(quantized("p = MaxPool<kernel_shape=[2,2]>(x) y = Conv(p, v)")) == ["p"]


def test_spatial_mean_is_an_average_other_means_are_not() -> None:
    body = "a = Conv(x, v) r = Relu(a) m = ReduceMean<keepdims=1>(r, ax) y = Conv(m, w0)"
    assert tensors(quantized(body, ax=np.array([2, 3]))) == ["x", "r", "m"]
    assert tensors(quantized(body, ax=np.array([-1, -2]))) == ["x", "r", "m"]
    body = body.replace("Conv(m, w0)", "Conv(m, one)")
    assert tensors(quantized(body, ax=np.array([1]), one=weights(4, 1, 3, 3))) == ["x", "m"]


def test_residual_stream_of_a_transformer_stays_float() -> None:
    body = """a = Conv(x, v) b = Conv(a, w0) s = Add(a, b) n = LayerNormalization<axis=-1>(s, g, h) c = Conv(n, w1)
    y = Add(s, c)"""
    model = quantized(body, g=np.ones(8, np.float32), h=np.zeros(8, np.float32))
    assert tensors(model) == ["x", "a", "n"]
    # what a convolution makes and int8 reads is read from int8 by all, so that it is stored once
    assert reads(model, "s") == [True, False] and reads(model, "y") == [False, False]


def test_both_operands_of_an_attention_product_are_quantized() -> None:
    body = """t = Transpose<perm=[0,1,3,2]>(x) q = MatMul(x, k) l = MatMul(q, t) p = Softmax(l) y = MatMul(p, q)"""
    model = quantized(body, k=weights(8, 8))
    # q feeds two products: one Q, one DQ each
    assert tensors(model) == ["t", "x", "q", "p"] or sorted(tensors(model)) == ["p", "q", "t", "x"]
    assert reads(model, "l") == [True, True] and reads(model, "y") == [True, True]


def test_constant_add_after_a_product_is_float() -> None:
    model = quantized("a = MatMul(x, k) b = Add(a, c) r = Relu(b) y = MatMul(r, k)", k=weights(8, 8), c=weights(8))
    assert tensors(model) == ["x", "r"]
    assert reads(model, "b") == [False, False]


def test_same_tensor_twice_gets_one_q_and_two_dq() -> None:
    model = quantized("a = Conv(x, v) s = Add(a, a) y = Conv(s, w0)")
    # x + x is a function of one tensor: a pointwise operator
    assert tensors(model) == ["x", "s"]
    model = quantized("a = Conv(x, v) p = Conv(a, w0) q = Conv(a, w1) s = Add(p, q) y = Conv(s, w2)")
    # of the two products, one is summed on the other's accumulator
    assert tensors(model) == ["x", "a", "q", "s"]


def test_float_readers_of_a_convolutions_result_read_int8_too() -> None:
    model = quantized("a = Conv(x, v) b = Conv(a, w0) f = Softmax(a) y = Mul(b, f)")
    assert reads(model, "f") == [True]
    assert reads(model, "y") == [False, False]


def test_excluded_neighbours_stay_float() -> None:
    body = "a = Conv(x, v) r = Relu(a) b = Conv(r, w0) s = Add(b, r) t = Relu(s) y = Conv(t, w1)"
    assert tensors(quantized(body, options=Quantize(exclude_op_types=("Add",)))) == ["x", "r", "t"]
    assert tensors(quantized(body, options=Quantize(op_types=("Conv",)))) == ["x", "r", "t"]
    # the first convolution is float: so is the sum it takes part in
    assert tensors(quantized(body, options=Quantize(exclude=("Conv_0",)))) == ["r", "t"]
