"""Names, element types and shapes of an artifact's tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from optkit.errors import ArtifactError

_INTEGERS = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
_NUMPY = frozenset(["bool", *_INTEGERS, "float16", "float32", "float64"])
_NARROW = frozenset(
    [
        *["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"],
        *["float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn", "int4", "uint4", "int2", "uint2"],
    ]
)
_ML_DTYPES = _NARROW | {"bfloat16"}


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of an element type's name; the types numpy lacks come from ml_dtypes.

    Raises:
        ArtifactError: the name is none that artifacts hold.
    """
    if name in _NUMPY:
        return np.dtype(name)
    if name in _ML_DTYPES:
        import ml_dtypes

        custom: np.dtype = np.dtype(getattr(ml_dtypes, name))
        return custom
    raise ArtifactError(f"unknown element type {name!r}; known: {', '.join(sorted(_NUMPY | _ML_DTYPES))}")


def numpy_has(name: str) -> bool:
    """Whether an element type is numpy's own, and not one of ml_dtypes."""
    return name in _NUMPY


def storage(name: str) -> str:
    """The type kernels see a tensor as: types of at most 8 bits that numpy lacks are one byte an element.

    Their bits are the lowest of the byte, as in ml_dtypes' arrays; the rest of it means nothing.
    """
    return "uint8" if name in _NARROW else name


@dataclass(frozen=True)
class Variant:
    """An entry function that takes over where the inputs have certain shapes.

    Attributes:
        entry: its name.
        shapes: of the inputs, in order.
        weights: indices of the weights it takes, in call order.
    """

    entry: str
    shapes: tuple[tuple[int, ...], ...]
    weights: tuple[int, ...]


@dataclass(frozen=True)
class Partition:
    """A part of a model that is not of one piece; parts run in order, each on what came before it.

    Attributes:
        runner: "vm", or "onnxruntime" for what was left to it.
        entry: the name of an entry function, or of the member that holds an ONNX model.
        inputs: names of inputs of the model and of outputs of earlier parts.
        outputs: what it adds to them.
        weights: indices of the weights that an entry function takes, in call order.
        nodes: the nodes that were left to ONNX Runtime.
    """

    runner: str
    entry: str
    inputs: tuple[str, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model.

    Attributes:
        name: as in the source model.
        dtype: element type, by numpy's or ml_dtypes' name.
        shape: one entry a dimension: an extent, or the name of one that is free. A name that occurs
            twice stands for one extent.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __init__(self, name: str, dtype: str, shape: Iterable[int | str]) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "dtype", str(dtype))
        object.__setattr__(self, "shape", tuple(d if isinstance(d, str) else int(d) for d in shape))

    @property
    def numpy(self) -> np.dtype:
        """Element type as numpy has it."""
        return numpy_dtype(self.dtype)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"
