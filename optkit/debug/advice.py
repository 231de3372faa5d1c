"""From what a layer lost to the options that would give it back; only ones that the installed passes have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from optkit import registry
from optkit.debug.account import Advice, Layer
from optkit.debug.stages import passes_of
from optkit.errors import UsageError
from optkit.pipeline import Pipeline
from optkit.transform import Pass

QUANTIZE = "quantize"
LONG_TAIL = 0.25
"""Where 99.9 % of the values take fewer of the integers than this share, a few large values set the scale."""
UNEVEN = 4.0
"""A channel so many times larger than the median one sets the scale of all."""


def advise(layer: Layer, pipeline: Pipeline, at_end: bool = False) -> tuple[Advice, ...]:
    """What may repair a layer, most promising first; nothing where the pipeline quantizes nothing.

    Args:
        at_end: whether it is the first or the last layer.
    """
    found = next((p for p in passes_of(pipeline) if p.name == QUANTIZE), None)
    if layer.cause == "kernel":
        return (Advice("optkit debug bisect", str(pipeline), "the compiled kernel is wrong: find the smallest case"),)
    if found is None or layer.parts is None:
        return ()
    return tuple(_Options(pipeline, found, at_end).of(layer))


@dataclasses.dataclass(frozen=True)
class _Options:
    """The changes of one pipeline."""

    pipeline: Pipeline
    quantize: Pass
    at_end: bool

    def of(self, layer: Layer) -> Iterator[Advice]:
        """In order of promise."""
        match layer.cause:
            case "clipping":
                yield from self._clipping(layer)
            case "rounding":
                yield from self._rounding(layer)
            case "weights":
                yield from self._weights(layer)
            case "bias":
                yield from self._change("exact", False, "finest scales", "the bias follows the activation's scale")
        yield from self._exclude(layer)

    def _clipping(self, layer: Layer) -> Iterator[Advice]:
        assert layer.parts is not None
        share = f"{100 * (layer.parts.clipping or 0):.0f} % of its input's error is of clipped values"
        method = self._now("method")
        if method == "percentile":
            kept = float(str(self._now("percentile")))
            if kept < 99.999:
                higher = round(100 - (100 - kept) / 10, 6)
                yield from self._change("percentile", higher, "", share)
        if method != "minmax":
            yield from self._change("method", "minmax", "--calib-method minmax", share)
        if self._now("exact") is True:
            yield from self._change("exact", False, "", f"{share}; scales of powers of two clip up to a quarter")
        yield from self._channels(layer)

    def _rounding(self, layer: Layer) -> Iterator[Advice]:
        assert layer.parts is not None
        codes = layer.parts.codes
        tail = codes is not None and codes < LONG_TAIL
        yield from self._channels(layer)
        if tail:
            why = f"99.9 % of its input's values take {100 * (codes or 0):.0f} % of the integers"
            for method in ("mse", "percentile"):
                if self._now("method") == method:
                    continue
                yield from self._change("method", method, f"--calib-method {method}", why)
        if self._now("symmetric_activations") is True:
            yield from self._change("symmetric_activations", False, "", "half of the integers may be without use")
        if self._now("exact") is True:
            yield from self._change("exact", False, "", "scales of powers of two are up to 1.5 times coarser")

    def _weights(self, layer: Layer) -> Iterator[Advice]:
        if self._now("per_channel") is False:
            yield from self._change("per_channel", True, "", "one scale for all output channels is coarse for most")
        if self._now("weight_range") == "max":
            yield from self._change("weight_range", "mse", "", "its largest weights set the scale of the others")
        yield from self._insert("adaround", after=True, why="weights are rounded to nearest, not to what is best")
        yield from self._insert("equalize", after=False, why="its channels' weights differ in size")
        bits = self._now("weight_bits")
        if isinstance(bits, int) and bits < 8:
            yield from self._change("weight_bits", min(8, bits + 2), "", f"{bits} bits are few for it")
            if self._now("first_last") == "same" and self.at_end:
                yield from self._change("first_last", "int8", "", "gives the first and last layers 8 bits")

    def _channels(self, layer: Layer) -> Iterator[Advice]:
        """Large channels: moved into the weights where the input allows it."""
        spread = layer.parts.channels if layer.parts is not None else None
        if spread is None or spread < UNEVEN:
            return
        why = f"its input's largest channel is {spread:.1f} times the median one"
        word = "smooth{insert=true}" if layer.op_type in ("MatMul", "Gemm") else "equalize"
        yield from self._insert(word, after=False, why=why)

    def _exclude(self, layer: Layer) -> Iterator[Advice]:
        already = self._now("exclude")
        names = (*already, layer.name) if isinstance(already, tuple) else (layer.name,)
        yield from self._change("exclude", names, f"--exclude-nodes {layer.name}", "leaves it in float")

    def _now(self, option: str) -> object:
        return getattr(self.quantize, option, None)

    def _change(self, option: str, value: object, text: str, why: str) -> Iterator[Advice]:
        """An option of `quantize` set otherwise, where it has the option and is not set so."""
        if option not in {f.name for f in dataclasses.fields(self.quantize)} or self._now(option) == value:
            return
        try:
            changed = self.pipeline.with_options(QUANTIZE, **{option: value})
        except (TypeError, UsageError):
            return
        written = str(value).lower() if isinstance(value, bool) else value
        shown = text if text.startswith("--") else f"{QUANTIZE}{{{option}={written}}}"
        yield Advice(shown, str(changed), why)

    def _insert(self, word: str, after: bool, why: str) -> Iterator[Advice]:
        """A pass beside `quantize`, in text form, where it is installed and not in the pipeline."""
        passes, name = list(passes_of(self.pipeline)), word.partition("{")[0]
        if name not in registry.pass_names() or any(p.name == name for p in passes):
            return
        place = next(i for i, p in enumerate(passes) if p.name == QUANTIZE) + int(after)
        passes[place:place] = Pipeline.parse(word).passes
        order = f"{QUANTIZE},{word}" if after else f"{word},{QUANTIZE}"
        yield Advice(f"--passes '...,{order}'", str(Pipeline(tuple(passes))), why)
