"""The model to work on, from a file or from memory, with the file that serves as the reference."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

import onnx_ir as ir

from optkit.errors import UsageError
from optkit.model import bind_shapes, load_model, model_sha256

if TYPE_CHECKING:
    import onnx

ModelLike = Union[str, "os.PathLike[str]", ir.Model, "onnx.ModelProto"]
"""A path of an ONNX file, or a model in memory."""


@dataclass(frozen=True)
class Source:
    """A model as it was given.

    Attributes:
        model: checked, normalized, shapes bound; passes may change it.
        path: the ONNX file it was read from, the reference that results are compared with.
        sha256: of that file with its external data.
        stem: the word that files made from it begin with.
        size: of the file in bytes, without external data.
        in_memory: whether it was given in memory; `path` then ends with the call it was opened for.
    """

    model: ir.Model
    path: Path
    sha256: str
    stem: str
    size: int
    in_memory: bool


def open_source(model: ModelLike, shapes: Mapping[str, Sequence[int]] | None, scratch: Path) -> Source:
    """Load `model` and fix the input shapes in `shapes`; a model in memory is written into `scratch` first.

    The model in memory itself is not changed.

    Raises:
        ModelError: see `optkit.model.load_model`.
        UsageError: a shape for an unknown input, or one that does not fit; `model` is nothing of the kind.
    """
    path = _as_file(model, scratch)
    loaded = load_model(path)
    bind_shapes(loaded, shapes or {})
    in_memory = not isinstance(model, (str, os.PathLike))
    return Source(loaded, path, model_sha256(path), model_stem(model), path.stat().st_size, in_memory)


def model_stem(model: ModelLike) -> str:
    """The file's name without `.onnx`, the graph's name for a model in memory, or "model".

    >>> model_stem("models/resnet50.onnx")
    'resnet50'
    """
    if isinstance(model, (str, os.PathLike)):
        return Path(model).stem or "model"
    name = model.graph.name or ""
    return name if name.replace("_", "").replace("-", "").isalnum() else "model"


def _as_file(model: ModelLike, scratch: Path) -> Path:
    if isinstance(model, (str, os.PathLike)):
        return Path(model)
    path = scratch / "source.onnx"
    if isinstance(model, ir.Model):
        # not optkit.model.save_model: it strips paths from the model it is given, which is the caller's
        ir.save(model, path)
    elif hasattr(model, "SerializeToString"):
        path.write_bytes(model.SerializeToString())
    else:
        raise UsageError(f"cannot compile a {type(model).__name__}; give an ONNX file, or a model in memory")
    return path
