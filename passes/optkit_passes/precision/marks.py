"""A compute type as a mark: which products are to be computed in another type than their data's.

The model itself stays float32, and runs in ONNX Runtime as before; the compiler reads the mark
`node.metadata_props["optkit.compute_type"]` when it lowers.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from optkit.precision import COMPUTE_TYPE
from optkit.target import Target
from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes.graph import is_op, nodes

_OPERATORS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclass(frozen=True)
class MarkProducts(Pass):
    """Mark convolutions and matrix products to be computed in another type.

    Attributes:
        kind: the type, as the mark has it.
        word: the type, as users read it.
    """

    kind: ClassVar[str]
    word: ClassVar[str]

    exclude: tuple[str, ...] = option((), "names of nodes that stay float32; * and ? match any text")

    def without(self, target: Target) -> str | None:
        """Why nothing is to be marked for this target; None where products are."""
        return None

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Mark every node of the four kinds but the excluded, the quantized and those of other types."""
        nothing = None if context.target is None else self.without(context.target)
        findings: list[Finding] = []
        marked, modified, unused = 0, False, set(self.exclude)
        for node in nodes(model):
            if not is_op(node, *_OPERATORS):
                continue
            hits = {pattern for pattern in self.exclude if fnmatch.fnmatchcase(node.name or "", pattern)}
            unused -= hits
            reason = nothing or ("excluded" if hits else _why_not(node))
            if reason:
                if not nothing:
                    text = f"{node.op_type} not in {self.word}: {reason}"
                    findings.append(Finding("skipped", node.name or "", text))
                modified |= node.metadata_props.pop(COMPUTE_TYPE, None) is not None
                continue
            marked += 1
            modified |= node.metadata_props.get(COMPUTE_TYPE) != self.kind
            node.metadata_props[COMPUTE_TYPE] = self.kind
        if nothing:
            findings.append(Finding("warning", "", nothing))
        findings += [Finding("warning", "", f"exclude: no such operator as {word!r}") for word in sorted(unused)]
        if marked:
            findings.append(Finding("changed", "", f"{marked} operators compute in {self.word}"))
        return Result(model, modified, findings)


def _why_not(node: ir.Node) -> str | None:
    kinds = {value.dtype for value in node.inputs if value is not None}
    if kinds != {ir.DataType.FLOAT}:
        return f"its type is {', '.join(sorted(str(kind) for kind in kinds))}"
    for value in node.inputs[:2]:
        if value is not None and is_op(value.producer(), "DequantizeLinear"):
            return "it is quantized"
    return None
