"""`--max-drop` from end to end: the fragile layer is found, the drop kept, and the recipe makes the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import optkit as api
from optkit.mixed.user_metric import Run
from optkit.registry import find_target
from tests.graphs import proto, weights
from tests.mixed.conftest import FRAGILE, Optkit

METRIC = """
import numpy as np
import onnxruntime

_x = np.random.default_rng(5).standard_normal((96, 3, 16, 16)).astype(np.float32)
_session = onnxruntime.InferenceSession("fragile.onnx", providers=["CPUExecutionProvider"])
_scores = np.concatenate([_session.run(None, {"x": row[None]})[0] for row in _x])

def closeness(run):
    found = run({"x": _x})["y"]
    assert found.shape == _scores.shape
    return 100 * (1 - np.linalg.norm(found - _scores) / np.linalg.norm(_scores))
"""


def test_the_fragile_layer_is_found_and_kept(optkit: Optkit, fragile: Path, tmp_path: Path) -> None:
    (tmp_path / "closeness_metric.py").write_text(METRIC)
    options = ("--calib-data", "images.npy", "--threads", 1, "--json")
    drop = ("--max-drop", 8, "--eval", "closeness_metric:closeness")
    done = optkit("compile", "fragile.onnx", *drop, *options, "-o", "mixed.optk")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    mixed = report["mixed_precision"]
    assert mixed["cost"] == "latency" and mixed["metric"]["samples"] == 96
    assert mixed["sensitivity"][0]["layer"] == FRAGILE
    assert mixed["sensitivity"][0]["sqnr_db"] < mixed["sensitivity"][1]["sqnr_db"] - 10
    assert len(mixed["sensitivity"]) == 6 and all(row["drop"] is not None for row in mixed["sensitivity"])
    chosen = mixed["chosen"]
    # In bfloat16 where the processor multiplies it and that is faster.
    assert FRAGILE in [*chosen["fp32"], *chosen["bf16"]] and chosen["drop"] <= 8
    assert mixed["artifact"]["drop"] <= 8
    whole = next(p for p in mixed["points"] if p["int8"] == 6)
    assert whole["drop"] > 20 and not whole["within"]
    # The chosen one is the fastest within the drop, up to what counts as noise.
    assert chosen["seconds"] * 0.98 <= min(p["seconds"] for p in mixed["points"] if p["within"] and p["seconds"])
    front = [p for p in mixed["points"] if p["front"]]
    assert [p["seconds"] for p in front] == sorted(p["seconds"] for p in front)
    assert [p["drop"] for p in front] == sorted((p["drop"] for p in front), reverse=True)
    assert mixed["recipe"] == report["pipeline"] and FRAGILE in mixed["recipe"]
    assert json.loads((tmp_path / "mixed.report.json").read_text())["mixed_precision"] == mixed
    assert (tmp_path / "mixed.pareto.png").read_bytes().startswith(b"\x89PNG")
    # The recipe alone makes the same artifact.
    again = optkit("compile", "fragile.onnx", "--passes", mixed["recipe"], *options, "-o", "again.optk")
    assert again.code == 0, again.err
    assert (tmp_path / "again.optk").read_bytes() == (tmp_path / "mixed.optk").read_bytes()


def test_without_a_target_macs_are_the_cost(optkit: Optkit, fragile: Path, tmp_path: Path) -> None:
    """By agreement on every fourth calibration sample; quantize makes the ONNX model of the same kind."""
    options = ("fragile.onnx", "--calib-data", "images.npy", "--max-drop", 7)
    done = optkit("quantize", *options, "--json", "-o", "q.onnx")
    assert done.code == 0, done.err
    mixed = json.loads(done.out)["mixed_precision"]
    assert mixed["cost"] == "macs" and "no target" in mixed["reason"]
    assert mixed["metric"]["samples"] == 16 and "held out" in mixed["metric"]["data"]
    assert mixed["metric"]["resolution"] == 100 / 16
    assert "hold_out=4" in mixed["recipe"] and FRAGILE in mixed["chosen"]["fp32"] and mixed["chosen"]["drop"] <= 7
    shares = [p["float_mac_share"] for p in mixed["points"] if p["within"]]
    assert mixed["chosen"]["float_mac_share"] == min(shares)
    made = onnx.load(tmp_path / "q.onnx")
    direct = {n.name for n in made.graph.node if n.op_type == "Conv" and not n.input[1].endswith("dq")}
    assert FRAGILE in direct


def test_a_foreign_target_takes_macs_for_the_cost_too(optkit: Optkit, fragile: Path, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")  # it links
    if find_target("cortex-a76").runs_here() is None:
        pytest.skip("the target runs here")
    options = ("fragile.onnx", "--calib-data", "images.npy", "--max-drop", 7)
    done = optkit("compile", *options, "--target", "cortex-a76", "--no-verify", "-o", "arm.optk")
    assert done.code == 0, done.err
    assert "latency was not measured" in done.err and FRAGILE in done.out and "assignments" in done.out


def test_all_in_int8_where_nothing_is_lost(tmp_path: Path) -> None:
    made = proto("y = MatMul (x, w)", inputs="float[1,64] x", outputs="float[1,64] y", w=weights(64, 64))
    found = api.compile(
        made, max_drop=50.0, eval_data=weights(32, 64, seed=2), output=tmp_path / "a.optk", threads=1
    ).report["mixed_precision"]
    assert found["chosen"]["drop"] <= 50 and found["metric"]["samples"] == 32
    rows = weights(8, 64, seed=2)
    exact = rows @ weights(64, 64)

    def worst(run: Run) -> float:
        return -float(np.abs(run({"x": rows})["y"] - exact).max())

    strict = api.compile(
        made, max_drop=1e-4, evaluate=worst, output=tmp_path / "b.optk", threads=1, calib_data=weights(32, 64)
    ).report["mixed_precision"]
    assert strict["chosen"]["int8"] == 0 and strict["metric"]["name"].endswith("worst")


def test_wrong_requests_are_one_line(optkit: Optkit, fragile: Path, tmp_path: Path) -> None:
    (tmp_path / "bad_metrics.py").write_text("def nan(run):\n    return float('nan')\ndef idle(run):\n    return 1.0\n")
    data = ("--calib-data", "images.npy")
    for options, word in (
        (("--eval", "m:f"), "needs --max-drop"),
        (("--search-time", 3), "needs --max-drop"),
        (("--max-drop", -1), "0 or more"),
        (("--max-drop", 1, "--search-time", 0), "more than 0"),
        (("--max-drop", 1, "--fallback", "onnxruntime"), "exclude each other"),
        (("--max-drop", 1, "--int8", "--precision-search", "latency"), "exclude each other"),
        (("--max-drop", 1, "--passes", "fold,fuse"), "add --int8"),
        (("--max-drop", 1, "--bf16"), "add --int8"),
        (("--max-drop", 1, "--passes", "fold,quantize,bf16"), "leave bf16, tf32 and fp16 out"),
        (("--max-drop", 1, "--eval", "bad_metrics:nan", "--eval-data", "images.npy"), "leave --eval-data out"),
        (("--max-drop", 1, "--eval", "no_such_module:f"), "cannot import"),
    ):
        for more in ((), ("--dry-run",)):
            done = optkit("compile", fragile, *data, *options, *more)
            assert done.code != 0 and word in done.error, (options, done.err)
    for options, word in (
        ((*data, "--eval", "bad_metrics:nan"), "returned nan"),
        ((*data, "--eval", "bad_metrics:idle"), "did not run the model"),
        ((), "give --calib-data, --eval-data or --eval"),
        (("--eval-data", "none.npy"), "no such file"),
    ):
        done = optkit("compile", fragile, "--max-drop", 1, *options)
        assert done.code != 0 and word in done.error, (options, done.err)
    open_axes = proto("y = MatMul (x, w)", inputs="float[n,16] x", outputs="float[n,16] y", w=weights(16, 16))
    onnx.save(open_axes, tmp_path / "open.onnx")
    np.save(tmp_path / "rows.npy", weights(16, 16))
    done = optkit("compile", "open.onnx", "--max-drop", 1, "--calib-data", "rows.npy")
    assert done.code != 0 and "--input-shape" in done.error
    assert not list(tmp_path.glob("*.optk"))
