"""Limits of an output's error, by precision, and whether they were kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from optkit.measure.compare import Figures

RELATIVE_LIMITS = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "bf16": 3e-2}
"""Norm of the error over the norm of the reference, per output. TF32 has the eleven significant bits of FP16."""
INT8_STEPS = 2.0
INT8_FARTHER = 2.0
"""With float16 between integers: how much farther from ONNX Runtime on the Q/DQ model than this from the original."""
INT8_SQNR_LOSS = 1.0
"""dB that the compiled model's SQNR to the FP32 original may lie below ONNX Runtime's on the same Q/DQ model."""
INT8_SQNR_FLOOR = 10.0
"""dB; all that can be asked of an int8 artifact beside the steps where its Q/DQ or its float model is not at hand."""
_SQNR_CAP, _SQNR_CAP_HALVES = 100.0, -20.0 * math.log10(RELATIVE_LIMITS["fp16"])
"""dB to which a reference can come that makes float32's errors, and float16's."""
_MISMATCHES = {"fp32": 0.001}
_MISMATCHES_REDUCED = 0.01


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
        reference: with what it was compared; see referee.py.
        onnxruntime: where that was another than ONNX Runtime as it is, how far ONNX Runtime itself lies from it.
        rows_alone: where rows were matched in any order, how many have no counterpart; see rows.py. The figures are
            of the others.
    """

    name: str
    figures: Figures
    limits: Mapping[str, float]
    emitted: Figures | None = None
    emitted_to_original: Figures | None = None
    step: float | None = None
    reason: str = ""
    deciders: Mapping[str, Figures] = field(default_factory=dict)
    reference: str = "ONNX Runtime"
    onnxruntime: Figures | None = None
    rows_alone: int | None = None

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
            "reference": self.reference,
            "onnxruntime_to_reference": self.onnxruntime.as_dict() if self.onnxruntime else None,
            "rows_alone": self.rows_alone,
        }


def float_reason(name: str, figures: Figures, limits: Mapping[str, float]) -> str:
    """Why the figures do not keep the limits, "" if they do."""
    if figures.nonfinite:
        return f"output {name!r}: {figures.nonfinite} values are NaN or infinite where the reference's are not"
    if "relative" in limits and not figures.relative <= limits["relative"]:
        return f"output {name!r}: relative error {figures.relative:.2e} exceeds {limits['relative']:.2e}"
    if "sqnr_db" in limits and not figures.sqnr_db >= limits["sqnr_db"]:
        return f"output {name!r}: SQNR {figures.sqnr_db:.1f} dB is below {limits['sqnr_db']:.1f} dB"
    return ""


def check_int8(
    name: str,
    original: Figures,
    emitted: Figures,
    reference: Figures,
    step: float | None,
    inexact: Sequence[str],
    given: bool = False,
    levels: float = 255.0,
    halves: bool = False,
) -> OutputCheck:
    """Within two steps of the Q/DQ model in ONNX Runtime, and hardly farther from the original than that is.

    Where the original was `given` with integers, no float answer says what a step costs: the floor has to do.

    A float output's step is its range over the `levels` of the coarsest activation.

    Where some of the model computes in float16 (`halves`), which runtimes round each in its own way, steps are no
    measure: a difference there turns into others at every quantization behind it, until they are as large as what
    quantization itself costs. That is the limit then, if it is more than two steps. And ONNX Runtime may compute in
    float32 what is float16 here: no output has to come nearer to the original than FP16 models do.

    Where the model's integers depend on the runtime (see exactness.py), a failure names the operators that
    make them so.
    """
    span = max(abs(emitted.maximum), abs(emitted.minimum))
    # Float outputs of a float operator after the last quantization differ by rounding too.
    size = step if step else (emitted.maximum - emitted.minimum) / levels
    allowed = INT8_STEPS * size + 1e-6 * span
    if halves:
        allowed = max(allowed, INT8_FARTHER * reference.max_abs)
    cap = _SQNR_CAP_HALVES if halves else _SQNR_CAP
    least = INT8_SQNR_FLOOR if given else min(reference.sqnr_db, cap) - INT8_SQNR_LOSS
    limits = {"max_abs_to_emitted": allowed, "sqnr_db": least}
    reason = float_reason(name, emitted, {})
    if not reason and emitted.max_abs > allowed:
        reason = (
            f"output {name!r}: {emitted.max_abs:.3g} from ONNX Runtime on the emitted model, "
            f"{emitted.max_abs / size if size else np.inf:.2f} steps, exceeds {allowed / size if size else 0:.3g} steps"
        )
        if inexact:
            more = f" and {len(inexact) - 3} more" if len(inexact) > 3 else ""
            reason += f"; runtimes round differently after {', '.join(inexact[:3])}{more}"
    reason = reason or float_reason(name, original, {"sqnr_db": least})
    return OutputCheck(name, original, limits, emitted, reference, size, reason)


def check_integers(name: str, original: Figures, emitted: Figures | None, precision: str) -> OutputCheck:
    """Labels and indices must be equal, but for the few that a near tie decides."""
    figures = emitted or original
    fraction = _MISMATCHES.get(precision, _MISMATCHES_REDUCED)
    allowed = max(int(fraction * figures.elements), 1 if figures.elements >= 10 else 0)
    reason = ""
    if figures.mismatches > allowed:
        reason = f"output {name!r}: {figures.mismatches} of {figures.elements} integers differ, {allowed} may"
    return OutputCheck(name, original, {"mismatches": float(allowed)}, emitted, reason=reason)


def check_deciders(check: OutputCheck, deciders: Mapping[str, Figures]) -> OutputCheck:
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


def check_overrides(check: OutputCheck, atol: float | None, rtol: float | None) -> OutputCheck:
    """Apply the limits a user added."""
    limits, reason, figures = dict(check.limits), check.reason, check.figures
    if rtol is not None:
        limits["relative"] = rtol
        reason = reason or float_reason(check.name, figures, {"relative": rtol})
    if atol is not None:
        limits["max_abs"] = atol
        if not reason and not figures.max_abs <= atol:
            reason = f"output {check.name!r}: absolute error {figures.max_abs:.2e} exceeds {atol:.2e}"
    return replace(check, limits=limits, reason=reason)
