"""Candidates: what the recipe makes, calibrated once; samples held out; bfloat16 by a recipe."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest

from optkit.data import Samples, held_out, open_calibration, without_held_out
from optkit.errors import UsageError
from optkit.mixed.candidates import Candidates, Precisions, quantized_layers
from optkit.mixed.execute import onnx_runner, rounding
from optkit.model import to_proto
from optkit.pipeline import Pipeline
from optkit.transform import PassContext, Sample
from tests.graphs import build, ops, weights
from tests.mixed.conftest import network

TEXT = "fold,fuse,fold,quantize"
OPENED: list[int] = []


def samples() -> Iterator[Sample]:
    OPENED.append(1)
    return iter([{"x": row[None]} for row in weights(16, 3, 16, 16, seed=3)])


def source() -> ir.Model:
    return ir.from_proto(network())


def candidates(text: str = TEXT) -> Candidates:
    return Candidates(Pipeline.parse(text), source(), PassContext(calibration=samples))


def test_candidates_are_what_their_recipes_make() -> None:
    made = candidates()
    layers = made.layers()
    assert layers == tuple(f"node_{n}" for n in "abcdey")
    for kept in (frozenset(), frozenset({"node_c"}), frozenset({"node_a", "node_d"}), frozenset(layers)):
        recipe = str(made.recipe(Precisions(kept)))
        again = Pipeline.parse(recipe).run(source(), PassContext(calibration=samples)).model
        own = made.make(Precisions(kept))
        assert quantized_layers(own) == [n for n in layers if n not in kept]
        assert to_proto(own).SerializeToString() == to_proto(again).SerializeToString(), recipe


def test_ranges_are_measured_once() -> None:
    """Opened twice a calibration; without a layer at most some tensors are new."""
    made = candidates()
    assert made.layers()
    OPENED.clear()
    made.make(Precisions())
    made.make(Precisions(frozenset({"node_c"})))
    assert not OPENED
    names = made.layers()
    for name in names:
        made.make(Precisions(frozenset({name})))
    assert len(OPENED) <= 2
    OPENED.clear()
    for name in names:
        made.make(Precisions(frozenset({name})))
    assert not OPENED


def test_own_exclusions_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    made = candidates("fold,fuse,fold,quantize{exclude=[node_a]}")
    assert "node_a" not in made.layers()
    recipe = str(made.recipe(Precisions(frozenset({"node_c"}))))
    assert recipe == "fold,fuse,fold,quantize{exclude=[node_a,node_c]}"


def test_bfloat16_is_in_the_recipe_and_rounds() -> None:
    made = candidates()
    kept, short = frozenset({"node_a", "node_c"}), frozenset({"node_c"})
    recipe = made.recipe(Precisions(kept, short))
    assert recipe.pass_names()[-1] == "bf16" and Pipeline.parse(str(recipe)) == recipe
    model = recipe.run(source(), PassContext(calibration=samples)).model
    marked = [node.name for node in model.graph if "optkit.compute_type" in node.metadata_props]
    assert marked == ["node_c"]
    everything = frozenset(made.layers())
    plain = made.make(Precisions(everything))
    mixed = made.make(Precisions(everything, short))
    assert rounding(plain) is plain and ops(rounding(mixed)).count("Cast") == 4
    feed = next(samples())
    exact, rounded = (onnx_runner(model, 1)(feed)["y"] for model in (plain, mixed))
    error = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 1e-5 < error < 2e-2


def test_held_out_samples_do_not_calibrate() -> None:
    rows = weights(8, 3, 16, 16, seed=3)
    rows[3::4] *= 50
    given = open_calibration(rows, source().graph.inputs)
    assert len(list(held_out(given, 4)())) == 2 and len(list(without_held_out(given, 4)())) == 6

    def scale(text: str) -> float:
        model = Pipeline.parse(text).run(source(), PassContext(calibration=given)).model
        return float(model.graph.initializers["x_scale"].const_value.numpy())  # type: ignore[union-attr]

    assert scale("fold,quantize") > 20 * scale("fold,quantize{hold_out=4}")
    with pytest.raises(UsageError, match="leaves no sample"):
        scale("fold,quantize{hold_out=1}")


def test_passes_behind_see_no_held_out_sample() -> None:
    rows = weights(8, 3, 16, 16, seed=3)
    rows[3::4] *= 50
    everything, few = (open_calibration(r, source().graph.inputs) for r in (rows, np.delete(rows, [3, 7], axis=0)))

    def model(samples: Samples, hold_out: int) -> bytes:
        text = f"fold,quantize{{hold_out={hold_out}}},bias_correct"
        made = Pipeline.parse(text).run(source(), PassContext(calibration=samples)).model
        return to_proto(made).graph.SerializeToString(deterministic=True)

    assert model(everything, 4) == model(few, 0) != model(everything, 0)


def test_layers_that_came_quantized_are_not_open() -> None:
    quantized = Pipeline.parse(TEXT).run(source(), PassContext(calibration=samples)).model
    assert Candidates(Pipeline.parse(TEXT), quantized, PassContext(calibration=samples)).layers() == ()
    none = build("y = Relu (x)", outputs="float[n,3,8,8] y")
    assert Candidates(Pipeline.parse(TEXT), none, PassContext()).layers() == ()
