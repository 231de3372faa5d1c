"""What the verbs print, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from optkit.cli.export import parse_axes
from tests.cli.conftest import Optkit


def test_inspect_model(optkit: Optkit, model: Path) -> None:
    found = json.loads(optkit("inspect", model, "--json").out)
    assert found["kind"] == "model"
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n", 3, 8, 8]}]
    assert found["operators"] == {"Conv": 1, "Relu": 1}
    assert found["parameters"] == 4 * 3 * 9 + 4
    assert found["macs"] == 4 * 8 * 8 * 3 * 9
    assert found["notes"] == ["open dimensions count as 1 in the MACs"]
    text = optkit("inspect", model).out
    assert "112 parameters, 6.91 k MACs" in text
    assert "[n, 3, 8, 8]" in text


def test_inspect_counts_weights_in_constant_nodes(optkit: Optkit, tmp_path: Path) -> None:
    body = "w = Constant<value=float[2,3] {1,2,3,4,5,6}>() t = Constant<value=int64[2] {6,2}>() m = MatMul(x, w)"
    body += " y = Reshape(m, t)"
    graph = f'<ir_version: 10, opset_import: ["": 18]> g (float[4,2] x) => (float[n,k] y) {{ {body} }}'
    onnx.save(onnx.parser.parse_model(graph), tmp_path / "constants.onnx")
    assert json.loads(optkit("inspect", tmp_path / "constants.onnx", "--json").out)["parameters"] == 6


def test_passes_lists_definitions(optkit: Optkit) -> None:
    found = json.loads(optkit("passes", "--json").out)
    method = next(o for o in found["passes"]["quantize"]["options"] if o["name"] == "method")
    assert method["default"] == "minmax"
    assert "entropy" in method["help"]
    assert found["pipelines"]["int8"].endswith("quantize")
    assert "method" in optkit("passes", "quantize").out


def test_targets_lists_families(optkit: Optkit) -> None:
    found = json.loads(optkit("targets", "--json").out)
    assert "x86-64-v3" in found["cpu"] and "cpu" in found["cpu"]
    numbers = json.loads(optkit("targets", "icelake-server", "--json").out)
    assert numbers["lanes"] == 16 and "int8_dot" in numbers["features"]


def test_doctor(optkit: Optkit) -> None:
    done = optkit("doctor", "--json")
    found = json.loads(done.out)
    assert found["cores"] >= 1 and found["memory"] > 1 << 28
    assert found["packages"]["onnx"] == onnx.__version__
    assert done.code == (1 if found["problems"] else 0)


def test_quantize_writes_qdq(optkit: Optkit, model: Path, samples: Path, tmp_path: Path) -> None:
    done = optkit("quantize", model, "--calib-data", samples, "--json")
    found = json.loads(done.out)
    assert found["output"] == "small.int8.onnx"
    operators = {node.op_type for node in onnx.load(tmp_path / "small.int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= operators


def test_quantize_without_data_warns(optkit: Optkit, model: Path) -> None:
    done = optkit("quantize", model)
    assert done.code == 0
    assert "warning:" in done.err and "calibration" in done.err


def test_quiet_and_verbose(optkit: Optkit, model: Path) -> None:
    assert optkit("quantize", model, "-q").err == ""
    assert "fold" in optkit("-v", "quantize", model).err
    assert "fold" in optkit("quantize", model, "-v").err


def test_calib_method_reaches_the_pass(optkit: Optkit, model: Path, samples: Path) -> None:
    done = optkit("quantize", model, "--calib-data", samples, "--calib-method", "entropy", "--json")
    assert "method=entropy" in json.loads(done.out)["pipeline"]


def test_calibration_is_kept_in_a_file(optkit: Optkit, model: Path, samples: Path, tmp_path: Path) -> None:
    cache = tmp_path / "calibration.json"
    first, again, alone = (
        optkit("quantize", model, *data, "--calib-cache", cache, "--json")
        for data in (("--calib-data", samples), ("--calib-data", samples), ())
    )
    assert len({json.loads(done.out)["sha256"] for done in (first, again, alone)}) == 1
    assert "statistics from the calibration cache" in str(json.loads(again.out)["passes"])
    cache.write_text(cache.read_text()[:-9])
    done = optkit("quantize", model, "--calib-data", samples, "--calib-cache", cache)
    assert done.code == 1 and "is damaged" in done.err and "Traceback" not in done.err


def test_excluded_operators_stay_float(optkit: Optkit, model: Path, samples: Path, tmp_path: Path) -> None:
    done = optkit("quantize", model, "--calib-data", samples, "--exclude-op-types", "Conv")
    assert done.code == 0
    operators = [node.op_type for node in onnx.load(tmp_path / "small.int8.onnx").graph.node]
    assert "QuantizeLinear" not in operators


def test_axes() -> None:
    assert parse_axes("0=batch,-1=width") == {0: "batch", -1: "width"}
