"""INT8 only where it is measured to be faster: layer by layer, with what conversions cost, chosen over the graph.

The model is built with all layers in int8 and with all in float, and every kernel of both is timed inside a run. A
layer's time is that of the kernels on its account (`regions`); between two layers of unlike precision the tensor has
to be converted, at a price an element that is measured too. The cheapest assignment is a minimum cut. It is built,
timed, and, where layers turn out to take other times among their new neighbours, searched again. What is fastest as a
whole, all timed in turn, is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from optkit.errors import UsageError
from optkit.latency.bench import NOISE, Assignment, Bench, edge_seconds, prices
from optkit.latency.mincut import cheapest
from optkit.pipeline import Pipeline
from optkit.steps import Progress, silent
from optkit.target import Target

if TYPE_CHECKING:
    from optkit.compiler.planning import Records

OBJECTIVES = ("latency",)
ROUNDS = 3
"""Assignments that are built and timed at most, besides all-int8 and all-float."""


def check_search(objective: str | None, pipeline: Pipeline, target: Target, fallback: str | None = None) -> None:
    """UsageError where a search is asked for that cannot be made."""
    if objective is None:
        return
    if fallback is not None:
        raise UsageError("--precision-search and --fallback exclude each other: what is left to others is not timed")
    if objective not in OBJECTIVES:
        raise UsageError(f"--precision-search {objective!r}: there is {', '.join(OBJECTIVES)}")
    if "quantize" not in pipeline.pass_names():
        raise UsageError("--precision-search decides which layers are quantized: add --int8, or a pipeline that does")
    reason = target.runs_here()
    if reason is not None or target.device != "cpu":
        why = reason or f"kernels of {target.device} cannot be timed yet"
        raise UsageError(f"--precision-search measures on the target itself: {why}")


def search_precisions(
    pipeline: Pipeline,
    run: Callable[[Pipeline], ir.Model],
    target: Target,
    folder: Path,
    tuned: Records | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline that leaves in float what is faster there, and the account of how that was found.

    Args:
        run: what a pipeline makes of the model.
        folder: for artifacts that are only tried.

    Raises:
        UsageError: the model has open axes.
    """

    def keeping(kept: Collection[str]) -> Pipeline:
        own = excluded(pipeline)
        return pipeline.with_options("quantize", exclude=(*own, *(name for name in sorted(kept) if name not in own)))

    search = _Search(lambda kept: run(keeping(kept)), Bench(target, folder, tuned, seed, progress))
    kept, account = search.decide()
    return (keeping(kept) if kept else pipeline), account


def excluded(pipeline: Pipeline) -> tuple[str, ...]:
    """What the pipeline excludes from quantization already."""
    found: list[str] = []
    for p in pipeline.passes:
        found += excluded(p) if isinstance(p, Pipeline) else getattr(p, "exclude", ()) if p.name == "quantize" else ()
    return tuple(dict.fromkeys(found))


@dataclass
class _Search:
    """A search for one model.

    Attributes:
        run: runs the passes with these nodes kept float, on a fresh model.
    """

    run: Callable[[Collection[str]], ir.Model]
    bench: Bench

    def decide(self) -> tuple[frozenset[str], dict[str, Any]]:
        """The layers to keep in float, and the account of how that was found, as JSON values.

        Account: "kept_back" (layers), "layers" (one each: "int8_seconds" as measured where it is int8,
        "float_seconds" as measured where it is float, "conversion_seconds" what changing it alone would add between
        it and its neighbours, "precision"), "assignments" ("kept_back", "seconds" of a run, "slower_layers": those in
        int8 that took longer than in float, conversions counted), "conversion" (seconds an element, of quantizing and
        of dequantizing).
        """
        bench = self.bench
        bench.progress("precision search", 0, None)
        whole = self._try(frozenset())
        layers = list(whole.seconds)
        if not layers:
            return frozenset(), {"kept_back": [], "layers": [], "assignments": [], "conversion": {}}
        none = self._try(frozenset(layers), layers)
        # What is in integers of its own, as in a model that came quantized, is not ours to change.
        layers = [name for name in layers if name not in none.integers]
        if not layers:
            return frozenset(), {"kept_back": [], "layers": [], "assignments": [], "conversion": {}}
        for made in (whole, none):
            made.seconds = bench.layer_seconds(made, layers)
        none.kept = frozenset(layers)
        price = bench.conversion()
        between = prices(none.model, layers, price)
        integers = dict(whole.seconds)
        floats = {name: none.seconds.get(name, 0.0) for name in layers}
        for _ in range(ROUNDS):
            kept = frozenset(cheapest(integers, floats, between))
            if any(kept == known.kept for known in bench.made):
                break
            tried = self._try(kept, layers)
            for name, seconds in tried.seconds.items():
                # Among its new neighbours a layer takes what it takes; conversions are in it then.
                (floats if name in kept else integers)[name] = seconds
        alone = {name: none.seconds.get(name, 0.0) for name in layers}
        bench.time_whole(bench.made)
        slow = {made.kept: slower_layers(made, alone, between) for made in bench.made}
        best = fastest(bench.made, {kept: len(names) for kept, names in slow.items()})
        measured = {name: seconds for name, seconds in best.seconds.items() if name not in best.kept}
        rows = layer_rows(best, alone, integers | measured, between)
        tried_ones = [
            {"kept_back": sorted(made.kept), "seconds": made.total, "slower_layers": slow[made.kept]}
            for made in bench.made
        ]
        kept_back = sorted(best.kept)
        return best.kept, {
            "kept_back": kept_back,
            "layers": rows,
            "assignments": tried_ones,
            "conversion": dict(price),
        }

    def _try(self, kept: frozenset[str], layers: Collection[str] = ()) -> Assignment:
        return self.bench.build(kept, self.run(kept), layers)


def slower_layers(
    made: Assignment, floats: Mapping[str, float], between: Mapping[tuple[str, str], tuple[float, float]]
) -> list[str]:
    """Layers in int8 that took longer than in float, with what a conversion between unlike neighbours would add."""
    found = []
    for name, seconds in made.seconds.items():
        if name in made.kept or name not in floats:
            continue
        now, then = (edge_seconds(name, made.kept ^ flip, between) for flip in (frozenset(), frozenset({name})))
        if seconds > floats[name] + then - now:
            found.append(name)
    return found


def fastest(assignments: Collection[Assignment], slower: Mapping[frozenset[str], int]) -> Assignment:
    """The fastest as a whole; of those that are as fast within noise, one with the fewest layers that int8 slows."""
    least = min(made.total for made in assignments)
    close = [made for made in assignments if made.total * (1 - NOISE) <= least]
    return min(close, key=lambda made: (slower[made.kept], len(made.kept)))


def layer_rows(
    best: Assignment,
    floats: Mapping[str, float],
    integers: Mapping[str, float],
    between: Mapping[tuple[str, str], tuple[float, float]],
) -> list[dict[str, Any]]:
    """One row a layer, as JSON values; see `_Search.decide`."""
    rows = []
    for name in integers:
        now, then = (edge_seconds(name, best.kept ^ flip, between) for flip in (frozenset(), frozenset({name})))
        rows.append(
            {
                "layer": name,
                "precision": "float" if name in best.kept else "int8",
                "int8_seconds": integers.get(name, 0.0),
                "float_seconds": floats.get(name, 0.0),
                "conversion_seconds": then - now,
            }
        )
    return rows
