"""Element types that few operators know: bfloat16, and those of 8 bits and less that kernels keep in bytes.

bfloat16 is a float32 between its roundings: a node reads its operands as float32, and its results are rounded.
The narrow types are numbers only to the operators that convert them; others may move their bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from optkit.artifact.spec import storage
from optkit.compiler.converters.casts import retype
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.values import Value
from optkit.errors import UnsupportedError

CONVERTING = frozenset(
    [
        *["Cast", "CastLike", "BitCast", "QuantizeLinear", "DequantizeLinear", "MatMulNBits", "QLinearMatMul"],
        # Their bodies are lowered node by node, and each of those comes here.
        *["If", "Loop", "Scan", "SequenceMap"],
        # These hold values of any type and look at none.
        *["Identity", "Shape", "Size", "Optional", "OptionalGetElement", "OptionalHasElement"],
        *["SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength"],
    ]
)
"""Operators whose converters take every element type."""
_MOVING = frozenset(
    [
        *["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Concat", "Split", "Tile"],
        *["Expand", "Pad", "DepthToSpace", "SpaceToDepth", "GatherND", "GatherElements", "ReverseSequence"],
        *["ScatterND", "ScatterElements", "Where", "Compress", "Trilu"],
    ]
)


def convert(low: Lowering, node: Node, inputs: list[Value | None], inner: Converter) -> Value | Sequence[Value] | None:
    """Convert a node by `inner`, which then sees only types it knows."""
    if node.op_type in CONVERTING:
        return inner(low, node, inputs)
    if any(v is not None and v.dtype == "bfloat16" for v in inputs):
        return _widened(low, node, inputs, inner)
    narrow = next((v for v in inputs if v is not None and storage(v.dtype) != v.dtype), None)
    if narrow is None:
        return inner(low, node, inputs)
    return _moved(low, node, inputs, inner, narrow.dtype)


def _widened(low: Lowering, node: Node, inputs: list[Value | None], inner: Converter) -> list[Value] | None:
    wide = [None if v is None else _wide(low, v) for v in inputs]
    result = inner(low, node, wide)
    if result is None:
        return None
    values = [result] if isinstance(result, Value) else list(result)
    kinds = [_declared(node, i) for i in range(len(values))]
    return [retype(low, v, "bfloat16") if kind == "bfloat16" else v for v, kind in zip(values, kinds, strict=True)]


def _wide(low: Lowering, value: Value) -> Value:
    """bfloat16 as float32; weights stay constants, which the packed kernels need."""
    if value.dtype == "bfloat16" and value.const is not None:
        return Value(low, value.shape, "float32", const=value.const.astype("float32"))
    return retype(low, value, "float32") if value.dtype == "bfloat16" else value


def _moved(low: Lowering, node: Node, inputs: list[Value | None], inner: Converter, dtype: str) -> list[Value] | None:
    if node.op_type not in _MOVING:
        raise UnsupportedError(
            f"node {node.name!r} ({node.op_type}): there is no arithmetic on {dtype}; cast it to float32 before"
        )
    raw = [None if v is None else _stored(low, v) for v in inputs]
    result = inner(low, node, raw)
    if result is None:
        return None
    values = [result] if isinstance(result, Value) else list(result)
    return [low.blocked(v.shape, dtype, v.block, v.form(v.block)) if v.dtype == "uint8" else v for v in values]


def _stored(low: Lowering, value: Value) -> Value:
    """The bytes of a value of a narrow type; others as they are."""
    kind = storage(value.dtype)
    if kind == value.dtype:
        return value
    if value.const is not None:
        return Value(low, value.shape, kind, const=value.const.view(kind))
    return low.blocked(value.shape, kind, value.block, value.form(value.block))


def _declared(node: Node, index: int) -> str:
    """The type that the model declares, or ONNX infers, for an output."""
    outputs = node.source.outputs
    if index >= len(outputs) or outputs[index].dtype is None:
        raise UnsupportedError(
            f"node {node.name!r} ({node.op_type}): the type of output {index} is unknown; declare it in value_info"
        )
    kind = outputs[index].dtype
    assert kind is not None
    return str(kind.numpy().name)


__all__ = ["CONVERTING", "convert"]
