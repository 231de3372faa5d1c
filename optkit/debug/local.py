"""Every quantized layer's own error, and what it does to the outputs, in one walk over the samples a group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optkit.debug.account import Parts
from optkit.debug.effects import Effects
from optkit.debug.floats import float_constants
from optkit.debug.parts import LocalError, needed
from optkit.debug.structure import QuantizedLayer
from optkit.debug.tensors import OpenSamples, Progress, expose, groups, open_extents
from optkit.measure.reference import Reference
from optkit.transform import Sample

EFFECT_SAMPLES = 16
"""Both models run once a layer and sample; the effects hardly differ beyond so many samples."""


@dataclass(frozen=True)
class Local:
    """What was found for one layer; see `optkit.debug.Layer`."""

    parts: Parts
    cause: str
    effect: float | None = None
    gain: float | None = None


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
    head = next(samples(), {})
    for group in _grouped(floats, usable, open_extents(floats, head)):
        errors = {layer.name: LocalError(quantized, layer, float_constants(layer, floats)) for layer in group}
        names = [name for layer in group for name in needed(layer)]
        session = Reference(expose(floats, names))
        outside = _Outside(floats, quantized, group, names) if effects else None
        for number, sample in enumerate(samples()):
            tensors = {**sample, **session.run(sample)}
            own = {layer.name: errors[layer.name].add(tensors) for layer in group}
            if outside is not None and number < EFFECT_SAMPLES:
                outside.add(sample, group, errors, own)
            progress("layer by layer", number + 1, None)
        for layer in group:
            error = errors[layer.name]
            effect, gain = (None, None) if outside is None else outside.figures(layer)
            found[layer.name] = Local(error.parts(), error.cause(), effect, gain)
    return found


class _Outside:
    """What a group's layers do to the model's outputs."""

    def __init__(
        self, floats: ir.Model, quantized: ir.Model, group: Sequence[QuantizedLayer], names: Sequence[str]
    ) -> None:
        outputs = [_output(layer) for layer in group]
        self._alone, self._without = Effects(floats, outputs), Effects(quantized, outputs)
        self._tensors = Reference(expose(quantized, names))

    def add(
        self,
        sample: Sample,
        group: Sequence[QuantizedLayer],
        errors: Mapping[str, LocalError],
        own: Mapping[str, np.ndarray],
    ) -> None:
        exact = self._alone.start(sample)
        self._without.start(sample, exact)
        tensors = {**sample, **self._tensors.run(sample)}
        for layer in group:
            self._alone.add(_output(layer), own[layer.name])
            self._without.add(_output(layer), errors[layer.name].repair(tensors))

    def figures(self, layer: QuantizedLayer) -> tuple[float | None, float | None]:
        """The outputs' SQNR with the layer alone quantized, and what it gains with it alone float, dB."""
        without, plain = self._without.sqnr_db(_output(layer)), self._without.plain_db()
        gain = None if without is None or plain is None else without - plain
        return self._alone.sqnr_db(_output(layer)), gain


def _output(layer: QuantizedLayer) -> str:
    return layer.node.outputs[0].name or ""


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
