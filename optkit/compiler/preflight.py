"""What each node will become, found in milliseconds and before any work is done."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from optkit.exact import DOMAIN
from optkit.target import Target

Status = Literal["native", "decomposed", "slow", "unsupported"]

_STRINGS = frozenset(
    {"StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "LabelEncoder", "CategoryMapper"}
)
_LOOPS = frozenset({"Loop", "Scan"})
# Compiled, but without a template of ours: they run on the generic schedule.
_GENERIC = frozenset(
    {
        *("ConvTranspose", "DeformConv", "Resize", "GridSample", "RoiAlign", "MaxRoiPool", "NonMaxSuppression"),
        *("TopK", "Unique", "NonZero", "Compress", "ScatterND", "ScatterElements", "Scatter", "MaxUnpool", "Col2Im"),
        *("RNN", "LSTM", "GRU", "Det", "DFT", "STFT", "TfIdfVectorizer", "TreeEnsemble", "EyeLike"),
        *("TreeEnsembleClassifier", "TreeEnsembleRegressor", "CumSum", "ReverseSequence"),
    }
)
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_LARGEST = 64 << 30
"""Bytes of one tensor; more is a mistake in a shape, and sizes and strides leave what kernels index with."""
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


@dataclass(frozen=True)
class Issue:
    """How one node will be compiled.

    Attributes:
        status: "native" (a kernel template of ours), "decomposed" (element-wise and moving operators, fused,
            or a function for a subgraph), "slow" (compiled, on the generic schedule or a call an iteration) or
            "unsupported".
    """

    node: str
    op_type: str
    domain: str
    status: Status
    reason: str


def preflight(model: ir.Model, target: Target) -> list[Issue]:
    """One issue a node, in graph order; the nodes of a subgraph come after the node that holds it.

    What depends on constants that only folding finds (a shape, a trip count) is not judged here: the
    lowering refuses it with the same kind of error, before any kernel is generated.
    """
    ends = {value for value in (*model.graph.inputs, *model.graph.outputs) if _container(value)}
    return [_issue(node, *_judge(node, ends)) for node in ir.traversal.RecursiveGraphIterator(model.graph)]


def _issue(node: ir.Node, status: Status, reason: str) -> Issue:
    return Issue(node.name or "", node.op_type, node.domain, status, reason)


def _judge(node: ir.Node, ends: set[ir.Value]) -> tuple[Status, str]:
    reason = _impossible(node, ends)
    if reason:
        return "unsupported", reason
    op, domain = node.op_type, node.domain
    if domain == DOMAIN:
        return "native", ""
    if op in _LOOPS:
        return "slow", "a call of its subgraph every iteration, where it cannot be unrolled"
    if op == "If":
        return "decomposed", "a function for each branch"
    if op in _GENERIC:
        return "slow", "no template of its own"
    if op in _templates() and domain != "ai.onnx.ml":
        reason = _why_generic(node)
        return ("slow", reason) if reason else ("native", "")
    return "decomposed", ""


def _impossible(node: ir.Node, ends: set[ir.Value]) -> str:
    """Why a node cannot be compiled; empty where that is not known yet.

    `ends` are the model's inputs and outputs that are no tensors.
    """
    from optkit.compiler.converters import EXACT, NATIVE
    from optkit.compiler.converters.imported import knows

    op, domain = node.op_type, node.domain
    if any(value is not None and value.dtype == ir.DataType.STRING for value in (*node.inputs, *node.outputs)):
        return "strings have no place in a kernel; do this step before or after the model"
    if op in _STRINGS and op not in NATIVE:
        return "strings have no place in a kernel; do this step before or after the model"
    if domain == DOMAIN:
        return "" if op in EXACT else f"optkit has no function {op!r}"
    if domain not in _DOMAINS:
        return f"operators of domain {domain!r} are unknown; replace it by ONNX operators"
    if op in _RANDOM:
        return "random numbers agree with no reference, so nothing could be verified; make them an input of the model"
    if op not in NATIVE and (domain == "ai.onnx.ml" or not knows(op)):
        return "there is no converter for this operator; replace it by others"
    for value in node.inputs:
        if value in ends:
            return (
                f"it reads input {value.name!r}, {_container(value)}, which is known only when the model runs; "
                "make its tensors inputs of the model"
            )
    for value in (*node.inputs, *node.outputs):
        if value is not None and (size := _size(value)) > _LARGEST:
            return (
                f"value {value.name!r} of shape {value.shape} takes {size >> 30} GiB, one tensor may take "
                f"{_LARGEST >> 30}; check the shapes of the model's inputs"
            )
    for value in node.outputs:
        if value in ends:
            return f"output {value.name!r} of the model is {_container(value)}; make its tensors outputs of the model"
    return ""


def _size(value: ir.Value) -> int:
    """Bytes of a tensor, open axes counted once; 0 where its shape or type is not known."""
    if value.shape is None or value.dtype is None:
        return 0
    elements = math.prod(d for d in value.shape if isinstance(d, int))
    return math.ceil(elements * value.dtype.itemsize)


def _container(value: ir.Value) -> str:
    if isinstance(value.type, ir.SequenceType):
        return "a sequence of some length"
    return "an optional that may be empty" if isinstance(value.type, ir.OptionalType) else ""


@functools.cache
def _templates() -> frozenset[str]:
    """Operators with kernel templates of ours."""
    from optkit.compiler.converters import concat, conv, elementwise, matmul, pool, quantized, rows

    modules = (quantized, conv, matmul, pool, concat, rows, elementwise)
    return frozenset(op for module in modules for op in module.CONVERTERS)


def _why_generic(node: ir.Node) -> str:
    """Why a convolution falls back to the generic schedule; empty where it does not."""
    if node.op_type != "Conv":
        return ""
    x, weight = node.inputs[0], node.inputs[1]
    if weight is None or x is None:
        return ""
    if weight.shape is not None and len(weight.shape) > 4:
        return f"a convolution over {len(weight.shape) - 2} dimensions has no template yet"
    opened = x.shape is not None and any(not isinstance(d, int) for d in list(x.shape)[2:])
    same = node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
    if opened and same and any(step != 1 for step in node.attributes.get_ints("strides", ())):
        return "its padding depends on a symbolic extent; fix it with --input-shape"
    if weight.const_value is None and not _dequantized(weight):
        return "its weights are computed at run time"
    return ""


def _dequantized(weight: ir.Value) -> bool:
    producer = weight.producer()
    return producer is not None and producer.op_type in ("DequantizeLinear", "Cast", "Identity", "Constant")
