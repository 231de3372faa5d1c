"""Rounding weights for the layer's outputs instead of to the nearest value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from optkit.errors import PassError, UsageError
from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes.quantize.bias_correct import correct_bias
from optkit_passes.quantize.columns import from_rows, rows
from optkit_passes.quantize.layers import QuantizedLayer, levels, quantized_layers
from optkit_passes.quantize.moments import Moments, Observer
from optkit_passes.quantize.params import exact_weight_scale
from optkit_passes.quantize.rounding import descend, fit_scale, objective, relax
from optkit_passes.quantize.weights import exact_bits


@dataclass(frozen=True)
class AdaRound(Pass):
    """Round each weight up or down so that its layer's outputs change least (AdaRound, Nagel et al. 2020).

    Comes after `quantize`, which chose the scales. Layers are taken in the order of the graph; each one's error is that
    of its outputs on the calibration samples, between the float model and the quantized model with all layers before
    it rounded already (the paper's asymmetric reconstruction), so later layers make good for earlier ones. With
    `asymmetric=false`, which transformers want, each makes good for its own rounding alone. All the data comes down to
    two matrices a layer, so memory does not depend on the number of samples. Afterwards single integers are moved on as
    long as that helps (`refine`), and the bias takes up the mean that remains.

    Raises:
        PassError: quantize does not come before it, or there is no calibration data.
    """

    name: ClassVar[str] = "adaround"

    steps: int = option(200, "steps of the relaxation; 0: only refine what rounding to nearest gives")
    refine: int = option(8, "rounds of coordinate descent after it")
    refit: int = option(0, "times the scales are fitted to the integers and the integers to them")
    asymmetric: bool = option(True, "make good what layers before lost; false: only what this layer's rounding does")
    damping: float = option(0.01, "pull to the float weights, as a share of the mean variance of a layer's inputs")
    samples: int | None = option(None, "use at most so many calibration samples, the first")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Change the integers of `model` in place."""
        for name in ("steps", "refine", "refit", "damping"):
            if getattr(self, name) < 0:
                raise UsageError(f"adaround: {name}={getattr(self, name)} is negative")
        if context.calibration is None:
            raise PassError("adaround needs calibration data: there is nothing to measure a layer's outputs on")
        layers, left = quantized_layers(model, context)
        findings = [Finding("skipped", name, reason) for name, reason in left]
        findings += [
            Finding("skipped", x.name, "ConvTranspose is rounded to nearest") for x in layers if not _columned(x)
        ]
        layers = [x for x in layers if _columned(x)]
        assert context.unquantized is not None
        done, moved, total = 0, 0, 0
        with Observer(model, context.unquantized, context.calibration, self.samples) as observer:
            for level in levels(model.graph, layers):
                moments = {layer.name: Moments() for layer in level}
                observer.observe(level, moments)
                for layer in level:
                    context.progress("adaround", done, len(layers))
                    before = layer.q
                    self._round(layer, moments[layer.name])
                    done, moved, total = done + 1, moved + int((before != layer.q).sum()), total + before.size
        if layers:
            text = f"{100 * moved / total:.0f} % of the weights of {len(layers)} layers not rounded to nearest"
            findings.append(Finding("changed", "", text))
        return Result(model, bool(layers), findings)

    def _round(self, layer: QuantizedLayer, moments: Moments) -> None:
        """Set integers, scale and bias."""
        anchor, node = layer.anchor, layer.anchor.node
        assert anchor.weight is not None
        w = rows(anchor.weight.astype(np.float64), node, anchor.axis)
        old = rows(layer.q.astype(np.float64), node, anchor.axis)
        scale = np.broadcast_to(layer.scale.astype(np.float64).reshape(-1), (w.shape[0] * w.shape[1],))
        scale = scale.reshape(w.shape[0], w.shape[1], 1)
        # A bias takes up the mean of the outputs' error; where there is none, that counts too.
        gram, cross = moments.centred() if layer.bias is not None and anchor.bias is not None else moments.whole()
        target = w @ (cross if self.asymmetric else gram).transpose(0, 2, 1)
        # Where inputs hardly vary, any weight would do for these samples: the float ones do for others too.
        damp = self.damping * np.einsum("gkk->gk", gram).mean(axis=1)[:, None, None]
        gram, target = gram + damp * np.eye(gram.shape[1]), target + damp * w
        before, first = objective(scale * old, gram, target), scale
        q, top = old, layer.top
        if self.steps:
            q = relax(w, scale, gram, target, top, self.steps)
        q = descend(q, scale, gram, target, top, self.refine)
        for _ in range(self.refit if layer.scale.ndim else 0):
            scale = _exact(layer, fit_scale(q, scale, gram, target), q)
            q = descend(q, scale, gram, target, top, self.refine)
        after = objective(scale * q, gram, target)
        kept = (before <= after)[..., None]
        q, scale = np.where(kept, old, q), np.where(kept, first, scale)
        layer.set_weight(from_rows(q, layer.q.shape, node, anchor.axis))
        if self.refit and layer.scale.ndim:
            layer.set_scale(scale.reshape(-1))
        correct_bias(layer, moments)


def _columned(layer: QuantizedLayer) -> bool:
    return layer.node.op_type != "ConvTranspose"


def _exact(layer: QuantizedLayer, scale: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The scale with as few significant bits as the layer's were made with."""
    flat = layer.scale.astype(np.float64)
    if not np.array_equal(exact_weight_scale(flat), flat):
        return scale  # it was not exact
    steps = q.reshape(q.shape[0] * q.shape[1], -1)
    low = exact_weight_scale(scale.reshape(-1), exact_bits(steps, 0))
    return low.reshape(scale.shape)
