"""What `benchmarks.cuda` says of right and wrong answers, on an emulated GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from benchmarks import cuda_integers as integers
from benchmarks.cuda_cases import IN_BATCHES, Case
from optkit.model import load_model, save_model
from optkit.shapes import bind_shapes
from tests.targets.cuda import emulator
from tests.targets.cuda.host import EMULATED

_PROGRAM = """
import json, sys
from pathlib import Path
from benchmarks.cuda_cases import Case, build, check, export
folder, model, batch, precision = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
case = Case(model, batch)
export(case, "", folder)
build(case, precision, folder)
print(json.dumps(check(case, precision, folder)))
"""


def emulated(test: Any) -> Any:
    """The test with the marks of those with an emulated GPU."""
    for mark in EMULATED:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process with an emulated GPU."""
    return emulator.environment(tmp_path_factory.mktemp("emulator"))


def checked(environment: dict[str, str], folder: Path, case: Case, precision: str) -> dict[str, Any]:
    command = [sys.executable, "-c", _PROGRAM, str(folder), case.model, str(case.batch), precision]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def two_layers() -> ir.Model:
    """Two quantized products with a softmax between them."""
    return bind_shapes(
        ir.from_onnx_text(
            """<ir_version: 10, opset_import: ["": 18]>
        layers (float[2, 4] x) => (float[2, 3] y)
        <float step = {0.0078125}, uint8 middle = {128}, float weight_step = {0.125}, int8 none = {0},
         int8[4, 4] first = {1, -2, 3, 4, 5, 6, -7, 8, 9, 1, 2, -3, 4, 5, 6, 7},
         int8[4, 3] second = {3, 1, -4, 1, 5, -9, 2, 6, 5, -3, 5, 8}>
        {
          xq = QuantizeLinear(x, step, middle)
          xr = DequantizeLinear(xq, step, middle)
          a = DequantizeLinear(first, weight_step, none)
          h = MatMul(xr, a)
          s = Softmax(h)
          sq = QuantizeLinear(s, step, middle)
          sr = DequantizeLinear(sq, step, middle)
          b = DequantizeLinear(second, weight_step, none)
          y = MatMul(sr, b)
        }"""
        ),
        {"x": [2, 4]},
    )


def test_a_cut_model_answers_as_the_whole_where_its_integers_are_given(tmp_path: Path) -> None:
    feed = {"x": np.random.default_rng(0).uniform(-1, 1, (2, 4)).astype(np.float32)}
    save_model(integers.told(two_layers()), tmp_path / "told.onnx")
    save_model(integers.cut(two_layers()), tmp_path / "cut.onnx")
    given = integers.given(tmp_path / "told.onnx", feed)
    session = ort.InferenceSession(str(tmp_path / "cut.onnx"))
    assert {value.name for value in session.get_inputs()} == {"x", "xq.given", "sq.given"}

    def run(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [value.name for value in session.get_outputs()]
        wanted = {value.name: given[value.name] for value in session.get_inputs()}
        return dict(zip(names, session.run(None, wanted), strict=True))

    found = run(given)
    assert integers.compare(found, found) == {"tensors": 2, "equal": 2, "steps": 0, "share": 0.0, "outside": []}
    for name in "xq", "sq", "y":
        np.testing.assert_array_equal(found[name], given[f"{name}.given"])
    # What differs in front of a cut is seen there alone.
    other = run({**given, "xq.given": given["xq.given"] + np.uint8(9)})
    np.testing.assert_array_equal(other["y"], found["y"])
    assert integers.compare(other, found)["outside"] == ["sq"]


@pytest.mark.parametrize(("steps", "count", "passes"), [(0, 0, True), (1, 1, True), (1, 3, False), (2, 1, False)])
def test_few_integers_may_be_one_step_apart(steps: int, count: int, passes: bool) -> None:
    want = np.full((1, 100), 100, np.uint8)
    found = want.copy()
    found[0, :count] -= np.uint8(steps)
    told = integers.compare({"q": found}, {"q": want})
    assert (told["steps"], told["share"]) == (steps, count / 100)
    assert (not told["outside"]) == passes


@emulated
@pytest.mark.parametrize("case", [Case("bert_tiny", 3), Case("vit_tiny", 1)], ids=lambda case: case.name)
def test_integers_between_float16_are_compared_one_by_one(
    environment: dict[str, str], tmp_path: Path, case: Case
) -> None:
    """Ends are several parts in a hundred apart; nothing shows that this is rounding but the integers."""
    found = checked(environment, tmp_path, case, "int8")
    assert found["passed"]
    assert found["repeats"]
    assert found["integers"]["tensors"] == len(integers.quantized(load_model(tmp_path / f"{case.name}.int8.onnx")))
    assert found["integers"]["equal"] >= found["integers"]["tensors"] // 2
    assert max(found["integers"]["ends"].values()) < 1e-3


@emulated
@pytest.mark.parametrize(("precision", "error"), [("fp16", 5e-3), ("int8", 1e-6)])
def test_detectors_of_several_images(environment: dict[str, str], tmp_path: Path, precision: str, error: float) -> None:
    found = checked(environment, tmp_path, Case(IN_BATCHES["yolo_tiny"], 3), precision)
    assert found["passed"]
    assert set(found["errors"]) == {"boxes", "scores"}
    assert max(found["errors"].values()) < error
