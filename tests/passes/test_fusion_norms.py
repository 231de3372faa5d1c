"""Written-out normalizations."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graphs import build, fused, skipped, weights

CONSTANTS = {
    "last": np.array([-1]),
    "fourth": np.array([3]),
    "third": np.array([2]),
    "two": np.float32(2).reshape(()),
    "three": np.float32(3).reshape(()),
    "eps": np.array([1e-5], np.float32),
    "w": weights(8, seed=1),
    "b": weights(8, seed=2),
    "one": weights(1, seed=3),
}
MEAN = "m = ReduceMean(x, last) d = Sub(x, m) "
REST = "v = ReduceMean(s, last) e = Add(v, eps) r = Sqrt(e) n = Div(d, r) "


@pytest.mark.parametrize(
    "body",
    [
        MEAN + "s = Pow(d, two) " + REST + "a = Mul(n, w) y = Add(a, b)",
        MEAN + "s = Mul(d, d) " + REST + "a = Mul(w, n) y = Add(b, a)",
        MEAN + "c = Sub(x, m) s = Pow(c, two) " + REST + "a = Mul(n, w) y = Add(a, b)",
        "m = ReduceMean(x, fourth) d = Sub(x, m) s = Pow(d, two) " + REST + "a = Mul(n, w) y = Add(a, b)",
    ],
)
def test_a_written_out_layer_norm_becomes_one(body: str) -> None:
    assert fused(build(body, **CONSTANTS))[0] == ["LayerNormalization"]


@pytest.mark.parametrize(
    "body",
    [
        MEAN + "s = Pow(d, three) " + REST + "a = Mul(n, w) q = Add(a, b) y = Abs(q)",
        MEAN + "s = Pow(d, two) " + REST + "a = Mul(n, one) y = Add(a, b)",
        "m = ReduceMean(x, third) d = Sub(x, m) s = Pow(d, two) " + REST + "a = Mul(n, w) y = Add(a, b)",
        MEAN + "s = Mul(d, x) " + REST + "a = Mul(n, w) y = Add(a, b)",
    ],
)
def test_what_only_looks_like_it_stays(body: str) -> None:
    names = fused(build(body, **CONSTANTS))[0] if "Abs" not in body and "Mul(d, x)" not in body else _kept(body)
    assert "LayerNormalization" not in names and "Sqrt" in names


def _kept(body: str) -> list[str]:
    """Operators after fusion of a model whose roots may be of negative numbers, so that its values say nothing."""
    from optkit.pipeline import Pipeline
    from optkit.transform import PassContext

    return [n.op_type for n in Pipeline.parse("fuse").run(build(body, **CONSTANTS), PassContext()).model.graph]


def test_an_inner_result_that_others_want_keeps_it() -> None:
    body = MEAN + "s = Pow(d, two) " + REST + "a = Mul(n, w) z = Add(a, b) y = Add(z, d)"
    names, result = fused(build(body, **CONSTANTS))
    assert "LayerNormalization" not in names
    assert any("other consumers" in reason for reason in skipped(result).values())
