"""Ranges of a model's open axes, and the shapes it is to be fastest at.

A model with open axes (batch, height, tokens) becomes one artifact that is right for every extent in its range,
and holds code of its own for the optimum, as fast as if the model had no other shape.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from optkit.errors import UsageError, nearest


@dataclass(frozen=True)
class Least:
    """What an open axis has to be at least, and the node that would have an empty output below that."""

    extent: int
    node: str

    @property
    def text(self) -> str:
        """What to say of less."""
        return f"node {self.node!r} has no output below {self.extent}"


Shapes = Mapping[str, Sequence[int]]
"""Input name to extents."""


@dataclass(frozen=True)
class ShapeRanges:
    """What the open axes may be.

    Attributes:
        limits: smallest and largest extent by the axis's name, None where it is not bounded above.
        optimum: every input's shape at the optimum; empty where none was given.
        begun: axes whose smallest extent was given.
    """

    limits: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    optimum: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    begun: frozenset[str] = frozenset()

    def fitted(self, least: Mapping[str, Least]) -> ShapeRanges:
        """The same without what is too small for the model's windows.

        Raises:
            UsageError: a range was given that begins below that, or ends there.
        """
        limits = {}
        for name, (low, high) in self.limits.items():
            needed = least.get(name)
            if needed is not None and (high or needed.extent) < needed.extent:
                raise UsageError(f"--max-shape: axis {name!r} ends at {high}; {needed.text}")
            if needed is not None and low < needed.extent and name in self.begun:
                raise UsageError(f"--min-shape: axis {name!r} begins at {low}; {needed.text}")
            limits[name] = (low if needed is None else max(low, needed.extent), high)
        return replace(self, limits=limits)


def shape_ranges(model: ir.Model, smallest: Shapes | None, best: Shapes | None, largest: Shapes | None) -> ShapeRanges:
    """Check --min-shape, --opt-shape and --max-shape against the model's inputs and each other.

    An axis takes its range from every input that has it. The optimum must leave no axis open.

    Raises:
        UsageError: an unknown input, a rank or fixed axis that differs, min > opt or opt > max, an axis of the
            optimum that stays open.
    """
    inputs = {v.name: v for v in model.graph.inputs if v.name and v.name not in model.graph.initializers}
    low, best_axes, high = (
        _axes(inputs, shapes or {}, option)
        for shapes, option in ((smallest, "--min-shape"), (best, "--opt-shape"), (largest, "--max-shape"))
    )
    for name in {**low, **best_axes, **high}:
        order = [(o, a[name]) for o, a in (("min", low), ("opt", best_axes), ("max", high)) if name in a]
        for (first, a), (second, b) in itertools.pairwise(order):
            if a > b:
                raise UsageError(f"axis {name!r}: --{first}-shape has {a}, more than --{second}-shape with {b}")
    limits = {name: (low.get(name, 1), high.get(name)) for name in {**low, **high}}
    return ShapeRanges(dict(sorted(limits.items())), _optimum(inputs, best or {}, best_axes), frozenset(low))


def axis_name(text: str) -> str:
    """An axis's name as artifacts have it.

    >>> axis_name("batch size")
    'batch_size'
    """
    return "".join(c if c.isalnum() else "_" for c in text)


def _axes(inputs: Mapping[str, ir.Value], shapes: Shapes, option: str) -> dict[str, int]:
    """Extents of open axes by name."""
    found: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            raise UsageError(f"{option}: no input {name!r} (the model's: {', '.join(inputs)}); {nearest(name, inputs)}")
        declared = inputs[name].shape
        if declared is None or len(declared) != len(shape):
            have = "unknown" if declared is None else len(declared)
            raise UsageError(f"{option}: input {name!r} has {have} dimensions, {list(shape)} has {len(shape)}")
        for axis, (want, extent) in enumerate(zip(declared, shape, strict=True)):
            if isinstance(want, int):
                if want != extent:
                    raise UsageError(f"{option}: input {name!r} is {want} in axis {axis}, not {extent}")
                continue
            if want.value is None:
                raise UsageError(f"{option}: axis {axis} of input {name!r} has no name; fix it with --input-shape")
            if found.setdefault(axis_name(want.value), int(extent)) != extent:
                raise UsageError(f"{option}: axis {want.value!r} is {found[axis_name(want.value)]} and {extent}")
    return found


def _optimum(inputs: Mapping[str, ir.Value], best: Shapes, axes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    if not best:
        return {}
    found = {}
    for name, value in inputs.items():
        if value.shape is None:
            raise UsageError(f"--opt-shape: input {name!r} has no shape; fix it with --input-shape")
        shape = []
        for axis, d in enumerate(value.shape):
            extent = d if isinstance(d, int) else axes.get(axis_name(d.value or ""))
            if extent is None:
                raise UsageError(f"--opt-shape leaves axis {axis} of input {name!r} open; give {name}:... too")
            shape.append(extent)
        found[name] = tuple(shape)
    return found
