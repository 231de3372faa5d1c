"""The layer that was made bad on purpose is named first, with the right cause and an option that repairs it."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optkit_passes.pipelines import Default

from optkit.api import quantize
from optkit.compiler.converters import NATIVE
from optkit.debug import Layer, Report, accuracy
from optkit.model import save_model
from optkit.pipeline import Pipeline
from tests.debug.networks import BODY, Spoil, images, network, tanh_for
from tests.graphs import weights

SIGMOID = BODY.replace("r2 = Relu (c2)", "r2 = Sigmoid (c2)")


def look(model: Any, passes: Any = "int8", data: Any = None, **options: Any) -> Report:
    """A report without the artifact."""
    return accuracy(
        model, passes=passes, calib_data=images() if data is None else data, **{"artifact": False, **options}
    )


def advice(layer: Layer) -> dict[str, float | None]:
    """Output SQNR by option."""
    return {a.option: a.output_db for a in layer.advice}


def now(report: Report) -> float:
    """Output SQNR of the quantized model."""
    db = report.stages[-1].output_db
    assert db is not None
    return db


def test_outlier_channel_of_an_activation() -> None:
    w1, w2 = weights(8, 3, 3, 3, seed=1, scale=0.3), weights(8, 8, 3, 3, seed=3, scale=0.2)
    b1 = weights(8, seed=2, scale=0.1)
    w1[5] *= 60
    b1[5] *= 60
    w2[:, 5] /= 60
    report = look(network(w1=w1, b1=b1, w2=w2), trials=1)
    worst = report.layers[0]
    assert (worst.name, worst.cause, worst.step) == ("Conv_c2", "rounding", "quantize")
    assert worst.parts is not None and worst.parts.channels is not None and worst.parts.channels > 20
    assert worst.parts.weights is not None and worst.parts.activations is not None
    assert worst.parts.activations < worst.parts.weights - 6
    gained = advice(worst)["--exclude-nodes Conv_c2"]
    assert gained is not None and gained > now(report) + 10


def test_outlier_of_a_weight_with_one_scale_a_tensor() -> None:
    w2, b2 = weights(8, 8, 3, 3, seed=3, scale=0.2), weights(8, seed=4, scale=0.1)
    w3 = weights(8, 8, 3, 3, seed=5, scale=0.2)
    w2[3], b2[3] = 0, -1  # a dead channel, so that the outlier changes nothing but the scale
    w3[2, 3, 1, 1] = 30
    report = look(network(w2=w2, b2=b2, w3=w3), "fold,fuse,fold,quantize{per_channel=false}", trials=1)
    worst = report.layers[0]
    assert (worst.name, worst.cause) == ("Conv_c3", "weights")
    gained = advice(worst)["quantize{per_channel=true}"]
    assert gained is not None and gained > now(report) + 3


def test_clipping_by_a_percentile() -> None:
    x = images(16)["x"]
    x[np.random.default_rng(0).random(x.shape) < 0.01] *= 8
    report = look(network(), "fold,fuse,fold,quantize{method=percentile,percentile=97,exact=false}", {"x": x}, trials=1)
    worst = report.layers[0]
    assert (worst.name, worst.cause) == ("Conv_c1", "clipping")
    assert worst.parts is not None and worst.parts.clipping is not None and worst.parts.clipping > 0.9
    assert worst.parts.clipped == pytest.approx(0.03, abs=0.01)
    tried = advice(worst)
    assert {"--calib-method minmax", "quantize{percentile=99.7}"} <= set(tried)
    gained = tried["--calib-method minmax"]
    assert gained is not None and gained > now(report) + 10


def test_what_a_layer_would_gain_is_what_excluding_it_gives() -> None:
    report = look(network(), "fold,fuse,fold,quantize{weight_bits=4}")
    last = next(layer for layer in report.layers if layer.name == "Gemm_y")
    excluded = look(network(), "fold,fuse,fold,quantize{weight_bits=4,exclude=[Gemm_y]}")
    assert last.gain is not None
    assert now(report) + last.gain == pytest.approx(now(excluded), abs=0.3)


def test_own_error_is_less_than_what_accumulates() -> None:
    report = look(network(), "fold,fuse,fold,quantize{weight_bits=4}")
    first, third = (next(each for each in report.layers if each.name == n) for n in ("Conv_c1", "Conv_c3"))
    assert first.parts is not None and third.parts is not None
    assert first.accumulated == pytest.approx(first.parts.own, abs=0.05)  # nothing before it
    assert third.accumulated is not None and third.accumulated < third.parts.own - 1


def test_a_wrong_pass_is_the_step() -> None:
    report = look(network(), Pipeline((*Default().passes, Spoil(by=0.5))))
    assert report.first_outside is not None and report.first_outside.label == "spoil"
    assert (report.layers[0].name, report.layers[0].step) == ("Conv_c2", "spoil")
    assert next(layer for layer in report.layers if layer.name == "Conv_c3").cause == "inherited"


@pytest.mark.needs_compiler
def test_a_wrong_kernel_is_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NATIVE, "Sigmoid", tanh_for(NATIVE["Sigmoid"]))
    passes = "fold,fuse,fold,quantize{exact=false}"  # exact: its Sigmoid is another operator
    report = look(network(SIGMOID), passes, artifact=True)
    worst = report.layers[0]
    assert (worst.name, worst.cause, worst.step) == ("Conv_c2", "kernel", "artifact")
    assert worst.advice[0].option == "optkit debug bisect"
    before = next(layer for layer in report.layers if layer.name == "Conv_c1")
    assert before.kernel_steps == 0 and before.cause != "kernel"


@pytest.mark.needs_compiler
def test_the_artifact_computes_the_same_integers() -> None:
    report = look(network(), artifact=True)
    assert [stage.label for stage in report.stages][-2:] == ["quantize", "artifact"]
    for layer in report.layers:
        assert layer.kernel_steps in (0, None)
        assert layer.stages["artifact"] == pytest.approx(layer.stages["quantize"], abs=1e-3)


def test_a_model_that_came_quantized(tmp_path: Path) -> None:
    path = tmp_path / "quantized.onnx"
    save_model(quantize(network(), calib_data=images()), path)
    report = look(str(path), "default")
    assert "given Q/DQ model" in report.reference
    own = {layer.name: layer.parts for layer in report.layers}
    assert own["Conv_c1"] is not None and own["Conv_c1"].weights is None and own["Conv_c1"].activations is not None
    assert all(layer.advice == () for layer in report.layers)  # nothing of the pipeline quantized it


def test_json_has_every_layer_and_plain_numbers() -> None:
    report = look(network())
    found = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert found["schema"] == 1 and found["samples"] == 8
    assert {layer["layer"] for layer in found["layers"]} >= {"Conv_c1", "Conv_c2", "Conv_c3", "Gemm_y"}
    assert set(found["layers"][0]) == {
        *("layer", "op_type", "depth", "tensor", "cause", "step", "stages_sqnr_db", "output_sqnr_db_alone"),
        *("output_gain_db_if_float", "accumulated_sqnr_db", "own", "kernel_sqnr_db", "kernel_max_steps", "advice"),
    }
    assert set(found["layers"][0]["own"]) == {
        *("sqnr_db", "weights_sqnr_db", "activations_sqnr_db", "bias_sqnr_db", "clipping_share", "rounding_share"),
        *("clipped_values", "codes_in_use", "channel_spread"),
    }
    assert [stage["label"] for stage in found["stages"]] == [
        "load",
        "recognize",
        "fold-1",
        "fuse",
        "fold-2",
        "quantize",
    ]


def test_samples_are_streamed() -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def stream() -> Iterator[np.ndarray]:
        nonlocal most
        for seed in range(40):
            array = weights(1, 3, 8, 8, seed=seed)
            alive.append(weakref.ref(array))
            gc.collect(0)
            most = max(most, sum(each() is not None for each in alive))
            yield array

    report = look(network(), data=stream, samples=40)
    assert report.samples == 40
    assert most <= 4


def test_advice_names_only_what_is_installed() -> None:
    report = look(network(), "fold,fuse,fold,quantize{weight_bits=3}")
    for layer in report.layers:
        for each in layer.advice:
            assert str(Pipeline.parse(each.pipeline)) == each.pipeline
            assert each.pipeline != report.pipeline
