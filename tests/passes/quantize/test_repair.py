"""Passes that make good what quantization loses: rounding, biases, ranges between layers, outliers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from optkit.errors import PassError, UsageError
from optkit.pipeline import PipelineResult
from optkit.transform import PassContext
from tests.graphs import build, same, session, skipped, transform, weights
from tests.passes.quantize.contract import check_contract
from tests.passes.quantize.test_quantize import images, network


def run(passes: str, model: ir.Model, count: int = 16) -> PipelineResult:
    return transform(passes, model, PassContext(calibration=images(count)))


def outputs(model: ir.Model, count: int = 32, seed: int = 5) -> np.ndarray:
    runner = session(model)
    return np.concatenate([runner.run(None, dict(s))[0] for s in images(count, seed=seed)()])


def error(model: ir.Model, reference: np.ndarray) -> float:
    return float(np.square(outputs(model) - reference).sum() / np.square(reference).sum())


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_adaround_is_closer_to_float_than_rounding_to_nearest(bits: int) -> None:
    model = network()
    reference = outputs(model)
    quantize = f"quantize{{weight_bits={bits}}}"
    nearest = run(quantize, model)
    relaxed = run(f"{quantize},adaround{{steps=300}}", model)
    refined = run(f"{quantize},adaround{{steps=0}}", model)
    alone = run(f"{quantize},adaround{{steps=0,asymmetric=false}}", model)
    for result in (relaxed, refined, alone):
        check_contract(result.model)
        assert error(result.model, reference) < 0.7 * error(nearest.model, reference)
    top = 2 ** (bits - 1) - 1
    for node in refined.model.graph:
        tensor = node.inputs[0].const_value if node.op_type == "DequantizeLinear" else None
        if tensor is not None and tensor.dtype == ir.DataType.INT8:
            assert np.abs(tensor.numpy().astype(int)).max() <= top
    assert any("not rounded to nearest" in f.reason for f in refined.findings)


def test_fitted_scales_keep_few_bits_and_the_bias_its_value() -> None:
    model = network()
    reference = outputs(model)
    plain = run("quantize{weight_bits=3,weight_range=mse},adaround{steps=0}", model)
    fitted = run("quantize{weight_bits=3,weight_range=mse},adaround{steps=0,refit=2}", model)
    check_contract(fitted.model)
    assert error(fitted.model, reference) < 1.25 * error(plain.model, reference)
    for node in fitted.model.graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0].dtype == ir.DataType.INT8:
            mantissa = np.frexp(node.inputs[1].const_value.numpy().astype(np.float64))[0] * 2**6
            assert np.array_equal(mantissa, np.rint(mantissa))


@pytest.mark.parametrize("method", ["empirical", "fast"])
def test_bias_correction_gives_layers_their_means_back(method: str) -> None:
    model = build(
        "a = Conv<pads=[1,1,1,1]>(x, w0, b0)  r = Relu(a)  y = Conv(r, w1, b1)",
        "float[n,3,16,16] x",
        "float[n,c,h,w] y",
        w0=weights(8, 3, 3, 3, seed=0),
        b0=weights(8, seed=1),
        w1=weights(6, 8, 3, 3, seed=2),
        b1=weights(6, seed=3),
    )
    quantize = "quantize{weight_bits=3,exact=false}"
    means = [
        outputs(m, 16, 0).mean(axis=(0, 2, 3))
        for m in (model, run(quantize, model).model, run(f"{quantize},bias_correct{{method={method}}}", model).model)
    ]
    before, after = np.abs(means[1] - means[0]), np.abs(means[2] - means[0])
    assert after.max() < (0.05 if method == "empirical" else 0.5) * before.max()


def test_passes_that_repair_need_something_to_repair() -> None:
    for name in ("adaround", "bias_correct"):
        with pytest.raises(PassError, match="after quantize"):
            run(name, network())
        with pytest.raises(PassError, match="needs calibration data"):
            transform(f"quantize,{name}", network())
    with pytest.raises(UsageError, match="unknown method"):
        run("quantize,bias_correct{method=slow}", network())
    with pytest.raises(UsageError, match="negative"):
        run("quantize,adaround{steps=-1}", network())


def test_what_cannot_be_repaired_is_named() -> None:
    result = run("quantize,adaround{steps=0},bias_correct", network())
    reasons = skipped(result)
    assert any("ConvTranspose" in reason for reason in reasons.values())
    assert any("no int32 bias" in reason for reason in reasons.values())


def chain(clip: str = "Relu(a)", **constants: np.ndarray) -> ir.Model:
    return build(
        f"""a = Conv<pads=[1,1,1,1]>(x, w0, b0)  r = {clip}
        d0 = Conv<pads=[1,1,1,1], group=8>(r, wd, bd)  d = LeakyRelu<alpha=0.1>(d0)
        e = Conv(d, we, be)  f = Relu(e)  g = GlobalAveragePool(f)  h = Flatten(g)  y = Gemm(h, wg, bg)""",
        "float[n,3,16,16] x",
        "float[n,10] y",
        w0=weights(8, 3, 3, 3, seed=0) * 10.0 ** np.linspace(-2, 2, 8, dtype=np.float32).reshape(8, 1, 1, 1),
        b0=weights(8, seed=1),
        wd=weights(8, 1, 3, 3, seed=2),
        bd=weights(8, seed=3),
        we=weights(6, 8, 1, 1, seed=4),
        be=weights(6, seed=5),
        wg=weights(6, 10, seed=6),
        bg=weights(10, seed=7),
        **constants,
    )


def test_equalizing_keeps_the_function_and_evens_ranges_out() -> None:
    model = chain()
    result = run("equalize", model)
    same(model, result.model, rtol=1e-4, atol=1e-3)
    arrays = [node.inputs[1].const_value.numpy() for node in result.model.graph if len(node.inputs) == 3]
    first, depthwise, point, gemm = arrays
    reach = [np.abs(a).max(axis=axes) for a, axes in ((first, (1, 2, 3)), (depthwise, (1, 2, 3)), (point, (0, 2, 3)))]
    np.testing.assert_allclose(reach[0], reach[1], rtol=0.02)
    np.testing.assert_allclose(reach[1], reach[2], rtol=0.02)
    np.testing.assert_allclose(np.abs(point).max(axis=(1, 2, 3)), np.abs(gemm).max(axis=1), rtol=0.02)
    reference = outputs(model)
    per_tensor = "quantize{per_channel=false}"
    assert error(run(f"equalize,{per_tensor}", model).model, reference) < 0.1 * error(
        run(per_tensor, model).model, reference
    )


def test_a_clip_stands_in_the_way_unless_it_may_go() -> None:
    bounds = {"low": np.float32(0).reshape(()), "high": np.float32(6).reshape(())}
    model = chain("Clip(a, low, high)", **bounds)
    kept = run("equalize", model)
    assert any("Clip" in reason for reason in skipped(kept).values())
    same(model, kept.model, rtol=1e-4, atol=1e-3)
    gone = run("equalize{clip=relu}", model)
    assert "Clip" not in {node.op_type for node in gone.model.graph}
    with pytest.raises(UsageError, match="neither keep nor relu"):
        run("equalize{clip=six}", model)


def transformer(outlier: float = 60.0, extra: str = "") -> ir.Model:
    gamma = np.ones(16, np.float32)
    gamma[3] = outlier
    return build(
        f"""n = LayerNormalization(x, g, b)  q = MatMul(n, wq)  k = MatMul(n, wk)
        h = Mul(q, k)  y = MatMul(h, wo) {extra}""",
        "float[n,5,16] x",
        "float[a,b,c] y",
        g=gamma,
        b=weights(16, seed=1),
        wq=weights(16, 8, seed=2),
        wk=weights(16, 8, seed=3),
        wo=weights(8, 4, seed=4),
    )


def tokens(count: int = 16, seed: int = 0):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    rows = [{"x": rng.standard_normal((1, 5, 16)).astype(np.float32)} for _ in range(count)]
    return lambda: iter(rows)


def test_smoothing_keeps_the_function_and_lets_outliers_through() -> None:
    model = transformer()
    context = PassContext(calibration=tokens())
    smooth = transform("smooth", model, context)
    same(model, smooth.model, rtol=1e-4, atol=1e-3)
    factors = next(iter(smooth.model.graph)).inputs[1].const_value.numpy()
    assert factors[3] / np.median(np.abs(factors)) < 20
    feed = next(tokens(1, seed=9)())

    def loss(passes: str) -> float:
        got = session(transform(passes, model, PassContext(calibration=tokens())).model).run(None, feed)[0]
        want = session(model).run(None, feed)[0]
        return float(np.square(got - want).sum())

    assert loss("smooth,quantize") < 0.75 * loss("quantize")


def test_a_normalization_that_others_read_is_left_alone_or_multiplied_behind() -> None:
    gamma = np.ones(16, np.float32)
    gamma[3] = 60.0
    model = build(
        "n = LayerNormalization(x, g)  m = MatMul(n, w)  r = Relu(m)  k = MatMul(r, v)  y = Add(n, k)",
        "float[n,5,16] x",
        "float[a,b,c] y",
        g=gamma,
        w=weights(16, 16),
        v=weights(16, 16, seed=1),
    )
    context = PassContext(calibration=tokens())
    result = transform("smooth", model, context)
    assert not result.modified and "Add" in next(iter(skipped(result).values()))
    inserted = transform("smooth{insert=true}", model, context)
    assert [node.op_type for node in inserted.model.graph].count("Mul") == 2
    same(model, inserted.model, rtol=1e-4, atol=1e-3)
    feed = next(tokens(1, seed=9)())
    want = session(model).run(None, feed)[0]
    loss = [
        float(np.square(session(transform(p, model, context).model).run(None, feed)[0] - want).sum())
        for p in ("quantize", "smooth{insert=true},quantize")
    ]
    assert loss[1] < 0.5 * loss[0]
    with pytest.raises(PassError, match="needs calibration data"):
        transform("smooth", transformer())
    with pytest.raises(UsageError, match="between 0 and 1"):
        transform("smooth{alpha=2}", transformer(), PassContext(calibration=tokens()))


def test_first_and_last_layers_have_a_precision_of_their_own() -> None:
    def widths(passes: str) -> list[int]:
        found = []
        for node in run(passes, chain()).model.graph:
            if node.op_type in ("Conv", "Gemm"):
                maker = node.inputs[1].producer()
                integers = None if maker is None else maker.inputs[0].const_value.numpy().astype(int)
                found.append(32 if integers is None else int(np.ceil(np.log2(np.abs(integers).max() + 1))) + 1)
        return found

    assert widths("quantize{weight_bits=4}") == [4, 4, 4, 4]
    assert widths("quantize{weight_bits=4,first_last=int8}") == [8, 4, 4, 8]
    assert widths("quantize{weight_bits=3,first_last=float}") == [32, 3, 3, 32]
    for option in ("weight_bits=1", "weight_bits=9", "first_last=half", "weight_range=sum"):
        with pytest.raises(UsageError):
            run(f"quantize{{{option}}}", chain())


def test_clipped_ranges_have_less_error_than_whole_ones() -> None:
    model = build("y = Conv(x, w)", "float[n,3,16,16] x", "float[a,b,c,d] y", w=weights(16, 3, 3, 3, seed=3) ** 3)
    reference = outputs(model)
    whole, clipped = (run(f"quantize{{weight_bits=3,weight_range={r}}}", model).model for r in ("max", "mse"))
    assert error(clipped, reference) < 0.9 * error(whole, reference)
