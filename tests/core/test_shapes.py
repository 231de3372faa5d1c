"""Shapes as users write them, and models bound to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from optkit.errors import UsageError
from optkit.model import bind_shapes, load_model, parse_shape, to_proto
from tests.graphs import proto


def write(folder: Path, inputs: str) -> Path:
    """An addition of these inputs, x and z, as a file."""
    path = folder / "m.onnx"
    path.write_bytes(proto("y = Add(x, z)", inputs).SerializeToString())
    return path


def test_parse_shape() -> None:
    assert parse_shape("x:1x3x224x224") == ("x", (1, 3, 224, 224))
    assert parse_shape("gpu_0/data:0:7") == ("gpu_0/data:0", (7,))
    for bad in ("x", "x:", ":1", "x:1x", "x:ax3", "x:0x3", "x:-1"):
        with pytest.raises(UsageError):
            parse_shape(bad)


def test_bind_shapes_follows_the_symbol(tmp_path: Path) -> None:
    model = load_model(write(tmp_path, "float[n,3,h,8] x, float[n,3,h,8] z"))
    bind_shapes(model, {"x": (2, 3, 5, 8)})
    assert [list(v.shape) for v in (*model.graph.inputs, *model.graph.outputs)] == [[2, 3, 5, 8]] * 3
    to_proto(model)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"xx": (1, 3, 8, 8)}, r"no input 'xx' \(the model's: x, z\); did you mean|known: x, z"),
        ({"x": (1, 3, 8)}, r"input 'x' has 4 dimensions \['n', 3, 'x_2', 8\], not 3"),
        ({"x": (1, 4, 8, 8)}, "input 'x': axis 1 is fixed at 3, 4 does not fit"),
        ({"x": (1, 3, 8, 8), "z": (2, 3, 8, 8)}, r"input 'z': axis 0 \('n'\) cannot be 2, it is 1 elsewhere"),
        ({"x": (0, 3, 8, 8)}, "at least 1"),
        ({"x": (1, 3, 5, 8)}, "the model cannot take x:1x3x5x8"),
    ],
)
def test_bind_shapes_says_what_does_not_fit(tmp_path: Path, shapes: dict[str, tuple[int, ...]], message: str) -> None:
    path = write(tmp_path, "float[n,3,?,8] x, float[n,3,8,8] z")
    with pytest.raises(UsageError, match=message):
        bind_shapes(load_model(path), shapes)
