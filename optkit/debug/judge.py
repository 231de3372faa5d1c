"""Whether a model, or its artifact, still answers like the original on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from optkit.debug.tensors import OpenSamples
from optkit.measure.checks import (
    INT8_SQNR_FLOOR,
    RELATIVE_LIMITS,
    OutputCheck,
    Runs,
    check_integers,
    check_overrides,
    float_reason,
)
from optkit.measure.compare import Comparison, Figures
from optkit.measure.reference import Reference
from optkit.source import Source


@dataclass
class Outputs:
    """Outputs compared over all samples.

    Attributes:
        sums: by name, of those that can be compared.
        integers: names of those that hold labels or indices.
        problems: by name, why one cannot be compared.
    """

    sums: dict[str, Comparison] = field(default_factory=dict)
    integers: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)

    def add(self, expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
        """Take in one sample."""
        for name, reference in expected.items():
            if name not in found:
                self.problems[name] = f"output {name!r} is missing"
            elif found[name].shape != reference.shape:
                shapes = f"{found[name].shape}, the reference {reference.shape}"
                self.problems[name] = f"output {name!r} has shape {shapes}"
            else:
                if reference.dtype.kind in "iub":
                    self.integers.add(name)
                self.sums.setdefault(name, Comparison()).add(reference, found[name])

    def figures(self) -> dict[str, Figures]:
        """Of all outputs that can be compared."""
        return {name: sums.figures() for name, sums in self.sums.items() if name not in self.problems}

    def sqnr_db(self) -> float | None:
        """SQNR, dB, of the worst floating-point output."""
        return min((f.sqnr_db for n, f in self.figures().items() if n not in self.integers), default=None)


@dataclass(frozen=True)
class Judge:
    """Compares with the original, by the limits of a precision.

    Attributes:
        atol: an additional limit, on the largest absolute error.
        rtol: replaces the precision's limit on the relative error; int8 keeps its floor in dB besides.
    """

    source: Source
    samples: OpenSamples
    atol: float | None = None
    rtol: float | None = None

    def compare(self, other: Runs | ir.Model) -> Outputs:
        """The outputs of a model under ONNX Runtime, or of whatever runs, against the original's."""
        original = Reference(self.source.path)
        runs = Reference(other) if isinstance(other, ir.Model) else other
        found = Outputs()
        for sample in self.samples():
            found.add(original.run(sample), runs.run(sample))
        return found

    def reason(self, outputs: Outputs, precision: str) -> str:
        """Why the first output that misses its limits does so, "" where all keep them."""
        if outputs.problems:
            return next(iter(outputs.problems.values()))
        for name, figures in outputs.figures().items():
            if name in outputs.integers:
                reason = check_integers(name, figures, None, precision).reason
            else:
                reason = self.check(name, figures, precision).reason
            if reason:
                return reason
        return ""

    def check(self, name: str, figures: Figures, precision: str) -> OutputCheck:
        """One floating-point tensor by the limits of a precision."""
        int8 = precision == "int8"
        limits = {"sqnr_db": INT8_SQNR_FLOOR}
        if not int8:
            limits = {"relative": RELATIVE_LIMITS[precision] if self.rtol is None else self.rtol}
        check = OutputCheck(name, figures, limits, reason=float_reason(name, figures, limits))
        return check_overrides(check, self.atol, self.rtol if int8 else None)
