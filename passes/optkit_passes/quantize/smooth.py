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

    Where something else reads the normalization too, as a residual sum does, and where a product reads what no
    normalization made, `insert` puts a multiplication by 1/s in front of the products, which the quantization that
    follows takes in.

    Raises:
        PassError: there is no calibration data.
    """

    name: ClassVar[str] = "smooth"

    alpha: float = option(0.5, "share of the difficulty that moves to the weights, 0 to 1")
    insert: bool = option(False, "multiply by 1/s in front of products where it cannot go into a normalization")
    samples: int | None = option(None, "use at most so many calibration samples, the first")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Scale normalizations and weights of `model` in place."""
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"smooth: alpha={self.alpha} is not between 0 and 1")
        infer_shapes(model)
        findings: list[Finding] = []
        found: list[tuple[ir.Value, ir.Node | None]] = []
        for value, readers in _products(model.graph).items():
            norm = value.producer()
            reason = (
                _refusal(norm, readers) if norm is not None and is_op(norm, *_NORMS) else "no normalization made it"
            )
            if reason is None or self.insert:
                found.append((value, norm if reason is None else None))
            elif norm is not None and is_op(norm, *_NORMS):
                findings.append(Finding("skipped", norm.name or "", f"{reason}; insert=true would multiply in front"))
        if not found:
            findings.append(Finding("note", "", "no normalization that only matrix products read"))
            return Result(model, False, findings)
        if context.calibration is None:
            raise PassError("smooth needs calibration data: outliers are found in activations")
        largest: dict[ir.Value, np.ndarray] = {}
        observers = {value: _observer(largest, value) for value, _ in found}
        collect(model, observers, context.calibration, samples=self.samples, progress=context.progress)
        for value, norm in found:
            factor = _smooth(model.graph, value, norm, largest[value], self.alpha)
            text = f"channels scaled by {1 / factor.max():.3g} to {1 / factor.min():.3g}"
            where = value.name if norm is None else norm.name
            findings.append(Finding("changed", where or "", text))
        return Result(model, True, findings)


def _products(graph: ir.Graph) -> dict[ir.Value, list[ir.Node]]:
    """By tensor, in graph order, the products with a constant matrix that read it."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        source = node.inputs[0] if is_op(node, "MatMul", "Gemm") else None
        if source is None or constant(source) is not None or source.dtype != ir.DataType.FLOAT:
            continue
        weight = constant(node.inputs[1])
        if weight is not None and weight.ndim == 2 and node.attributes.get_int("transA", 0) == 0:
            found.setdefault(source, []).append(node)
    return found


def _observer(largest: dict[ir.Value, np.ndarray], value: ir.Value) -> Callable[[np.ndarray], None]:
    def observe(array: np.ndarray) -> None:
        now = np.abs(array.reshape(-1, array.shape[-1])).max(axis=0, initial=0.0)
        largest[value] = np.maximum(largest.get(value, now), now)

    return observe


def _refusal(node: ir.Node, products: list[ir.Node]) -> str | None:
    """Why the channels of a normalization cannot be scaled for its products, or None."""
    value = node.outputs[0]
    axis = node.attributes.get_int("axis", -1)
    rank = None if value.shape is None else len(value.shape)
    if axis != -1 and (rank is None or axis != rank - 1):
        return "it normalizes more than the last axis"
    if any(v is not None and constant(v) is None for v in node.inputs[1:]):
        return "its factors or offsets are no constant"
    if value.is_graph_output():
        return "it is an output of the model"
    for user, index in value.uses():
        if index != 0 or user not in products:
            return f"{user.op_type} {user.name!r} reads it too"
    return None


def _smooth(graph: ir.Graph, value: ir.Value, norm: ir.Node | None, largest: np.ndarray, alpha: float) -> np.ndarray:
    """Scale a tensor in its normalization, or in front of the products that read it; returns s, (channels,)."""
    readers = _products(graph)[value]
    weights = [(user, np.asarray(constant(user.inputs[1]), np.float64)) for user in readers]
    flips = [user.attributes.get_int("transB", 0) == 1 for user in readers]
    largest_weights = [np.abs(w).max(axis=0 if flip else 1) for (_, w), flip in zip(weights, flips, strict=True)]
    reach = np.max(largest_weights, axis=0)
    alive = (largest > 0) & (reach > 0)
    s = np.where(alive, largest, 1.0) ** alpha / np.where(alive, reach, 1.0) ** (1 - alpha)
    # only the ratios between channels count; around 1 they leave the weights' size as it was
    s = np.asarray(np.clip(s / np.exp(np.log(s).mean()), 1e-5, 1e5))
    for index in range(1, 0 if norm is None else len(norm.inputs)):
        old = norm.inputs[index] if norm is not None else None
        if norm is not None and old is not None:
            scaled = np.asarray(constant(old), np.float64) / s
            norm.replace_input_with(index, add_constant(graph, f"{old.name}_smooth", scaled.astype(np.float32)))
    source = value
    if norm is None:
        factor = add_constant(graph, f"{value.name}_smooth", (1 / s).astype(np.float32))
        scale = ir.node("Mul", [value, factor], name=f"{value.name}_smoothed")
        source = scale.outputs[0]
        source.name, source.shape, source.type = f"{value.name}_smoothed", value.shape, value.type
        graph.insert_before(readers[0], scale)
    for (user, w), flip in zip(weights, flips, strict=True):
        scaled = w * s if flip else w * s[:, None]
        old = user.inputs[1]
        name = "weight" if old is None else old.name
        user.replace_input_with(0, source)
        user.replace_input_with(1, add_constant(graph, f"{name}_smooth", scaled.astype(np.float32)))
    return s
