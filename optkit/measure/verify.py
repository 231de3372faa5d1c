"""Whether a compiled model agrees with ONNX Runtime on the original, by limits that depend on the precision."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from optkit.artifact.spec import TensorSpec
from optkit.errors import UsageError, nearest
from optkit.measure import referee, rows
from optkit.measure.checks import (
    INT8_SQNR_FLOOR,
    RELATIVE_LIMITS,
    OutputCheck,
    Runs,
    check_deciders,
    check_int8,
    check_integers,
    check_overrides,
    float_reason,
)
from optkit.measure.compare import Comparison, Figures
from optkit.measure.deciders import distance
from optkit.measure.exactness import inexact_steps
from optkit.measure.inputs import random_samples
from optkit.measure.reference import ModelSource, Reference
from optkit.measure.steps import quantized_levels, quantized_step
from optkit.precision import holds_halves, holds_integers

DEFAULT_SAMPLES = 3
MAX_SAMPLES = 8


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
    passes where the values that decide the number are near the original's; see deciders.py. A float output that
    fails may appeal to a more precise reference; see referee.py. Rows that values choose are compared in any order in
    other precisions, where they do not agree as they are; see rows.py.

    Args:
        emitted: the ONNX model that the passes left; needed for int8, whose reference it is.
        samples: real data, of which the first 8 are used; by default 3 seeded random samples.
        precision: "fp32", "tf32", "fp16", "bf16" or "int8".
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
    open_ended = _open_ended(original)
    listed: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = []
    for sample in chosen:
        expected = original.run(sample)
        between = quantized.run(sample) if quantized else {}
        found = runner.run(sample)
        listed.append(({n: expected[n] for n in open_ended}, {n: found[n] for n in open_ended if n in found}))
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
    given = quantized is not None and holds_integers(source)
    inexact = tuple(inexact_steps(emitted)) if quantized and emitted is not None else ()

    def judge(name: str, figures: Figures) -> OutputCheck:
        if name in integers:
            against = to_emitted[name].figures() if quantized else None
            return check_integers(name, figures, against, precision)
        if precision == "int8":
            limits = {"sqnr_db": INT8_SQNR_FLOOR}
        else:
            limits = {"relative": RELATIVE_LIMITS[precision] if rtol is None else rtol}
        check = OutputCheck(name, figures, limits, reason=float_reason(name, figures, limits))
        return check_overrides(check, atol, rtol if precision == "int8" else None)

    for name in original.outputs:
        figures = to_original[name].figures()
        if name in problems:
            checks.append(OutputCheck(name, figures, {}, reason=problems[name]))
        elif quantized and emitted is not None and name not in integers:
            check = check_int8(
                name,
                figures,
                to_emitted[name].figures(),
                emitted_to_original[name].figures(),
                quantized_step(emitted, name),
                inexact,
                given,
                quantized_levels(emitted),
                holds_halves(emitted),
            )
            checks.append(check_overrides(check, atol, rtol))
        else:
            check = judge(name, figures)
            if check.reason and precision != "int8" and name not in integers and not figures.nonfinite:
                check = referee.appeal(check, partial(judge, name), source, runner, chosen, threads)
            checks.append(check)
        if name in uneven and emitted is not None:
            checks[-1] = check_deciders(checks[-1], distance(source, emitted, name, chosen))
    if precision != "int8":
        checks = rows.appeal(checks, judge, source, listed)
    return Verification(precision, len(chosen), tuple(checks), inexact)


def _open_ended(original: Reference) -> list[str]:
    """Outputs whose first extent is open, and that of no input."""
    known = {extent for spec in original.inputs for extent in spec.shape}
    firsts = ((spec.name, spec.shape[0]) for spec in original.output_specs if spec.shape)
    return [name for name, first in firsts if isinstance(first, str) and first not in known]


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


__all__ = ["DEFAULT_SAMPLES", "MAX_SAMPLES", "OutputCheck", "Runs", "Verification", "verify"]
