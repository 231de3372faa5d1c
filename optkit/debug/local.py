"""Every quantized layer's own error, and what it does to the outputs, in one walk over the samples a group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from optkit.debug.account import Parts
from optkit.debug.effects import Effects
from optkit.debug.floats import float_constants
from optkit.debug.parts import LocalError, needed
from optkit.debug.structure import QuantizedLayer
from optkit.debug.tensors import OpenSamples, Progress, expose, groups, open_extents
from optkit.measure.reference import Reference

EFFECT_SAMPLES = 8
"""The model runs once a layer and sample; the effects hardly differ beyond so many samples."""


@dataclass(frozen=True)
class Local:
    """What was found for one layer; `effect` is the outputs' SQNR, dB, with its error alone."""

    parts: Parts
    cause: str
    effect: float | None


def local_errors(
    floats: ir.Model,
    quantized: ir.Model,
    layers: Sequence[QuantizedLayer],
    samples: OpenSamples,
    progress: Progress,
    effects: bool = True,
) -> dict[str, Local]:
    """By layer name; layers whose inputs the float model does not have are left out."""
    known = {v.name for node in floats.graph for v in node.outputs} | {v.name for v in floats.graph.inputs}
    usable = [layer for layer in layers if all(name in known for name in needed(layer))]
    found: dict[str, Local] = {}
    shown = Effects(floats, [o for layer in usable if (o := layer.node.outputs[0].name)]) if effects else None
    head = next(samples(), {})
    for group in _grouped(floats, usable, open_extents(floats, head)):
        errors = {layer.name: LocalError(quantized, layer, float_constants(layer, floats)) for layer in group}
        session = Reference(expose(floats, [name for layer in group for name in needed(layer)]))
        for number, sample in enumerate(samples()):
            tensors = {**sample, **session.run(sample)}
            if shown is not None and number < EFFECT_SAMPLES:
                shown.start(sample)
            for layer in group:
                own = errors[layer.name].add(tensors)
                if shown is not None and number < EFFECT_SAMPLES:
                    shown.add(layer.node.outputs[0].name or "", own)
            progress("layer by layer", number + 1, None)
        for layer in group:
            error = errors[layer.name]
            effect = None if shown is None else shown.sqnr_db(layer.node.outputs[0].name or "")
            found[layer.name] = Local(error.parts(), error.cause(), effect)
    return found


def _grouped(
    model: ir.Model, layers: Sequence[QuantizedLayer], extents: dict[str, int]
) -> Iterator[list[QuantizedLayer]]:
    """Layers cut so that what a group needs of one sample fits the memory meant for it."""
    group: list[QuantizedLayer] = []
    for layer in layers:
        names = list(dict.fromkeys(name for each in [*group, layer] for name in needed(each)))
        if group and len(groups(model, names, extents)) > 1:
            yield group
            group = []
        group.append(layer)
    if group:
        yield group
