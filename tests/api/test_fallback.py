"""Nodes that cannot be compiled, left to ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import optkit
from optkit.artifact.reader import ArtifactFile
from optkit.cli.compile import command
from optkit.errors import ArtifactError, UnsupportedError, UsageError
from optkit.inspection import inspect_artifact
from optkit.partition import split
from tests.graphs import weights

HEAD = '<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1, "ai.onnx.ml": 3]> g '
# Inverse: known to ONNX Runtime and not to optkit.
INVERSES = (
    "(float[n,3,8,8] x, float[4,3,3,3] w, float[8,8] e) => (float[n,4,8,8] y, float[n,4,8,8] z) { "
    "a = Conv<pads=[1,1,1,1]>(x, w) b = Sigmoid(a) c = Add(b, e) "
    "[first] i = com.microsoft.Inverse(c) "
    "d = MatMul(i, b) f = Add(d, e) [second] j = com.microsoft.Inverse(f) y = Mul(j, b) z = Neg(i) }"
)
BRANCHES = (
    "(float[2,8,8] x, bool c, float[8,8] e) => (float[2,8,8] y) { a = Sigmoid(x) b = Add(a, e) u = If (c) <"
    "then_branch = t () => (float[2,8,8] p) { [inside] p = com.microsoft.Inverse(b) },"
    "else_branch = f () => (float[2,8,8] q) { q = Relu(b) }> y = Mul(u, a) }"
)
WORDS = (
    "(int64[n] x) => (float[n] y) { a = Add(x, x) "
    '[to] b = ai.onnx.ml.LabelEncoder<keys_int64s=[2,4,6], values_strings=["two","four","six"]>(a) '
    '[from] c = ai.onnx.ml.LabelEncoder<keys_strings=["two","six"], values_floats=[0.5,1.5], default_float=-1.0>(b) '
    "y = Mul(c, c) }"
)


def _model(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEAD + text)
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    kept = [v for v in model.graph.input if v.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def _inverses() -> onnx.ModelProto:
    return _model(INVERSES, w=weights(4, 3, 3, 3, scale=0.3), e=(10 * np.eye(8)).astype("float32"))


def _compiled(model: onnx.ModelProto, folder: Path, **inputs: np.ndarray) -> optkit.Artifact:
    """The artifact, after its answers were compared with ONNX Runtime's."""
    path = folder / "m.onnx"
    onnx.save(model, path)
    artifact = optkit.compile(path, output=folder / "m.optk", fallback="onnxruntime")
    expected = onnxruntime.InferenceSession(path).run(None, inputs)
    with optkit.load(artifact.path) as runner:
        found = list(runner.run(inputs).values())
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
    return artifact


def test_nodes_in_the_middle_are_left(tmp_path: Path) -> None:
    artifact = _compiled(_inverses(), tmp_path, x=weights(5, 3, 8, 8))
    partitions = artifact.manifest.partitions
    assert [p.runner for p in partitions] == ["vm", "onnxruntime", "vm", "onnxruntime", "vm"]
    assert artifact.report["left_to_onnxruntime"] == ["first", "second"]
    assert artifact.manifest.verification["status"] == "passed"
    assert [part["nodes"] for part in inspect_artifact(artifact.path)["parts"]] == [[], ["first"], [], ["second"], []]
    rules = {kernel["rule"] for kernel in artifact.report["kernels"]}
    assert "cpu.conv" in rules, "what lies between is compiled as ever"


def test_int8_around_what_is_left(tmp_path: Path) -> None:
    onnx.save(_inverses(), tmp_path / "m.onnx")
    artifact = optkit.compile(
        tmp_path / "m.onnx", output=tmp_path / "m.optk", passes="int8", fallback="onnxruntime", calib_data=None
    )
    assert artifact.report["macs"]["by_compute"]["int8"] > 0
    assert artifact.manifest.verification["status"] == "passed"


def test_a_node_in_a_branch_takes_its_if_along(tmp_path: Path) -> None:
    model = _model(BRANCHES, e=(10 * np.eye(8)).astype("float32"))
    for condition in (True, False):
        artifact = _compiled(model, tmp_path, x=weights(2, 8, 8), c=np.array(condition))
    assert [p.runner for p in artifact.manifest.partitions] == ["vm", "onnxruntime", "vm"]


def test_strings_stay_where_they_are_known(tmp_path: Path) -> None:
    artifact = _compiled(_model(WORDS), tmp_path, x=np.array([1, 2, 3, 9]))
    assert artifact.report["left_to_onnxruntime"] == ["to", "from"]


def test_without_a_fallback_the_node_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"node 'first' \(com.microsoft.Inverse\)"):
        optkit.compile(_inverses(), output=tmp_path / "m.optk")


def test_a_model_that_compiles_is_of_one_piece(tmp_path: Path) -> None:
    artifact = _compiled(_model("(float[n,4] x) => (float[n,4] y) { y = Relu(x) }"), tmp_path, x=weights(3, 4))
    assert artifact.manifest.flavour == "vm" and not artifact.manifest.partitions


def test_nothing_to_compile(tmp_path: Path) -> None:
    model = _model("(float[n,4,4] x) => (float[n,4,4] y) { y = com.microsoft.Inverse(x) }")
    with pytest.raises(UnsupportedError, match="no node of the model can be compiled"):
        optkit.compile(model, output=tmp_path / "m.optk", fallback="onnxruntime")
    assert not list(tmp_path.iterdir())


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no fallback 'onnx'"):
        optkit.compile(_inverses(), output=tmp_path / "m.optk", fallback="onnx")
    with pytest.raises(UsageError, match="exclude each other"):
        optkit.compile(_inverses(), output=tmp_path / "m.optk", fallback="onnxruntime", opt_shapes={"x": (1, 3, 8, 8)})


def test_equal_builds_give_equal_bytes_and_damage_is_noticed(tmp_path: Path) -> None:
    first = _compiled(_inverses(), tmp_path, x=weights(1, 3, 8, 8)).path.read_bytes()
    artifact = _compiled(_inverses(), tmp_path, x=weights(1, 3, 8, 8))
    assert artifact.path.read_bytes() == first
    with ArtifactFile(artifact.path) as file:
        text = file.read("part1.onnx")
        offset = first.index(b"part1.onnx") + len("part1.onnx") + 20
    assert onnx.ModelProto.FromString(text).graph.node[0].op_type == "Inverse"
    artifact.path.write_bytes(first[:offset] + bytes([first[offset] ^ 1]) + first[offset + 1 :])
    with pytest.raises(ArtifactError):
        optkit.load(artifact.path)


def test_the_command_says_what_it_left(tmp_path: Path) -> None:
    onnx.save(_inverses(), tmp_path / "m.onnx")
    options = [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.optk"), "--fallback", "onnxruntime", "--json"]
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 0, result.output
    assert "2 nodes are left to ONNX Runtime: first, second" in result.stderr
    assert json.loads(result.stdout)["left_to_onnxruntime"] == ["first", "second"]


def test_a_dry_run_passes_where_there_is_a_fallback(tmp_path: Path) -> None:
    onnx.save(_inverses(), tmp_path / "m.onnx")
    options = [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.optk"), "--dry-run"]
    assert CliRunner().invoke(command, options).exit_code == 1
    result = CliRunner().invoke(command, [*options, "--fallback", "onnxruntime"])
    assert result.exit_code == 0 and "fallback:   onnxruntime" in result.output


@given(sides=st.lists(st.booleans(), min_size=1, max_size=9), data=st.data())
def test_parts_hold_every_node_once_and_run_in_order(sides: list[bool], data: st.DataObject) -> None:
    lines = []
    for i in range(len(sides)):
        a, b = (data.draw(st.integers(-1, i - 1)) for _ in range(2))
        lines.append(f"[n{i}] v{i} = Add({'x' if a < 0 else f'v{a}'}, {'x' if b < 0 else f'v{b}'})")
    body = " ".join(lines)
    outputs = ", ".join(f"float[2] v{i}" for i in range(len(sides)))
    model = ir.from_proto(_model(f"(float[2] x) => ({outputs}) {{ {body} }}"))
    parts = split(model, [f"n{i}" for i, side in enumerate(sides) if side])
    known, nodes = {"x"}, []
    for part in parts:
        assert {v.name for v in part.inputs} <= known
        assert all(sides[int(name[1:])] == part.chosen for name in part.nodes)
        known |= {v.name for v in part.outputs}
        nodes += part.nodes
        onnx.checker.check_model(ir.to_proto(part.model))
    assert known == {"x", *(f"v{i}" for i in range(len(sides)))}
    assert sorted(nodes) == sorted(f"n{i}" for i in range(len(sides)))
