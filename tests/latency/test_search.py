"""Precisions by time, on this machine: a layer stays float only for being faster so."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from optkit.registry import find_target
from tests.cli.conftest import Optkit, optkit
from tests.graphs import proto, weights

__all__ = ["optkit"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Three convolutions: Winograd's tiles are faster than AVX2's integers, a large pointwise one is not."""
    made = proto(
        """a = Conv <pads = [1, 1, 1, 1]> (x, u)
        r = Relu (a)
        b = Conv <pads = [1, 1, 1, 1]> (r, v)
        s = Relu (b)
        c = Conv (s, w)
        y = Relu (c)""",
        inputs="float[1,64,56,56] x",
        outputs="float[1,512,56,56] y",
        u=weights(64, 64, 3, 3),
        v=weights(64, 64, 3, 3, seed=1),
        w=weights(512, 64, 1, 1, seed=2),
    )
    for node in made.graph.node:
        node.name = f"node_{node.output[0]}"
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_what_is_faster_in_float_stays_float(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    if (reason := find_target("x86-64-v3").runs_here()) is not None:
        pytest.skip(reason)
    options = ("--int8", "--target", "x86-64-v3", "--threads", 1, "--json")
    done = optkit("compile", model, *options, "--precision-search", "latency", "-o", "s.optk")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    search = report["precision_search"]
    layers = {row["layer"]: row for row in search["layers"]}
    assert set(layers) == {"node_a", "node_b", "node_c"}
    assert {"node_a", "node_b"} <= set(search["kept_back"])
    assert all(layers[n]["int8_seconds"] > 1.3 * layers[n]["float_seconds"] for n in ("node_a", "node_b"))
    for row in layers.values():
        assert row["precision"] == ("float" if row["layer"] in search["kept_back"] else "int8")
        if row["precision"] == "int8":
            assert row["int8_seconds"] < 1.1 * (row["float_seconds"] + row["conversion_seconds"])
    tried = search["assignments"]
    assert [made["kept_back"] for made in tried[:2]] == [[], sorted(layers)]
    chosen = next(made for made in tried if made["kept_back"] == search["kept_back"])
    assert chosen["seconds"] <= 1.02 * min(made["seconds"] for made in tried) < 0.9 * tried[0]["seconds"]
    assert all(search["conversion"][name] > 0 for name in ("quantize", "dequantize"))
    computes = {kernel["compute"] for kernel in report["kernels"] if "winograd" in kernel["template"]}
    assert computes == {"float32"}
    # The manifest's pipeline is the recipe: it makes the same kernels and weights again.
    again = optkit("compile", model, *options[1:], "--passes", report["pipeline"], "-o", "t.optk")
    assert again.code == 0, again.err
    assert json.loads(again.out)["kernels"] == report["kernels"]
    text = optkit("compile", model, *options[:-1], "--precision-search", "latency", "-o", "u.optk", "--no-verify")
    assert "precision search: " in text.err + text.out and "layers stay float: node_a" in text.err + text.out


def test_wrong_requests_are_one_line(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    search = ("--precision-search", "latency")
    for options, word in (
        (search, "add --int8"),
        (("--int8", "--target", "cortex-a76", *search), "measures on the target itself"),
        (("--int8", "--fallback", "onnxruntime", *search), "exclude each other"),
    ):
        for more in ((), ("--dry-run",)):
            done = optkit("compile", model, *options, *more)
            assert done.code != 0 and word in done.err and len(done.err.strip().splitlines()) == 1
    made = proto("y = MatMul (x, w)", inputs="float[n,16] x", outputs="float[n,16] y", w=weights(16, 16))
    onnx.save(made, tmp_path / "open.onnx")
    done = optkit("compile", tmp_path / "open.onnx", "--int8", *search)
    assert done.code != 0 and "--input-shape" in done.err.splitlines()[-1]
    assert not list(tmp_path.glob("*.optk"))


def test_layers_that_came_in_integers_are_not_its_to_change(optkit: Optkit, model: Path) -> None:
    assert optkit("quantize", model, "-o", "q.onnx").code == 0
    done = optkit("compile", "q.onnx", "--int8", "--precision-search", "latency", "--no-verify")
    assert done.code == 0 and "no layer whose precision is open" in done.out + done.err


def test_a_model_without_such_layers_is_left_alone(optkit: Optkit, tmp_path: Path) -> None:
    onnx.save(proto("y = Relu (x)", inputs="float[1,8] x", outputs="float[1,8] y"), tmp_path / "r.onnx")
    done = optkit("compile", tmp_path / "r.onnx", "--int8", "--precision-search", "latency")
    assert done.code == 0 and "no layer whose precision is open" in done.out + done.err
