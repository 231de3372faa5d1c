"""Biases that give the layers' outputs their means back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from optkit.errors import PassError, UsageError, nearest
from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes.quantize.columns import rows
from optkit_passes.quantize.layers import QuantizedLayer, levels, quantized_layers
from optkit_passes.quantize.moments import Means, Observer

METHODS = ("empirical", "fast")


@dataclass(frozen=True)
class BiasCorrect(Pass):
    """Move biases so that quantized layers' outputs have the float model's means.

    Rounding weights shifts the mean of a layer's output by (W' - W) E[x] (Nagel et al. 2019, "Data-Free Quantization
    Through Weight Equalization and Bias Correction", section 4.2). `empirical`: layer by layer in the order of the
    graph, with the inputs each really sees, so that what activations lose is made good too (appendix D).
    `fast`: all at once from the means of the float model's inputs, which one pass over the data gives.

    Comes after `quantize`. Layers without an int32 bias are left alone, and findings name them.

    Raises:
        PassError: quantize does not come before it, or there is no calibration data.
    """

    name: ClassVar[str] = "bias_correct"

    method: str = option("empirical", f"how the shift is found: {', '.join(METHODS)}")
    samples: int | None = option(None, "use at most so many calibration samples, the first")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Change the biases of `model` in place."""
        if self.method not in METHODS:
            raise UsageError(f"bias_correct: unknown method {self.method!r}; {nearest(self.method, METHODS)}")
        if context.calibration is None:
            raise PassError("bias_correct needs calibration data: there is nothing to take means of")
        layers, left = quantized_layers(model, context)
        findings = [Finding("skipped", name, reason) for name, reason in left]
        findings += [Finding("skipped", x.name, reason) for x in layers if (reason := _refusal(x)) is not None]
        layers = [x for x in layers if _refusal(x) is None]
        assert context.unquantized is not None
        groups = levels(model.graph, layers) if self.method == "empirical" else [layers] if layers else []
        source = model if self.method == "empirical" else context.unquantized
        done = changed = 0
        with Observer(source, context.unquantized, context.calibration, self.samples) as observer:
            for group in groups:
                means = {layer.name: Means() for layer in group}
                observer.observe(group, means)
                for layer in group:
                    context.progress("bias correction", done, len(layers))
                    changed += correct_bias(layer, means[layer.name])
                    done += 1
        findings.append(Finding("changed" if changed else "note", "", f"{changed} of {len(layers)} biases corrected"))
        return Result(model, changed > 0, findings)


def correct_bias(layer: QuantizedLayer, means: Means) -> bool:
    """Let the bias take up the difference of the outputs' means; returns whether that changed an integer."""
    anchor = layer.anchor
    if layer.bias is None or anchor.weight is None or anchor.bias is None:
        return False
    seen, meant = means.means()
    real = rows(anchor.weight.astype(np.float64), anchor.node, anchor.axis) @ meant[:, :, None]
    now = rows(layer.real, anchor.node, anchor.axis) @ seen[:, :, None]
    return layer.set_bias(anchor.bias.astype(np.float64) + (real - now).reshape(-1))


def _refusal(layer: QuantizedLayer) -> str | None:
    if layer.node.op_type == "ConvTranspose":
        return "the means of a ConvTranspose's outputs differ from place to place"
    if layer.bias is None or layer.anchor.bias is None:
        return f"{layer.node.op_type} has no int32 bias to correct"
    return None
