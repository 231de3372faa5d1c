"""INT8 with float16 between: what integer kernels compute gains no conversion, and the rest becomes float16."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from optkit_passes.pipelines import Fp16Pipeline, Int8, Int8Fp16
from optkit_passes.precision.integers import integer_kernels

from optkit.exact import DOMAIN
from optkit.model import to_proto
from optkit.pipeline import Pipeline, PipelineResult
from tests.graphs import build, feeds, ops, session, skipped, transform, weights
from tests.targets.cuda.models import cnn
from tests.targets.cuda.transformers import attention, encoder

MIXED = str(Int8Fp16())
QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
STEP = {"s": np.float32(0.05).reshape(()), "z": np.uint8(128).reshape(())}
WEIGHT = {"ws": np.float32(0.02).reshape(()), "wz": np.int8(0).reshape(())}


def layers(model: ir.Model) -> list[str]:
    """Names of the nodes that become integer products."""
    return [n.name or "" for n, what in integer_kernels(model.graph).items() if what == "it is computed in integers"]


def types(model: ir.Model) -> list[str]:
    """Operators and types of their results; of Q/DQ pairs one."""
    skip = [n for n in model.graph if n.op_type == "DequantizeLinear"]
    return [f"{n.op_type} {n.outputs[0].dtype}" for n in model.graph if n not in skip]


def noise(before: ir.Model, after: ir.Model) -> float:
    """Norm of what ONNX Runtime's answers differ by, over the answers'."""
    first, second = session(before), session(after)
    inputs = feeds(first)
    (a,), (b,) = first.run(None, inputs), second.run(None, inputs)
    assert a.dtype == b.dtype and a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def given(body: str, **constants: np.ndarray) -> PipelineResult:
    """fp16 alone on a model that came with its Q/DQ nodes."""
    return transform("fp16", build(body, **STEP, **WEIGHT, **constants))


def test_the_pipeline_is_what_both_options_ask_for() -> None:
    assert Int8().joined(Fp16Pipeline()) == Int8Fp16()
    assert Int8().joined(Pipeline()) is Fp16Pipeline().joined(Int8()) is None
    assert Int8Fp16().pass_names() == (*Int8().pass_names(), "fp16")


def test_what_is_integer_from_end_to_end_is_left_to_the_byte() -> None:
    """Sums, pools, concatenations and activations between quantized convolutions."""
    whole, mixed = (transform(str(p), cnn()).model for p in (Int8(), Int8Fp16()))
    assert "Cast" not in ops(mixed)
    assert to_proto(mixed).SerializeToString() == to_proto(whole).SerializeToString()


def test_attention_and_residuals_become_float16_between_integer_layers() -> None:
    whole, mixed = transform(str(Int8()), attention()).model, transform(MIXED, attention()).model
    assert types(mixed) == [
        "Cast FLOAT16",  # the residual stream begins
        *("LayerNormalization FLOAT", "QuantizeLinear UINT8"),
        *("MatMul FLOAT", "Cast FLOAT16") * 3,
        *("Reshape FLOAT16",) * 3,
        *("Transpose FLOAT16",) * 3,
        *("MatMul FLOAT16", "Mul FLOAT16", "Cast FLOAT", "Softmax FLOAT", "Cast FLOAT16", "MatMul FLOAT16"),
        *("Transpose FLOAT16", "Reshape FLOAT16", "Add FLOAT16", "Cast FLOAT", "QuantizeLinear UINT8"),
        *("MatMul FLOAT", "Gelu FLOAT", "QuantizeLinear UINT8", "MatMul FLOAT"),  # not a Cast among integer layers
        *("Cast FLOAT16", "Add FLOAT16", "Cast FLOAT"),
    ]
    assert len(layers(mixed)) == len(layers(whole)) == 5
    assert {v.dtype for v in (*mixed.graph.inputs, *mixed.graph.outputs)} == {ir.DataType.FLOAT}


def test_integers_are_those_of_int8_alone() -> None:
    """Weights, biases and their scales."""

    def integers(model: ir.Model) -> dict[str | None, bytes]:
        constants = model.graph.initializers.values()
        stored = {v for n in model.graph if n.op_type == "DequantizeLinear" for v in n.inputs if v in constants}
        return {v.name: v.const_value.tobytes() for v in stored if v.const_value is not None and v.shape is not None}

    whole, mixed = integers(transform(str(Int8()), encoder()).model), integers(transform(MIXED, encoder()).model)
    assert mixed.items() <= whole.items()  # that one quantizes queries, keys, values and probabilities too
    assert sum("quantized" in str(name) for name in mixed) == 6


def test_only_functions_that_end_integer_kernels_stay_spelled_out() -> None:
    result = transform(MIXED, attention())
    assert [n.op_type for n in result.model.graph if n.domain == DOMAIN] == ["Gelu"]
    assert [name for _, name, _ in result.model.functions] == ["Gelu"]
    assert "Softmax stays float32: its kind is on the keep-list" in skipped(result).values()
    assert any(f.reason.startswith("2 functions with spelled-out roundings") for f in result.findings)


def test_results_that_leave_an_epilogue_are_converted_once_behind_it() -> None:
    result = given(
        """
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  dw = DequantizeLinear(w, ws, wz)
        c = Conv(d, dw)  e = Erf(c)  f = Add(e, one)  g = Mul(c, f)  h = Add(g, x)  i = Sub(x, g)  y = Div(h, i)
        """,
        w=np.ones((3, 3, 1, 1), np.int8),
        one=np.float32(1).reshape(()),
    )
    assert sorted(ops(result.model)[:2]) == ["Cast", "QuantizeLinear"]
    assert ops(result.model)[4:] == ["Conv", "Erf", "Add", "Mul", "Cast", "Add", "Sub", "Div", "Cast"]
    assert skipped(result)["Mul_0"] == "Mul stays float32: it ends an integer kernel"
    assert skipped(result)["Conv_0"] == "Conv stays float32: it is computed in integers"


def test_sums_of_layers_stay_where_they_are_quantized_again() -> None:
    body = """
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  dw = DequantizeLinear(w, ws, wz)
        c = Conv(d, dw)  t = Add(c, d)  r = Relu(t)  m = MaxPool<kernel_shape=[2,2]>(r)
        q2 = QuantizeLinear(m, s, z)  d2 = DequantizeLinear(q2, s, z)
        """
    quantized = given(body + "y = Conv(d2, dw)", w=np.ones((3, 3, 1, 1), np.int8))
    assert "Cast" not in ops(quantized.model) and not quantized.modified
    assert skipped(quantized)["Add_0"] == "Add stays float32: it is between integers"
    both = given(
        body + "k = Conv(d2, dw)  n = Sigmoid(r)  y = ReduceMax<keepdims=1>(n)", w=np.ones((3, 3, 1, 1), np.int8)
    )
    assert types(both.model).count("Add FLOAT16") == types(both.model).count("Sigmoid FLOAT16") == 1


def test_products_of_activations_are_float16_even_where_they_came_quantized() -> None:
    result = given(
        """
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  t = Transpose<perm=[0,1,3,2]>(d)
        y = MatMul(d, t)
        """
    )
    assert types(result.model) == [
        *("QuantizeLinear UINT8", "Cast FLOAT16", "Transpose FLOAT16", "MatMul FLOAT16", "Cast FLOAT")
    ]
    assert layers(result.model) == []


def test_weights_quantized_when_compiled_make_a_layer_and_quantized_data_alone_none() -> None:
    result = given(
        """
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
        wq = QuantizeLinear(w, ws, wz)  dw = DequantizeLinear(wq, ws, wz)  y = MatMul(d, dw)
        """,
        w=weights(8, 5),
    )
    assert layers(result.model) == ["MatMul_0"]
    alone = given("dw = DequantizeLinear(w, ws, wz)  y = MatMul(x, dw)", w=np.ones((8, 5), np.int8))
    assert layers(alone.model) == []
    assert types(alone.model)[-2:] == ["MatMul FLOAT16", "Cast FLOAT"]


def test_products_stay_float_and_the_report_says_why() -> None:
    result = transform("quantize{products=false}", attention())
    assert skipped(result) == {
        "MatMul_3": "MatMul stays float: both operands are activations",
        "MatMul_4": "MatMul stays float: both operands are activations",
    }


def test_numbers() -> None:
    """Not farther from the float model than INT8 alone, whose products of activations are quantized too."""
    for model in (attention(), encoder()):
        whole, mixed = (noise(model, transform(str(p), model).model) for p in (Int8(), Int8Fp16()))
        assert 0 < mixed <= 1.05 * whole < 0.2
