"""Matching what a caller passes with the inputs an artifact declares."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from optkit.artifact.spec import TensorSpec
from optkit.errors import DataError, nearest


def bind_names(specs: Sequence[TensorSpec], positional: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """Values in the order of the inputs.

    Raises:
        DataError: an input is missing, unknown, or given twice.
    """
    if not positional and len(named) == len(specs):
        with contextlib.suppress(KeyError):
            return [named[spec.name] for spec in specs]
    names = [spec.name for spec in specs]
    if len(positional) > len(names):
        raise DataError(f"{len(positional)} inputs given, the model has {len(names)}: {', '.join(names)}")
    values = dict(zip(names, positional, strict=False))
    for name, value in named.items():
        if name not in names:
            raise DataError(f"the model has no input {name!r}; {nearest(name, names)}")
        if name in values:
            raise DataError(f"input {name!r} is given twice")
        values[name] = value
    missing = [repr(name) for name in names if name not in values]
    if missing:
        raise DataError(f"input {', '.join(missing)} is missing; the model takes {', '.join(map(str, specs))}")
    return [values[name] for name in names]


def check_shapes(
    specs: Sequence[TensorSpec],
    shapes: Sequence[Sequence[int]],
    ranges: Mapping[str, tuple[int, int | None]] | None = None,
) -> None:
    """Check ranks and extents; one name stands for one extent in all inputs, and stays in its range.

    Raises:
        DataError: names the input, the dimension, and what was expected.
    """
    bound: dict[str, tuple[int, str]] = {}
    for spec, shape in zip(specs, shapes, strict=True):
        if len(shape) != len(spec.shape):
            raise DataError(
                f"input {spec.name!r} must have {len(spec.shape)} dimensions {_text(spec.shape)}, "
                f"got {len(shape)}: {_text(shape)}"
            )
        for axis, (want, have) in enumerate(zip(spec.shape, shape, strict=True)):
            if isinstance(want, str):
                low, high = (ranges or {}).get(want, (0, None))
                if have < low or (high is not None and have > high):
                    raise DataError(
                        f"input {spec.name!r} has {have} in dimension {axis}; {want!r} may be "
                        f"{f'at least {low}' if high is None else f'{low} to {high}'} in this artifact"
                    )
                first, where = bound.setdefault(want, (have, spec.name))
                if first != have:
                    raise DataError(
                        f"input {spec.name!r} has {have} in dimension {axis}, but {want!r} is {first} in {where!r}"
                    )
            elif want != have:
                raise DataError(
                    f"input {spec.name!r} must have shape {_text(spec.shape)}, got {_text(shape)} "
                    f"(dimension {axis} is {have}, not {want})"
                )


def _text(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"
