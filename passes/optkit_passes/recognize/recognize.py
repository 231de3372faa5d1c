"""Recognizing what other tools quantized, and saying what of it has no integer kernel."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from optkit.tidy import infer_shapes
from optkit.transform import Finding, Pass, PassContext, Result
from optkit_passes.graph import is_op, nodes, remove_unused
from optkit_passes.recognize.decomposed import recognize_decomposed
from optkit_passes.recognize.left import find_left
from optkit_passes.recognize.narrow import recognize_narrow
from optkit_passes.recognize.parameters import recognize_parameters
from optkit_passes.recognize.weights import recognize_weights

_SIGNS = ("QuantizeLinear", "DequantizeLinear", "Round", "Floor")


@dataclass(frozen=True)
class Recognize(Pass):
    """Bring a model that another tool quantized to the form that `quantize` writes, so that it runs in integers.

    Quantization spelled out in Mul, Round and Clip becomes QuantizeLinear and DequantizeLinear (`decomposed`), clipped
    integers become clipped real values (`narrow`), constants behind a DequantizeLinear become int8 initializers with
    zero point 0 (`weights`). All of it keeps every number; what cannot is left alone.

    It has to run before `fold`, which would compute integer weights that are cast and scaled as floats.

    Findings: what was recognized, and what is quantized in a way that integer kernels do not take, with the reason.
    """

    name: ClassVar[str] = "recognize"

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Rewrite `model` in place."""
        if not any(is_op(node, *_SIGNS) or _cast_weight(node) for node in nodes(model)):
            return Result(model, False)
        infer_shapes(model)
        findings = recognize_decomposed(model)
        if any(f.action == "changed" for f in findings):
            remove_unused(model)
            infer_shapes(model)
        findings += recognize_parameters(model)
        findings += recognize_narrow(model)
        findings += recognize_weights(model)
        modified = any(f.action == "changed" for f in findings)
        if modified:
            remove_unused(model)
            infer_shapes(model)
        findings += find_left(model)
        counts = Counter(node.op_type for node in nodes(model) if is_op(node, *_SIGNS[:2]))
        if modified:
            text = f"{counts['QuantizeLinear']} QuantizeLinear and {counts['DequantizeLinear']} DequantizeLinear now"
            findings.append(Finding("note", "", text))
        return Result(model, modified, findings)


def _cast_weight(node: ir.Node) -> bool:
    """A Cast of 8-bit integers to float: where a dequantization spelled out begins."""
    source = node.inputs[0] if is_op(node, "Cast") else None
    return source is not None and source.dtype in (ir.DataType.UINT8, ir.DataType.INT8)
