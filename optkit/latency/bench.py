"""One model in several assignments of precisions: built, timed layer by layer, and whole against whole."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
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
from optkit.latency.regions import crossings, regions
from optkit.measure.samples import choose_samples
from optkit.runtime import load
from optkit.steps import Progress, build_model, make_payload, silent
from optkit.target import Target
from optkit.tune.kernels import time_calls

if TYPE_CHECKING:
    from optkit.compiler.build import Built
    from optkit.compiler.planning import Records

NOISE = 0.02
"""Whole models whose times differ by no more than this share are taken to be equally fast."""
_ELEMENTS = 1 << 18
_TURNS = 15


@dataclass
class Assignment:
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
class Bench:
    """Builds and times assignments of one model.

    Attributes:
        folder: for artifacts that are only tried.
        made: all assignments so far.
    """

    target: Target
    folder: Path
    tuned: Records | None = None
    seed: int = 0
    progress: Progress = silent
    made: list[Assignment] = field(default_factory=list)

    def build(self, kept: frozenset[str], model: ir.Model, layers: Collection[str] = ()) -> Assignment:
        """Build an assignment and time its layers; those in integers where none are given.

        Raises:
            UsageError: the model has open axes.
        """
        self.progress("precision search", len(self.made), None)
        path = self.folder / f"assignment{len(self.made)}.optk"
        built = self._build(model, path)
        if any(not isinstance(extent, int) for spec in built.inputs for extent in spec.shape):
            raise UsageError("the search for precisions times one shape: fix the open axes with --input-shape")
        names = [record.node for record in built.nodes if record.compute == "int8" and record.node]
        made = Assignment(kept, model, path, {}, frozenset(names))
        made.seconds = self.layer_seconds(made, layers or dict.fromkeys(names))
        self.made.append(made)
        return made

    def _build(self, model: ir.Model, path: Path) -> Built:
        built, variants = build_model(model, self.target, tuned=self.tuned)
        library = path.with_suffix(".so")
        link_library(built.executable, library)
        payload = make_payload(built, library, self.target, variants)
        write_artifact(path, payload, BuildInfo(source_sha256=""), compress=False)
        return built

    def layer_seconds(self, made: Assignment, layers: Collection[str]) -> dict[str, float]:
        """Seconds of every layer inside a run, with all that runs on its account (`regions`)."""
        account = regions(made.model.graph, layers)
        found: dict[str, float] = {}
        for call in time_calls(made.path, threads=self.target.cores, seed=self.seed):
            layer = account.get(call.layer)
            if layer is not None:
                found[layer] = found.get(layer, 0.0) + call.seconds
        return found

    def conversion(self) -> dict[str, float]:
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

    def time_whole(self, assignments: Sequence[Assignment]) -> None:
        """Set `total` of all, each the median of runs in turn with the others."""
        with contextlib.ExitStack() as stack:
            runners = [stack.enter_context(load(made.path, self.target.cores)) for made in assignments]
            feed = choose_samples(runners[0].inputs, None, 1, self.seed, {}, ranges=runners[0].manifest.ranges)[0]
            times: list[list[float]] = [[] for _ in runners]
            for turn in range(_TURNS):
                self.progress("precision search: whole runs", turn, _TURNS)
                order = range(len(runners)) if turn % 2 else reversed(range(len(runners)))
                for place in order:
                    times[place].append(_once(runners[place], feed))
        for made, seconds in zip(assignments, times, strict=True):
            made.total = float(np.median(seconds))


def prices(
    model: ir.Model, layers: Collection[str], price: Mapping[str, float]
) -> dict[tuple[str, str], tuple[float, float]]:
    """What conversions cost between two layers: where the first is int8 and the second float, and the other way round.

    Args:
        price: seconds an element, of "quantize" and of "dequantize".
    """
    tensors = crossings(model.graph, regions(model.graph, layers))
    return {pair: (n * price["dequantize"], n * price["quantize"]) for pair, n in tensors.items()}


def edge_seconds(name: str, kept: frozenset[str], between: Mapping[tuple[str, str], tuple[float, float]]) -> float:
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
