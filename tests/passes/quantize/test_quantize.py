"""The pass as a whole: accuracy, findings, options, errors, memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from optkit_passes.quantize import Quantize
from optkit_passes.quantize import collect as collecting
from optkit_passes.quantize.calibrators import METHODS

from optkit.errors import DataError, PassError, UsageError
from optkit.model import to_proto
from optkit.transform import PassContext, Result, Sample
from tests.graphs import build, session, skipped, weights
from tests.passes.quantize.contract import check_contract


def he(*shape: int, seed: int) -> np.ndarray:
    return weights(*shape, seed=seed, scale=float(np.sqrt(2 / np.prod(shape[1:]))))


def network() -> ir.Model:
    """A small residual network: strided, depthwise, transposed and grouped convolutions, concat, pooling, Gemm."""
    return build(
        """a0 = Conv<pads=[1,1,1,1]>(x, w0, b0)  a = Relu(a0)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
        d0 = Conv<pads=[1,1,1,1], group=8>(p, wd, bd)  d = HardSwish(d0)
        e = Conv(d, we, bd)  r = Add(e, p)
        t = ConvTranspose<strides=[2,2]>(r, wt)  u = Sigmoid(t)
        c = Concat<axis=1>(u, a)
        s = Conv<strides=[2,2], group=2>(c, ws)  g = GlobalAveragePool(s)  f = Flatten(g)
        y = Gemm<transB=1, alpha=0.5, beta=2.0>(f, wg, bg)""",
        "float[n,3,16,16] x",
        "float[n,10] y",
        w0=he(8, 3, 3, 3, seed=0),
        b0=weights(8, seed=1, scale=0.1),
        wd=he(8, 1, 3, 3, seed=2),
        bd=weights(8, seed=3, scale=0.1),
        we=he(8, 8, 1, 1, seed=4),
        wt=he(8, 6, 2, 2, seed=5),
        ws=he(16, 7, 3, 3, seed=6),
        wg=he(10, 16, seed=7),
        bg=weights(10, seed=8, scale=0.1),
    )


def images(count: int = 32, size: int = 16, seed: int = 0) -> Callable[[], Iterator[Sample]]:
    def opened() -> Iterator[Sample]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            yield {"x": rng.standard_normal((1, 3, size, size)).astype(np.float32)}

    return opened


def quantize(model: ir.Model, options: Quantize | None = None, calibration: object = images()) -> Result:
    result = (options or Quantize()).run(
        ir.from_proto(to_proto(model)),
        PassContext(calibration=calibration),  # type: ignore[arg-type]
    )
    check_contract(result.model)
    onnx.checker.check_model(to_proto(result.model), full_check=True)
    return result


def sqnr(model: ir.Model, quantized: ir.Model, batch: int = 8) -> float:
    """dB, on data that calibration has not seen."""
    x = {"x": np.random.default_rng(99).standard_normal((batch, 3, 16, 16)).astype(np.float32)}
    exact = session(model).run(None, x)[0]
    plain = session(quantized).run(None, x)[0]
    fused = ort.InferenceSession(to_proto(quantized).SerializeToString()).run(None, x)[0]
    assert plain.shape == fused.shape == exact.shape
    # its integer kernels agree with the Q/DQ nodes run one by one, up to a step here and there
    assert ratio(plain, fused) > 25
    return ratio(exact, plain)


def ratio(exact: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.square(exact).sum() / max(np.square(exact - other).sum(), 1e-30)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_int8_is_close_to_float(method: str, symmetric: bool) -> None:
    model = network()
    result = quantize(model, Quantize(method=method, symmetric_activations=symmetric))
    assert result.modified
    # averages of 32 runs' ends cut what any single run exceeds them by
    assert sqnr(model, result.model) > (20 if method == "moving_average" else 26)
    zeros = {n.inputs[2].dtype for n in result.model.graph if n.op_type == "QuantizeLinear"}
    assert zeros == {ir.DataType.INT8 if symmetric else ir.DataType.UINT8}


def test_per_channel_is_better_than_per_tensor() -> None:
    model = network()
    for name in ("w0", "we"):
        value = model.graph.initializers[name]
        spread = value.const_value.numpy() * 10.0 ** np.linspace(-2, 0, 8)[:, None, None, None]
        value.const_value = ir.tensor(spread.astype(np.float32), name=name)
    one, many = (quantize(model, Quantize(per_channel=p, exact=False)).model for p in (False, True))
    assert sqnr(model, many) > sqnr(model, one) + 3
    scales = [n.inputs[1].const_value for n in one.graph if n.op_type == "DequantizeLinear"]
    assert {s.shape.numpy() for s in scales} == {()}


def test_weights_lie_in_the_file_once_and_as_int8() -> None:
    result = quantize(network())
    kinds = {v.dtype for v in result.model.graph.initializers.values() if v.const_value.size > 16}
    assert kinds == {ir.DataType.INT8}


def test_share_of_macs_and_what_stays_float_are_reported() -> None:
    result = quantize(network())
    notes = [f.reason for f in result.findings if f.action == "note"]
    assert notes[0] == "ranges by minmax from 32 calibration samples"
    assert notes[-1] == "100.0 % of convolution and matmul MACs in int8 (4 Conv, 1 ConvTranspose, 1 Gemm)"
    result = quantize(network(), Quantize(exclude=("Conv_0",), exclude_op_types=("Gemm",)))
    assert skipped(result)["Conv_0"] == "Conv stays float: excluded by name"
    assert skipped(result)["Gemm_0"] == "Gemm stays float: operator type Gemm is excluded"
    share = float(result.findings[-1].reason.split(" %")[0])
    assert 0 < share < 100


@pytest.mark.parametrize(
    ("body", "inputs", "reason", "constants"),
    [
        ("y = Conv(x, z)", "float[n,3,8,8] x, float[4,3,1,1] z", "its weight is not a constant", {}),
        ("y = MatMul(w, x)", "float[8,4] x", "its first operand is a constant", {"w": (4, 8)}),
        ("y = MatMul(x, w)", "float[2,4,8] x", "its weight has 3 axes, not two", {"w": (2, 8, 3)}),
        ("y = Gemm<transA=1>(x, w)", "float[8,n] x", "its first operand is transposed (transA)", {"w": (8, 4)}),
        ("y = Gemm(x, w, c)", "float[2,8] x", "its bias differs from row to row", {"w": (8, 4), "c": (2, 1)}),
        ("y = MatMul(x, w)", "float16[n,8] x", "its inputs are not float32", {"w": (8, 4)}),
    ],
)
def test_what_cannot_be_quantized_says_why(
    body: str, inputs: str, reason: str, constants: dict[str, tuple[int, ...]]
) -> None:
    arrays = {name: weights(*shape) for name, shape in constants.items()}
    kind = "float16" if "float16" in inputs else "float"
    if kind == "float16":
        arrays = {name: a.astype(np.float16) for name, a in arrays.items()}
    rank = {"Conv": 4}.get(body.split("=")[1].strip()[:4], 3 if "2,4,8" in inputs else 2)
    model = build(body, inputs, f"{kind}[{','.join('abcd'[:rank])}] y", **arrays)
    result = quantize(model, calibration=None)
    assert not result.modified
    (finding,) = [f for f in result.findings if f.action == "skipped"]
    assert finding.reason.endswith(reason)


def test_overflowing_sums_stay_float() -> None:
    model = build("y = MatMul(x, w)", "float[n,100000] x", "float[n,b] y", w=np.ones((100_000, 1), np.float32))
    result = quantize(model, calibration=None)
    assert "its sums could leave int32" in skipped(result)["MatMul_0"]
    assert not result.modified
    assert [n.op_type for n in result.model.graph] == ["MatMul"]


def test_a_bias_too_large_for_its_scale_is_reported() -> None:
    model = build(
        "y = Conv(x, w, b)",
        w=weights(2, 3, 1, 1) * np.array([1, 1e-12])[:, None, None, None].astype(np.float32),
        b=np.ones(2, np.float32),
    )
    result = quantize(model, calibration=images(size=8))
    assert any("bias fits int32 (output channel 1)" in f.reason for f in result.findings)
    x = next(images(1, 8, seed=5)())
    np.testing.assert_allclose(session(result.model).run(None, dict(x))[0][:, 1], 1, rtol=1e-3)


def test_a_quantized_model_is_left_alone() -> None:
    once = quantize(network())
    twice = Quantize().run(once.model, PassContext(calibration=images()))
    assert not twice.modified
    assert twice.findings[0].reason == "the model is quantized already"


def test_without_data_it_works_and_warns() -> None:
    model = network()
    result = quantize(model, calibration=None)
    (warning,) = [f for f in result.findings if f.action == "warning"]
    assert "no calibration data" in warning.reason
    assert sqnr(model, result.model) > 20


def test_the_same_twice_gives_the_same_bytes() -> None:
    for calibration in (None, images()):
        first, second = (to_proto(quantize(network(), calibration=calibration).model) for _ in range(2))
        assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_samples_and_progress() -> None:
    seen: list[tuple[str, int, int | None]] = []
    context = PassContext(calibration=images(), progress=lambda *args: seen.append(args))
    result = Quantize(samples=3).run(network(), context)
    assert seen == [("calibrating", 1, 3), ("calibrating", 2, 3), ("calibrating", 3, 3)]
    assert "from 3 calibration samples" in result.findings[0].reason


def test_groups_of_tensors_give_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = to_proto(quantize(network()).model)
    monkeypatch.setattr(collecting, "GROUP_BYTES", 10_000)
    seen = set()
    context = PassContext(calibration=images(), progress=lambda what, *_: seen.add(what))
    parts = Quantize().run(network(), context)
    assert len(seen) > 1
    assert to_proto(parts.model).SerializeToString() == whole.SerializeToString()


def bad(calibration: object, options: Quantize | None = None, model: ir.Model | None = None) -> str:
    with pytest.raises((DataError, UsageError, PassError)) as caught:
        quantize(model or network(), options, calibration)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_data_is_named() -> None:
    assert "empty" in bad(lambda: iter(()))
    rows = [next(images(1)()) for _ in range(3)]
    rows[2]["x"][0, 0, 0, 0] = np.nan  # type: ignore[index]
    assert bad(lambda: iter(rows)) == "calibration sample 2: tensor 'x' holds NaN"
    assert "sample 0: the model does not take it" in bad(lambda: iter([{"x": np.zeros((1, 3, 7), np.float32)}]))
    assert "sample 0: the model does not take it" in bad(lambda: iter([{"z": np.zeros((1, 3, 16, 16), np.float32)}]))


def test_infinity_inside_the_network_names_the_first_tensor() -> None:
    model = build(
        "a = Conv(x, w) b = Exp(a) c = Conv(b, v) y = Conv(c, v)", w=weights(4, 3, 1, 1), v=weights(4, 4, 1, 1)
    )
    rows = [{"x": np.full((1, 3, 8, 8), value, np.float32)} for value in (0, 1000)]
    assert bad(lambda: iter(rows), model=model) == "calibration sample 1: tensor 'b' holds Inf"
    # the graph is as it was: nothing half-done
    assert [v.name for v in model.graph.outputs] == ["y"]


def test_wrong_options_are_named() -> None:
    assert "did you mean 'entropy'" in bad(None, Quantize(method="entropie"))
    assert "percentile=40" in bad(None, Quantize(percentile=40))
    assert "samples=0" in bad(None, Quantize(samples=0))
    assert "did you mean 'Conv_1'" in bad(None, Quantize(exclude=("Conv1",)))
    assert "did you mean 'MatMul'" in bad(None, Quantize(exclude_op_types=("Matmul",)))
    old = build("y = Conv(x, w)", opset=12, w=weights(4, 3, 1, 1))
    assert "opset 13" in bad(None, model=old)


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow_with_samples(method: str) -> None:
    peaks = []
    for count in (8, 200):
        model = network()
        tracemalloc.start()
        Quantize(method=method).run(model, PassContext(calibration=images(count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000  # 192 more samples' tensors would be 10 MB


@pytest.mark.slow
@pytest.mark.parametrize(("name", "top1"), [("resnet20", 83.62), ("mobilenetv2", 82.00)])
def test_cifar_accuracy_stays_within_three_tenths(shared_dir: object, name: str, top1: float) -> None:
    from pathlib import Path

    import onnx

    from benchmarks.int8_accuracy import ours, read_data, scores

    folder = Path(str(shared_dir))
    preprocess = "mean=[.4914,.4822,.4465],std=[.2470,.2435,.2616]"
    path = folder / "models" / f"{name}_cifar10.onnx"
    data = read_data(path, folder / "data/cifar10-train.zip", folder / "data/cifar10-val.zip", preprocess, 256)

    def accuracy(model: onnx.ModelProto) -> float:
        return 100 * float((scores(model, data.images).argmax(axis=1) == data.labels).mean())

    assert accuracy(onnx.load(path)) == pytest.approx(top1, abs=0.021)
    assert accuracy(ours(path, data, "fold,fuse,fold,quantize")) > top1 - 0.3
    four = "fold,fuse,fold,quantize{weight_bits=4,weight_range=mse},adaround{steps=0}"
    assert accuracy(ours(path, data, four)) > top1 - 0.7
