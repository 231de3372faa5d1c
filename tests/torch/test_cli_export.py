"""`optkit export`: modules by name, shapes, types and axes from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Optkit, optkit

pytest.importorskip("torch")
pytestmark = pytest.mark.needs_torch

__all__ = ["optkit"]

SOURCE = """
import torch

class Lookup(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 4)

    def forward(self, ids, scale):
        return self.table(ids) * scale

made = Lookup()

def build():
    return Lookup()

def fail():
    raise RuntimeError("no weights here")

number = 3
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A module that can be imported from the working folder, by a name of its own for each test."""
    name = f"models_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    return name


@pytest.mark.parametrize("attribute", ["build", "made", "Lookup"])
def test_export(optkit: Optkit, source: str, tmp_path: Path, attribute: str) -> None:
    shapes = ["--input-shape", "ids:1x6", "--input-shape", "scale:1x6x4", "--input-type", "ids:int64"]
    axes = ["--dynamic", "ids:0=batch,1=length", "--dynamic", "scale:0=batch,1=length"]
    done = optkit("export", f"{source}:{attribute}", *shapes, *axes, "--output-name", "y", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["output"] == f"{attribute}.onnx"
    graph = onnx.load(tmp_path / f"{attribute}.onnx").graph
    dims = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.input}
    assert dims == {"ids": ["batch", "length"], "scale": ["batch", "length", 4]}
    assert [o.name for o in graph.output] == ["y"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{}", "module:callable"),
        ("{}:buildd", "did you mean 'build'?"),
        ("{}:fail", "no weights here"),
        ("{}:number", "is a int"),
        ("no_such_module_here:build", "cannot import 'no_such_module_here'"),
    ],
)
def test_wrong_name(optkit: Optkit, source: str, name: str, words: str) -> None:
    done = optkit("export", name.format(source), "--input-shape", "ids:1x6")
    assert done.code == 2
    assert words in done.error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--input-shape", "ids:1xA"], "name:1x3x224x224"),
        (["--input-shape", "ids:1x6", "--dynamic", "ids:batch"], "NAME:0=batch"),
        (["--input-shape", "ids:1x6", "--input-type", "ids:int63"], "did you mean 'int64'?"),
        (["--input-shape", "ids:1x6", "--input-type", "x:int64"], "no --input-shape"),
        (["--input-shape", "ids:1x6", "-o", "missing/x.onnx"], "does not exist"),
    ],
)
def test_wrong_options(optkit: Optkit, source: str, options: list[str], words: str) -> None:
    done = optkit("export", f"{source}:build", *options)
    assert done.code == 2
    assert words in done.error
