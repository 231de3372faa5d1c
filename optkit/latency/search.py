"""INT8 only where it is measured to be faster: layer by layer, with what conversions cost, chosen over the graph.

The model is built with all layers in int8 and with all in float, and every kernel of both is timed inside a run. A
layer's time is that of the kernels on its account (`regions`); between two layers of unlike precision the tensor has
to be converted, at a price an element that is measured too. The cheapest assignment is a minimum cut. It is built,
timed, and, where layers turn out to take other times among their new neighbours, searched again. What is fastest as a
whole, all timed in turn, is taken.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from optkit.artifact.link import link_library
from optkit.artifact.payload import BuildInfo
from optkit.artifact.writer import write_artifact
from optkit.errors import UsageError
from optkit.latency.mincut import cheapest
from optkit.latency.regions import crossings, regions
from optkit.measure.samples import choose_samples
from optkit.pipeline import Pipeline
from optkit.runtime import load
from optkit.steps import Progress, build_model, make_payload, silent
from optkit.target import Target
from optkit.tune.kernels import time_calls

if TYPE_CHECKING:
    from optkit.compiler.build import Built
    from optkit.compiler.planning import Records

OBJECTIVES = ("latency",)
ROUNDS = 3
"""Assignments that are built and timed at most, besides all-int8 and all-float."""
_ELEMENTS = 1 << 18
_NOISE = 0.02
"""A whole model has to be faster by so much before an assignment that was found later replaces an earlier one."""
_TURNS = 15


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
        own = _excluded(pipeline)
        return pipeline.with_options("quantize", exclude=(*own, *(name for name in sorted(kept) if name not in own)))

    search = _Search(lambda kept: run(keeping(kept)), target, folder, tuned, seed, progress)
    kept, account = search.decide()
    return (keeping(kept) if kept else pipeline), account


def _excluded(pipeline: Pipeline) -> tuple[str, ...]:
    """What the pipeline excludes from quantization already."""
    found: list[str] = []
    for p in pipeline.passes:
        found += _excluded(p) if isinstance(p, Pipeline) else getattr(p, "exclude", ()) if p.name == "quantize" else ()
    return tuple(dict.fromkeys(found))


@dataclass
class _Assignment:
    """One way to assign precisions, built and timed.

    Attributes:
        kept: layers that stay float.
        seconds: of every layer, what runs on its account included.
        integers: layers that compute in int8.
        total: seconds of one run, timed in turn with the others; 0 before.
    """

    kept: frozenset[str]
    model: ir.Model
    path: Path
    seconds: dict[str, float]
    integers: frozenset[str]
    total: float = 0.0


@dataclass
class _Search:
    """A search for one model.

    Attributes:
        run: runs the passes with these nodes kept float, on a fresh model.
        folder: for artifacts that are only tried.
    """

    run: Callable[[Collection[str]], ir.Model]
    target: Target
    folder: Path
    tuned: Records | None = None
    seed: int = 0
    progress: Progress = silent
    assignments: list[_Assignment] = field(default_factory=list)

    def decide(self) -> tuple[frozenset[str], dict[str, Any]]:
        """The layers to keep in float, and the account of how that was found, as JSON values.

        Account: "kept_back" (layers), "layers" (one each: "int8_seconds" as measured where it is int8,
        "float_seconds" as measured where it is float, "conversion_seconds" what changing it alone would add between
        it and its neighbours, "precision"), "assignments" ("kept_back", "seconds" of a run), "conversion" (seconds an
        element, of quantizing and of dequantizing).
        """
        self.progress("precision search", 0, None)
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
            made.seconds = self._times(made, layers)
        none.kept = frozenset(layers)
        price = self._conversion()
        account = regions(none.model.graph, layers)
        tensors = crossings(none.model.graph, account)
        between = {
            pair: (elements * price["dequantize"], elements * price["quantize"]) for pair, elements in tensors.items()
        }
        integers = dict(whole.seconds)
        floats = {name: none.seconds.get(name, 0.0) for name in layers}
        for _ in range(ROUNDS):
            kept = frozenset(cheapest(integers, floats, between))
            if any(kept == known.kept for known in self.assignments):
                break
            tried = self._try(kept, layers)
            for name, seconds in tried.seconds.items():
                # Among its new neighbours a layer takes what it takes; conversions are in it then.
                (floats if name in kept else integers)[name] = seconds
        best = self._fastest()
        alone = {name: none.seconds.get(name, 0.0) for name in layers}
        measured = {name: seconds for name, seconds in best.seconds.items() if name not in best.kept}
        return best.kept, self._account(best, alone, integers | measured, between, price)

    def _try(self, kept: frozenset[str], layers: Collection[str] = ()) -> _Assignment:
        """Build an assignment and time its layers; those in integers where none are given."""
        self.progress("precision search", len(self.assignments), None)
        model = self.run(kept)
        path = self.folder / f"assignment{len(self.assignments)}.optk"
        built = self._build(model, path)
        if any(not isinstance(extent, int) for spec in built.inputs for extent in spec.shape):
            raise UsageError("--precision-search times one shape: fix the open axes with --input-shape")
        names = [record.node for record in built.nodes if record.compute == "int8" and record.node]
        made = _Assignment(kept, model, path, {}, frozenset(names))
        made.seconds = self._times(made, layers or dict.fromkeys(names))
        self.assignments.append(made)
        return made

    def _build(self, model: ir.Model, path: Path) -> Built:
        built, variants = build_model(model, self.target, tuned=self.tuned)
        library = path.with_suffix(".so")
        link_library(built.executable, library)
        payload = make_payload(built, library, self.target, variants)
        write_artifact(path, payload, BuildInfo(source_sha256=""), compress=False)
        return built

    def _times(self, made: _Assignment, layers: Collection[str]) -> dict[str, float]:
        account = regions(made.model.graph, layers)
        found: dict[str, float] = {}
        for call in time_calls(made.path, threads=self.target.cores, seed=self.seed):
            layer = account.get(call.layer)
            if layer is not None:
                found[layer] = found.get(layer, 0.0) + call.seconds
        return found

    def _conversion(self) -> dict[str, float]:
        """Seconds an element of quantizing and of dequantizing, each as a pass over a tensor of its own."""
        shape = [1, 64, 64, _ELEMENTS // 4096]
        scale = [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [0.03125]),
            helper.make_tensor("zero", TensorProto.UINT8, [], [128]),
        ]
        found = {}
        for name, kinds in (
            ("quantize", (TensorProto.FLOAT, TensorProto.UINT8)),
            ("dequantize", (TensorProto.UINT8, TensorProto.FLOAT)),
        ):
            node = helper.make_node(f"{name.capitalize()}Linear", ["x", "scale", "zero"], ["y"], name=name)
            ends = [helper.make_tensor_value_info(n, kind, shape) for n, kind in zip("xy", kinds, strict=True)]
            graph = helper.make_graph([node], name, ends[:1], ends[1:], scale)
            proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
            onnx.checker.check_model(proto)
            path = self.folder / f"{name}.optk"
            self._build(ir.serde.deserialize_model(proto), path)
            found[name] = sum(c.seconds for c in time_calls(path, self.target.cores, seed=self.seed)) / _ELEMENTS
        return found

    def _fastest(self) -> _Assignment:
        """All assignments timed in turn; one that was found later has to be faster by more than noise."""
        with contextlib.ExitStack() as stack:
            runners = [stack.enter_context(load(made.path, self.target.cores)) for made in self.assignments]
            feed = choose_samples(runners[0].inputs, None, 1, self.seed, {})[0]
            times: list[list[float]] = [[] for _ in runners]
            for turn in range(_TURNS):
                self.progress("precision search: whole runs", turn, _TURNS)
                order = range(len(runners)) if turn % 2 else reversed(range(len(runners)))
                for place in order:
                    times[place].append(_once(runners[place], feed))
        for made, seconds in zip(self.assignments, times, strict=True):
            made.total = float(np.median(seconds))
        best = self.assignments[0]
        for made in self.assignments[1:]:
            if made.total < best.total * (1 - _NOISE):
                best = made
        return best

    def _account(
        self,
        best: _Assignment,
        floats: Mapping[str, float],
        integers: Mapping[str, float],
        between: Mapping[tuple[str, str], tuple[float, float]],
        price: Mapping[str, float],
    ) -> dict[str, Any]:
        rows = []
        for name in integers:
            now, then = (_edges(name, best.kept ^ flip, between) for flip in (frozenset(), frozenset({name})))
            rows.append(
                {
                    "layer": name,
                    "precision": "float" if name in best.kept else "int8",
                    "int8_seconds": integers.get(name, 0.0),
                    "float_seconds": floats.get(name, 0.0),
                    "conversion_seconds": then - now,
                }
            )
        return {
            "kept_back": sorted(best.kept),
            "layers": rows,
            "assignments": [{"kept_back": sorted(made.kept), "seconds": made.total} for made in self.assignments],
            "conversion": dict(price),
        }


def _edges(name: str, kept: frozenset[str], between: Mapping[tuple[str, str], tuple[float, float]]) -> float:
    """What conversions between a layer and its neighbours cost."""
    total = 0.0
    for (a, b), (forth, back) in between.items():
        if name in (a, b) and (a in kept) != (b in kept):
            total += back if a in kept else forth
    return total


def _once(runner: Any, feed: Mapping[str, np.ndarray]) -> float:
    """Seconds of a run, the median of some."""
    runner.run(feed)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < 0.05:
        start = time.perf_counter()
        runner.run(feed)
        times.append(time.perf_counter() - start)
    return float(np.median(times))
