"""float16: weights and activations in half the bytes, where their range allows it.

Inputs and outputs of the model stay float32, with a Cast at each edge. A node stays float32, with Casts
around it, where float16 could not hold its inputs, results or constants (measured on calibration data), where
its kind is unsafe (see `KEEP`), or where ONNX does not define it for float16.

In a quantized model, what integer kernels compute stays as it is (see `integers`): their results are converted once,
where they leave the kernel. Functions that spell out their roundings (`optkit.exact`) become the operators again that
they stand for, unless an integer kernel ends with them: next to float16, no two runtimes round alike.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes.graph import constant, remove_unused
from optkit_passes.precision.half_graph import HalfGraph, why_no_half
from optkit_passes.precision.integers import integer_kernels
from optkit_passes.precision.ranges import Range, measure_ranges
from optkit_passes.quantize.reproducible import write_plainly

LARGEST = float(np.finfo(np.float16).max)  # 65504
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)  # 2**-24

KEEP: tuple[str, ...] = (
    # Sums over many elements: where a kernel adds in float16, 2048 + 1 is 2048.
    *("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd", "ReduceLogSum"),
    *("ReduceLogSumExp", "GlobalAveragePool", "GlobalLpPool", "CumSum", "CumProd", "Softmax", "LogSoftmax"),
    # Squares and variances: the square of 256 is past the range.
    *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"),
    *("MeanVarianceNormalization", "LpNormalization", "LRN"),
    # Grow faster than any margin on calibration data can foresee.
    *("Exp", "Pow"),
    # Angles, coordinates, counters and order: integers past 2048 are not exact, nor are ties.
    *("Sin", "Cos", "Tan", "Range", "Resize", "Upsample", "RoiAlign", "GridSample", "AffineGrid"),
    *("NonMaxSuppression", "TopK", "DFT", "STFT"),
    # State that goes round and round gathers error.
    *("LSTM", "GRU", "RNN"),
    # Their type is an attribute, and there is nothing to win.
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"),
    *("ConstantOfShape", "EyeLike", "OneHot"),
)
"""Operators that stay float32 unless the option `keep` says otherwise, by reason."""


@dataclass(frozen=True)
class Fp16(Pass):
    """Convert to float16 what its range allows; inputs and outputs stay float32."""

    name: ClassVar[str] = "fp16"

    keep: tuple[str, ...] = option(KEEP, "operators that stay float32")
    exclude: tuple[str, ...] = option((), "names of nodes that stay float32; * and ? match any text")
    margin: float = option(2.0, "a value stays float32 if, this many times larger, it would leave the range")
    samples: int = option(32, "calibration samples that ranges are measured on; 0 is all")

    def __post_init__(self) -> None:
        if not self.margin >= 1 or self.samples < 0:
            raise ValueError("margin must be at least 1 and samples at least 0")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Measure ranges on the float32 model, decide node by node, and rewrite."""
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        integers = integer_kernels(model.graph)
        plain = write_plainly(model, integers)
        findings: list[Finding] = []
        ranges: dict[str, Range] = {}
        count, real = 0, True
        if any(_may_convert(node, model) for node in model.graph if node not in integers):
            ranges, count, real = measure_ranges(model, context, self.samples)
        if not real:
            findings.append(
                Finding(
                    "warning",
                    "",
                    f"no calibration data: ranges come from {count} random inputs (seed {context.seed}); "
                    "real ones may overflow",
                )
            )
        graph = HalfGraph(model)
        unused = set(self.exclude)
        stay: set[ir.Node] = set()
        for node in model.graph:
            if not _touches_floats(node):
                continue
            hits = {pattern for pattern in self.exclude if fnmatch.fnmatchcase(node.name or "", pattern)}
            unused -= hits
            reason = "excluded" if hits else integers.get(node) or self._why_float32(node, model, ranges)
            if reason:
                stay.add(node)
                findings.append(Finding("skipped", node.name or "", f"{node.op_type} stays float32: {reason}"))
        findings += [Finding("warning", "", f"exclude: no such node as {word!r}") for word in sorted(unused)]
        findings += _flushed(model, stay, ranges)
        converted = graph.convert(stay)
        remove_unused(model)
        common.NameFixPass()(model)
        if converted:
            findings.append(Finding("changed", "", f"{converted} nodes compute in float16, {len(stay)} in float32"))
        if plain:
            text = f"{plain} functions with spelled-out roundings are operators again: float16 rounds around them"
            findings.append(Finding("changed", "", text))
        return Result(model, bool(converted or plain), findings)

    def _why_float32(self, node: ir.Node, model: ir.Model, ranges: dict[str, Range]) -> str | None:
        """Why the node must stay float32; None where it may become float16."""
        if not node.domain and node.op_type in self.keep:
            return "its kind is on the keep-list"
        reason = why_no_half(node, model.opset_imports.get(node.domain, 0))
        if reason:
            return reason
        for value in (*node.inputs, *node.outputs):
            if value is None or value.dtype != ir.DataType.FLOAT:
                continue
            what = "output" if value.producer() is node else "input"
            array = constant(value)
            if array is not None:
                reason = _why_not_constant(value, array)
                if reason:
                    return reason
                continue
            seen = ranges.get(value.name or "")
            if seen is not None and not seen.magnitude * self.margin <= LARGEST:
                margin = f" (margin {self.margin:g})" if seen.magnitude <= LARGEST else ""
                return f"{what} {value.name} reaches {seen.magnitude:.4g}, float16 ends at {LARGEST:g}{margin}"
        return None


def _may_convert(node: ir.Node, model: ir.Model) -> bool:
    """Whether ranges are all that can keep a node in float32."""
    return _touches_floats(node) and why_no_half(node, model.opset_imports.get(node.domain, 0)) is None


def _touches_floats(node: ir.Node) -> bool:
    return any(v is not None and v.dtype == ir.DataType.FLOAT for v in (*node.inputs, *node.outputs))


def _why_not_constant(value: ir.Value, array: np.ndarray) -> str | None:
    """Infinities and NaN are the same in float16; a finite number that is not must stay."""
    finite = np.abs(array[np.isfinite(array)]).astype(np.float64)
    if finite.size and finite.max() > LARGEST:
        return f"constant {value.name} holds {finite.max():.4g}, float16 ends at {LARGEST:g}"
    # A single tiny number is an epsilon; as zero it divides by zero. A weight among many is noise.
    if array.size == 1 and array.reshape(-1)[0] != 0 and array.astype(np.float16).reshape(-1)[0] == 0:
        return f"constant {value.name} is {float(array.reshape(-1)[0]):.4g}, which float16 flushes to zero"
    return None


def _flushed(model: ir.Model, stay: set[ir.Node], ranges: dict[str, Range]) -> list[Finding]:
    """What becomes zero in float16: single weights, and results that are tiny altogether."""
    findings = []
    for value in model.graph.initializers.values():
        array = constant(value)
        users = {user for user, _ in value.uses()}
        if array is None or value.dtype != ir.DataType.FLOAT or users <= stay:
            continue
        with np.errstate(over="ignore"):
            lost = int(np.count_nonzero((array != 0) & (array.astype(np.float16) == 0)))
        if lost:
            kind = "warning" if lost > 0.01 * array.size else "note"
            text = f"{lost} of {array.size} values are below {SMALLEST:.2g} and flush to zero"
            findings.append(Finding(kind, value.name or "", text))  # type: ignore[arg-type]
    for node in model.graph:
        for value in node.outputs if node not in stay else ():
            seen = ranges.get(value.name or "")
            if seen is not None and 0 < seen.magnitude < SMALLEST:
                text = f"all values are below {SMALLEST:.2g} ({seen.magnitude:.2g}) and flush to zero"
                findings.append(Finding("warning", value.name or "", text))
    return findings
