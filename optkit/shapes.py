"""Fixing dynamic axes of a model's inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from optkit.errors import ModelError, UsageError, nearest
from optkit.tidy import check_model, forget_shapes, infer_shapes

_TEXT = re.compile(r"(?P<name>.+):(?P<dims>\d+(?:x\d+)*)")


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`name:1x3x224x224` as ("name", (1, 3, 224, 224)); the name itself may hold colons.

    >>> parse_shape("input:1x3x224x224")
    ('input', (1, 3, 224, 224))
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no input shape; write name:1x3x224x224")
    dims = tuple(int(d) for d in match["dims"].split("x"))
    if 0 in dims:
        raise UsageError(f"{text!r}: every dimension must be at least 1")
    return match["name"], dims


def bind_shapes(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> ir.Model:
    """Fix the dynamic axes of the named inputs, in place, and infer all other shapes again.

    An axis that shares its symbol with others (e.g. "batch") fixes them as well.
    Raises UsageError for an unknown input, a rank that differs, or an axis that is fixed otherwise.
    """
    inputs = {value.name: value for value in model.graph.inputs if value.name}
    bound: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            known = ", ".join(inputs)
            raise UsageError(f"no input {name!r} (the model's: {known}); {nearest(name, inputs)}")
        _bind_input(inputs[name], tuple(int(d) for d in shape), bound)
    if not shapes:
        return model
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.outputs):
            if value.shape is not None:
                value.shape = ir.Shape(
                    [bound.get(d.value or "", d) if isinstance(d, ir.SymbolicDim) else d for d in value.shape]
                )
    forget_shapes(model)
    try:
        check_model(model)
    except ModelError as error:
        text = ", ".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise UsageError(f"the model cannot take {text}: {error}") from error
    infer_shapes(model)
    return model


def _bind_input(value: ir.Value, shape: tuple[int, ...], bound: dict[str, int]) -> None:
    where = f"input {value.name!r}"
    if any(d < 1 for d in shape):
        raise UsageError(f"{where}: every dimension must be at least 1, got {list(shape)}")
    if value.shape is None:
        value.shape = ir.Shape(shape)
        return
    declared = [d.value or "?" if isinstance(d, ir.SymbolicDim) else d for d in value.shape]
    if len(declared) != len(shape):
        raise UsageError(f"{where} has {len(declared)} dimensions {declared}, not {len(shape)}")
    for axis, (old, new) in enumerate(zip(declared, shape, strict=True)):
        if isinstance(old, int) and old != new:
            raise UsageError(f"{where}: axis {axis} is fixed at {old}, {new} does not fit {declared}")
        if isinstance(old, str) and old != "?" and bound.setdefault(old, new) != new:
            raise UsageError(f"{where}: axis {axis} ({old!r}) cannot be {new}, it is {bound[old]} elsewhere")
    value.shape = ir.Shape(shape)
