"""Loading, normalizing and saving models, and one clear line for every bad file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from optkit.errors import ModelError, OptkitError, UnsupportedError
from optkit.model import load_model, model_sha256, save_model, strip_paths
from tests.graphs import feeds, ops, proto, same, session, weights

CONV = "c = Conv(x, w)  y = Relu(c)"


def write(path: Path, model: onnx.ModelProto, **options: object) -> Path:
    onnx.save(model, path, **options)  # type: ignore[arg-type]
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "m.onnx", proto(CONV, w=weights(4, 3, 3, 3)))


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weight `w` lies in the file w.bin beside it."""
    return write(
        tmp_path / "e.onnx",
        proto(CONV, w=weights(4, 3, 3, 3)),
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )


def relocate(path: Path, location: str) -> None:
    """Make the external tensor of a model point somewhere else."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, world, this is text", "not an ONNX file"),
        (b"\x00" * 100, "not an ONNX file"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\x08\x0a", "there is no graph"),
    ],
)
def test_what_is_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated(file: Path, part: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ModelError, match="truncated"):
        load_model(file)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path)


def test_external_data_is_loaded_and_hashed(external: Path) -> None:
    model = load_model(external)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weights(4, 3, 3, 3))
    before = model_sha256(external)
    data = external.with_name("w.bin")
    data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    assert model_sha256(external) != before


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("/etc/passwd", "at an absolute path"),
        ("C:\\w.bin", "at an absolute path"),
        ("../w.bin", "leaves the model's folder"),
        ("sub/../../w.bin", "leaves the model's folder"),
        ("..\\w.bin", "leaves the model's folder"),
        ("other.bin", "is missing"),
        ("", "names no file"),
    ],
)
def test_external_data_outside_the_folder(external: Path, location: str, message: str) -> None:
    (external.parent.parent / "w.bin").write_bytes(b"\x00" * 4096)
    relocate(external, location)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(external)
    assert "'w'" in str(caught.value)
    with pytest.raises(ModelError, match=message):
        model_sha256(external)


def test_external_data_through_a_symbolic_link(external: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.bin"
    data = external.with_name("w.bin")
    data.replace(outside)
    data.symlink_to(outside)
    with pytest.raises(ModelError, match="through a symbolic link"):
        load_model(external)


def test_truncated_external_data(external: Path) -> None:
    data = external.with_name("w.bin")
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(ModelError, match="'w' is truncated"):
        load_model(external)


def test_unknown_operator_is_named_with_its_node(tmp_path: Path) -> None:
    model = proto("y = Relu(x)")
    model.graph.node[0].op_type, model.graph.node[0].name = "Rellu", "first"
    with pytest.raises(UnsupportedError, match=r"unknown operator 'Rellu' \(node 'first'\)"):
        load_model(write(tmp_path / "m.onnx", model))


@pytest.mark.parametrize("name", [b"Relu", b"first", b"between"])
def test_names_that_are_not_text(tmp_path: Path, name: bytes) -> None:
    model = proto("between = Relu(x) y = Neg(between)")
    model.graph.node[0].name = "first"
    text = model.SerializeToString()
    assert name in text
    (tmp_path / "m.onnx").write_bytes(text.replace(name, name[:-1] + b"\xbc"))
    with pytest.raises(ModelError, match="not UTF-8 text"):
        load_model(tmp_path / "m.onnx")


def test_an_unknown_operator_without_outputs_is_named(tmp_path: Path) -> None:
    model = proto("y = Relu(x)")
    model.graph.node.add().op_type = "Rellu"
    with pytest.raises(UnsupportedError, match=r"unknown operator 'Rellu' \(node 'Rellu'\)"):
        load_model(write(tmp_path / "m.onnx", model))


def test_operators_of_other_domains_load(tmp_path: Path) -> None:
    assert ops(load_model(write(tmp_path / "m.onnx", proto("y = custom.Mystery(x)")))) == ["Mystery"]


@pytest.mark.parametrize(("version", "message"), [(999, "newer than the installed onnx"), (0, "does not exist")])
def test_opset_that_onnx_does_not_know(tmp_path: Path, version: int, message: str) -> None:
    model = proto("y = Relu(x)")
    model.opset_import[0].version = version
    with pytest.raises(ModelError, match=message):
        load_model(write(tmp_path / "m.onnx", model))


def test_types_that_do_not_fit(tmp_path: Path) -> None:
    model = proto("y = Add(x, i)", i=np.ones(1, np.int64))
    with pytest.raises(ModelError, match="does not check") as caught:
        load_model(write(tmp_path / "m.onnx", model))
    assert "\n" not in str(caught.value)


def test_ranks_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not check"):
        load_model(write(tmp_path / "m.onnx", proto("y = Conv(x, w)", w=weights(4, 3, 3))))


def test_sparse_initializer(tmp_path: Path) -> None:
    model = proto("y = Relu(x)")
    values = onnx.helper.make_tensor("sw", onnx.TensorProto.FLOAT, [1], [1.0])
    where = onnx.helper.make_tensor("si", onnx.TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, where, [4]))
    with pytest.raises(ModelError, match="sparse initializer 'sw'"):
        load_model(write(tmp_path / "m.onnx", model))


def test_stale_intermediate_shapes_are_forgotten(tmp_path: Path) -> None:
    model = proto(CONV, w=weights(4, 3, 3, 3))
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [1, 9, 9, 9]))
    loaded = load_model(write(tmp_path / "m.onnx", model))
    assert str(loaded.graph[0].outputs[0].shape) == "[n,4,6,6]"


def test_normalized(tmp_path: Path) -> None:
    model = proto("a = Relu(x)  b = Relu(a)  c = Conv(b, w)  y = Relu(c)", w=weights(4, 3, 3, 3))
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3, 3, 3]))
    model.graph.node[1].name = model.graph.node[2].name = "twice"
    model.graph.node[3].name = "Relu_0"
    loaded = load_model(write(tmp_path / "m.onnx", model))
    assert [v.name for v in loaded.graph.inputs] == ["x"]
    names = [node.name for node in loaded.graph]
    assert names[1] == "twice" and names[3] == "Relu_0" and len(set(names)) == 4 and all(names)
    assert all(o.shape is not None for node in loaded.graph for o in node.outputs)


def test_functions_are_inlined(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 18, "own": 1]>
        g (float[n,4] x) => (float[n,4] y) { a = own.Twice(x)  y = own.Twice(a) }
        <domain: "own", opset_import: ["": 18]> Twice (v) => (r) { r = Add(v, v) }"""
    path = write(tmp_path / "m.onnx", onnx.parser.parse_model(text))
    loaded = load_model(path)
    assert ops(loaded) == ["Add", "Add"] and not loaded.functions
    assert len({node.name for node in loaded.graph}) == 2
    same(str(path), loaded)


def test_old_opset_is_converted_with_the_same_numbers(tmp_path: Path) -> None:
    model = proto("s = ReduceMean<axes=[2,3], keepdims=0>(x)  y = Softmax<axis=1>(s)", outputs="float[a,b] y", opset=11)
    path = write(tmp_path / "m.onnx", model)
    loaded = load_model(path)
    assert loaded.opset_imports[""] == 18
    same(str(path), loaded)


def test_opset_that_cannot_be_converted_is_kept_with_the_reason(tmp_path: Path) -> None:
    # A BatchNormalization in training mode has no counterpart in newer operator sets.
    model = proto("y = BatchNormalization<is_test=0>(x, g, g, g, g)", "float[1,3,8,8] x", opset=6, g=weights(3))
    path = write(tmp_path / "m.onnx", model)
    loaded = load_model(path)
    assert loaded.opset_imports[""] == 6 and ops(loaded) == ["BatchNormalization"]
    reason = loaded.metadata_props["optkit.opset"]
    assert reason.startswith("kept at opset 6: ") and "is_test" in reason and "/" not in reason


def test_save_is_deterministic_and_round_trips(file: Path, tmp_path: Path) -> None:
    model = load_model(file)
    first, second = tmp_path / "1.onnx", tmp_path / "2.onnx"
    save_model(model, first)
    save_model(load_model(file), second)
    assert first.read_bytes() == second.read_bytes()
    same(str(file), load_model(first))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.onnx", "2.onnx", "m.onnx"]


def test_external_data_is_written_into_the_saved_model(external: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    save_model(load_model(external), folder / "m.onnx")
    same(str(external), load_model(folder / "m.onnx"))


def test_large_models_stay_on_disk_and_are_saved_with_external_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = {"w": weights(64, 3, 3, 3), "s": np.array([0, 0, 0, 0])}
    many = proto("c = Conv(x, w)  y = Reshape(c, s)", **constants)
    external = tmp_path / "e.onnx"
    onnx.save(many, external, save_as_external_data=True, location="w.bin", size_threshold=0)
    monkeypatch.setattr("optkit.model._INLINE_LIMIT", 100)  # 2 GB of weights in a test would be too many
    model = load_model(external)
    assert not isinstance(model.graph.initializers["s"].const_value, ir.ExternalTensor)
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    save_model(model, folder / "m.onnx")
    assert sorted(p.name for p in folder.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert str(tmp_path).encode() not in (folder / "m.onnx").read_bytes()
    monkeypatch.undo()
    same(proto("c = Conv(x, w)  y = Reshape(c, s)", **constants), load_model(folder / "m.onnx"))


def test_unwritable_path_leaves_nothing_behind(file: Path, tmp_path: Path) -> None:
    with pytest.raises(OptkitError, match="cannot write"):
        save_model(load_model(file), tmp_path / "no" / "m.onnx")
    folder = tmp_path / "m"
    folder.mkdir()
    with pytest.raises(OptkitError, match="cannot write"):
        save_model(load_model(file), folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "m.onnx"]


def test_disk_full_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, old = load_model(file), file.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OptkitError, match="No space left on device"):
        save_model(model, file)
    assert file.read_bytes() == old and list(file.parent.iterdir()) == [file]


def test_paths_of_the_exporting_machine_do_not_survive(tmp_path: Path) -> None:
    model = proto(CONV, w=weights(4, 3, 3, 3))
    node = model.graph.node[0]
    node.doc_string = 'File "/home/someone/net.py", line 3'
    for key, value in {
        "pkg.torch.onnx.stack_trace": "net.py:3 in forward",
        "source": "/home/someone/net.py",
        "windows": "C:\\Users\\someone\\net.py",
        "kind": "convolution",
        "optkit.compute_type": "bfloat16",
    }.items():
        entry = node.metadata_props.add()
        entry.key, entry.value = key, value
    model.graph.doc_string = model.doc_string = "exported from /home/someone"
    model.graph.input[0].doc_string = "~/net.py"
    entry = model.metadata_props.add()
    entry.key, entry.value = "script", "/home/someone/export.py"
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    loaded = load_model(path)
    assert loaded.graph[0].metadata_props == {"kind": "convolution", "optkit.compute_type": "bfloat16"}
    loaded.graph[0].doc_string = "/home/someone"
    save_model(loaded, path)
    assert b"someone" not in path.read_bytes() and b"net.py" not in path.read_bytes()
    strip_paths(loaded)
    assert loaded.graph[0].metadata_props["kind"] == "convolution"


@pytest.mark.parametrize(
    "name", ["ultraface-rfb-320", "mnist-12", "resnet20_cifar10", "mobilenetv2_cifar10", "vit_cifar10"]
)
def test_real_models_load_with_the_same_numbers(shared_dir: Path, name: str) -> None:
    path = shared_dir / "models" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name} in the shared models")
    model = load_model(path)
    assert len(model.graph.inputs) == 1 and model.opset_imports[""] == 18
    same(str(path), model, rtol=1e-6, atol=1e-6)
    assert feeds(session(model)).keys() == {model.graph.inputs[0].name}
