"""Open axes with a range and an optimum: one artifact, right everywhere, with code of its own for the optimum."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optkit
from optkit.artifact.reader import read_kernels
from optkit.artifact.spec import TensorSpec
from optkit.errors import DataError, UsageError
from optkit.measure.samples import choose_samples
from optkit.model import save_model
from optkit.proof import Prover
from optkit.registry import find_target
from optkit.shape_ranges import ShapeRanges, shape_ranges
from optkit.source import open_source
from tests.graphs import build, proto, session, weights

BODY = (
    "a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) s = Shape<start=0, end=1>(b) t = Concat<axis=0>(s, m) y = Reshape(b, t)"
)
CONSTANTS = {"w": weights(4, 3, 3, 3, scale=0.3), "m": np.array([-1], np.int64)}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> optkit.Artifact:
    folder = tmp_path_factory.mktemp("ranges")
    save_model(build(BODY, inputs="float[n,3,h,8] x", outputs="float[n,k] y", **CONSTANTS), folder / "m.onnx")
    shapes = {f"{end}_shapes": {"x": shape} for end, shape in (("min", (1, 3, 4, 8)), ("opt", (2, 3, 8, 8)))}
    return optkit.compile(folder / "m.onnx", output=folder / "m.optk", max_shapes={"x": (4, 3, 16, 8)}, **shapes)


@pytest.mark.parametrize("shape", [(2, 8), (1, 4), (4, 16), (3, 5)])
def test_it_is_right_at_the_optimum_and_everywhere_else(artifact: optkit.Artifact, shape: tuple[int, int]) -> None:
    reference = session(str(artifact.path.with_name("m.onnx")))
    x = np.random.default_rng(0).standard_normal((shape[0], 3, shape[1], 8)).astype(np.float32)
    with optkit.load(artifact.path) as runner:
        found = runner(x)["y"]
    assert np.allclose(found, reference.run(None, {"x": x})[0], rtol=1e-5, atol=1e-6)


def test_verification_goes_to_both_ends_but_not_to_all_upper_ends_at_once(artifact: optkit.Artifact) -> None:
    path = artifact.path.with_name("m.onnx")
    ranges = ShapeRanges({"n": (1, 64), "h": (4, 640)}, {"x": (2, 3, 8, 8)})
    source = open_source(path, None, path.parent)
    prover = Prover(source, source.model, "fp32", find_target("cpu"), ranges=ranges)
    feeds = prover._feeds([TensorSpec("x", "float32", ("n", 3, "h", 8))])
    assert [feed["x"].shape for feed in feeds] == [(2, 3, 8, 8), (1, 3, 4, 8), (64, 3, 4, 8), (1, 3, 640, 8)]


def test_the_optimum_runs_code_of_its_own(artifact: optkit.Artifact) -> None:
    (variant,) = artifact.manifest.variants
    assert variant.shapes == ((2, 3, 8, 8),)
    rules = {k["name"]: k["rule"] for k in read_kernels(artifact.path)}
    fixed = {rule for name, rule in rules.items() if name.endswith("_optimum")}
    assert "cpu.conv" in fixed
    with optkit.load(artifact.path) as runner:
        runner(np.zeros((2, 3, 8, 8), np.float32))
        best = runner._entry
        runner(np.zeros((2, 3, 9, 8), np.float32))
        assert runner._entry is not best
        runner(np.zeros((2, 3, 8, 8), np.float32))
        assert runner._entry is best


def test_threads_of_different_shapes_each_run_their_own_code(
    artifact: optkit.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, other = (np.ones((n, 3, 8, 8), np.float32) for n in (2, 1))
    with optkit.load(artifact.path) as runner, ThreadPoolExecutor(2) as pool:
        want, invoke, begun = runner(other)["y"], runner._invoke, threading.Event()

        def slowly(tensors: list[Any]) -> list[Any]:
            if not begun.is_set():  # another thread begins before this one's code runs
                begun.set()
                wait([pool.submit(runner, best)], timeout=0.2)  # only without a lock is it through before
            return invoke(tensors)

        monkeypatch.setattr(runner, "_invoke", slowly)
        np.testing.assert_array_equal(pool.submit(runner, other).result()["y"], want)


def test_weights_are_kept_once(artifact: optkit.Artifact) -> None:
    assert len({(w.offset, w.nbytes) for w in artifact.manifest.weights}) == len(artifact.manifest.weights)
    assert sum(w.nbytes for w in artifact.manifest.weights) < 3 * CONSTANTS["w"].nbytes * 16 // 3


@pytest.mark.parametrize(("shape", "text"), [((5, 3, 8, 8), "1 to 4"), ((1, 3, 3, 8), "4 to 16")])
def test_a_run_outside_the_range_is_an_error(artifact: optkit.Artifact, shape: tuple[int, ...], text: str) -> None:
    with optkit.load(artifact.path) as runner, pytest.raises(DataError, match=text):
        runner(np.zeros(shape, np.float32))


MODEL = build(BODY, inputs="float[n,3,h,8] x", outputs="float[n,k] y", **CONSTANTS)


@pytest.mark.parametrize(
    ("smallest", "best", "largest", "text"),
    [
        ({"z": (1, 3, 8, 8)}, None, None, "no input 'z'"),
        ({"x": (1, 3, 8)}, None, None, "4 dimensions"),
        (None, {"x": (1, 4, 8, 8)}, None, "is 3 in axis 1"),
        ({"x": (2, 3, 8, 8)}, {"x": (1, 3, 8, 8)}, None, "--min-shape has 2, more than --opt-shape"),
        (None, {"x": (9, 3, 8, 8)}, {"x": (4, 3, 8, 8)}, "--opt-shape has 9"),
    ],
)
def test_what_does_not_fit_is_named(smallest: object, best: object, largest: object, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        shape_ranges(MODEL, smallest, best, largest)  # type: ignore[arg-type]


def test_without_a_lower_limit_it_is_one() -> None:
    assert shape_ranges(MODEL, None, None, {"x": (4, 3, 16, 8)}).limits == {"h": (1, 16), "n": (1, 4)}


WINDOWS = "a = Conv<strides=[2,2]>(x, w) b = Relu(a) c = Conv<dilations=[2,2]>(b, v) y = MaxPool<kernel_shape=[3,3]>(c)"


def test_images_smaller_than_the_models_windows_are_refused_by_their_size(tmp_path: Path) -> None:
    model = proto(WINDOWS, "float[n,3,h,w] x", w=weights(8, 3, 5, 5), v=weights(8, 8, 3, 3))
    made = optkit.compile(model, output=tmp_path / "m.optk")
    assert made.manifest.ranges == {"h": (17, None), "w": (17, None)}
    # What a benchmark without a model draws.
    (drawn,) = choose_samples(made.manifest.inputs, None, 1, 0, {}, ranges=made.manifest.ranges)
    assert drawn["x"].shape == (1, 3, 17, 17)
    with optkit.load(made.path) as runner:
        assert runner(np.zeros((1, 3, 17, 18), np.float32))["y"].shape == (1, 8, 1, 1)
        with pytest.raises(
            DataError, match=r"input 'x' has 16 in dimension 2; 'h' may be at least 17 in this artifact"
        ):
            runner(np.zeros((1, 3, 16, 18), np.float32))
    most = {"x": (2, 3, 32, 32)}
    made = optkit.compile(model, output=tmp_path / "m.optk", max_shapes=most)
    assert made.manifest.ranges == {"n": (1, 2), "h": (17, 32), "w": (17, 32)}
    with pytest.raises(UsageError, match=r"axis 'w' begins at 8; node '.*' has no output below 17"):
        optkit.compile(model, output=tmp_path / "n.optk", min_shapes={"x": (1, 3, 20, 8)}, max_shapes=most)
    with pytest.raises(UsageError, match=r"axis 'h' ends at 9; node '.*' has no output below 17"):
        optkit.compile(model, output=tmp_path / "n.optk", max_shapes={"x": (2, 3, 9, 32)})
    assert not (tmp_path / "n.optk").exists()
