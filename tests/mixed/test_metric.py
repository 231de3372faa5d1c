"""Metrics: the user's, with all that can be wrong about it, and the one without labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from optkit.artifact.spec import TensorSpec
from optkit.errors import DataError, OptkitError, UsageError
from optkit.mixed.agreement import Agreement
from optkit.mixed.execute import batched
from optkit.mixed.user_metric import Run, find_evaluate

USER = """
import numpy as np

calls = []

def good(run):
    calls.append(run)
    return np.float32(81.5)

def array(run):
    return np.array([80])

def nan(run):
    return float("nan")

def text(run):
    return "80 %"

def fails(run):
    raise KeyError("labels")

def two(run, labels):
    return 1.0

word = 3
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "user_metrics.py").write_text(USER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "user_metrics"


def nothing(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {}


def test_a_metric_returns_a_number(user: str) -> None:
    assert find_evaluate(f"{user}:good")[0](nothing) == 81.5
    assert find_evaluate(f"{user}:array")[0](nothing) == 80.0
    evaluate, name = find_evaluate(lambda run: 3)
    assert evaluate(nothing) == 3.0 and "lambda" in name


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("user_metrics", UsageError, "module:callable"),
        ("no_such_module_here:top1", DataError, "cannot import"),
        ("user_metrics:goood", DataError, "did you mean 'good'?"),
        ("user_metrics:word", DataError, "not callable"),
        ("user_metrics:two", UsageError, "one argument"),
        ("user_metrics:nan", DataError, "returned nan"),
        ("user_metrics:text", DataError, "returned a str"),
        ("user_metrics:fails", DataError, "raised KeyError"),
    ],
)
def test_what_is_wrong_is_one_line(user: str, spec: str, kind: type[OptkitError], words: str) -> None:
    with pytest.raises(kind, match=words.replace("?", r"\?")) as raised:
        find_evaluate(spec)[0](nothing)
    assert len(str(raised.value).splitlines()) == 1 and spec in str(raised.value)


def value(name: str, shape: list[int | str], kind: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))


def test_agreement_by_kind_of_output() -> None:
    outputs = [value("scores", [1, 4]), value("map", [1, 2, 2]), value("count", [1], ir.DataType.INT64)]
    feeds = [{"x": np.array([i])} for i in range(4)]

    def run(
        feed: Mapping[str, np.ndarray], wrong: int = 0, scale: float = 1.0, count: int = 0
    ) -> dict[str, np.ndarray]:
        i = int(feed["x"][0])
        scores = np.eye(4, dtype=np.float32)[[(i + (i < wrong)) % 4]]
        picture = np.array([[[1, 0], [0, scale]]], np.float32)
        return {"scores": scores, "map": picture, "count": np.array([i + (i < count)])}

    metric = Agreement(outputs, feeds, run)
    assert metric.kinds == {"scores": "top1", "map": "cosine", "count": "equal"} and metric.rows == 4
    assert metric(run) == 100.0
    assert metric(lambda feed: run(feed, wrong=1)) == 75.0
    assert metric(lambda feed: run(feed, count=2)) == 50.0
    assert metric(lambda feed: run(feed, scale=0.0)) == pytest.approx(100 / np.sqrt(2), rel=1e-6)
    assert metric(lambda feed: run(feed, scale=float("nan"))) == 0.0


def test_run_takes_any_multiple_of_a_fixed_batch() -> None:
    seen = []

    def inner(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(feed["x"].shape)
        return {"y": 2 * feed["x"]}

    run: Run = batched([TensorSpec("x", "float32", (2, 3))], inner)
    x = np.arange(18, dtype=np.float32).reshape(6, 3)
    np.testing.assert_array_equal(run({"x": x})["y"], 2 * x)
    assert seen == [(2, 3)] * 3
    for feed, word in (({"z": x}, "no input 'z'"), ({}, "nothing for input"), (x, "takes a dict")):
        with pytest.raises(DataError, match=word):
            run(feed)  # type: ignore[arg-type]
