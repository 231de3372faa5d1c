"""Multiply-accumulates and parameters of a model, counted from its shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

Dims = tuple[int, ...]


@dataclass(frozen=True)
class NodeMacs:
    """Multiply-accumulates of one node.

    Attributes:
        macs: of one call; open dimensions count as 1. None where a shape is unknown.
        open: whether a dimension was open.
    """

    node: str
    op_type: str
    macs: int | None
    open: bool


def count_macs(model: ir.Model) -> list[NodeMacs]:
    """Every convolution and matrix product of the model, subgraphs included (once), in graph order."""
    return [counted for node in _nodes(model) if (counted := node_macs(node)) is not None]


def node_macs(node: ir.Node) -> NodeMacs | None:
    """Multiply-accumulates of `node`; None where it is neither a convolution nor a matrix product."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _COUNTERS:
        return None
    counter, operands = _COUNTERS[node.op_type]
    values = [node.inputs[i] if i < len(node.inputs) else None for i in operands] + [node.outputs[0]]
    shapes = [None if value is None or value.shape is None else value.shape for value in values]
    name = node.name or node.outputs[0].name or node.op_type
    if any(shape is None for shape in shapes):
        return NodeMacs(name, node.op_type, None, open=False)
    dims = [_dims(shape) for shape in shapes if shape is not None]
    unknown = any(not isinstance(d, int) for shape in shapes if shape is not None for d in shape)
    return NodeMacs(name, node.op_type, counter(node, dims), open=unknown)


def count_parameters(model: ir.Model) -> int:
    """Elements of all initializers and Constant nodes, less shapes and indices (int64), masks and strings."""
    total = 0
    for graph in model.graphs():
        made = [node.outputs[0] for node in graph if node.op_type == "Constant" and not node.domain]
        for value in (*graph.initializers.values(), *made):
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is not None and tensor.dtype not in (
                ir.DataType.INT64,
                ir.DataType.BOOL,
                ir.DataType.STRING,
            ):
                total += math.prod(tensor.shape.numpy())
    return total


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for graph in model.graphs():
        yield from graph


def _dims(shape: ir.Shape) -> Dims:
    return tuple(d if isinstance(d, int) else 1 for d in shape)


def _conv(_node: ir.Node, dims: Sequence[Dims]) -> int:
    """Outputs times the filter's extent: W is (M, C / group, k...), so the groups are already in it."""
    weight, output = dims
    return math.prod(output) * math.prod(weight[1:])


def _conv_transpose(_node: ir.Node, dims: Sequence[Dims]) -> int:
    """Inputs times the filter's extent: W is (C, M / group, k...). Cropped outputs are counted too."""
    source, weight, _output = dims
    return math.prod(source) * math.prod(weight[1:])


def _matmul(_node: ir.Node, dims: Sequence[Dims]) -> int:
    """(..., M, K) x (..., K, N): outputs times K."""
    left, output = dims
    return math.prod(output) * left[-1]


def _gemm(node: ir.Node, dims: Sequence[Dims]) -> int:
    left, output = dims
    transposed = "transA" in node.attributes and node.attributes["transA"].as_int()
    return math.prod(output) * left[0 if transposed else -1]


_COUNTERS: dict[str, tuple[Callable[[ir.Node, Sequence[Dims]], int], tuple[int, ...]]] = {
    "Conv": (_conv, (1,)),
    "ConvInteger": (_conv, (1,)),
    "QLinearConv": (_conv, (3,)),
    "ConvTranspose": (_conv_transpose, (0, 1)),
    "MatMul": (_matmul, (0,)),
    "MatMulInteger": (_matmul, (0,)),
    "QLinearMatMul": (_matmul, (0,)),
    "Gemm": (_gemm, (0,)),
}
"""How an operator's products are counted, and the inputs whose shapes that takes; the output's comes last."""
