"""Softmax in half precision against numpy: short rows rounded at every step, long ones once."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import optkit.backend
from optkit.compiler.build import prepare
from optkit.compiler.check import check_prepared
from optkit.compiler.operators.half_rows import LONGEST
from optkit.registry import find_target
from tests.compiler.bundle import Bundle

TYPES = [np.dtype("float16"), np.dtype(ml_dtypes.bfloat16)]
Case = tuple[np.ndarray, int]


def stepwise(x: np.ndarray, axis: int) -> np.ndarray:
    """Every step rounded to the type of `x`; bfloat16 also after every addition."""
    kind = x.dtype
    x = np.moveaxis(x, axis, -1)
    below = (x.astype("float32") - x.max(-1, keepdims=True).astype("float32")).astype(kind)
    power = np.exp(below.astype("float64")).astype("float32").astype(kind).astype("float32")
    if kind == np.float16:
        total = power.sum(-1, keepdims=True).astype(kind).astype("float32")
    else:
        total = np.zeros((*x.shape[:-1], 1), "float32")
        for k in range(x.shape[-1]):
            total = (total + power[..., k : k + 1]).astype(kind).astype("float32")
    return np.moveaxis((power / total).astype(kind), -1, axis)


def at_once(x: np.ndarray, axis: int) -> np.ndarray:
    """Rounded at the end only."""
    power = np.exp(x.astype("float64") - x.max(axis, keepdims=True).astype("float64"))
    return np.asarray((power / power.sum(axis, keepdims=True)).astype("float32").astype(x.dtype))


def model_of(cases: Sequence[Case], free: bool = False) -> onnx.ModelProto:
    """A Softmax for each case; with `free`, first axes are symbolic."""
    inputs, outputs, nodes = [], [], []
    for i, (x, axis) in enumerate(cases):
        shape = [f"n{i}", *x.shape[1:]] if free else x.shape
        kind = helper.np_dtype_to_tensor_dtype(x.dtype)
        inputs.append(helper.make_tensor_value_info(f"x{i}", kind, shape))
        outputs.append(helper.make_tensor_value_info(f"y{i}", kind, shape))
        nodes.append(helper.make_node("Softmax", [f"x{i}"], [f"y{i}"], axis=axis))
    graph = helper.make_graph(nodes, "rows", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def softmax(cases: Sequence[Case], free: bool = False) -> list[np.ndarray]:
    return list(optkit.backend.prepare(model_of(cases, free)).run([x for x, _ in cases]))


def normal(kind: np.dtype, *shape: int) -> np.ndarray:
    return (3 * np.random.default_rng(sum(shape)).standard_normal(shape)).astype(kind)


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    a, b = (v.astype("float64") for v in (found, expected))
    return found.dtype == expected.dtype and np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("free", [False, True])
def test_short_rows_are_rounded_at_every_step(free: bool) -> None:
    cases = [
        case
        for kind in TYPES
        for case in (
            *((normal(kind, 50, size), -1) for size in (1, 2, 6, 8, 17, LONGEST)),
            (normal(kind, 3, 5, 7), 1),
            (normal(kind, 11, 4, 3), 1),
        )
    ]
    for (x, axis), found in zip(cases, softmax(cases, free), strict=True):
        assert same(found, stepwise(x, axis)), (x.dtype, x.shape)
    x, axis = cases[4]
    assert not same(stepwise(x, axis), at_once(x, axis)), "the case proves nothing"


def test_masked_short_rows() -> None:
    """What is masked is 0, what is nearly nothing too, and a row of nothing is NaN as ONNX has it."""
    cases = []
    for kind in TYPES:
        x = normal(kind, 4, 18)
        x[0, 3:], x[1], x[2, 1:] = -np.inf, -np.inf, -200
        cases.append((x, -1))
    for (x, axis), found in zip(cases, softmax(cases), strict=True):
        with np.errstate(invalid="ignore"):
            assert same(found, stepwise(x, axis))
        assert np.isnan(found[1].astype("float32")).all() and not found[0, 3:].any() and not found[2, 1:].any()


def test_long_rows_are_rounded_once() -> None:
    """A running sum in bfloat16 would end at 256, and each of 300 equal elements be 1/256."""
    cases = [(x, -1) for kind in TYPES for x in (normal(kind, 20, LONGEST + 1), np.ones((2, 300), kind))]
    for (x, axis), found in zip(cases, softmax(cases), strict=True):
        a, b = at_once(x, axis).astype("float64"), found.astype("float64")
        # the last bit may differ where float32 came to lie on the other side of a tie
        assert np.abs(a - b).max() <= 2.0**-11 * np.abs(a).max() and (a != b).mean() < 0.01


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("keys", [6, 60])
def test_attention(kind: np.dtype, keys: int) -> None:
    """Attention over short rows gives the reference's numbers; over long ones it gives better ones."""
    shapes = {"q": (2, 3, 4, 8), "k": (2, 3, keys, 8), "v": (2, 3, keys, 8)}
    feeds = {n: np.random.default_rng(len(n) + i).random(s).astype(kind) for i, (n, s) in enumerate(shapes.items())}
    number = helper.np_dtype_to_tensor_dtype(kind)
    ends = [helper.make_tensor_value_info(n, number, s) for n, s in (*shapes.items(), ("y", shapes["q"]))]
    graph = helper.make_graph([helper.make_node("Attention", ["q", "k", "v"], ["y"])], "heads", ends[:3], ends[3:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    (found,) = optkit.backend.prepare(model).run(list(feeds.values()))
    assert found.dtype == kind
    b = found.astype("float64")
    if keys <= LONGEST:
        (expected,) = ReferenceEvaluator(model).run(None, feeds)
        np.testing.assert_allclose(b, expected.astype("float64"), rtol=1e-3, atol=1e-5)
    else:
        q, k, v = (x.astype("float64") for x in feeds.values())
        power = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(8))
        np.testing.assert_allclose(b, power / power.sum(-1, keepdims=True) @ v, rtol=1e-2)


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3", "cuda:sm_80"])
def test_schedules(target: str) -> None:
    """Every target's schedule gives what the unscheduled kernels do."""
    from tests.targets.cuda.simulate import simulated

    b = Bundle()
    for kind in TYPES:
        for size in (7, LONGEST):
            b.case(b.op("Softmax", b.input(5, size, dtype=kind.name)), f"{kind.name}, {size}")
    chosen = find_target(target)
    machine = simulated(chosen) if chosen.device == "cuda" else chosen
    assert check_prepared(prepare(b.model(), chosen), machine) == []
