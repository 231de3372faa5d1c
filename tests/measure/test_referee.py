"""A more precise reference settles what ONNX Runtime's own approximations decide, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from optkit.measure.referee import compute_in_double
from optkit.measure.reference import Reference
from optkit.measure.verify import verify
from tests.graphs import build, weights

SCALE = weights(6, 4, scale=0.3)


def detector(bias: float, op_type: str = "Sigmoid") -> ir.Model:
    """Probabilities of logits around `bias`."""
    body = f"l = MatMul(x, w) s = Add(l, b) y = {op_type}(s)"
    return build(body, "float[n,6] x", "float[n,4] y", w=SCALE, b=np.full(4, bias, np.float32))


class Precise:
    """The sigmoid of the logits in float64, with something done to them: a compiler with a known fault."""

    def __init__(self, bias: float, alter: Callable[[np.ndarray], np.ndarray] = lambda logits: logits) -> None:
        self.bias, self.alter = bias, alter

    def run(self, feed: Mapping[str, Any]) -> dict[str, np.ndarray]:
        logits = self.alter(feed["x"].astype(np.float64) @ SCALE + self.bias)
        return {"y": (1 / (1 + np.exp(-logits))).astype(np.float32)}


def test_an_output_of_small_probabilities_is_settled_by_float64() -> None:
    outcome = verify(detector(-14.0), None, Precise(-14.0))
    (check,) = outcome.outputs
    assert outcome.passed, outcome.reason
    assert check.reference == "ONNX Runtime with Sigmoid in float64"
    assert check.onnxruntime is not None and check.onnxruntime.relative > 1e-4 > check.figures.relative
    assert outcome.as_dict()["outputs"][0]["onnxruntime_to_reference"]["relative"] == check.onnxruntime.relative


def test_where_onnxruntime_is_near_it_stays_the_reference() -> None:
    (check,) = verify(detector(0.0), None, Precise(0.0)).outputs
    assert not check.reason and check.reference == "ONNX Runtime" and check.onnxruntime is None


@pytest.mark.parametrize("bias", [-14.0, 0.0])
@pytest.mark.parametrize(
    "fault",
    [
        lambda logits: logits * 1.001,
        lambda logits: np.roll(logits, 1, axis=-1),
        lambda logits: logits + 2e-2,
        lambda logits: np.full_like(logits, -200.0),
    ],
)
def test_a_fault_is_refused_with_either_reference(bias: float, fault: Callable[[np.ndarray], np.ndarray]) -> None:
    outcome = verify(detector(bias), None, Precise(bias, fault))
    assert not outcome.passed and outcome.outputs[0].reference == "ONNX Runtime"


def test_limits_that_the_user_adds_hold_for_it_too() -> None:
    assert not verify(detector(-14.0), None, Precise(-14.0), rtol=1e-12).passed
    assert not verify(detector(-14.0), None, Precise(-14.0), atol=1e-30).passed


def test_without_such_functions_there_is_no_appeal() -> None:
    model = detector(0.0, "Relu")

    class Wrong:
        def run(self, feed: Mapping[str, Any]) -> dict[str, np.ndarray]:
            return {"y": Reference(model).run(feed)["y"] * np.float32(1.001)}

    assert "relative error" in verify(model, None, Wrong()).reason


@pytest.mark.parametrize("op_type", ["Sigmoid", "Tanh", "Exp", "Softmax", "LogSoftmax"])
def test_the_more_precise_model_means_the_same(op_type: str) -> None:
    model = detector(-1.0, op_type)
    feed = {"x": weights(3, 6)}
    expected = Reference(model).run(feed)["y"]
    assert compute_in_double(model) == [op_type]
    np.testing.assert_allclose(Reference(model).run(feed)["y"], expected, rtol=1e-5)
