"""Every mistake a user can make gets one clear line and a non-zero exit, before any work is done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Optkit, small
from tests.graphs import proto, weights


def _external(path: Path, location: str) -> None:
    """The small model with its filter in a file at `location`, which is not written."""
    model = small()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())


def test_unknown_command(optkit: Optkit) -> None:
    done = optkit("complie")
    assert (done.code, done.error) == (2, "error: unknown command 'complie'; did you mean 'compile'?")


def test_unknown_option(optkit: Optkit, model: Path) -> None:
    done = optkit("compile", model, "--int9")
    assert done.code == 2
    assert "--int9" in done.error and "optkit compile --help" in done.error


@pytest.mark.parametrize("verb", ["compile", "quantize", "inspect"])
def test_missing_file(optkit: Optkit, verb: str) -> None:
    done = optkit(verb, "nowhere.onnx")
    assert done.code == 1
    assert "nowhere.onnx" in done.error and "no such file" in done.error


def test_not_onnx(optkit: Optkit, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is not a model\n" * 20)
    done = optkit("compile", tmp_path / "text.onnx")
    assert done.code == 1
    assert "not an ONNX file" in done.error


def test_truncated(optkit: Optkit, model: Path) -> None:
    data = model.read_bytes()
    model.write_bytes(data[: len(data) // 2])
    done = optkit("compile", model)
    assert done.code == 1
    assert "truncated" in done.error


@pytest.mark.parametrize(
    ("location", "words"),
    [("weights.bin", "missing"), ("/etc/hostname", "absolute"), ("../weights.bin", "leaves the model's folder")],
)
def test_external_data(optkit: Optkit, tmp_path: Path, location: str, words: str) -> None:
    path = tmp_path / "external.onnx"
    _external(path, location)
    done = optkit("compile", path)
    assert done.code == 1
    assert words in done.error and location in done.error


def test_unknown_operator_is_named_with_its_node(optkit: Optkit, tmp_path: Path) -> None:
    model = small()
    model.graph.node[1].op_type = "Frobnicate"
    model.graph.node[1].domain = "custom"
    model.graph.node[1].name = "the_node"
    path = tmp_path / "unknown.onnx"
    path.write_bytes(model.SerializeToString())
    done = optkit("compile", path)
    assert done.code == 1
    assert "Frobnicate" in done.error and "the_node" in done.error
    assert not (tmp_path / "unknown.optk").exists()


def test_unknown_target(optkit: Optkit, model: Path) -> None:
    done = optkit("compile", model, "--target", "sapphirerapid")
    assert done.code == 2
    assert "did you mean 'sapphirerapids'?" in done.error


def test_unknown_pass(optkit: Optkit, model: Path) -> None:
    done = optkit("compile", model, "--passes", "fold,quantise")
    assert done.code == 2
    assert "did you mean 'quantize'?" in done.error


def test_unknown_pass_option(optkit: Optkit, model: Path) -> None:
    done = optkit("compile", model, "--passes", "quantize{metod=entropy}")
    assert done.code == 2
    assert "did you mean 'method'?" in done.error


def test_option_without_its_pass(optkit: Optkit, model: Path) -> None:
    done = optkit("compile", model, "--calib-method", "entropy")
    assert done.code == 2
    assert "'method'" in done.error and "fold,fuse" in done.error


@pytest.mark.parametrize(
    "given",
    [
        ("--int8", "--bf16"),
        ("--fp16", "--bf16"),
        ("--int8", "--fp16", "--bf16"),
        ("--int8", "--passes", "fold"),
        ("--int8", "--fp16", "--passes", "fold"),
    ],
)
@pytest.mark.parametrize("verb", [("compile",), ("tune",), ("debug", "accuracy")])
def test_exclusive_precisions(optkit: Optkit, model: Path, verb: tuple[str, ...], given: tuple[str, ...]) -> None:
    done = optkit(*verb, model, *given)
    assert done.code == 2
    words = " and ".join(word for word in given if word.startswith("--"))
    assert done.error == f"error: {words} exclude each other; give one of them, or --int8 with --fp16"


def test_unknown_form_to_emit(optkit: Optkit, model: Path) -> None:
    done = optkit("compile", model, "--emit", "onxn")
    assert done.code == 2
    assert "did you mean 'onnx'?" in done.error


@pytest.mark.parametrize("verb", ["compile", "quantize"])
@pytest.mark.parametrize("where", ["missing/out.optk", "."])
def test_output_that_cannot_be_written(optkit: Optkit, tmp_path: Path, verb: str, where: str) -> None:
    # the model does not exist either: the output is looked at first
    done = optkit(verb, tmp_path / "nowhere.onnx", "-o", tmp_path / where)
    assert done.code == 2
    assert "cannot write" in done.error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_folder_without_permission(optkit: Optkit, tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    done = optkit("compile", model, "-o", folder / "out.optk")
    assert done.code == 2
    assert "Permission denied" in done.error


@pytest.mark.parametrize(
    ("text", "words"),
    [("x", "name:1x3x224x224"), ("y:1x3x8x8", "no input 'y'"), ("x:1x3x8", "dimensions"), ("x:1x5x8x8", "fixed at 3")],
)
def test_input_shape_that_does_not_fit(optkit: Optkit, model: Path, text: str, words: str) -> None:
    done = optkit("compile", model, "--input-shape", text)
    assert done.code == 2
    assert words in done.error


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (weights(4, 3, 9, 9), "shape"),
        (weights(0, 3, 8, 8), "empty"),
        (np.full((4, 3, 8, 8), np.nan, np.float32), "NaN"),
        (np.full((4, 3, 8, 8), np.inf, np.float32), "inf"),
        (np.full((4, 3, 8, 8), "text"), "type"),
    ],
)
def test_calibration_data(optkit: Optkit, model: Path, tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "bad.npy", array)
    done = optkit("quantize", model, "--calib-data", tmp_path / "bad.npy")
    assert done.code == 1
    assert words.lower() in done.error.lower()
    assert not (tmp_path / "small.int8.onnx").exists()


def test_calibration_data_of_another_input(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", z=weights(4, 3, 8, 8))
    done = optkit("quantize", model, "--calib-data", tmp_path / "bad.npz")
    assert done.code == 1
    assert "'z'" in done.error or "'x'" in done.error


def test_preprocess_without_data(optkit: Optkit, model: Path) -> None:
    done = optkit("quantize", model, "--preprocess", "resize=8")
    assert done.code == 2
    assert "--calib-data" in done.error


def test_damaged_artifact(optkit: Optkit, tmp_path: Path) -> None:
    (tmp_path / "bad.optk").write_bytes(b"PK\x03\x04 and then nothing")
    done = optkit("inspect", tmp_path / "bad.optk")
    assert done.code == 1
    assert "bad.optk" in done.error and "damaged" in done.error


def test_unknown_name_in_lists(optkit: Optkit) -> None:
    assert "did you mean 'fold'?" in optkit("passes", "fodl").error
    assert "did you mean 'znver5'?" in optkit("targets", "znver6").error


def test_linker_that_is_not_there(optkit: Optkit, model: Path) -> None:
    done = optkit("compile", model, "--cc", "no-such-cc")
    assert done.code == 2
    assert "no-such-cc" in done.error


def test_debug_shows_the_traceback(optkit: Optkit) -> None:
    done = optkit("inspect", "nowhere.onnx", "--debug")
    assert done.code == 1
    assert "Traceback" in done.err and "ModelError" in done.err


def test_disk_full_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    model = proto("y = MatMul (x, w)", "float[1,512] x", "float[1,512] y", w=weights(512, 512))
    path.write_bytes(model.SerializeToString())
    # a limit on the size of files stands in for a full disk: both fail in the middle of a write
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from optkit.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "quantize", str(path), "-o", str(tmp_path / "out.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: cannot write" in done.stderr and "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["large.onnx"]


def test_interrupt(tmp_path: Path) -> None:
    code = (
        "import optkit.inspection as i, sys\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "i.inspect_file = stop\n"
        "from optkit.cli import main; main(['inspect', 'x.onnx'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.strip() == "error: interrupted"
