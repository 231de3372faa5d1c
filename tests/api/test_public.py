"""The public names, and that they are what the type checker is told."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import optkit
from tests.graphs import build, feeds, session

PUBLIC = [
    "Artifact",
    "Finding",
    "OptkitError",
    "Pass",
    "PassContext",
    "Pipeline",
    "Result",
    "Runner",
    "Sample",
    "Target",
    "__version__",
    "compile",
    "load",
    "option",
    "quantize",
]


def test_all_is_the_list() -> None:
    assert sorted(optkit.__all__) == PUBLIC
    assert dir(optkit) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_loads_and_is_documented(name: str) -> None:
    value = getattr(optkit, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        _ = optkit.frobnicate  # type: ignore[attr-defined]


def test_typing_sees_the_same_names() -> None:
    """What is imported under TYPE_CHECKING comes from where __getattr__ takes it."""
    tree = ast.parse(Path(optkit.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    for name, module in homes.items():
        assert optkit._HOMES[name] == module
    assert {*homes, "OptkitError", "__version__"} == set(PUBLIC)


def test_a_model_in_memory_compiles(tmp_path: Path) -> None:
    model = build("y = Relu(x)")
    artifact = optkit.compile(model, output=tmp_path / "m.optk", input_shapes={"x": (1, 3, 8, 8)})
    assert artifact.report["source"]["path"] is None and artifact.report["source"]["bytes"] > 0
    assert optkit.load(artifact.path)(feeds(session(model), 1)["x"])["y"].min() == 0
