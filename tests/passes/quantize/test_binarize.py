"""Binary weights: the best scale there is, one bit a weight in the artifact, and what stays float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from optkit_passes.quantize.binarize import binarize
from optkit_passes.quantize.weights import is_binary, quantize_weight

from optkit import compile as compile_model
from optkit.errors import UsageError
from tests.graphs import build, session, skipped, transform, weights
from tests.passes.quantize.contract import check_contract


def network(channels: int = 32) -> ir.Model:
    c = channels
    return build(
        """a0 = Conv<pads=[1,1,1,1]>(x, w0)  a = Relu(a0)
        b0 = Conv<pads=[1,1,1,1]>(a, w1, b1)  b = Relu(b0)
        c = Conv(b, w2)  g = GlobalAveragePool(c)  f = Flatten(g)
        h = MatMul(f, w3)  y = Gemm<transB=1>(h, w4)""",
        "float[n,3,12,12] x",
        "float[n,10] y",
        w0=weights(c, 3, 3, 3, seed=0, scale=0.2),
        w1=weights(c, c, 3, 3, seed=1, scale=0.1),
        b1=weights(c, seed=2, scale=0.1),
        w2=weights(2 * c, c, 1, 1, seed=3, scale=0.2),
        w3=weights(2 * c, 64, seed=4, scale=0.2),
        w4=weights(10, 64, seed=5, scale=0.2),
    )


def initializer(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


@pytest.mark.parametrize(("shape", "axis"), [((5, 4, 3, 3), 0), ((20, 7), 1), ((4, 6, 2, 2), 1)])
def test_no_other_scale_or_sign_is_nearer(shape: tuple[int, ...], axis: int) -> None:
    """Section 3.1 of XNOR-Net: alpha = mean |W| and sign(W) have the smallest squared error."""
    w = weights(*shape, seed=1).astype(np.float64)
    found = binarize(w.astype(np.float32), axis).astype(np.float64)

    def rows(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, axis, 0).reshape(shape[axis], -1)

    real, made = rows(w), rows(found)
    error = np.square(real - made).sum(axis=1)
    for factor in (0.9, 0.999, 1.001, 1.1):
        assert (np.square(real - factor * made).sum(axis=1) > error).all()
    for place in range(real.shape[1]):
        other = made.copy()
        other[:, place] *= -1
        assert (np.square(real - other).sum(axis=1) >= error).all()
    # The identity behind it: |W|^2 - n alpha^2.
    alpha = np.abs(real).mean(axis=1)
    np.testing.assert_allclose(error, np.square(real).sum(axis=1) - real.shape[1] * alpha**2, rtol=1e-5)


def test_which_layers_become_binary() -> None:
    result = transform("binarize", network())
    kinds = {
        name: is_binary(initializer(result.model, name), axis)
        for name, axis in (("w0", 0), ("w1", 0), ("w2", 0), ("w3", 1), ("w4", 0))
    }
    assert kinds == {"w0": False, "w1": True, "w2": True, "w3": True, "w4": False}
    assert sorted(skipped(result).values()) == [
        "Conv keeps its weights: it is first or last",
        "Gemm keeps its weights: it is first or last",
    ]
    warnings = [f.reason for f in result.findings if f.action == "warning"]
    assert len(warnings) == 1 and warnings[0].startswith("experimental: 3 layers") and "unless" in warnings[0]
    everything = transform("binarize{first_last=same}", network()).model
    assert is_binary(initializer(everything, "w0"), 0) and is_binary(initializer(everything, "w4"), 0)


def test_exclude() -> None:
    model = network()
    name = next(n.name for n in model.graph if n.op_type == "MatMul")
    result = transform(f'binarize{{exclude=["{name}"]}}', model)
    np.testing.assert_array_equal(initializer(result.model, "w3"), initializer(model, "w3"))
    assert skipped(result)[name] == "MatMul keeps its weights: excluded by name"
    kept = transform("binarize{op_types=[MatMul]}", model).model
    np.testing.assert_array_equal(initializer(kept, "w1"), initializer(model, "w1"))


@pytest.mark.parametrize("text", ["first_last=int8", "exclude=[nothing]", "op_types=[Relu]"])
def test_wrong_options(text: str) -> None:
    with pytest.raises(UsageError, match="binarize"):
        transform(f"binarize{{{text}}}", network())


def test_shared_weight_stays() -> None:
    model = build(
        "a = MatMul(x, w)  b = MatMul(a, w)  c = MatMul(b, v)  y = MatMul(c, v)",
        "float[4,8] x",
        "float[4,8] y",
        w=weights(8, 8),
        v=weights(8, 8, seed=1),
    )
    result = transform("binarize{first_last=same}", model)
    assert set(skipped(result).values()) == {"MatMul keeps its weights: its weight is shared with another node"}
    assert not result.modified


@pytest.mark.parametrize("exact", ["true", "false"])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantize_makes_two_levels(exact: str, bits: int) -> None:
    passes = f"binarize,quantize{{exact={exact},weight_bits={bits}}}"
    model = transform(passes, network()).model
    check_contract(model)
    levels = {
        name: set(np.unique(t.const_value.numpy()))
        for name, t in model.graph.initializers.items()
        if name.endswith("_quantized") and t.const_value.numpy().dtype == np.int8
    }
    assert levels["w1_quantized"] == levels["w2_quantized"] == levels["w3_quantized"] == {-1, 1}
    assert len(levels["w0_quantized"]) > 10


def test_scale_is_within_a_step() -> None:
    w = binarize(weights(8, 100), 0)
    exact = quantize_weight(w, 0, exact=True)
    finest = quantize_weight(w, 0)
    assert set(np.unique(exact.q)) == set(np.unique(finest.q)) == {-1, 1}
    np.testing.assert_array_equal(finest.scale, np.abs(w[:, 0]))
    np.testing.assert_allclose(exact.scale, finest.scale, rtol=2.0**-6)


@pytest.mark.parametrize("w", [np.full((4, 9), 1 / 9), np.ones((4, 1)), np.array([[1.0, 1.0], [-1.0, 2.0]])])
def test_what_only_looks_binary_keeps_its_steps(w: np.ndarray) -> None:
    assert not is_binary(w, 0)
    assert np.abs(quantize_weight(w.astype(np.float32), 0).q).max() == 127


def test_artifact_is_an_eighth(tmp_path: Path) -> None:
    """Of the int8 artifact, for the layers that are binary; and it computes what ONNX Runtime does with them."""
    made = {}
    for name, passes in (("int8", "fold,fuse,quantize"), ("binary", "fold,fuse,binarize,quantize")):
        made[name] = compile_model(network(64), passes=passes, output=tmp_path / f"{name}.optk", verify=False)
    plain, binary = ([w for w in m.manifest.weights if w.dtype == "int8"] for m in (made["int8"], made["binary"]))
    assert [w.nbytes for w in plain] == [w.nbytes for w in binary]
    ones = [i for i, w in enumerate(binary) if w.bits == 1]
    assert len(ones) == 3
    assert sum(plain[i].stored for i in ones) > 7.9 * sum(binary[i].stored for i in ones)
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    reference = session(transform("fold,fuse,binarize,quantize", network(64)).model).run(None, {"x": x})[0]
    with made["binary"].runner() as runner:
        np.testing.assert_allclose(runner.run({"x": x})["y"], reference, rtol=1e-5, atol=1e-5)
