"""Whether the tensors inside a model hold as much as they state."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
import onnx_ir as ir

from optkit.errors import ModelError

_T = onnx.TensorProto
_FIELDS: dict[int, str] = {
    **dict.fromkeys((_T.FLOAT, _T.COMPLEX64), "float_data"),
    **dict.fromkeys((_T.DOUBLE, _T.COMPLEX128), "double_data"),
    **dict.fromkeys((_T.UINT32, _T.UINT64), "uint64_data"),
    _T.INT64: "int64_data",
    _T.STRING: "string_data",
}
"""Where a tensor's elements lie if not in raw_data; all other types use int32_data."""
_LARGEST = 1 << 48
"""Elements; more than any machine holds, and small enough that sizes in bytes stay within 64 bits."""


def check_tensors(tensors: Iterable[onnx.TensorProto]) -> None:
    """Raise ModelError, with the tensor's name, where extents, element type and data do not fit together."""
    for tensor in tensors:
        where = f"tensor {tensor.name!r}"
        if any(d < 0 for d in tensor.dims):
            raise ModelError(f"{where} has a negative extent: {list(tensor.dims)}")
        count = math.prod(tensor.dims)
        if count > _LARGEST:
            raise ModelError(f"{where} states {count} elements, more than any machine holds")
        try:
            kind = ir.DataType(tensor.data_type)
        except ValueError:
            raise ModelError(f"{where} has an unknown element type, number {tensor.data_type}") from None
        if kind is ir.DataType.UNDEFINED:
            raise ModelError(f"{where} has no element type")
        if tensor.data_location != _T.EXTERNAL:
            _check_data(tensor, kind, count, where)


def _check_data(tensor: onnx.TensorProto, kind: ir.DataType, count: int, where: str) -> None:
    field = _FIELDS.get(tensor.data_type, "int32_data")
    if tensor.HasField("raw_data") and kind is not ir.DataType.STRING:
        have, need, unit = len(tensor.raw_data), math.ceil(count * kind.bitwidth / 8), "bytes"
    else:
        packed = 8 // kind.bitwidth if kind is not ir.DataType.STRING and kind.bitwidth < 8 else 1
        parts = 2 if tensor.data_type in (_T.COMPLEX64, _T.COMPLEX128) else 1
        have, need, unit = len(getattr(tensor, field)), math.ceil(count / packed) * parts, "elements"
    if have != need:
        raise ModelError(f"{where} holds {have} {unit}, its extents {list(tensor.dims)} need {need}; export it again")
