"""`optkit debug` as a user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Optkit, optkit
from tests.cli.test_plugin import _optkit as run_optkit
from tests.debug.networks import images, network

__all__ = ["optkit"]

PLUGIN = '''
import onnx_ir as ir
from dataclasses import dataclass
from typing import ClassVar

from optkit.transform import Pass, Result


@dataclass(frozen=True)
class Spoil(Pass):
    """Spoil a weight."""

    name: ClassVar[str] = "spoil"

    def run(self, model, context):
        value = model.graph.initializers.get("w2")
        if value is None:
            return Result(model, False)
        value.const_value = ir.tensor(value.const_value.numpy() * 2, name="w2")
        return Result(model, True)
'''


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The network and its data as files."""
    onnx.save(network(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **images())
    return tmp_path / "net.onnx", tmp_path / "data.npz"


def test_accuracy_shows_and_writes(optkit: Optkit, files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    done = optkit(
        *("debug", "accuracy", model, "--int8", "--calib-data", data, "--no-artifact", "--top", 2, "--try", 1),
        *("-o", tmp_path / "report.json", "--plot", tmp_path / "layers.png"),
    )
    assert done.code == 0, done.err
    assert "2 of " in done.out and "worst first" in done.out and "--exclude-nodes" in done.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["layers"]) >= 4
    assert any(a["output_sqnr_db"] is not None for a in report["layers"][0]["advice"])
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_accuracy_as_json(optkit: Optkit, files: tuple[Path, Path]) -> None:
    done = optkit("debug", "accuracy", files[0], "--samples", 2, "--no-artifact", "--json")
    found = json.loads(done.out)
    assert done.code == 0 and found["data"] == "random" and found["samples"] == 2
    assert found["first_outside"] is None


def test_a_picture_needs_matplotlib(optkit: Optkit, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = optkit("debug", "accuracy", files[0], "--plot", "x.png")
    assert done.code == 2 and "pip install matplotlib" in done.error


def test_wrong_usage(optkit: Optkit, files: tuple[Path, Path]) -> None:
    assert optkit("debug", "accuracies").code == 2
    assert "did you mean 'accuracy'" in optkit("debug", "accuracies").error
    done = optkit("debug", "accuracy", files[0], "--preprocess", "scale=1")
    assert done.code == 2 and "--calib-data" in done.error
    assert optkit("debug", "bisect", files[0], "-o", "missing/folder/x.onnx").code == 2


@pytest.mark.needs_compiler
def test_bisect_exits_with_0_where_nothing_is_wrong(optkit: Optkit, files: tuple[Path, Path]) -> None:
    done = optkit("debug", "bisect", files[0], "--calib-data", files[1])
    assert done.code == 0 and "nothing leaves the tolerance" in done.out


@pytest.mark.needs_compiler
def test_bisect_exits_with_1_and_prints_what_shows_it_again(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_text(PLUGIN)
    info = tmp_path / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[optkit.passes]\nspoil = plug:Spoil\n")
    words = ("debug", "bisect", "net.onnx", "--passes", "fold,fuse,spoil,fold", "--calib-data", "data.npz", "-o")
    done = run_optkit(tmp_path, *words, "case.onnx", "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)["found"]
    assert [(f["kind"], f["where"], f["tensor"], f["fails_alone"]) for f in found] == [("pass", "spoil", "c2", True)]
    assert found[0]["rerun"] == "optkit debug bisect case.onnx --passes spoil --calib-data case.npz"
    assert run_optkit(tmp_path, *found[0]["rerun"].split()[1:]).returncode == 1
