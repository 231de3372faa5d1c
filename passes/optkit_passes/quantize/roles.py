"""What each operator means to quantization, whatever its surroundings."""

from __future__ import annotations

from enum import Enum

import numpy as np
import onnx_ir as ir

ANCHORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Where the arithmetic is: these are what int8 is for; all others only keep tensors in int8 between them."""

TRANSPARENT = (
    "MaxPool",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Split",
    "Identity",
    "Resize",
    "DepthToSpace",
)
"""Pick or move elements of their first input: what comes out has the parameters of what goes in."""

AVERAGES = ("AveragePool", "GlobalAveragePool", "ReduceMean")
ELEMENTWISE = ("Add", "Mul")
OP_TYPES = (*ANCHORS, *ELEMENTWISE, "Concat", *TRANSPARENT, *AVERAGES)
"""Every operator type the pass can quantize, the default of its option `op_types`."""

POINTWISE = frozenset(
    [
        "Relu",
        "Clip",
        "LeakyRelu",
        "PRelu",
        "HardSwish",
        "HardSigmoid",
        "Sigmoid",
        "Tanh",
        "Gelu",
        "Elu",
        "Selu",
        "Celu",
        "Mish",
        "Softplus",
        "Softsign",
        "ThresholdedRelu",
        "Swish",
        "Erf",
        "Exp",
        "Neg",
        "Abs",
        "Sqrt",
        "Pow",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Min",
        "Max",
        "BatchNormalization",
    ]
)
"""Of one tensor and constants: computed in float on the accumulator, before it is quantized again."""

NORMS = frozenset(
    [
        "LayerNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "GroupNormalization",
        "InstanceNormalization",
    ]
)
"""Their inputs are a residual stream: outliers there make int8 costly, so it stays float."""


class Role(Enum):
    """How a node takes part, see the constants above."""

    ANCHOR = "anchor"
    TRANSPARENT = "transparent"
    AVERAGE = "average"
    ELEMENTWISE = "elementwise"
    CONCAT = "concat"
    POINTWISE = "pointwise"
    NORM = "norm"
    OTHER = "other"


def roles_of(graph: ir.Graph) -> dict[ir.Node, Role]:
    """Every node's role by operator, attributes and constant inputs; `graph` is sorted and has types."""
    roles: dict[ir.Node, Role] = {}
    roots: dict[ir.Value, ir.Value] = {}  # the tensor that a pointwise result is a function of
    for node in graph:
        variable = [v for v in node.inputs if v is not None and constant(v) is None]
        origins = {roots.get(v, v) for v in variable}
        roles[node] = _role_of(node, variable, len(origins))
        if roles[node] is Role.POINTWISE:
            roots[node.outputs[0]] = origins.pop()
    return roles


def _role_of(node: ir.Node, variable: list[ir.Value], origins: int) -> Role:
    op = node.op_type
    if op in NORMS:
        return Role.NORM
    if node.domain not in ("", "ai.onnx") or not is_float(node.outputs[0]):
        return Role.OTHER
    if op in ANCHORS:
        return Role.ANCHOR
    if op == "ReduceMean":
        return Role.AVERAGE if _over_space(node) else Role.NORM
    if op in AVERAGES:
        return Role.AVERAGE
    if op in TRANSPARENT:
        return Role.TRANSPARENT if _moves_only(node) else Role.OTHER
    if op == "Concat":
        return Role.CONCAT if len(variable) == len(node.inputs) else Role.OTHER
    # of one origin: x * sigmoid(x), x * clip(x + 3, 0, 6) / 6, gelu spelled out
    if op in POINTWISE and origins == 1:
        return Role.POINTWISE
    return Role.ELEMENTWISE if op in ELEMENTWISE and len(variable) == 2 else Role.OTHER


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The value's array where no caller can change it, else None."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def is_float(value: ir.Value | None) -> bool:
    """Whether the value is known to be float32."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def attribute(node: ir.Node, name: str, default: float) -> float:
    """A numeric attribute or the operator's default."""
    found = node.attributes.get(name)
    return default if found is None else float(found.value)


def _moves_only(node: ir.Node) -> bool:
    """MaxPool with indices and interpolating Resize do more than move elements."""
    if node.op_type == "Resize":
        mode = node.attributes.get("mode")
        return (mode is None or mode.as_string() == "nearest") and attribute(node, "antialias", 0) == 0
    return node.op_type == "Split" or len(node.outputs) == 1


def _over_space(node: ir.Node) -> bool:
    """A mean over exactly the axes after batch and channels, as GlobalAveragePool takes it."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None and "axes" in node.attributes:
        axes = np.asarray(node.attributes["axes"].as_ints())
    source = node.inputs[0]
    if axes is None or source is None or source.shape is None:
        return False
    rank = len(source.shape)
    return rank > 2 and sorted(int(a) % rank for a in axes.reshape(-1)) == list(range(2, rank))
