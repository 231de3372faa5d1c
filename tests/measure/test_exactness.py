"""Which operators make a Q/DQ model's integers depend on the runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from optkit_passes.quantize import Quantize

from optkit.measure.checks import check_int8
from optkit.measure.compare import Comparison
from optkit.measure.exactness import inexact_steps
from optkit.transform import PassContext
from tests.graphs import build, weights

CONVS = {"v": weights(4, 3, 3, 3, scale=0.2), "w": weights(4, 4, 3, 3, seed=1, scale=0.2)}


def quantized(body: str, exact: bool = True) -> ir.Model:
    model = build(body, outputs="float[a,b,c,d] y", **CONVS)
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(2)]
    return Quantize(exact=exact).run(model, PassContext(calibration=lambda: iter(samples))).model


@pytest.mark.parametrize("between", ["b = Relu(a)", "b = MaxPool<kernel_shape=[2,2]>(a)"])
def test_exact_operators_leave_nothing_to_name(between: str) -> None:
    assert inexact_steps(quantized(f"a = Conv(x, v) {between} y = Conv(b, w)")) == []


def test_a_free_rounding_before_a_quantization_is_named() -> None:
    (found,) = inexact_steps(quantized("a = Conv(x, v) b = Softplus(a) y = Conv(b, w)"))
    assert found.startswith("Softplus")


def test_what_can_be_spelled_out_is_not_named() -> None:
    model = quantized("a = Conv(x, v) b = Sigmoid(a) y = Conv(b, w)")
    assert inexact_steps(model) == []
    assert [key[1] for key in model.functions] == ["Sigmoid"]


@pytest.mark.parametrize("mean", ["GlobalAveragePool(a)", "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)"])
def test_means_of_quantized_values_are_exact_whatever_their_number(mean: str) -> None:
    assert inexact_steps(quantized(f"a = Conv(x, v) b = {mean} y = Conv<pads=[1,1,1,1]>(b, w)")) == []


@pytest.mark.parametrize(("axes", "exact"), [([2, 3], True), ([0, 1, 2, 3], False)])
def test_only_sums_that_float32_holds_are_exact(axes: list[int], exact: bool) -> None:
    body = "d = DequantizeLinear(q, s) m = ReduceMean(d, axes) y = QuantizeLinear(m, s)"
    known = {"s": np.float32(0.25).reshape(()), "axes": np.array(axes)}
    model = build(body, "uint8[5000,3,3,100] q", "uint8[a,b,c,d] y", **known)
    assert (inexact_steps(model) == []) == exact


def test_a_free_rounding_after_the_last_quantization_is_not() -> None:
    assert inexact_steps(quantized("a = Conv(x, v) b = Conv(a, w) y = Sigmoid(b)")) == []


def test_fine_scales_are_named() -> None:
    assert inexact_steps(quantized("a = Conv(x, v) b = Relu(a) y = Conv(b, w)", exact=False))


def test_a_model_that_came_quantized_has_no_float_answer_to_lose() -> None:
    """One tie of a whole output costs more than the decibel allowed against a float original; two steps still hold."""
    reference = np.linspace(0, 255, 256, dtype=np.float32)[None].round()
    equal, one, three = Comparison(), Comparison(), Comparison()
    equal.add(reference, reference)
    one.add(reference, reference + (reference == 7))
    three.add(reference, reference + 3 * (reference == 7))
    for given, reason in ((False, "SQNR"), (True, "")):
        check = check_int8("y", one.figures(), one.figures(), equal.figures(), 1.0, (), given)
        assert bool(check.reason) == bool(reason) and reason in check.reason
    assert "3.00 steps" in check_int8("y", three.figures(), three.figures(), equal.figures(), 1.0, (), True).reason


def test_the_limit_is_two_steps_whatever_is_inexact() -> None:
    reference = np.linspace(0, 255, 256, dtype=np.float32)[None]
    against, original = Comparison(), Comparison()
    against.add(reference, reference + np.float32(2.5))
    original.add(reference, reference + np.float32(100))
    for named in ((), ("LRN 'n2'",)):
        check = check_int8("y", original.figures(), against.figures(), original.figures(), 1.0, named)
        assert "2.50 steps, exceeds 2 steps" in check.reason
        assert ("LRN 'n2'" in check.reason) == bool(named)
