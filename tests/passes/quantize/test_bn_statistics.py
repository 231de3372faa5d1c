"""Made-up inputs that are corrected to the statistics of batch norms."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from optkit_passes.quantize import Quantize
from optkit_passes.quantize.bn_statistics import measure_by_batch_norms, renormalized
from optkit_passes.quantize.calibrators import Extremes
from optkit_passes.quantize.data_free import made_up_samples

from optkit.model import to_proto
from optkit.pipeline import Pipeline
from optkit.transform import PassContext
from tests.graphs import build, session, weights

GAMMA, BETA = np.float32([0.5, 2.0, 1.0, 3.0]), np.float32([0.0, -1.0, 4.0, 0.5])


def network(batch: str = "n", flat: str = "-1") -> ir.Model:
    """Two batch norms whose statistics are those of no made-up input."""
    return build(
        """c = Conv(x, w) b = BatchNormalization(c, gamma, beta, mean, var) r = Relu(b)
        d = Conv(r, v) e = BatchNormalization(d, gamma, beta, mean, var) s = Add(e, r) t = Relu(s)
        f = Reshape(t, shape) y = Gemm(f, g)""",
        f"float[{batch},3,8,8] x",
        f"float[{batch},5] y",
        w=weights(4, 3, 1, 1),
        v=weights(4, 4, 1, 1, seed=1),
        g=weights(256, 5, seed=2),
        gamma=GAMMA,
        beta=BETA,
        mean=np.float32([30, -10, 3, 0]),
        var=np.float32([400, 0.01, 9, 1]),
        shape=np.array([int(flat), 256]),
    )


def values(model: ir.Model, names: list[str], x: np.ndarray) -> list[np.ndarray]:
    graph = to_proto(model)
    for name in names:
        graph.graph.output.add().name = name
    found: list[np.ndarray] = session(graph).run(names, {"x": x})
    return found


def test_every_normalized_channel_has_the_mean_and_deviation_of_training_data() -> None:
    model = renormalized(network("1", "0"))
    assert model is not None
    x = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32) * 7 + 2
    for array in values(model, ["b", "e"], x):
        np.testing.assert_allclose(array.mean((0, 2, 3)), BETA, atol=1e-3)
        np.testing.assert_allclose(array.std((0, 2, 3)), GAMMA, rtol=2e-3)


def test_nothing_to_correct_without_batch_norms() -> None:
    assert renormalized(build("y = Relu(x)")) is None
    assert measure_by_batch_norms(network(), None, {}, made_up_samples(network(), 0)) == set()


@pytest.mark.parametrize(("batch", "flat"), [("n", "-1"), ("1", "1")])  # the second takes no batch of more than one
def test_ranges_after_fusion_are_those_of_the_corrected_model(batch: str, flat: str) -> None:
    source = network(batch, flat)
    folded = Pipeline.parse("fold,fuse,fold").run(source.clone(), PassContext()).model
    assert not any(n.op_type == "BatchNormalization" for n in folded.graph)
    by_name = {v.name: v for n in folded.graph for v in n.outputs}
    seen = {by_name[name]: Extremes() for name in ("r", "t")}
    samples = made_up_samples(folded, 0)
    found = measure_by_batch_norms(folded, source, {v: s.add for v, s in seen.items()}, samples)
    assert found == set(seen)
    corrected = renormalized(source)
    assert corrected is not None
    rows = [s["x"] for s in samples()]
    runs = [np.concatenate(rows)] if batch == "n" else rows
    arrays = [values(corrected, ["r", "t"], x) for x in runs]
    for index, statistic in enumerate(seen.values()):
        assert statistic.low == pytest.approx(min(a[index].min() for a in arrays), abs=1e-5)
        assert statistic.high == pytest.approx(max(a[index].max() for a in arrays), rel=1e-5)


def test_tensors_that_a_pass_has_scaled_are_not_taken_for_the_sources() -> None:
    source = network()
    changed = source.clone()
    # as cross-layer equalization scales a layer's channels
    norm = next(n for n in changed.graph if n.op_type == "BatchNormalization")
    for index in (1, 2):
        old = norm.inputs[index]
        assert old is not None and old.const_value is not None
        new = ir.Value(name=f"{old.name}.twice", const_value=ir.tensor(old.const_value.numpy() * np.float32(2)))
        new.shape, new.type = old.shape, old.type
        changed.graph.register_initializer(new)
        norm.replace_input_with(index, new)
    by_name = {value.name: value for n in changed.graph for value in n.outputs}
    observers = {by_name[name]: Extremes().add for name in ("r", "t")}
    assert measure_by_batch_norms(changed, source, observers, made_up_samples(changed, 0)) == set()


def test_the_pass_says_how_many_tensors_it_could_correct() -> None:
    source = network()
    folded = Pipeline.parse("fold,fuse,fold").run(source.clone(), PassContext()).model
    plain = Quantize().run(folded.clone(), PassContext())
    result = Quantize().run(folded.clone(), PassContext(reference=source))
    warning = next(f.reason for f in result.findings if f.action == "warning")
    assert warning.startswith("no calibration data: ranges come from made-up inputs")
    assert "tensors fit what the batch norms have kept" in warning
    assert to_proto(result.model).SerializeToString() != to_proto(plain.model).SerializeToString()
    again = Quantize().run(folded.clone(), PassContext(reference=source))
    assert to_proto(result.model).SerializeToString() == to_proto(again.model).SerializeToString()
