"""The table of the zoo: what it says of results and refusals, and what can be named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import zoo_table
from benchmarks.zoo import FULL
from benchmarks.zoo_table import refusal, run, subjects, table
from optkit.errors import UsageError
from tests.graphs import proto, weights

INPUT = {"name": "x", "shape": [1, 3, 8, 8]}


def _row(name: str, **changes: Any) -> dict[str, Any]:
    fp32 = {"seconds": 2.4, "int8_share": 0.0, "relative": 3e-7, "sqnr_db": 130.0, "steps": None}
    ratios = {"sqnr_db": 31.25, "onnxruntime_sqnr_db": 31.75, "deciders_sqnr_db": None}
    int8 = {"seconds": 3.6, "int8_share": 0.985, "steps": 1.0, **ratios}
    row = {"model": name, "parameters": 1_234_567, "macs": 890, "inputs": [INPUT], "fp32": fp32, "int8": int8}
    return row | changes


def test_row_of_a_model_that_compiles() -> None:
    lines = table([_row("theirs"), _row("lenet")]).splitlines()
    rows = [line for line in lines if line.startswith(("| lenet", "| theirs"))]
    figures = "1.23 M | 890 | 1x3x8x8 | 3.0e-07 | 1.00 | 31.2 (31.8) | 98% | 2 s / 4 s |"
    assert rows == [f"| lenet | {figures}", f"| theirs | {figures}"]
    assert lines[-1] == "2 of 2 models compile and verify in both precisions."
    head = next(line for line in lines if line.startswith("| model"))
    assert {row.count("|") for row in rows} == {head.count("|")}


def test_row_of_a_model_that_finds_other_boxes() -> None:
    some, none = _row("some"), _row("none")
    some["int8"]["deciders_sqnr_db"] = 20.04
    none["int8"].update(sqnr_db=None, onnxruntime_sqnr_db=None, deciders_sqnr_db=19.96)
    nothing = _row("nothing to quantize")
    nothing["int8"].update(onnxruntime_sqnr_db=None, steps=None)
    text = table([some, none, nothing])
    assert "|  | 31.2 |" in text
    assert "| 31.2 (31.8) scores 20.0 |" in text and "| 1.00 | scores 20.0 |" in text


def test_reasons_stand_where_figures_would() -> None:
    whole = {"model": "yolo", "reason": "ended with exit code -9"}
    half = _row("ssd", int8={"reason": "node 'a|b' (NonMaxSuppression): " + "x" * 300})
    text = table([whole, half])
    assert "ended with exit code -9" in text
    assert "a\\|b" in text and "x" * 200 not in text
    assert "0 of 2 models" in text
    assert refusal(whole) and refusal(half).startswith("node") and not refusal(_row("lenet"))


@pytest.mark.parametrize(
    ("body", "macs"),
    [
        ("y = Conv<strides=[2,2]>(x, w)", 4 * 27 * 111 * 111),
        ("s = Shape(x) r = Reshape(x, s) y = Conv<strides=[2,2]>(r, w)", 4 * 27 * 111 * 111),
        ("n = NonZero(x) c = Cast<to=1>(n) l = Gather(c, zero) t = Transpose<perm=[1,0]>(l) y = MatMul(l, t)", None),
    ],
)
def test_macs_of_open_axes_are_those_of_a_sample(tmp_path: Path, body: str, macs: int | None) -> None:
    constants = {"w": weights(4, 3, 3, 3), "zero": np.array([0, 1])}
    used = {name: array for name, array in constants.items() if name in body}
    outputs = "float[a,b,c,d] y" if macs else "float[a,b] y"
    model = proto(body, "float[n,3,h,k] x", outputs, **used)
    (tmp_path / "open.onnx").write_bytes(model.SerializeToString())
    assert zoo_table._macs(tmp_path / "open.onnx") == macs


def test_names_files_and_folders(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.onnx").touch()
    assert list(subjects([])) == list(FULL)
    assert subjects(["lenet", str(tmp_path)]) == {"lenet": None, **{n: tmp_path / f"{n}.onnx" for n in "ab"}}
    assert subjects([str(tmp_path / "b.onnx")]) == {"b": tmp_path / "b.onnx"}
    with pytest.raises(UsageError, match="did you mean 'lenet'"):
        subjects(["lennet"])


def test_model_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own compiles the file; the second call finds the result."""
    model = proto("y = Conv(x, w)", "float[1,3,8,8] x", "float[a,b,c,d] y", w=weights(4, 3, 3, 3))
    (tmp_path / "conv.onnx").write_bytes(model.SerializeToString())
    results, page = tmp_path / "results", tmp_path / "zoo.md"
    words = [str(tmp_path / "conv.onnx"), "--results", str(results), "--page", str(page)]
    monkeypatch.setattr("sys.argv", ["zoo_table", *words])
    assert zoo_table.main() == 0
    row = json.loads((results / "conv.json").read_bytes())
    assert row["fp32"]["relative"] < 1e-5 and row["int8"]["steps"] <= 2 and row["int8"]["int8_share"] == 1
    assert "1 of 1 models" in page.read_text()
    monkeypatch.setattr(zoo_table, "run", lambda *_: pytest.fail("it was there"))
    assert zoo_table.main() == 0


def test_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    row = run("lenet", None, tmp_path / "lenet.json", limit=0.2)
    assert row["reason"] == "not done after 0.2 seconds"
    assert json.loads((tmp_path / "lenet.json").read_bytes()) == row
