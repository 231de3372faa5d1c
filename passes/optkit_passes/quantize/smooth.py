"""Outliers of activations moved into the weights that read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from optkit.errors import PassError, UsageError
from optkit.tidy import infer_shapes
from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes.graph import add_constant, constant, is_op
from optkit_passes.quantize.collect import collect

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


@dataclass(frozen=True)
class Smooth(Pass):
    """Scale the channels of a normalization down and the weights behind it up, where outliers are (SmoothQuant).

    For y = N(x) W with N's own factors g, b a channel: (g/s, b/s) and s W with
    s_j = max|X_j|^alpha / max|W_j|^(1-alpha) (Xiao et al. 2022, "SmoothQuant", section 4, equation 4): the function
    stays the same but for rounding, and activations, which have one scale a tensor, lose the channels that made it
    coarse. All products that read a normalization share its s. Comes before `quantize`.

    Raises:
        PassError: there is no calibration data.
    """

    name: ClassVar[str] = "smooth"

    alpha: float = option(0.5, "share of the difficulty that moves to the weights, 0 to 1")
    samples: int | None = option(None, "use at most so many calibration samples, the first")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Scale normalizations and weights of `model` in place."""
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"smooth: alpha={self.alpha} is not between 0 and 1")
        infer_shapes(model)
        findings, found = [], []
        for node in model.graph:
            if is_op(node, *_NORMS):
                reason = _refusal(node)
                if reason is None:
                    found.append(node)
                else:
                    findings.append(Finding("skipped", node.name or "", reason))
        if not found:
            findings.append(Finding("note", "", "no normalization that only matrix products read"))
            return Result(model, False, findings)
        if context.calibration is None:
            raise PassError("smooth needs calibration data: outliers are found in activations")
        largest: dict[ir.Value, np.ndarray] = {}
        observers = {node.outputs[0]: _observer(largest, node.outputs[0]) for node in found}
        collect(model, observers, context.calibration, samples=self.samples, progress=context.progress)
        for node in found:
            factor = _smooth(node, largest[node.outputs[0]], self.alpha)
            text = f"channels scaled by {1 / factor.max():.3g} to {1 / factor.min():.3g}"
            findings.append(Finding("changed", node.name or "", text))
        return Result(model, True, findings)


def _observer(largest: dict[ir.Value, np.ndarray], value: ir.Value) -> Callable[[np.ndarray], None]:
    def observe(array: np.ndarray) -> None:
        now = np.abs(array.reshape(-1, array.shape[-1])).max(axis=0, initial=0.0)
        largest[value] = np.maximum(largest.get(value, now), now)

    return observe


def _refusal(node: ir.Node) -> str | None:
    """Why the channels of a normalization cannot be scaled, or None."""
    value = node.outputs[0]
    axis = node.attributes.get_int("axis", -1)
    rank = None if value.shape is None else len(value.shape)
    if axis != -1 and (rank is None or axis != rank - 1):
        return "it normalizes more than the last axis"
    if constant(node.inputs[1]) is None:
        return "its factors are no constant"
    if len(node.inputs) > 2 and node.inputs[2] is not None and constant(node.inputs[2]) is None:
        return "its offsets are no constant"
    users = [(user, index) for user, index in value.uses()]
    if value.is_graph_output() or not users:
        return "it is an output of the model"
    for user, index in users:
        if index != 0 or not is_op(user, "MatMul", "Gemm") or user.graph is not node.graph:
            return f"{user.op_type} {user.name!r} reads it too"
        weight = constant(user.inputs[1])
        if weight is None or weight.ndim != 2 or user.attributes.get_int("transA", 0) == 1:
            return f"the weight of {user.op_type} {user.name!r} is no constant matrix"
    return None


def _smooth(node: ir.Node, largest: np.ndarray, alpha: float) -> np.ndarray:
    """Scale a normalization and its readers; returns s, (channels,)."""
    graph, value = node.graph, node.outputs[0]
    readers = list(dict.fromkeys(user for user, _ in value.uses()))
    weights = [(user, np.asarray(constant(user.inputs[1]), np.float64)) for user in readers]
    flips = [user.attributes.get_int("transB", 0) == 1 for user in readers]
    reach = np.max(
        [np.abs(w.T if flip else w).max(axis=1) for (_, w), flip in zip(weights, flips, strict=True)], axis=0
    )
    alive = (largest > 0) & (reach > 0)
    s = np.where(alive, largest, 1.0) ** alpha / np.where(alive, reach, 1.0) ** (1 - alpha)
    # only the ratios between channels count; around 1 they leave the weights' size as it was
    s = np.asarray(np.clip(s / np.exp(np.log(s).mean()), 1e-5, 1e5))
    for index in range(1, len(node.inputs)):
        old = node.inputs[index]
        if old is not None:
            scaled = np.asarray(constant(old), np.float64) / s
            node.replace_input_with(index, add_constant(graph, f"{old.name}_smooth", scaled.astype(np.float32)))
    for (user, w), flip in zip(weights, flips, strict=True):
        scaled = w * s if flip else w * s[:, None]
        old = user.inputs[1]
        name = "weight" if old is None else old.name
        user.replace_input_with(1, add_constant(graph, f"{name}_smooth", scaled.astype(np.float32)))
    return s
