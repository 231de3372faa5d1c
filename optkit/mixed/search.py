"""The fastest assignment of precisions whose metric stays within a drop of the float model's.

1. Every layer alone in int8: what noise it adds to the outputs, and what it costs of the metric (`sensitivity`).
2. Every layer's time in each precision inside whole builds, and the price of conversions (`optkit.latency.bench`);
   where the target cannot be timed here, multiply-accumulates weighted by the bytes of their operands.
3. Assignments that no other beats by the models of both (`front`); of these the fastest within the drop is found by
   bisection with the metric itself, and between it and the next faster one by single layers. It is built and timed,
   and where layers take other times among their new neighbours all this is done again.
4. All that was built is timed in turn, and the fastest within the drop whose artifact confirms it is taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from optkit.data import open_calibration
from optkit.errors import UsageError, VerificationError
from optkit.latency.bench import NOISE, Assignment, Bench, prices
from optkit.mixed.account import describe
from optkit.mixed.candidates import Candidates, Precisions
from optkit.mixed.execute import batched
from optkit.mixed.front import Costs, Layer, hull, steps_between
from optkit.mixed.request import MixedRequest
from optkit.mixed.score import HOLD_OUT, Scores, holds_out, open_scores
from optkit.mixed.sensitivity import Sensitivity, measure_metric, measure_sensitivity
from optkit.pipeline import Pipeline
from optkit.runtime import load
from optkit.steps import Progress, silent
from optkit.target import Target
from optkit.transform import PassContext

if TYPE_CHECKING:
    from optkit.compiler.planning import Records

ROUNDS = 2
"""How often assignments are sought with the times that building found."""
BUILDS = 9
"""Assignments that are built and timed at most."""
_SPREAD = 3
"""Assignments that are evaluated for the front alone."""
_TOLERANCE = 1e-9
_SHARE = 0.25
"""Of the search's time, what sensitivity may take at most, and the metric of single layers again."""
_METRIC_SECONDS = 60.0


@dataclass
class Search:
    """One search.

    Attributes:
        bench: builds and times; None where that cannot be done here.
        bf16: whether the target computes in bfloat16 natively.
        built: by assignment, what was built.
    """

    request: MixedRequest
    candidates: Candidates
    scores: Scores
    bench: Bench | None
    bf16: bool
    progress: Progress
    built: dict[Precisions, Assignment] = field(default_factory=dict)
    confirmed: dict[Precisions, float] = field(default_factory=dict)
    _price: dict[str, float] | None = None
    _began: float = field(default_factory=time.monotonic)

    def run(self) -> tuple[Precisions, dict[str, Any]]:
        """The assignment, and the account of how it was found, as JSON values."""
        layers = self.candidates.layers()
        if not layers:
            self.within(Precisions())
            return Precisions(), describe(self, Precisions(), {}, Costs({}))
        limit = self.request.seconds * _SHARE
        rows = measure_sensitivity(
            self.candidates, layers, self.scores, self.bf16, lambda: self.spent() > limit, self.progress
        )
        everything = frozenset(layers)
        whole, none = Precisions(), Precisions(everything)
        if not self.within(none):
            drop = self.scores.drop(none, self.candidates)
            raise VerificationError(
                f"--max-drop {self.request.max_drop:g}: even with all layers in float the metric is {drop:.3f} points "
                "below the source model's; is it the same every time it is evaluated?"
            )
        self.within(whole)
        costs = self._costs(layers, rows)
        for _ in range(ROUNDS if self.bench else 1):
            seen = len(self.built)
            self._build(self._promising(costs))
            if len(self.built) == seen:
                break
            costs = self._costs(layers, rows)
        self._fill(hull(costs))
        if self.bench:
            known = [p for p in hull(costs) if p in self.scores.found]
            self._build(p for p in known if len(self.built) < BUILDS and not self._late())
            self.bench.time_whole(list(self.built.values()))
        chosen = self._choose(costs)
        spare = min(_METRIC_SECONDS, self.request.seconds - self.spent())
        measure_metric(self.candidates, rows, self.scores, spare, self.progress)
        return chosen, describe(self, chosen, rows, costs)

    def seconds(self, precisions: Precisions) -> float | None:
        """Measured, of a run."""
        made = self.built.get(precisions)
        return made.total if made and made.total else None

    def spent(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self._began

    def _late(self) -> bool:
        return self.spent() > self.request.seconds

    def within(self, precisions: Precisions) -> bool:
        """Whether the assignment stays within the drop; evaluates it where that was not done yet."""
        self.progress("mixed precision: evaluating", len(self.scores.found), None)
        return self.scores.drop(precisions, self.candidates) <= self.request.max_drop + _TOLERANCE

    def _promising(self, costs: Costs) -> list[Precisions]:
        """The fastest on the hull within the drop, the next faster one that is not, and the best between them."""
        points = hull(costs)
        at = self._first_within(points)
        found = [points[at]]
        if at:
            between = [
                p for p in steps_between(points[at - 1], points[at], costs) if self._faster(p, points[at], costs)
            ]
            if between and not self._late():
                best = self._first_within([*between, points[at]])
                found = [(*between, points[at])[best], points[at], points[at - 1]]
            else:
                found.append(points[at - 1])
        return found

    def _fill(self, points: Sequence[Precisions]) -> None:
        """Evaluate some more of the hull, spread over it, so that the front shows what other drops would cost."""
        for place in np.linspace(0, len(points) - 1, _SPREAD + 2)[1:-1].round().astype(int):
            if not self._late():
                self.within(points[place])

    @staticmethod
    def _faster(one: Precisions, other: Precisions, costs: Costs) -> bool:
        return costs.seconds(one) < costs.seconds(other)

    def _first_within(self, points: Sequence[Precisions]) -> int:
        """Place of the first within the drop, as if they lost less from one to the next; the last is taken to be."""
        low, high = -1, len(points) - 1
        if len(points) > 1 and self.within(points[0]):
            return 0
        low = 0 if len(points) > 1 else low
        while high - low > 1 and not self._late():
            middle = (low + high) // 2
            if self.within(points[middle]):
                high = middle
            else:
                low = middle
        return high

    def _costs(self, layers: Sequence[str], rows: dict[str, Sensitivity]) -> Costs:
        return self._timed(layers, rows) if self.bench else self._counted(layers, rows)

    def _counted(self, layers: Sequence[str], rows: dict[str, Sensitivity]) -> Costs:
        """Multiply-accumulates, in billions, weighted by the bytes of an operand over those of float32."""
        macs = {name: max(count, 1) * 1e-9 for name, count in self.candidates.macs(layers).items()}
        return Costs(
            {
                name: Layer(
                    macs[name] / 4,
                    macs[name],
                    rows[name].noise,
                    macs[name] / 2 if self.bf16 else None,
                    rows[name].bf16_noise or 0.0,
                )
                for name in layers
            }
        )

    def _timed(self, layers: Sequence[str], rows: dict[str, Sensitivity]) -> Costs:
        assert self.bench is not None
        everything = frozenset(layers)
        ends = [Precisions(), Precisions(everything)]
        if self.bf16:
            ends.append(Precisions(everything, everything))
        for end in ends:
            if end not in self.built:
                self._make(end, layers)
        seconds: dict[str, dict[str, float]] = {"int8": {}, "fp32": {}, "bf16": {}}
        for precisions, made in self.built.items():  # the latest last: among other neighbours a layer takes other times
            for name in layers:
                kind = "bf16" if name in precisions.bf16 else "fp32" if name in precisions.kept else "int8"
                seconds[kind][name] = made.seconds.get(name, 0.0)
        if self._price is None:
            self._price = self.bench.conversion()
        return Costs(
            {
                name: Layer(
                    seconds["int8"][name],
                    seconds["fp32"][name],
                    rows[name].noise,
                    seconds["bf16"].get(name),
                    rows[name].bf16_noise or 0.0,
                )
                for name in layers
            },
            prices(self.built[ends[1]].model, layers, self._price),
        )

    def _build(self, wanted: Iterable[Precisions]) -> None:
        if self.bench is None:
            return
        layers = list(next(iter(self.built.values())).seconds)
        for precisions in wanted:
            if precisions not in self.built and len(self.built) < BUILDS and not self._late():
                self._make(precisions, layers)

    def _make(self, precisions: Precisions, layers: Sequence[str]) -> None:
        assert self.bench is not None
        model = self.candidates.make(precisions)
        made = self.bench.build(precisions.kept, model, layers)
        made.seconds = {name: made.seconds.get(name, 0.0) for name in layers}
        self.built[precisions] = made

    def _choose(self, costs: Costs) -> Precisions:
        """The fastest within the drop, of those equally fast the one that loses least, if its artifact agrees."""
        within = [p for p in self.scores.found if self.within(p)]
        if self.bench is None:
            return min(within, key=lambda p: (costs.seconds(p), self.scores.drop(p, self.candidates)))
        left = [p for p in within if self.seconds(p)]
        while left:
            least = min(self.built[p].total for p in left)
            close = [p for p in left if self.built[p].total * (1 - NOISE) <= least]
            best = min(close, key=lambda p: (self.scores.drop(p, self.candidates), self.built[p].total))
            self.progress("mixed precision: the artifact itself", 0, None)
            with load(self.built[best].path, self.bench.target.cores) as runner:
                self.confirmed[best] = self.scores.evaluate(batched(runner.inputs, runner.run))
            if self.scores.float_model - self.confirmed[best] <= self.request.max_drop + _TOLERANCE:
                return best
            left.remove(best)
        raise VerificationError(
            f"--max-drop {self.request.max_drop:g}: no compiled assignment stays within it, though ONNX Runtime's do"
        )


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        pipeline: the recipe.
        account: how it was found, as JSON values; see `optkit.mixed.account`.
        scores: the metric.
    """

    pipeline: Pipeline
    account: dict[str, Any]
    scores: Scores


def search_mixed(
    request: MixedRequest,
    pipeline: Pipeline,
    source: ir.Model,
    target: Target | None,
    folder: Path,
    calibration: tuple[object, str | None, int | None] = (None, None, None),
    tuned: Records | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Found:
    """Find the recipe for `source`, which is not changed.

    Args:
        target: what is compiled for, None where only the ONNX model is wanted.
        folder: for artifacts that are only tried.
        calibration: data, preprocessing of images and number of samples, as `optkit.compile` takes them.

    Raises:
        UsageError: there is no data to evaluate on, or the model has open axes and is to be timed.
        DataError: the metric or the data fails.
        VerificationError: nothing stays within the drop.
    """
    data = None
    calib_data, preprocess, calib_samples = calibration
    if calib_data is not None:
        data = open_calibration(calib_data, source.graph.inputs, preprocess=preprocess, samples=calib_samples)
    if request.untimed is None and _is_open(source):
        raise UsageError("--max-drop times one shape: fix the open axes with --input-shape")
    if holds_out(request, data):
        pipeline = pipeline.with_options("quantize", hold_out=HOLD_OUT)
    scores = open_scores(request, source, data, preprocess)
    context = PassContext(target=target, calibration=data, reference=source, seed=seed)
    candidates = Candidates(pipeline, source, context)
    bench = None
    if request.untimed is None and target is not None:
        bench = Bench(target, folder, tuned, seed, progress)
    bf16 = target is not None and target.has("bf16_vector")
    chosen, account = Search(request, candidates, scores, bench, bf16, progress).run()
    return Found(candidates.recipe(chosen), account, scores)


def confirm(found: Found, path: Path, threads: int) -> dict[str, Any]:
    """Evaluate the metric with an artifact: "metric" and "drop", points.

    Raises:
        VerificationError: it loses more than was allowed.
    """
    with load(path, threads) as runner:
        metric = found.scores.evaluate(batched(runner.inputs, runner.run))
    drop, limit = found.scores.float_model - metric, float(found.account["max_drop"])
    if drop > limit + _TOLERANCE:
        raise VerificationError(
            f"the compiled model is {drop:.3f} points of the metric below the source model, --max-drop is {limit:g}; "
            "no artifact was written"
        )
    return {"metric": metric, "drop": drop}


def _is_open(model: ir.Model) -> bool:
    return any(not isinstance(extent, int) for value in model.graph.inputs for extent in value.shape or ())
