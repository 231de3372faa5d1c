"""The model as optkit holds it: an `onnx_ir.Model`, checked and brought to one form when it is loaded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from optkit.errors import ModelError, OptkitError, UnsupportedError
from optkit.exact import is_ours
from optkit.expand import expand_functions, spell_defaults
from optkit.onnx_file import external_files, read_proto, refuse_maps
from optkit.open_axes import open_unknown_axes
from optkit.opset import MINIMUM_OPSET, check_operators, raise_opset
from optkit.shapes import bind_shapes, parse_shape
from optkit.tidy import check_model, forget_shapes, infer_shapes, name_nodes, one_line, strip_paths

__all__ = [
    "MINIMUM_OPSET",
    "bind_shapes",
    "check_model",
    "infer_shapes",
    "load_model",
    "model_sha256",
    "name_nodes",
    "parse_shape",
    "save_model",
    "strip_paths",
    "to_proto",
]

# Protobuf cannot hold a message of 2 GiB; the rest of the model needs some room too.
_INLINE_LIMIT = 1_800_000_000
# onnx's checker wants to see small tensors (shapes, axes), and mapping less than a page wins nothing.
_MAPPED_FROM = 4096


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Read, check and normalize an ONNX model.

    Normalized means: operators of opset 18 or newer (older models are converted; where that is not
    possible the reason is kept in `metadata_props["optkit.opset"]`), initializers are no inputs,
    open axes of inputs have names, functions other than our own are inlined, operators that are
    functions and have no kernel are replaced by their bodies (`optkit.expand`), every node has a unique
    name, shapes are inferred, and no path of the exporting machine is left. Weights of models past 1.8 GB
    stay memory-mapped.

    Raises ModelError in one line for everything that is wrong with the file, naming node or tensor, and
    UnsupportedError for inputs or outputs that are maps.
    """
    source = Path(path)
    proto = read_proto(source)
    try:
        refuse_maps(proto)
        model = ir.serde.deserialize_model(proto)
    except UnsupportedError as error:
        raise UnsupportedError(f"{source}: {error}") from error
    except Exception as error:  # onnx_ir raises many kinds for malformed graphs
        raise ModelError(f"{source}: not a valid ONNX graph: {one_line(error)}") from error
    ir.external_data.set_base_dir(model.graph, source.parent.resolve())
    # In memory, so that the file may be replaced while we work; unless there is too much of it.
    _load_external(model, at_most=_MAPPED_FROM if _weight_bytes(model) >= _INLINE_LIMIT else None)
    try:
        _normalize(model)
    except OptkitError as error:
        raise type(error)(f"{source}: {error}") from error
    return model


def _load_external(model: ir.Model, at_most: int | None) -> None:
    """Read external tensors of up to `at_most` bytes (None: all) into memory, those in attributes always."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and (at_most is None or tensor.nbytes <= at_most):
                value.const_value = _in_memory(tensor)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, _in_memory(attribute.value))


def _in_memory(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def _normalize(model: ir.Model) -> None:
    common.RemoveInitializersFromInputsPass()(model)
    open_unknown_axes(model)
    check_operators(model)
    if model.functions:
        common.InlinePass(criteria=lambda function: not is_ours(function))(model)
        common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    strip_paths(model)
    spell_defaults(model)
    raise_opset(model)
    if expand_functions(model):
        common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(model)
    common.NameFixPass()(model)
    name_nodes(model)
    try:
        check_model(model)
    except ModelError:
        # Exporters leave stale intermediate shapes behind; only what inference itself finds counts.
        forget_shapes(model)
        check_model(model)
    infer_shapes(model)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a ModelProto; memory-mapped weights (past 1.8 GB) stay external references."""
    return ir.serde.serialize_model(model)


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write `model` to `path`, atomically; past 1.8 GB of weights into `<path>.data` beside it.

    Paths of this or the exporting machine are stripped from `model` first. The same model gives the
    same bytes. Raises OptkitError where the file cannot be written; nothing half-written stays.
    """
    target = Path(path)
    strip_paths(model)
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            if _weight_bytes(model) < _INLINE_LIMIT:
                part.write_bytes(model_bytes(model))
            else:
                _save_external(model, part, target)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OptkitError(f"cannot write {target}: {error.strerror or error}; choose another path") from error


def model_bytes(model: ir.Model) -> bytes:
    """The file of a model that holds every tensor itself; the same model gives the same bytes.

    Raises:
        ValueError: it is larger than protobuf serializes, 2 GiB.
    """
    content: bytes = _inline(model).SerializeToString(deterministic=True)
    return content


def _inline(model: ir.Model) -> onnx.ModelProto:
    """A ModelProto that holds every tensor itself; `model` is not changed."""
    swapped: list[tuple[ir.Value, ir.TensorProtocol]] = []
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                swapped.append((value, tensor))
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    try:
        return ir.serde.serialize_model(model)
    finally:
        for value, tensor in swapped:
            value.const_value = tensor


def _save_external(model: ir.Model, part: Path, target: Path) -> None:
    data = target.with_name(target.name + ".data")
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and Path(tensor.path).resolve() == data.resolve():
                raise OptkitError(f"{data} holds the weights being read; choose another output path")
    existed = data.exists()
    try:
        ir.save(model, part, external_data=data.name)
    except BaseException:
        if not existed:
            data.unlink(missing_ok=True)
        raise


def _weight_bytes(model: ir.Model) -> int:
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def model_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256, in hex, of the model file followed by its external data files in order of location.

    A model with no external data hashes like the plain file (`sha256sum`).
    """
    source = Path(path)
    digest = hashlib.sha256()
    files = external_files(read_proto(source), source.parent)
    for file in (source, *(files[location] for location in sorted(files))):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
