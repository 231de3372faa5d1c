"""bfloat16 as a compute type: which operators multiply bfloat16 numbers and add float32 ones.

The model itself stays float32 (ONNX Runtime's CPU has no bfloat16 convolution); the compiler reads the mark
`node.metadata_props["optkit.compute_type"]` when it lowers.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes.graph import is_op, nodes

COMPUTE_TYPE = "optkit.compute_type"
_OPERATORS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclass(frozen=True)
class Bf16(Pass):
    """Mark convolutions and matrix products to be computed in bfloat16 with float32 sums."""

    name: ClassVar[str] = "bf16"

    exclude: tuple[str, ...] = option((), "names of nodes that stay float32; * and ? match any text")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Mark every node of the four kinds but the excluded, the quantized and those of other types."""
        findings: list[Finding] = []
        marked, modified, unused = 0, False, set(self.exclude)
        for node in nodes(model):
            if not is_op(node, *_OPERATORS):
                continue
            hits = {pattern for pattern in self.exclude if fnmatch.fnmatchcase(node.name or "", pattern)}
            unused -= hits
            reason = "excluded" if hits else _why_not(node)
            if reason:
                findings.append(Finding("skipped", node.name or "", f"{node.op_type} not in bfloat16: {reason}"))
                modified |= node.metadata_props.pop(COMPUTE_TYPE, None) is not None
                continue
            marked += 1
            modified |= node.metadata_props.get(COMPUTE_TYPE) != "bfloat16"
            node.metadata_props[COMPUTE_TYPE] = "bfloat16"
        findings += [Finding("warning", "", f"exclude: no such operator as {word!r}") for word in sorted(unused)]
        if marked:
            findings.append(Finding("changed", "", f"{marked} operators compute in bfloat16"))
        return Result(model, modified, findings)


def _why_not(node: ir.Node) -> str | None:
    kinds = {value.dtype for value in node.inputs if value is not None}
    if kinds != {ir.DataType.FLOAT}:
        return f"its type is {', '.join(sorted(str(kind) for kind in kinds))}"
    for value in node.inputs[:2]:
        if value is not None and is_op(value.producer(), "DequantizeLinear"):
            return "it is quantized"
    return None
