"""What a model input takes, and whether an array fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from optkit.errors import DataError


@dataclass(frozen=True)
class InputSpec:
    """What one model input takes.

    Attributes:
        name: as in the model.
        dtype: numpy type.
        shape: a number for a fixed axis, a name or None for an open one.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    @property
    def batch(self) -> int:
        """Samples of one call: the first axis where it is fixed, else 1."""
        return self.shape[0] if self.shape and isinstance(self.shape[0], int) else 1

    def check(self, array: np.ndarray, where: str) -> np.ndarray:
        """`array` in the input's type. Raises DataError for rank, axes, type, or a NaN or Inf."""
        fits = len(array.shape) == len(self.shape) and all(
            not isinstance(want, int) or want == have for want, have in zip(self.shape, array.shape, strict=True)
        )
        if not fits:
            raise DataError(f"{where}: has shape {_dims(array.shape)}, the model takes {_dims(self.shape)}")
        array = array.astype(_castable(array.dtype, self, where), copy=False)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = "NaN" if np.isnan(array).any() else "Inf"
            raise DataError(f"{where}: holds {bad}; remove or repair that sample")
        return array


def input_specs(model_inputs: Iterable[Any]) -> tuple[InputSpec, ...]:
    """Specs of `model.graph.inputs` or of anything with name, dtype and shape; initializers are left out."""
    specs = []
    for value in model_inputs:
        if isinstance(value, ir.Value):
            if value.is_initializer():
                continue
            if value.shape is None or value.dtype is None:
                raise DataError(f"input {value.name!r} of the model has no known type and shape")
            shape = tuple(d if isinstance(d, int) else d.value for d in value.shape)
            specs.append(InputSpec(value.name or "", np.dtype(value.dtype.numpy()), shape))
        else:
            specs.append(InputSpec(value.name, np.dtype(value.dtype), tuple(value.shape)))
    return tuple(specs)


def _castable(have: np.dtype[Any], spec: InputSpec, where: str) -> np.dtype[Any]:
    if not np.can_cast(have, spec.dtype, "same_kind"):
        raise DataError(f"{where}: has type {have}, the model takes {spec.dtype}")
    return spec.dtype


def _dims(shape: Iterable[int | str | None]) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
