"""Assignments of precisions as models: what the recipe makes of each, without calibrating over and over."""

from __future__ import annotations

import glob
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from optkit import registry
from optkit.latency.search import excluded
from optkit.macs import count_macs
from optkit.pipeline import Pipeline
from optkit.transform import Pass, PassContext

_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclass(frozen=True)
class Precisions:
    """Which layers are not in int8.

    Attributes:
        kept: layers that are not quantized.
        bf16: those of `kept` that compute in bfloat16; the others in float32.
    """

    kept: frozenset[str] = frozenset()
    bf16: frozenset[str] = frozenset()


@dataclass
class Candidates:
    """Makes the models of a search.

    Attributes:
        pipeline: with a `quantize` in it; bfloat16 comes after all its passes.
        source: the model before any pass; not changed.
        context: for the passes; what it measures is remembered.
    """

    pipeline: Pipeline
    source: ir.Model
    context: PassContext
    base: ir.Model = field(init=False)
    products: tuple[str, ...] = field(init=False)
    _after: tuple[Pass, ...] = field(init=False)
    _quantize: Pass = field(init=False)

    def __post_init__(self) -> None:
        passes = _unfolded(self.pipeline)
        at = next(place for place, p in enumerate(passes) if p.name == "quantize")
        self._quantize, self._after = passes[at], passes[at + 1 :]
        measured: dict[Hashable, Any] = {}
        self.context = replace(self.context, measured=measured)
        self.base = Pipeline(passes[:at]).run(self.source.clone(), replace(self.context)).model
        self.products = tuple(node.name for node in self.base.graph if node.op_type in _PRODUCTS and node.name)

    def recipe(self, precisions: Precisions) -> Pipeline:
        """The pipeline that makes this assignment of the source."""
        own = excluded(self.pipeline)
        names = [name for name in self.products if name in precisions.kept and name not in own]
        pipeline = self.pipeline.with_options("quantize", exclude=(*own, *names)) if names else self.pipeline
        return Pipeline((*pipeline.passes, *self._bfloat16(precisions)))

    def make(self, precisions: Precisions, whole: bool = True) -> ir.Model:
        """The model that the recipe makes.

        Args:
            whole: with the passes behind `quantize`, which may take long; without them it is near enough to compare
                layers.
        """
        quantize = Pipeline((self._quantize,))
        own = excluded(quantize)
        names = tuple(name for name in self.products if name in precisions.kept and name not in own)
        after = self._after if whole else ()
        passes = (*quantize.with_options("quantize", exclude=(*own, *names)).passes, *after)
        pipeline = Pipeline((*passes, *self._bfloat16(precisions)))
        return pipeline.run(self.base.clone(), replace(self.context, unquantized=None)).model

    def layers(self) -> tuple[str, ...]:
        """Layers whose precision is open: quantized by the pipeline, and not where they are excluded."""
        whole = quantized_layers(self.make(Precisions(), whole=False))
        none = quantized_layers(self.make(Precisions(frozenset(whole)), whole=False))
        return tuple(name for name in whole if name not in none)

    def macs(self, layers: Collection[str]) -> dict[str, int]:
        """Multiply-accumulates of layers; 0 where shapes are not known."""
        return {found.node: found.macs or 0 for found in count_macs(self.base) if found.node in layers}

    def _bfloat16(self, precisions: Precisions) -> tuple[Pass, ...]:
        if not precisions.bf16:
            return ()
        left = tuple(glob.escape(name) for name in self.products if name not in precisions.bf16)
        return (registry.get_pass("bf16")(exclude=left),)  # type: ignore[call-arg]


def quantized_layers(model: ir.Model) -> list[str]:
    """Convolutions and matrix products that read dequantized tensors, in graph order."""

    def dequantized(value: ir.Value | None) -> bool:
        maker = None if value is None else value.producer()
        return maker is not None and maker.op_type == "DequantizeLinear"

    return [
        node.name
        for node in model.graph
        if node.name and node.op_type in _PRODUCTS and all(dequantized(value) for value in node.inputs[:2])
    ]


def _unfolded(pipeline: Pipeline) -> tuple[Pass, ...]:
    passes: list[Pass] = []
    for p in pipeline.passes:
        passes += _unfolded(p) if isinstance(p, Pipeline) else (p,)
    return tuple(passes)
