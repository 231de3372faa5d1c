"""Reading an ONNX file without trusting it: what is wrong with the bytes, and where tensors may lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from optkit.errors import ModelError, UnsupportedError
from optkit.onnx_tensors import check_tensors

# Wire types of ModelProto's fields (onnx.proto3): 0 is a varint, 2 is length-delimited.
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_LIKELY = {
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint? an artifact?); export the model to ONNX first",
    b"version https://git-lfs": "a Git LFS pointer; fetch the real file with `git lfs pull`",
    b"\x89HDF": "an HDF5 file; export the model to ONNX first",
    b"<": "a web page or XML; download the raw file again",
}


def read_proto(path: Path) -> onnx.ModelProto:
    """The ModelProto in `path`, external tensors left where they are but checked.

    Raises ModelError, in one line, for a file that is missing, empty, truncated, or not ONNX, and for
    external data that is missing, too short, or outside the model's folder.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise ModelError(f"{path}: the file is empty; export or download the model again")
    for magic, what in _LIKELY.items():
        if data.startswith(magic):
            raise ModelError(f"{path}: not an ONNX file but {what}")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path}: {_diagnose(data)}") from None
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(f"{path}: {_diagnose(data)}")
    try:
        check_tensors(tensors(proto))
        external_files(proto, path.parent)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    return proto


def refuse_maps(proto: onnx.ModelProto) -> None:
    """Raise UnsupportedError for an input or output that is a map, or a sequence of maps, as ZipMap makes."""
    for kind, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        for value in values:
            inner = value.type.sequence_type.elem_type if value.type.HasField("sequence_type") else value.type
            if inner.HasField("map_type"):
                made = next((n for n in proto.graph.node if value.name in n.output), None)
                where = f" of node {made.name!r} ({made.op_type})" if made is not None else ""
                raise UnsupportedError(
                    f"{kind} {value.name!r}{where} is made of maps, and only tensors of numbers can be {kind}s; "
                    "export the model without ZipMap (skl2onnx: options={'zipmap': False})"
                )


def _diagnose(data: bytes) -> str:
    """Whether the bytes are a cut-off ModelProto or something else altogether."""
    position, seen = 0, 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag is None:
            break
        if _MODEL_FIELDS.get(tag >> 3) != tag & 7:
            return "not an ONNX file; pass a .onnx model, or export one first"
        value, position = _varint(data, position)
        if value is None:
            break
        if tag & 7 == 2:
            position += value
        seen += 1
    if position != len(data) or seen == 0:
        return f"truncated: {len(data)} bytes are not the whole model; download or export it again"
    return "truncated or not ONNX: there is no graph in it; download or export it again"


def _varint(data: bytes, position: int) -> tuple[int | None, int]:
    """A protobuf varint and the position behind it; None where the data ends or it is over-long."""
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
    return None, len(data)


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model: initializers and attributes, subgraphs and functions included."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        raise ModelError(f"sparse initializer {sparse.values.name!r} is not supported; store it dense before compiling")
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterator[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_tensors(graph)


def external_files(proto: onnx.ModelProto, folder: Path) -> dict[str, Path]:
    """Location text to resolved file of all external data; raises ModelError naming the tensor.

    A location must be relative, free of `..`, and still inside `folder` after symbolic links are
    followed (onnx issue 3991: a model must not be able to read any file of the machine).
    """
    found: dict[str, Path] = {}
    root = folder.resolve()
    for tensor in tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = found.get(location) or _inside(root, location, tensor.name)
        found[location] = file
        _check_extent(tensor.name, location, entries, file.stat().st_size)
    return found


def _inside(root: Path, location: str, tensor: str) -> Path:
    where = f"external data of tensor {tensor!r}"
    if not location:
        raise ModelError(f"{where} names no file; export the model again")
    windows = PureWindowsPath(location)
    if PurePosixPath(location).is_absolute() or windows.is_absolute() or windows.drive or windows.root:
        raise ModelError(f"{where} is at an absolute path, {location!r}; it must lie beside the model")
    if ".." in PurePosixPath(location).parts or ".." in windows.parts:
        raise ModelError(f"{where} leaves the model's folder: {location!r}; it must lie beside the model")
    file = (root / location).resolve()
    if not file.is_relative_to(root):
        raise ModelError(f"{where} leaves the model's folder through a symbolic link: {location!r}")
    if not file.is_file():
        raise ModelError(f"{where} is missing: no file {location!r} beside the model; copy it there")
    return file


def _check_extent(tensor: str, location: str, entries: dict[str, str], size: int) -> None:
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or 0)
    except ValueError:
        raise ModelError(f"external data of tensor {tensor!r} has a broken offset or length") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"external data of tensor {tensor!r} is truncated: {location!r} has {size} bytes, "
            f"{offset + length} are needed; copy the file again"
        )
