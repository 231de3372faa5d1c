"""Whether a compiled model agrees with ONNX Runtime on the original, by limits that depend on the precision."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from optkit.artifact.spec import TensorSpec
from optkit.errors import UsageError, nearest
from optkit.measure.compare import Comparison, Figures
from optkit.measure.deciders import distance
from optkit.measure.exactness import inexact_steps
from optkit.measure.inputs import random_samples
from optkit.measure.reference import ModelSource, Reference
from optkit.measure.steps import quantized_step

RELATIVE_LIMITS = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 3e-2}
"""Norm of the error over the norm of the reference, per output."""
INT8_STEPS = 2.0
INT8_SQNR_LOSS = 1.0
"""dB that the compiled model's SQNR to the FP32 original may lie below ONNX Runtime's on the same Q/DQ model."""
INT8_SQNR_FLOOR = 10.0
"""dB; all that can be asked of an int8 artifact when its Q/DQ model is not at hand."""
_SQNR_CAP = 100.0
_MISMATCHES = {"fp32": 0.001}
_MISMATCHES_REDUCED = 0.01
DEFAULT_SAMPLES = 3
MAX_SAMPLES = 8


class Runs(Protocol):
    """What is verified: anything that runs samples, such as `optkit.runtime.Runner`."""

    def run(self, feed: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Output name to array."""
        ...


@dataclass(frozen=True)
class OutputCheck:
    """One output's figures against the original, against the emitted Q/DQ model where there is one, and its limits.

    Attributes:
        limits: what was asked, by figure.
        reason: why it failed, "" if it passed.
        deciders: where INT8 finds another number of rows than the original in some sample, how far the values that
            decide it lie from the original's, by name; the other figures are of the samples with equal numbers.
    """

    name: str
    figures: Figures
    limits: Mapping[str, float]
    emitted: Figures | None = None
    emitted_to_original: Figures | None = None
    step: float | None = None
    reason: str = ""
    deciders: Mapping[str, Figures] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "passed": not self.reason,
            "reason": self.reason,
            "limits": dict(self.limits),
            "to_original": self.figures.as_dict(),
            "to_emitted": self.emitted.as_dict() if self.emitted else None,
            "emitted_to_original": self.emitted_to_original.as_dict() if self.emitted_to_original else None,
            "output_step": self.step,
            "deciders": {name: figures.as_dict() for name, figures in self.deciders.items()},
        }


@dataclass(frozen=True)
class Verification:
    """The outcome; `reason` names the first output that failed, its figure and the limit."""

    precision: str
    samples: int
    outputs: tuple[OutputCheck, ...]
    inexact: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every output kept its limits."""
        return not self.reason

    @property
    def reason(self) -> str:
        """Why it failed, "" if it passed."""
        return next((o.reason for o in self.outputs if o.reason), "")

    def as_dict(self) -> dict[str, Any]:
        """Everything, for the report."""
        return {
            "status": "passed" if self.passed else "failed",
            "precision": self.precision,
            "samples": self.samples,
            "reason": self.reason,
            "inexact_steps": list(self.inexact),
            "outputs": [o.as_dict() for o in self.outputs],
        }

    def stable(self) -> dict[str, Any]:
        """What a manifest may hold: the outcome and the limits, no measured figure."""
        return {
            "status": "passed" if self.passed else "failed",
            "precision": self.precision,
            "samples": self.samples,
            "limits": {o.name: dict(o.limits) for o in self.outputs},
        }


def verify(
    source: ModelSource,
    emitted: ir.Model | None,
    runner: Runs,
    samples: Iterable[Mapping[str, np.ndarray]] | None = None,
    precision: str = "fp32",
    *,
    atol: float | None = None,
    rtol: float | None = None,
    threads: int = 1,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
) -> Verification:
    """Compare a compiled model with ONNX Runtime (optimizations off) on the original.

    An INT8 output with as many rows as the emitted model's but not as the original's (boxes that a detector finds)
    passes where the values that decide the number are near the original's; see deciders.py.

    Args:
        emitted: the ONNX model that the passes left; needed for int8, whose reference it is.
        samples: real data, of which the first 8 are used; by default 3 seeded random samples.
        precision: "fp32", "fp16", "bf16" or "int8".
        atol: an additional limit, on the largest absolute error.
        rtol: replaces the precision's limit on the relative error (for int8: is added to its limits).

    Raises:
        UsageError: unknown precision.
        ModelError, DataError: ONNX Runtime cannot load or run the model.
    """
    if precision not in (*RELATIVE_LIMITS, "int8"):
        raise UsageError(f"unknown precision {precision!r}; {nearest(precision, [*RELATIVE_LIMITS, 'int8'])}")
    original = Reference(source, threads=threads)
    quantized = Reference(emitted, threads=threads) if precision == "int8" and emitted is not None else None
    chosen = _samples(original.inputs, samples, seed, dims)
    to_original = {name: Comparison() for name in original.outputs}
    to_emitted = {name: Comparison() for name in original.outputs}
    emitted_to_original = {name: Comparison() for name in original.outputs}
    problems: dict[str, str] = {}
    integers: set[str] = set()
    uneven: set[str] = set()
    for sample in chosen:
        expected = original.run(sample)
        between = quantized.run(sample) if quantized else {}
        found = runner.run(sample)
        for name, reference in expected.items():
            if name not in found:
                problems[name] = f"output {name!r} is missing from the compiled model"
                continue
            if reference.dtype.kind in "iub":
                integers.add(name)
            expected_shape = between.get(name, reference).shape
            if found[name].shape != expected_shape:
                problems[name] = f"output {name!r} has shape {found[name].shape}, the reference {expected_shape}"
                continue
            if quantized:
                to_emitted[name].add(between[name], found[name])
            if expected_shape != reference.shape:
                uneven.add(name)
                continue
            to_original[name].add(reference, found[name])
            if quantized:
                emitted_to_original[name].add(reference, between[name])
    checks = []
    inexact = tuple(inexact_steps(emitted)) if quantized and emitted is not None else ()
    for name in original.outputs:
        figures = to_original[name].figures()
        if name in problems:
            checks.append(OutputCheck(name, figures, {}, reason=problems[name]))
        elif name in integers:
            against = to_emitted[name].figures() if quantized else None
            checks.append(_check_integers(name, figures, against, precision))
        elif quantized and emitted is not None:
            check = _check_int8(
                name,
                figures,
                to_emitted[name].figures(),
                emitted_to_original[name].figures(),
                quantized_step(emitted, name),
                inexact,
            )
            checks.append(_check_overrides(check, atol, rtol))
        else:
            limits = (
                {"sqnr_db": INT8_SQNR_FLOOR}
                if precision == "int8"
                else {"relative": RELATIVE_LIMITS[precision] if rtol is None else rtol}
            )
            check = OutputCheck(name, figures, limits, reason=_float_reason(name, figures, limits))
            checks.append(_check_overrides(check, atol, rtol if precision == "int8" else None))
        if name in uneven and emitted is not None:
            checks[-1] = _check_deciders(checks[-1], distance(source, emitted, name, chosen))
    return Verification(precision, len(chosen), tuple(checks), inexact)


def _samples(
    specs: tuple[TensorSpec, ...],
    samples: Iterable[Mapping[str, np.ndarray]] | None,
    seed: int,
    dims: Mapping[str, int] | None,
) -> list[Mapping[str, np.ndarray]]:
    if samples is None:
        return list(random_samples(specs, DEFAULT_SAMPLES, seed, dims))
    chosen = list(itertools.islice(samples, MAX_SAMPLES))
    if not chosen:
        raise UsageError("there is no sample to verify with")
    return chosen


def _float_reason(name: str, figures: Figures, limits: Mapping[str, float]) -> str:
    if figures.nonfinite:
        return f"output {name!r}: {figures.nonfinite} values are NaN or infinite where the reference's are not"
    if "relative" in limits and not figures.relative <= limits["relative"]:
        return f"output {name!r}: relative error {figures.relative:.2e} exceeds {limits['relative']:.2e}"
    if "sqnr_db" in limits and not figures.sqnr_db >= limits["sqnr_db"]:
        return f"output {name!r}: SQNR {figures.sqnr_db:.1f} dB is below {limits['sqnr_db']:.1f} dB"
    return ""


def _check_int8(
    name: str, original: Figures, emitted: Figures, reference: Figures, step: float | None, inexact: Sequence[str]
) -> OutputCheck:
    """Within two steps of the Q/DQ model in ONNX Runtime, and hardly farther from the original than that is.

    Where the model's integers depend on the runtime (see exactness.py), a failure names the operators that
    make them so.
    """
    span = max(abs(emitted.maximum), abs(emitted.minimum))
    # Float outputs of a float operator after the last quantization differ by rounding too.
    size = step if step else (emitted.maximum - emitted.minimum) / 255
    allowed = INT8_STEPS * size + 1e-6 * span
    least = min(reference.sqnr_db, _SQNR_CAP) - INT8_SQNR_LOSS
    limits = {"max_abs_to_emitted": allowed, "sqnr_db": least}
    reason = _float_reason(name, emitted, {})
    if not reason and emitted.max_abs > allowed:
        reason = (
            f"output {name!r}: {emitted.max_abs:.3g} from ONNX Runtime on the emitted model, "
            f"{emitted.max_abs / size if size else np.inf:.2f} steps, exceeds {INT8_STEPS:g} steps"
        )
        if inexact:
            more = f" and {len(inexact) - 3} more" if len(inexact) > 3 else ""
            reason += f"; runtimes round differently after {', '.join(inexact[:3])}{more}"
    reason = reason or _float_reason(name, original, {"sqnr_db": least})
    return OutputCheck(name, original, limits, emitted, reference, size, reason)


def _check_integers(name: str, original: Figures, emitted: Figures | None, precision: str) -> OutputCheck:
    """Labels and indices must be equal, but for the few that a near tie decides."""
    figures = emitted or original
    fraction = _MISMATCHES.get(precision, _MISMATCHES_REDUCED)
    allowed = max(int(fraction * figures.elements), 1 if figures.elements >= 10 else 0)
    reason = ""
    if figures.mismatches > allowed:
        reason = f"output {name!r}: {figures.mismatches} of {figures.elements} integers differ, {allowed} may"
    return OutputCheck(name, original, {"mismatches": float(allowed)}, emitted, reason=reason)


def _check_deciders(check: OutputCheck, deciders: Mapping[str, Figures]) -> OutputCheck:
    """Where rows cannot be compared, what chose them must have kept its meaning."""
    problem = "" if deciders else "no operator before it says which values decide that"
    for name, figures in deciders.items():
        if not figures.sqnr_db >= INT8_SQNR_FLOOR:
            problem = (
                f"{name!r}, which decides that, has an SQNR of {figures.sqnr_db:.1f} dB, below {INT8_SQNR_FLOOR:g} dB"
            )
    reason = problem and f"output {check.name!r} has another number of rows in INT8; {problem}"
    reason = check.reason or reason
    return replace(check, deciders=deciders, reason=reason)


def _check_overrides(check: OutputCheck, atol: float | None, rtol: float | None) -> OutputCheck:
    """Apply the limits a user added."""
    limits, reason, figures = dict(check.limits), check.reason, check.figures
    if rtol is not None:
        limits["relative"] = rtol
        reason = reason or _float_reason(check.name, figures, {"relative": rtol})
    if atol is not None:
        limits["max_abs"] = atol
        if not reason and not figures.max_abs <= atol:
            reason = f"output {check.name!r}: absolute error {figures.max_abs:.2e} exceeds {atol:.2e}"
    return replace(check, limits=limits, reason=reason)
