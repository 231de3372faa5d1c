"""In what arithmetic a model computes, read from the model itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from optkit.onnx_file import read_proto

INTEGER = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "DynamicQuantizeLinear",
    }
)
COMPUTE_TYPE = "optkit.compute_type"
"""Node metadata with which passes ask for an arithmetic that ONNX types do not express."""
PRECISIONS = ("int8", "bf16", "fp16", "tf32")
"""Those below float32, the coarsest first."""
_MARKS = {"bfloat16": "bf16", "tensorfloat32": "tf32"}


def precision_of(model: ir.Model) -> str:
    """ "int8", "bf16", "fp16", "tf32" or "fp32": the coarsest arithmetic that any part of the model uses."""
    found = set(_precisions(model))
    return next((precision for precision in PRECISIONS if precision in found), "fp32")


def holds_halves(model: ir.Model) -> bool:
    """Whether any part of a model computes in float16."""
    return any(v.dtype == ir.DataType.FLOAT16 for graph in model.graphs() for node in graph for v in node.outputs)


def holds_integers(source: ir.Model | str | os.PathLike[str]) -> bool:
    """Whether a model, or the ONNX file of one, has quantized arithmetic in it."""
    if isinstance(source, ir.Model):
        return any(node.op_type in INTEGER for graph in source.graphs() for node in graph)
    proto = read_proto(Path(source))
    return any(node.op_type in INTEGER for owner in (proto.graph, *proto.functions) for node in owner.node)


def _precisions(model: ir.Model) -> Iterator[str]:
    for graph in model.graphs():
        for node in graph:
            if node.op_type in INTEGER:
                yield "int8"
            if (marked := _MARKS.get(node.metadata_props.get(COMPUTE_TYPE, ""))) is not None:
                yield marked
            for value in node.outputs:
                if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
                    yield "fp16" if value.dtype == ir.DataType.FLOAT16 else "bf16"
