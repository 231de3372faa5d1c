"""Running a model a stretch at a time gives what running it at once gives, each node once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from optkit_passes.quantize.stepwise import Stepwise

from optkit.errors import DataError
from tests.graphs import build, session, weights
from tests.passes.quantize.test_quantize import images, network


def test_every_tensor_in_any_order_of_stretches(tmp_path: Path) -> None:
    model = network()
    values = [v for node in model.graph for v in node.outputs]
    samples = list(images(3)())
    steps = Stepwise(model, tmp_path, lambda: iter(samples))
    found = {v: [] for v in values}
    for value in values:
        for arrays in steps.advance([value]):
            found[value].append(arrays[value])
    del model.graph.outputs[:]
    model.graph.outputs.extend(values)
    runner = session(model)
    for index, sample in enumerate(samples):
        for value, want in zip(values, runner.run(None, dict(sample)), strict=True):
            np.testing.assert_allclose(found[value][index], want, rtol=1e-5, atol=1e-5, err_msg=value.name)
    assert not list(tmp_path.iterdir())  # all that was read has been cleared away


def test_what_lies_ahead_may_change_and_what_lies_behind_does_not_run_again(tmp_path: Path) -> None:
    model = build("a = Mul(x, s)  b = Mul(a, t)", "float[n,4] x", "float[n,m] b", s=weights(4), t=weights(4, seed=1))
    first, second = list(model.graph)
    x = weights(2, 4, seed=2)
    steps = Stepwise(model, tmp_path, lambda: iter([{"x": x}]))
    assert [list(arrays) for arrays in steps.advance(first.outputs)] == [[first.outputs[0]]]
    for constant, value in ((first.inputs[1], 100.0), (second.inputs[1], 3.0)):
        constant.const_value = ir.tensor(np.full(4, value, np.float32), name=constant.name)
    (arrays,) = steps.advance(second.outputs)
    np.testing.assert_allclose(arrays[second.outputs[0]], x * weights(4) * 3, rtol=1e-6)


def test_inputs_of_bodies_stay_until_these_have_run(tmp_path: Path) -> None:
    model = build(
        """a = Relu(x)  b = Neg(a)
        y = If(flag) <then_branch = g1 () => (float[n,m] p) { p = Add(a, b) },
                      else_branch = g2 () => (float[n,m] q) { q = Sub(a, b) }>""",
        "bool flag, float[2,4] x",
        "float[n,m] y",
    )
    feed = {"flag": np.asarray(False), "x": weights(2, 4)}
    steps = Stepwise(model, tmp_path, lambda: iter([feed]))
    *_, last = model.graph
    list(steps.advance([next(iter(model.graph)).outputs[0]]))
    (arrays,) = steps.advance(last.outputs)
    np.testing.assert_array_equal(arrays[last.outputs[0]], 2 * np.maximum(feed["x"], 0))


def test_samples_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    model = build("y = Relu(x)", "float[2,4] x", "float[n,m] y")
    value = next(iter(model.graph)).outputs[0]
    with pytest.raises(DataError, match="does not take a sample"):
        list(Stepwise(model, tmp_path, lambda: iter([{"x": weights(3, 5)}])).advance([value]))
    with pytest.raises(DataError, match="is empty"):
        list(Stepwise(model, tmp_path, lambda: iter([])).advance([value]))
