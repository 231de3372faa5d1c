"""What is not the same as QuantizeLinear stays as it is, and the pass says why."""

from __future__ import annotations

import numpy as np
import pytest

from optkit.pipeline import Pipeline, PipelineResult
from optkit.transform import PassContext
from tests.compiler.bundle import Bundle
from tests.graphs import build, session, weights
from tests.passes.recognize.dialects import number

PER_CHANNEL = np.array([0.25, 0.5, 0.125], "float32").reshape(1, 3, 1, 1)
CASES = {
    "halves up": ("t = Div(x, s) h = Add(t, half) f = Floor(h) c = Clip(f, lo, hi) y = Mul(c, s)", "rounds halves up"),
    "odd zero point first": (
        "t = Div(x, s) h = Add(t, odd) f = Round(h) c = Clip(f, lo, hi) d = Sub(c, odd) y = Mul(d, s)",
        "turns ties the other way",
    ),
    "zero point with a fraction": (
        "t = Div(x, s) f = Round(t) h = Add(f, half) c = Clip(h, lo, hi) y = Mul(c, s)",
        "not whole",
    ),
    "too many steps": ("t = Div(x, s) f = Round(t) c = Clip(f, lo, far) y = Mul(c, s)", "steps, not 2 to 256"),
    "a scale a channel": ("t = Div(x, v) f = Round(t) c = Clip(f, lo, hi) y = Mul(c, v)", "scale a channel"),
    "no scale after": ("t = Div(x, s) f = Round(t) c = Clip(f, lo, hi) y = Relu(c)", "does not multiply by a scale"),
    "zero outside": (
        "t = Div(x, s) f = Round(t) c = Clip(f, one, hi) y = Mul(c, s)",
        "zero is none of its values",
    ),
}


def recognize(model: object) -> PipelineResult:
    return Pipeline.parse("recognize").run(model, PassContext())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_other_arithmetic_is_left_alone(name: str) -> None:
    body, why = CASES[name]
    numbers = {"s": 0.25, "half": 0.5, "odd": 3.0, "lo": 0.0, "hi": 255.0, "far": 300.0, "one": 1.0}
    constants = {k: np.array(v, "float32") for k, v in numbers.items()} | {"v": PER_CHANNEL}
    result = recognize(build(body, **{k: v for k, v in constants.items() if f"{k})" in body or f"{k}," in body}))
    assert not result.modified
    (finding,) = [f for f in result.findings if f.action == "skipped"]
    assert why in finding.reason


def test_a_round_that_quantizes_nothing() -> None:
    """No bounds, or no step: neither changed nor spoken of."""
    for body in ("t = Round(x) y = Relu(t)", "t = Div(x, s) r = Round(t) y = Mul(r, s)"):
        used = {"s": np.array(0.25, "float32")} if "s)" in body else {}
        result = recognize(build(body, **used))
        assert not result.modified and not result.findings


def test_sixteen_bits_and_scales_at_run_time_are_named() -> None:
    b = Bundle(opset=21)
    step, zero = number(b, 0.5), number(b, 0, "uint16")
    x = b.input(2, 4)
    q = b.op("QuantizeLinear", x, step, zero)
    b.case(b.op("DequantizeLinear", q, step, zero), "wide")
    largest = b.op("ReduceMax", x, keepdims=0)
    b.case(b.op("DequantizeLinear", b.op("QuantizeLinear", x, largest), largest), "dynamic")
    reasons = [f.reason for f in recognize(b.model()).findings]
    assert any("uint16 activations" in r for r in reasons) and any("computed when the model runs" in r for r in reasons)


def test_a_float_model_is_not_touched() -> None:
    model = build("t = Conv(x, w) y = Relu(t)", w=weights(4, 3, 3, 3))
    result = recognize(model)
    assert not result.modified and not result.findings


def test_outputs_keep_their_names_and_values() -> None:
    """A quantization spelled out whose result is an output of the model."""
    body = "t = Div(x, s) f = Round(t) c = Clip(f, lo, hi) y = Mul(c, s)"
    numbers = {"s": 0.25, "lo": -7.0, "hi": 7.0}
    model = build(body, **{k: np.array(v, "float32") for k, v in numbers.items()})
    x = {"x": weights(2, 3, 8, 8)}
    before = session(model).run(None, x)
    result = recognize(model)
    assert result.modified and [v.name for v in result.model.graph.outputs] == ["y"]
    assert np.array_equal(session(result.model).run(None, x)[0], before[0])
