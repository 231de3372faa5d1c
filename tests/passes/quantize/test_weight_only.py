"""Weights by groups, activations in float: what is written, what GPTQ gains, and what an artifact makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from optkit_passes.quantize import weight_only
from optkit_passes.quantize.gptq import Hessian, gptq
from optkit_passes.quantize.grids import Grid, GroupedCodes, round_to_nearest

from optkit import compile as compile_model
from optkit.errors import DataError, UsageError
from optkit.transform import PassContext, Sample
from tests.graphs import build, session, skipped, transform, weights

DEPTH = 96


def inputs(count: int = 8) -> Iterator[Sample]:
    """Correlated inputs: without correlation there is nothing that other weights could make up for."""
    generator = np.random.default_rng(1)
    mix = generator.standard_normal((DEPTH, DEPTH)) * np.exp(generator.standard_normal(DEPTH)) / 10
    for _ in range(count):
        yield {"x": (generator.standard_normal((16, DEPTH)) @ mix).astype(np.float32)}


def network() -> ir.Model:
    return build(
        "h = MatMul(x, w)  r = Relu(h)  y = Gemm<transB=1, alpha=0.5, beta=2.0>(r, v, b)",
        "float[16,96] x",
        "float[16,20] y",
        w=weights(DEPTH, 80, scale=0.1),
        v=weights(20, 80, seed=1, scale=0.1),
        b=weights(20, seed=2),
    )


def quantized(options: str = "", model: ir.Model | None = None) -> ir.Model:
    return transform(f"weight_only{{{options}}}", model or network(), PassContext(calibration=inputs)).model


def output_error(model: ir.Model, other: ir.Model) -> float:
    """Relative squared error of the outputs over the calibration inputs."""
    pairs = [(session(model).run(None, x)[0], session(other).run(None, x)[0]) for x in map(dict, inputs())]
    return float(sum(np.square(a - b).sum() for a, b in pairs) / sum(np.square(a).sum() for a, _ in pairs))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_no_weight_is_farther_than_half_a_step(bits: int, symmetric: bool) -> None:
    w = weights(64, 10, seed=3).astype(np.float64)
    made = round_to_nearest(w, Grid(bits, symmetric), 32)
    assert made.codes.max() <= 2**bits - 1
    step = np.repeat(made.scale, 32, axis=0)
    error = np.abs(made.real() - w) / step
    # Where the range's ends are not equally far from zero, symmetric grids clip nothing but waste codes.
    assert error.max() <= (0.5 if symmetric else 1.0) * 1.001
    if symmetric:
        assert (made.zero == 2 ** (bits - 1)).all()


def test_clipping_is_better_than_keeping_all() -> None:
    w = weights(128, 50, seed=4).astype(np.float64)
    errors = {m: np.square(w - round_to_nearest(w, Grid(3, True, m), 128).real()).sum() for m in ("max", "mse")}
    assert errors["mse"] < 0.95 * errors["max"]


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [96, 32, 20])
def test_gptq_changes_the_product_less_than_rounding(group: int, act_order: bool) -> None:
    w, grid = weights(DEPTH, 40, seed=5).astype(np.float64), Grid(3, False)
    x = np.concatenate([sample["x"] for sample in inputs()])
    hessian = Hessian(DEPTH)
    for part in np.split(x, 4):
        hessian.observe(part.reshape(2, -1, DEPTH))
    np.testing.assert_allclose(hessian.sums, x.T.astype(np.float64) @ x, rtol=1e-4, atol=1e-3)
    assert hessian.rows == len(x)
    errors = [
        np.square(x @ (made.real() - w)).sum()
        for made in (gptq(w, hessian.sums, grid, group, act_order=act_order), round_to_nearest(w, grid, group))
    ]
    assert errors[0] < 0.6 * errors[1]


def test_gptq_of_independent_inputs_rounds_to_nearest() -> None:
    """A diagonal H leaves nothing to make up for."""
    w, grid = weights(64, 10, seed=6), Grid(4)
    made = gptq(w, np.diag(np.arange(1.0, 65.0)), grid, 16)
    np.testing.assert_array_equal(made.codes, round_to_nearest(w, grid, 16).codes)


def test_gptq_is_the_greedy_optimum_of_the_last_row() -> None:
    """The last weight of a column is the best one for what all the others became."""
    w, grid = weights(24, 6, seed=7).astype(np.float64), Grid(4)
    x = np.random.default_rng(0).standard_normal((200, 24)) @ np.random.default_rng(1).standard_normal((24, 24))
    made = gptq(w, x.T @ x, grid, 24, damping=1e-9)

    def error(codes: np.ndarray) -> np.ndarray:
        return np.square(x @ (GroupedCodes(codes, made.scale, made.zero, 24).real() - w)).sum(axis=0)

    for step in (-1, 1):
        other = made.codes.astype(np.int64)
        other[-1] = np.clip(other[-1] + step, 0, 15)
        assert (error(other.astype(np.uint8)) >= error(made.codes) * (1 - 1e-6)).all()


def test_inputs_that_are_always_zero() -> None:
    w = weights(32, 8, seed=8)
    x = np.random.default_rng(0).standard_normal((50, 32))
    x[:, 5:9] = 0
    made = gptq(w, x.T @ x, Grid(4), 8)
    assert np.isfinite(made.real()).all()
    nothing = gptq(w, np.zeros((32, 32)), Grid(4), 8)
    np.testing.assert_array_equal(nothing.codes, round_to_nearest(w, Grid(4), 8).codes)


@pytest.mark.parametrize(
    ("options", "kind", "blocked"),
    [
        ("", ir.DataType.UINT4, True),
        ("symmetric=true", ir.DataType.INT4, True),
        ("bits=3", ir.DataType.UINT4, True),
        ("bits=8", ir.DataType.UINT8, True),
        ("bits=6,symmetric=true", ir.DataType.INT8, True),
        ("group_size=0", ir.DataType.UINT4, False),
    ],
)
def test_what_is_written(options: str, kind: ir.DataType, blocked: bool) -> None:
    model = quantized(f"method=rtn{',' + options if options else ''}")
    assert [n.op_type for n in model.graph] == [
        "DequantizeLinear",
        "MatMul",
        "Relu",
        "DequantizeLinear",
        "MatMul",
        "Add",
    ]
    assert model.graph.opset_imports[""] == weight_only.OPSET
    for node in (n for n in model.graph if n.op_type == "DequantizeLinear"):
        q, scale, *zero = (v.const_value.numpy() for v in node.inputs)
        assert node.inputs[0].dtype == kind
        assert bool(zero) == ("symmetric" not in options)
        if blocked:
            assert node.attributes["block_size"].as_int() == 32 and node.attributes["axis"].as_int() == 0
            assert scale.shape == (-(-len(q) // 32), q.shape[1])
        else:
            assert "block_size" not in node.attributes and scale.shape == (q.shape[1],)
    assert set(model.graph.initializers) == {v.name for n in model.graph for v in n.inputs if v.const_value is not None}
    assert output_error(network(), model) < (0.2 if "3" in options else 0.02)


def test_gptq_beats_rounding_in_a_network() -> None:
    original = network()
    for bits in (3, 4):
        near, better = (quantized(f"bits={bits},method={method}") for method in ("rtn", "gptq"))
        assert output_error(original, better) < 0.6 * output_error(original, near)


def test_same_every_time_and_in_any_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one Hessian at a time the samples are read twice; the codes are the same."""
    first = quantized()
    monkeypatch.setattr(weight_only, "HESSIAN_BYTES", 1)
    second = quantized()
    assert list(first.graph.initializers) == list(second.graph.initializers)
    for name, value in first.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), second.graph.initializers[name].const_value.numpy())


def test_what_stays_float() -> None:
    model = build(
        "a = MatMul(x, w)  b = MatMul(a, a)  y = MatMul(b, v)",
        "float[16,16] x",
        "float[16,16] y",
        w=weights(16, 16),
        v=weights(16, 16, seed=1),
    )
    last = next(reversed(list(model.graph)))
    result = transform(f'weight_only{{method=rtn,exclude=["{last.name}"]}}', model)
    assert sorted(skipped(result).values()) == [
        "MatMul stays float: both operands are activations",
        "MatMul stays float: excluded by name",
    ]
    again = transform("weight_only{method=rtn},weight_only{method=rtn}", model)
    assert [f.reason for f in again.findings if "already" in f.reason]


def test_shared_weights_and_shared_inputs() -> None:
    model = build(
        "a = MatMul(x, w)  b = MatMul(a, w)  c = MatMul(x, w)  y = Add(b, c)",
        "float[16,96] x",
        "float[16,96] y",
        w=weights(96, 96, scale=0.1),
    )
    result = transform("weight_only", model, PassContext(calibration=inputs)).model
    assert sum(n.op_type == "DequantizeLinear" for n in result.graph) == 3
    assert output_error(model, result) < 0.05


def test_no_data_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    result = transform("weight_only", network())
    assert any(f.action == "warning" and "no calibration data" in f.reason for f in result.findings)
    assert not [f for f in transform("weight_only{method=rtn}", network()).findings if f.action == "warning"]
    with pytest.raises(DataError, match="empty"):
        transform("weight_only", network(), PassContext(calibration=lambda: iter(())))


@pytest.mark.parametrize(
    "options",
    ["bits=1", "bits=9", "group_size=1", "method=best", "weight_range=all", "damping=0", "samples=0", "exclude=[no]"],
)
def test_wrong_options(options: str) -> None:
    with pytest.raises(UsageError, match="weight_only"):
        transform(f"weight_only{{{options}}}", network())


@pytest.mark.parametrize(("options", "share"), [("bits=8", 4.2), ("bits=4", 7.0), ("bits=3,symmetric=true", 8.5)])
def test_artifact_keeps_the_integers(options: str, share: float, tmp_path: Path) -> None:
    """Verified against ONNX Runtime, and smaller than the float one by what it says (groups of 96 and 80)."""
    text = f"weight_only{{method=rtn,group_size=0,{options}}}"
    made = {
        name: compile_model(network(), passes=passes, output=tmp_path / f"{name}.optk")
        for name, passes in (("float", "fold"), ("codes", text))
    }
    stored = {name: sum(w.stored for w in m.manifest.weights) for name, m in made.items()}
    assert stored["float"] / stored["codes"] > share - 1.5
    assert made["codes"].manifest.verification["status"] == "passed"
    x = dict(next(inputs()))
    expected = session(transform(text, network()).model).run(None, x)[0]
    with made["codes"].runner() as runner:
        np.testing.assert_allclose(runner.run(x)["y"], expected, rtol=1e-4, atol=1e-4)
