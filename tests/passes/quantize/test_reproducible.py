"""Operators that runtimes round differently become functions that they do not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from optkit_passes.quantize import Quantize

import optkit
from optkit.exact import DOMAIN
from optkit.model import save_model
from optkit.transform import PassContext, Result
from tests.graphs import build, feeds, session, weights

CONSTANTS = {
    "v": weights(4, 3, 3, 3, scale=0.2),
    "w": weights(4, 4, 3, 3, seed=1, scale=0.2),
    "gain": 1 + weights(6, seed=2, scale=0.1),
    "shift": weights(6, seed=3, scale=0.1),
    "s": 1 + weights(4, seed=4, scale=0.1),
    "b": weights(4, seed=5),
    "m": weights(4, seed=6),
    "u": np.abs(weights(4, seed=7)) + 0.5,
}
FUNCTIONS = {
    "b1 = Sigmoid(a)": "Sigmoid",
    "b1 = Softmax(a)": "Softmax",
    "b1 = LayerNormalization<epsilon=0.001>(a, gain, shift)": "LayerNormalization",
    "b1 = LRN<size=3, beta=0.75, alpha=0.1>(a)": "LRN_3_075",
    "b1 = Gelu(a)": "Gelu",
}


def quantize(between: str, exact: bool = True, after: str = "Relu") -> Result:
    body = f"a = Conv(x, v) {between} c = Conv(b1, w) y = {after}(c)"
    model = build(body, outputs="float[a1,b2,c3,d4] y", opset=20, **CONSTANTS)
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(2)]
    return Quantize(exact=exact).run(model, PassContext(calibration=lambda: iter(samples)))


def calls(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph if node.domain == DOMAIN)


@pytest.mark.parametrize("between", FUNCTIONS)
def test_before_a_quantization_a_function_takes_the_operators_place(between: str) -> None:
    result = quantize(between)
    name = FUNCTIONS[between]
    assert calls(result.model) == {name: 1}
    assert [key[1] for key in result.model.functions] == [name]
    assert result.model.graph.opset_imports[DOMAIN] == 1
    assert any("1 operators before a quantization spelled out" in f.reason for f in result.findings)


@pytest.mark.parametrize("between", FUNCTIONS)
def test_the_function_computes_the_same(between: str) -> None:
    free, exact = (session(quantize(between, exact=e).model) for e in (False, True))
    x = feeds(free)
    a, b = (s.run(None, x)[0] for s in (free, exact))
    # scales differ between the two, so the distance is the quantization's
    assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


@pytest.mark.parametrize("between", FUNCTIONS)
def test_what_it_leaves_compiles_to_the_same_bits(between: str, tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    model = quantize(between).model
    save_model(model, folder / "q.onnx")
    reference = session(model)
    x = feeds(reference)
    # the whole way: the file is loaded, and folding and fusing must leave the functions alone
    optkit.compile(folder / "q.onnx", output=folder / "q.optk", input_shapes={"x": (2, 3, 8, 8)}, rtol=1e-9)
    found = optkit.load(folder / "q.optk").run(x)["y"]
    assert np.array_equal(found, reference.run(None, x)[0])


def test_without_exact_operators_stay() -> None:
    assert not calls(quantize("b1 = Sigmoid(a)", exact=False).model)


def test_behind_the_last_quantization_operators_stay() -> None:
    assert not calls(quantize("b1 = Relu(a)", after="Sigmoid").model)


def test_a_batch_normalization_becomes_a_product_and_a_sum() -> None:
    body = "t = Relu(a) n = BatchNormalization(t, s, b, m, u) b1 = Relu(n)"
    result = quantize(body, after="Neg")
    kinds = Counter(node.op_type for node in result.model.graph)
    assert kinds["Mul"] == kinds["Add"] == 1 and not kinds["BatchNormalization"]
    free = session(quantize(body, exact=False, after="Neg").model)
    x = feeds(free)
    a, b = (s.run(None, x)[0] for s in (free, session(result.model)))
    assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


def test_an_operator_without_a_function_is_named() -> None:
    result = quantize("b1 = Softplus(a)")
    assert not calls(result.model)
    assert any("Softplus rounds differently" in f.reason for f in result.findings)
