"""What is said about a model before any work is done."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from onnx import helper, parser

from optkit.cli.inspect import command
from optkit.compiler.preflight import Issue, preflight
from optkit.errors import UnsupportedError
from optkit.issues import check_issues
from optkit.registry import find_target
from optkit.tidy import infer_shapes, name_nodes

HEADER = '<ir_version: 10, opset_import: ["" : 20, "acme" : 1]> '


def judge(text: str) -> dict[str, Issue]:
    """Issues by operator."""
    model = ir.from_proto(parser.parse_model(HEADER + text))
    name_nodes(model)
    infer_shapes(model)
    return {issue.op_type: issue for issue in preflight(model, find_target("cpu"))}


MIXED = """g (bool c, float[1,3,8,8] x, float[4,3,3,3] w, string[2] s) => (float[1,4,6,6] y, string[2] t) {
  v = Conv(x, w)
  u = If (c) < then_branch = a () => (float[1,4,6,6] p) { p = acme.Frob(v) },
               else_branch = b () => (float[1,4,6,6] q) { q = Relu(v) }>
  y = Add(u, v)
  t = StringConcat(s, s)
}"""


def test_every_node_has_a_verdict_in_subgraphs_too() -> None:
    found = judge(MIXED)
    assert {op: issue.status for op, issue in found.items()} == {
        "Conv": "slow",
        "If": "decomposed",
        "Frob": "unsupported",
        "Relu": "native",
        "Add": "native",
        "StringConcat": "unsupported",
    }
    assert "'acme'" in found["Frob"].reason
    assert "strings" in found["StringConcat"].reason


def test_one_error_names_all_that_cannot_be_compiled() -> None:
    model = ir.from_proto(parser.parse_model(HEADER + MIXED))
    name_nodes(model)
    infer_shapes(model)
    with pytest.raises(UnsupportedError, match=r"2 node\(s\).*acme\.Frob.*StringConcat"):
        check_issues(model, find_target("cpu"))


@pytest.mark.parametrize(
    ("text", "op_type", "reason"),
    [
        ("g (seq(float[2]) x) => (int64 n) { n = SequenceLength(x) }", "SequenceLength", "input 'x', a sequence"),
        ("g (optional(float[2]) x) => (bool b) { b = OptionalHasElement(x) }", "OptionalHasElement", "an optional"),
        ("g (float[2] x) => (seq(float[2]) s) { s = SequenceConstruct(x) }", "SequenceConstruct", "output 's'"),
        ("g (string[2] x) => (bool[2] b) { b = Equal(x, x) }", "Equal", "strings"),
    ],
)
def test_what_no_kernel_can_hold_is_refused(text: str, op_type: str, reason: str) -> None:
    issue = judge(text)[op_type]
    assert issue.status == "unsupported"
    assert reason in issue.reason


def test_five_hundred_nodes_take_less_than_three_seconds(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu" if i % 2 else "Softmax", [f"v{i}"], [f"v{i + 1}"]) for i in range(500)]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 16]) for name in ("v0", "v500")]
    graph = helper.make_graph(nodes, "long", ends[:1], ends[1:])
    path = tmp_path / "long.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    inspect(path)  # imports
    start = time.perf_counter()
    found = inspect(path)
    assert time.perf_counter() - start < 3
    assert len(found["preflight"]) == 500


def inspect(path: Path) -> dict[str, Any]:
    result = CliRunner().invoke(command, [str(path), "--target", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    described: dict[str, Any] = json.loads(result.stdout)
    return described


def test_inspect_lists_every_verdict(tmp_path: Path) -> None:
    path = tmp_path / "mixed.onnx"
    onnx.save(parser.parse_model(HEADER + MIXED), path)
    issues = inspect(path)["preflight"]
    assert [i["op_type"] for i in issues if i["status"] == "unsupported"] == ["Frob", "StringConcat"]
    text = CliRunner().invoke(command, [str(path), "--target", "cpu"]).output
    assert "2 native, 1 decomposed, 1 slow, 2 unsupported" in text
    assert "acme.Frob" in text


def test_a_shape_beyond_any_memory_is_a_mistake() -> None:
    issue = judge("g (float[n,3,2147483648,23] x) => (float[n,3,2147483648,23] y) { y = Relu(x) }")["Relu"]
    assert issue.status == "unsupported" and "552 GiB" in issue.reason
    large = judge("g (float[64,3,4096,4096] x) => (float[64,3,4096,4096] y) { y = Relu(x) }")["Relu"]
    assert large.status == "native"
