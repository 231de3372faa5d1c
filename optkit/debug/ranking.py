"""Which layers are worst, and which stage each one's error is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from optkit.debug.account import Layer

EXACT_DB = 120.0
"""float32 resolves no better; what lies above counts as equal."""
KERNEL_DB, HALF_KERNEL_DB = EXACT_DB * 2 / 3, 40.0
"""A float layer that comes nearer to ONNX Runtime's is right; the second where the model computes in float16 too."""


def rank(layers: Sequence[Layer], before: Mapping[str, float | None], near: float = KERNEL_DB) -> list[Layer]:
    """The layers, worst first, with `step` and `cause` settled.

    Quantized layers go by what the outputs gain without their error: a noisy layer that nothing depends on is not the
    one to repair, nor is one whose error makes up for another's. Equal ones go by what it does to the outputs alone.
    Layers in float follow, by how far the SQNR falls from their inputs to their output.

    Args:
        layers: in graph order.
        before: SQNR, dB, of what came in, by name.
        near: dB from ONNX Runtime at which a kernel is right.
    """
    settled = _kernels([replace(layer, step=_step(layer)) for layer in layers], near)
    settled = [_inherited(layer, before.get(layer.name)) for layer in settled]

    def key(layer: Layer) -> tuple[float, ...]:
        if layer.cause == "kernel":
            return 0, float(layer.kernel or 0.0), 0.0, layer.depth
        if layer.gain is not None and layer.effect is not None:
            return 1, -round(layer.gain, 1), layer.effect, layer.depth
        if layer.parts is not None:
            return 2, layer.parts.own, 0.0, layer.depth
        return 3, -_fall(layer, before.get(layer.name)), 0.0, layer.depth

    return sorted(settled, key=key)


def _step(layer: Layer) -> str:
    """The stage in which the SQNR fell most; "" where it never did."""
    last, worst, found = EXACT_DB, 1.0, ""
    for name, db in layer.stages.items():
        capped = min(db, EXACT_DB)
        if last - capped > worst:
            worst, found = last - capped, name
        last = min(last, capped)
    return found


def _fall(layer: Layer, came_in: float | None) -> float:
    """dB lost between a layer's inputs and its output."""
    now = min(layer.stages.values(), default=EXACT_DB)
    return min(EXACT_DB, EXACT_DB if came_in is None else came_in) - min(now, EXACT_DB)


def _kernels(layers: Sequence[Layer], near: float) -> list[Layer]:
    """The first layer whose kernel is farther from ONNX Runtime than quantization is from float is the kernel's fault.

    Those behind it are given wrong inputs.
    """
    found = list(layers)
    for place, layer in enumerate(found):
        if layer.kernel is None or (layer.kernel_steps is not None and layer.kernel_steps <= 1):
            continue
        lost = near if layer.parts is None else min(layer.parts.own, near)
        if layer.kernel < lost:
            found[place] = replace(layer, cause="kernel", step="artifact")
            break
    return found


def _inherited(layer: Layer, came_in: float | None) -> Layer:
    """A float layer whose output is hardly worse than its input only hands on what came."""
    if layer.parts is not None or layer.cause or not layer.step:
        return layer
    return replace(layer, cause="inherited") if _fall(layer, came_in) < 6 else layer
