"""The verbs run, verify and benchmark, as a user meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from optkit.artifact import BuildInfo, Payload, write_artifact
from optkit.cli import main
from optkit.model import model_sha256
from tests.measure.onnx_models import mlp_onnx, save
from tests.relax_models import mlp_reference

Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Verb:
    """Call the command line: exit code, standard output, standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert err.count("\n") <= 2, err
        return int(caught.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def files(mlp_payload: Payload, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and its artifact."""
    folder = tmp_path_factory.mktemp("files")
    model = save(mlp_onnx(), folder / "mlp.onnx")
    write_artifact(folder / "mlp.optk", mlp_payload, BuildInfo(model_sha256(model), pipeline="fold,fuse"))
    return model, folder / "mlp.optk"


def test_run_on_files(files: tuple[Path, Path], tmp_path: Path, verb: Verb) -> None:
    x = np.random.default_rng(0).standard_normal((3, 8), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    for words in (
        ["--input", f"x=@{tmp_path / 'x.npy'}"],
        ["--input", f"x=@{tmp_path / 'x.npz'}"],
        ["--inputs", tmp_path / "x.npz"],
        [tmp_path / "x.npz"],
        [tmp_path / "x.npy"],
    ):
        code, _, _ = verb("run", files[1], *words, "-o", tmp_path / "out.npz", "--threads", 1)
        assert code == 0
        with np.load(tmp_path / "out.npz") as out:
            np.testing.assert_allclose(out["y"], mlp_reference(x), rtol=1e-5, atol=1e-5)
        (tmp_path / "out.npz").unlink()


def test_run_on_random_inputs(files: tuple[Path, Path], verb: Verb) -> None:
    code, first, _ = verb("run", files[1], "--seed", 4, "--batch", 5, "--json")
    assert code == 0
    document = json.loads(first)
    assert document["outputs"][0]["shape"] == [5, 5]
    _, again, _ = verb("run", files[1], "--seed", 4, "--batch", 5, "--json")
    assert json.loads(again)["outputs"] == document["outputs"]
    _, other, _ = verb("run", files[1], "--seed", 5, "--batch", 5, "--json")
    assert json.loads(other)["outputs"] != document["outputs"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--input", "x=plain.npy"], 2, "write it as NAME=@FILE.npy"),
        (["--input", "y=@x.npy"], 2, "no input 'y'"),
        (["--input", "x=@nothing.npy"], 1, "cannot read nothing.npy"),
        (["--inputs", "nothing.npz", "--seed", "1"], 2, "--seed makes random inputs"),
        (["-o", "nowhere/at/all.npz"], 1, "cannot write nowhere/at/all.npz"),
    ],
)
def test_run_with_wrong_words(files: tuple[Path, Path], verb: Verb, words: list[str], code: int, text: str) -> None:
    found, _, err = verb("run", files[1], *words)
    assert found == code
    assert text in err


def test_run_with_wrong_arrays(files: tuple[Path, Path], tmp_path: Path, verb: Verb) -> None:
    np.savez(tmp_path / "rank.npz", x=np.ones(8, np.float32))
    np.savez(tmp_path / "type.npz", x=np.ones((1, 8)))
    np.savez(tmp_path / "name.npz", z=np.ones((1, 8), np.float32))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, text in (
        ("rank.npz", "must have 2 dimensions"),
        ("type.npz", "must be float32, got float64"),
        ("name.npz", "no input 'z'"),
        ("pickle.npy", "no .npy or .npz file of plain arrays"),
    ):
        code, _, err = verb("run", files[1], tmp_path / name)
        assert (code, text in err) == (1, True), err


def test_verify(files: tuple[Path, Path], verb: Verb) -> None:
    code, out, err = verb("verify", *files)
    assert (code, err) == (0, "")
    assert "fp32, 3 samples: passed" in out
    code, out, err = verb("verify", *files, "--rtol", 0, "--json")
    assert code == 1
    assert json.loads(out)["status"] == "failed"
    assert "output 'y': relative error" in err


def test_verify_on_samples(files: tuple[Path, Path], tmp_path: Path, verb: Verb) -> None:
    np.savez(tmp_path / "s.npz", x=np.ones((6, 8), np.float32))
    code, out, _ = verb("verify", *files, "--inputs", tmp_path / "s.npz", "--samples", 4, "--json")
    assert code == 0
    assert json.loads(out)["samples"] == 4
    np.savez(tmp_path / "e.npz", x=np.ones((0, 8), np.float32))
    code, _, err = verb("verify", *files, "--inputs", tmp_path / "e.npz")
    assert (code, "number of samples" in err) == (1, True)


def test_verify_another_model(files: tuple[Path, Path], tmp_path: Path, verb: Verb) -> None:
    proto = mlp_onnx()
    proto.graph.node[1].op_type = "Neg"
    other = save(proto, tmp_path / "other.onnx")
    code, _, err = verb("verify", other, files[1])
    assert code == 1
    assert "its hash differs" in err
    assert "output 'y'" in err


def test_benchmark(files: tuple[Path, Path], tmp_path: Path, verb: Verb) -> None:
    words = ["--against", "onnxruntime", "--model", files[0], "--rounds", 3, "--duration", 0.2, "--warmup", 0.05]
    code, out, _ = verb(
        "benchmark", files[1], *words, "--json", tmp_path / "r.json", "--markdown", tmp_path / "r.md",
        "--percentiles", "50,90", "--iterations", 30,
    )  # fmt: skip
    assert code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert [lane["name"] for lane in report["lanes"]] == ["optkit", "onnxruntime"]
    assert all(lane["samples"] >= 30 for lane in report["lanes"])
    assert set(report["lanes"][0]["percentiles"]) == {"p50", "p90"}
    assert (tmp_path / "r.md").read_text() in out
    for lane in report["lanes"]:
        lane["rounds"] = [t / 100 for t in lane["rounds"]] if lane["name"] == "optkit" else lane["rounds"]
    (tmp_path / "faster.json").write_text(json.dumps(report))
    gate = ["--baseline", tmp_path / "faster.json", "--fail-if-slower", "5%"]
    code, _, err = verb("benchmark", files[1], *words, *gate)
    assert (code, "slower than the baseline" in err) == (1, True), err
    report["lanes"][0]["threads"] = 7
    (tmp_path / "faster.json").write_text(json.dumps(report))
    assert verb("benchmark", files[1], *words, *gate)[0] == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--against", "onnxruntime"], "needs the model"),
        (["--against", "tensorrt"], "onnxruntime"),
        (["--fail-if-slower", "5%"], "needs --baseline"),
        (["--percentiles", "0,50"], "between 0 and 100"),
        (["--baseline", "nothing.json"], "cannot read nothing.json"),
    ],
)
def test_benchmark_with_wrong_words(files: tuple[Path, Path], verb: Verb, words: list[str], text: str) -> None:
    code, _, err = verb("benchmark", files[1], *words)
    assert code == 2
    assert text in err
