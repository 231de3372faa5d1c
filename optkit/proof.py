"""Proof that a compiled model answers like the original: ONNX Runtime is the reference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optkit.artifact.payload import BuildInfo, Payload
from optkit.artifact.spec import TensorSpec
from optkit.artifact.writer import write_artifact
from optkit.errors import DataError, VerificationError
from optkit.measure.extents import accepted_extents, open_names
from optkit.measure.inputs import random_sample, random_samples
from optkit.measure.reference import Reference
from optkit.measure.verify import DEFAULT_SAMPLES, MAX_SAMPLES, Runs, Verification, verify
from optkit.runtime import load
from optkit.shape_ranges import ShapeRanges
from optkit.source import Source
from optkit.target import Target
from optkit.transform import Sample

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Proof:
    """The outcome.

    Attributes:
        manifest: what goes into the artifact: no measured figure, so that equal builds give equal bytes.
        figures: what was measured, for the report.
    """

    manifest: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)


def skipped() -> Proof:
    """What --no-verify leaves behind."""
    return Proof({"status": "skipped", "reason": "--no-verify"}, {"summary": "not verified"})


@dataclass(frozen=True)
class Prover:
    """Compares one compiled model with the original.

    Attributes:
        model: what the last pass left, which was compiled.
        samples: opens calibration samples; without them inputs are random.
        atol, rtol: limits that are added to, or replace, those of the precision; see `optkit.measure.verify`.
    """

    source: Source
    model: ir.Model
    precision: str
    target: Target
    samples: Callable[[], Iterator[Sample]] | None = None
    atol: float | None = None
    rtol: float | None = None
    seed: int = 0
    ranges: ShapeRanges = field(default_factory=ShapeRanges)

    def prove(self, payload: Payload, info: BuildInfo, rebuild: Callable[[Target, Path], Payload]) -> Proof:
        """Run the compiled model and judge its answers.

        Where the target's code cannot run here, ONNX Runtime runs the model that was compiled, and the same
        model built for this machine's CPU (by `rebuild`) is judged in its place, on one sample; the manifest then
        says "not_run" with the reason.

        Raises:
            VerificationError: the answers disagree; says which output, how far, and the limit.
        """
        reason = self.target.runs_here()
        feeds = self._feeds(payload.inputs)
        with tempfile.TemporaryDirectory(prefix="optkit-verify-") as folder:
            if reason is not None:
                from optkit.compiler.host import host_variant

                self._judge(Reference(self.model), feeds, "the emitted ONNX model")
                payload = rebuild(host_variant(self.target), Path(folder) / "host.so")
                # In another machine's layouts it is slow, and not the code that will run.
                feeds = feeds[:1]
            candidate = Path(folder) / "candidate.optk"
            write_artifact(candidate, payload, info, compress=False)
            with load(candidate) as runner:
                outcome = self._judge(runner, feeds, "the compiled model")
        manifest: dict[str, Any] = {
            "status": "passed",
            "reference": "onnxruntime",
            "precision": self.precision,
            "samples": len(feeds),
            "inputs": "random" if self.samples is None else "calibration",
            "limits": {name: v for name, v in (("atol", self.atol), ("rtol", self.rtol)) if v is not None},
        }
        if settled := {check.name: check.reference for check in outcome.outputs if check.onnxruntime}:
            manifest["settled_by"] = settled
        if reason is not None:
            manifest |= {"status": "not_run", "reason": reason, "instead": "emitted ONNX; host CPU build"}
        return Proof(manifest, {**outcome.as_dict(), **manifest, "summary": _summary(outcome, reason)})

    def _judge(self, runner: Runs, feeds: Sequence[Sample], what: str) -> Verification:
        outcome = verify(self.source.path, self.model, runner, feeds, self.precision, atol=self.atol, rtol=self.rtol)
        if not outcome.passed:
            raise VerificationError(
                f"{what} does not agree with ONNX Runtime: {outcome.reason}; no artifact was written "
                "(--no-verify writes one all the same, --atol and --rtol set other limits)"
            )
        return outcome

    def _feeds(self, inputs: Sequence[TensorSpec]) -> list[Mapping[str, np.ndarray]]:
        """Calibration samples, else random ones of lengths that the reference accepts for open dimensions."""
        if self.samples is not None:
            return list(islice(self.samples(), MAX_SAMPLES))
        if self.ranges.optimum or self.ranges.limits:
            return self._within_ranges(inputs)

        def draw(dims: Mapping[str, int]) -> list[dict[str, np.ndarray]]:
            return random_samples(inputs, DEFAULT_SAMPLES, self.seed, dims)

        try:
            return list(draw(accepted_extents(self.source.path, [spec.shape for spec in inputs], draw)))
        except DataError as error:
            raise DataError(f"{error}, or --no-verify") from error

    def _within_ranges(self, inputs: Sequence[TensorSpec]) -> list[Mapping[str, np.ndarray]]:
        """A sample at the optimum, one at the lower end of the ranges, and two at the upper.

        Batches are largest where all else is smallest, and all else where batches are: both at once is more than
        memory holds for a range that each is asked of alone.
        """
        best = {
            d: extent
            for spec in inputs
            for d, extent in zip(spec.shape, self.ranges.optimum.get(spec.name, ()), strict=False)
            if isinstance(d, str)
        }
        smallest = {**best, **{name: low for name, (low, _) in self.ranges.limits.items()}}
        largest = {name: high for name, (_, high) in self.ranges.limits.items() if high is not None}
        rest = set(open_names(spec.shape for spec in inputs))
        tall = {**smallest, **{name: n for name, n in largest.items() if name not in rest}}
        wide = {**smallest, **{name: n for name, n in largest.items() if name in rest}}
        tried = [best, smallest, tall, wide]
        chosen = [dims for i, dims in enumerate(tried) if dims and dims not in tried[:i]]
        return [random_sample(inputs, self.seed + i, dims) for i, dims in enumerate(chosen)]


def _summary(outcome: Verification, reason: str | None) -> str:
    where = "verified" if reason is None else "verified on the host's CPU"
    if outcome.precision == "int8":
        # Where no sample has as many rows as the original, what decides the number is all that can be compared.
        compared = [o.figures for o in outcome.outputs if o.figures.elements or not o.deciders]
        compared += [figures for o in outcome.outputs for figures in o.deciders.values()]
        return f"{where}, SQNR {min((figures.sqnr_db for figures in compared), default=0.0):.1f} dB"
    alone = max((o.rows_alone or 0 for o in outcome.outputs), default=0)
    rest = f", {alone} rows that only one side has" if alone else ""
    return f"{where}, relative error {max((o.figures.relative for o in outcome.outputs), default=0.0):.1e}{rest}"
