"""What each node will become, found in milliseconds and before any work is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from optkit.exact import DOMAIN
from optkit.target import Target

_SUBGRAPHS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_STRINGS = frozenset({"StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer"})
# Importable, but without a template of ours: they run on the generic schedule.
_GENERIC = frozenset({"ConvTranspose", "Resize", "GridSample", "RoiAlign", "NonMaxSuppression", "TopK", "ScatterND"})
_DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True)
class Issue:
    """How one node will be compiled.

    Attributes:
        status: "native" (a kernel template of ours), "decomposed" (TVM's converter, element-wise and moving
            operators fused), "slow" (compiled, on the generic schedule) or "unsupported".
    """

    node: str
    op_type: str
    domain: str
    status: Literal["native", "decomposed", "slow", "unsupported"]
    reason: str


def preflight(model: ir.Model, target: Target) -> list[Issue]:
    """One issue a node, in graph order."""
    return list(_judge(model))


def _judge(model: ir.Model) -> Iterator[Issue]:
    from optkit.compiler.converters import EXACT, NATIVE
    from optkit.compiler.converters.imported import knows

    for node in model.graph:
        name, op, domain = node.name or "", node.op_type, node.domain
        if op in _SUBGRAPHS:
            yield Issue(name, op, domain, "unsupported", "control flow with subgraphs is not lowered yet")
        elif op in _STRINGS:
            yield Issue(name, op, domain, "unsupported", "strings have no place in a kernel")
        elif domain == DOMAIN and op in EXACT:
            yield Issue(name, op, domain, "native", "")
        elif domain not in _DOMAINS:
            yield Issue(name, op, domain, "unsupported", f"operators of domain {domain!r} are unknown")
        elif op in NATIVE and domain in ("", "ai.onnx"):
            reason = _why_generic(node)
            yield Issue(name, op, domain, "slow" if reason else "native", reason)
        elif knows(op):
            status: Literal["slow", "decomposed"] = "slow" if op in _GENERIC else "decomposed"
            yield Issue(name, op, domain, status, "no template of its own" if op in _GENERIC else "")
        else:
            yield Issue(name, op, domain, "unsupported", "there is no converter for this operator")


def _why_generic(node: ir.Node) -> str:
    """Why a convolution falls back to the generic schedule; empty where it does not."""
    if node.op_type != "Conv":
        return ""
    x, weight = node.inputs[0], node.inputs[1]
    if weight is None or x is None:
        return ""
    if weight.shape is not None and len(weight.shape) > 4:
        return f"a convolution over {len(weight.shape) - 2} dimensions has no template yet"
    if x.shape is not None and any(not isinstance(d, int) for d in list(x.shape)[2:]):
        return "its height or width is symbolic; fix it with --input-shape"
    if weight.const_value is None and not _dequantized(weight):
        return "its weights are computed at run time"
    return ""


def _dequantized(weight: ir.Value) -> bool:
    producer = weight.producer()
    return producer is not None and producer.op_type in ("DequantizeLinear", "Cast", "Identity", "Constant")
