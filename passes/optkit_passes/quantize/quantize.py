"""Static quantization: QuantizeLinear and DequantizeLinear around what is worth it, ranges from calibration data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from optkit.data import without_held_out
from optkit.errors import PassError, UsageError, nearest
from optkit.macs import node_macs
from optkit.tidy import infer_shapes
from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes.quantize.anchors import Anchor, make_anchor
from optkit_passes.quantize.bn_statistics import measure_by_batch_norms
from optkit_passes.quantize.cached import measured_or_cached
from optkit_passes.quantize.calibrators import METHODS, Method, Statistic
from optkit_passes.quantize.collect import Observe, collect
from optkit_passes.quantize.data_free import made_up_samples
from optkit_passes.quantize.ends import CHOICES, ends
from optkit_passes.quantize.given import given_params, given_weights
from optkit_passes.quantize.params import Params, params_of_range
from optkit_passes.quantize.placement import Placement, place
from optkit_passes.quantize.reproducible import spell_out
from optkit_passes.quantize.rewrite import rewrite
from optkit_passes.quantize.roles import ANCHORS, OP_TYPES
from optkit_passes.quantize.weights import RANGES, QuantizedWeight, quantize_weight


@dataclass(frozen=True)
class Quantize(Pass):
    """Static quantization: weights of 8 bits or fewer, uint8 activations, ranges from calibration data.

    The result is a standard ONNX model with Q/DQ nodes (see `rewrite`) that ONNX Runtime runs. Where the context holds
    no calibration data, ranges come from made-up inputs, where the source model has batch norms corrected to their
    statistics (see `bn_statistics`), with a warning; where it holds scales found elsewhere (`context.given`), these are
    taken. A model that holds Q/DQ nodes already is left alone. Weights of fewer than 8 bits are int8 there, in a
    smaller range; an artifact stores them packed. The float model stays in `context.unquantized`, for passes that
    repair what was lost.

    Findings: every convolution and matrix product left in float with its reason, and the share of
    multiply-accumulates that became int8.

    Raises:
        DataError: calibration data is empty, does not fit, or leads to NaN or Inf.
        UsageError: an option is out of range, or names nothing in the model.
        PassError: the model's opset has no per-channel DequantizeLinear (below 13).
    """

    name: ClassVar[str] = "quantize"

    method: str = option("minmax", f"how ranges are chosen: {', '.join(METHODS)}")
    percentile: float = option(99.99, "share of values, in percent, that method=percentile keeps")
    momentum: float = option(0.9, "weight of the samples so far with method=moving_average, 0 to below 1")
    per_channel: bool = option(True, "one weight scale an output channel; false: one a tensor")
    weight_bits: int = option(8, "bits of a weight, 2 to 8")
    weight_range: str = option("max", f"what of a channel's weights to keep: {', '.join(RANGES)} (Choukroun 2019)")
    first_last: str = option(
        "same", "the first and last layers: 'same' as the others, 'int8' (weights of 8 bits) or 'float'"
    )
    symmetric_activations: bool = option(False, "int8 activations with zero point 0, as TensorRT wants them")
    exact: bool = option(
        True,
        "scales and functions with which every runtime and CPU computes the same integers; false: the finest scales",
    )
    fuse_residual: bool = option(
        True, "add residuals on the accumulator; false: quantize both operands, as ONNX Runtime's kernels want"
    )
    products: bool = option(
        True, "products of two activations too; false: they stay float, as float16 kernels of attention want them"
    )
    exclude: tuple[str, ...] = option((), "names of nodes that stay float")
    exclude_op_types: tuple[str, ...] = option((), "operator types that stay float")
    op_types: tuple[str, ...] = option(OP_TYPES, "operator types that are quantized")
    samples: int | None = option(None, "use at most so many calibration samples, the first")
    hold_out: int = option(0, "leave every n-th calibration sample out, for others to evaluate on; 0: none")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Quantize `model` in place."""
        self._check_options(model)
        if any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.all_nodes()):
            return Result(model, False, [Finding("skipped", "", "the model is quantized already")])
        opset = model.graph.opset_imports.get("", 0)
        if opset < 13:
            raise PassError(f"quantize needs opset 13 or newer, the model has {opset}; convert it first")
        infer_shapes(model)
        anchors, findings = self._anchors(model)
        outer = set() if self.first_last == "same" else ends(model.graph, {a.node for a in anchors})
        if self.first_last == "float":
            left = [a.node for a in anchors if a.node in outer]
            findings += [Finding("skipped", _where(n), f"{n.op_type} stays float: it is first or last") for n in left]
            anchors = [a for a in anchors if a.node not in outer]
        macs = _macs(model)
        params: dict[ir.Value, Params] = {}
        weights: list[tuple[Anchor, QuantizedWeight]] = []
        placement = self._place(model, anchors)
        if anchors:
            if context.given is None:
                findings += self._calibrate(model, context, placement, params)
            else:
                findings += given_params(context.given, placement, params, self.symmetric_activations)
            given = given_weights(context.given, anchors)
            weights, overflowing = self._weights(anchors, params, outer, given)
            if overflowing:
                # without them other tensors may no longer be quantized; the ranges stay what they are
                findings += [Finding("skipped", _where(a.node), _OVERFLOW) for a in overflowing]
                anchors = [a for a in anchors if a not in overflowing]
                placement = self._place(model, anchors)
            findings += [_widened(a, w) for a, w in weights if w.widened]
            context.unquantized = model.clone()
            rewrite(model.graph, placement, params, weights)
            if self.exact:
                findings += spell_out(model)
        findings.append(Finding("note", "", _share(macs, {a.node for a in anchors}, self.weight_bits)))
        return Result(model, bool(anchors), findings)

    def _check_options(self, model: ir.Model) -> None:
        if self.method not in METHODS:
            raise UsageError(f"quantize: unknown method {self.method!r}; {nearest(self.method, METHODS)}")
        if not 50 < self.percentile <= 100:
            raise UsageError(f"quantize: percentile={self.percentile} is not between 50 and 100")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"quantize: momentum={self.momentum} is not at least 0 and below 1")
        if not 2 <= self.weight_bits <= 8:
            raise UsageError(f"quantize: weight_bits={self.weight_bits} is not between 2 and 8")
        if self.weight_range not in RANGES:
            raise UsageError(
                f"quantize: unknown weight_range {self.weight_range!r}; {nearest(self.weight_range, RANGES)}"
            )
        if self.first_last not in CHOICES:
            raise UsageError(f"quantize: unknown first_last {self.first_last!r}; {nearest(self.first_last, CHOICES)}")
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"quantize: samples={self.samples} is not at least 1")
        if self.hold_out < 0 or self.hold_out == 1:
            raise UsageError(f"quantize: hold_out={self.hold_out} leaves no sample; 0, or 2 and more")
        for op_type in (*self.op_types, *self.exclude_op_types):
            if op_type not in OP_TYPES:
                hint = nearest(op_type, OP_TYPES)
                raise UsageError(f"quantize: {op_type!r} is no operator that this pass quantizes; {hint}")
        names = {_where(n) for n in model.graph.all_nodes()}
        for name in self.exclude:
            if name not in names:
                raise UsageError(f"quantize: no node {name!r} to exclude; {_close(name, names)}")

    def _excluded(self, node: ir.Node) -> str | None:
        if _where(node) in self.exclude:
            return "excluded by name"
        if node.op_type in self.exclude_op_types or node.op_type not in self.op_types:
            return f"operator type {node.op_type} is excluded"
        return None

    def _anchors(self, model: ir.Model) -> tuple[list[Anchor], list[Finding]]:
        anchors, findings = [], []
        for node in model.graph.all_nodes():
            if node.op_type not in ANCHORS or node.domain not in ("", "ai.onnx"):
                continue
            reason: str | None = self._excluded(node)
            if reason is None and node.graph is not model.graph:
                reason = "it is in a loop's or a branch's body"
            if reason is None:
                made = make_anchor(node)
                if isinstance(made, Anchor) and (self.products or made.weight is not None):
                    anchors.append(made)
                    continue
                reason = "both operands are activations" if isinstance(made, Anchor) else made
            findings.append(Finding("skipped", _where(node), f"{node.op_type} stays float: {reason}"))
        return anchors, findings

    def _place(self, model: ir.Model, anchors: Iterable[Anchor]) -> Placement:
        excluded = {n for n in model.graph if self._excluded(n) is not None}
        return place(model.graph, anchors, excluded, self.fuse_residual)

    def _calibrate(
        self, model: ir.Model, context: PassContext, placement: Placement, params: dict[ir.Value, Params]
    ) -> list[Finding]:
        """Fills `params`; tensors of a group share one result."""
        method = Method(self.method, self.percentile, self.momentum, self.symmetric_activations, self.exact)
        order = {v: i for i, v in enumerate(v for n in model.graph for v in n.outputs)}
        # in graph order, so that the first tensor to hold a NaN is the one named
        sources = sorted((v for g in placement.groups for v in g.sources), key=lambda v: order.get(v, -1))
        made_up = context.calibration is None and context.calibration_cache is None

        normed: set[ir.Value] = set()

        known = {} if context.measured is None else context.measured
        keys = {v: (method, self.samples, self.hold_out, v.name) for v in sources}

        def measure() -> tuple[dict[ir.Value, Statistic], int]:
            empty = {v: method.statistic() for v in sources if keys[v] not in known}
            if sources and not empty:
                return {v: known[keys[v]][0] for v in sources}, known[keys[sources[0]]][1]
            observers: dict[ir.Value, Observe] = {v: s.add for v, s in empty.items()}
            data = context.calibration
            if data is None:
                data = made_up_samples(model, context.seed)
                normed.update(measure_by_batch_norms(model, context.reference, observers, data))
                observers = {v: o for v, o in observers.items() if v not in normed}
            if self.hold_out:
                data = without_held_out(data, self.hold_out)
            count = collect(model, observers, data, samples=self.samples, progress=context.progress)
            known.update({keys[v]: (statistic, count) for v, statistic in empty.items()})
            return {v: known[keys[v]][0] for v in sources}, count

        ran = ",".join((*context.ran, *([f"hold_out={self.hold_out}"] if self.hold_out else [])))
        if context.calibration_cache is None:
            (statistics, count), noted = measure(), list[Finding]()
        else:
            statistics, count, noted = measured_or_cached(
                context.calibration_cache, model, ran, method, self.samples, sources, measure
            )
        taken: Counter[str] = Counter()
        for group in placement.groups:
            kept = method.range(*(statistics[v] for v in group.sources))
            taken[kept.method] += 1
            shared = params_of_range(kept.low, kept.high, symmetric=self.symmetric_activations, exact=self.exact)
            params.update(dict.fromkeys(group.tensors, shared))
        if self.hold_out and context.calibration is not None:  # from the passes behind too, which fit weights to them
            context.calibration = without_held_out(context.calibration, self.hold_out)
        findings = [Finding("note", "", f"ranges by {self.method} from {count} calibration samples")]
        if made_up:
            text = "no calibration data: ranges come from made-up inputs, accuracy may suffer; give real samples"
            if normed:
                text += f" (those of {len(normed)} of {len(sources)} tensors fit what the batch norms have kept)"
            findings = [Finding("warning", "", text)]
        findings += noted
        if self.method == "auto":
            text = ", ".join(f"{name} {taken[name]}" for name in METHODS if taken[name])
            findings.append(Finding("note", "", f"auto, ranges with the least squared error: {text}"))
        return findings

    def _weights(
        self,
        anchors: Iterable[Anchor],
        params: Mapping[ir.Value, Params],
        outer: Collection[ir.Node],
        given: Mapping[ir.Node, np.ndarray],
    ) -> tuple[list[tuple[Anchor, QuantizedWeight]], list[Anchor]]:
        weights, overflowing = [], []
        for anchor in anchors:
            source = anchor.node.inputs[0]
            if anchor.weight is None or source is None:
                continue
            axis = anchor.axis if self.per_channel and anchor.per_channel else None
            quantized = quantize_weight(
                anchor.weight,
                axis,
                anchor.bias,
                float(params[source].scale),
                exact=self.exact,
                bits=8 if anchor.node in outer else self.weight_bits,
                method=self.weight_range,
                given=given.get(anchor.node),
            )
            if quantized.accumulator_fits(anchor.axis):
                weights.append((anchor, quantized))
            else:
                overflowing.append(anchor)
        return weights, overflowing


_OVERFLOW = "stays float: its sums could leave int32"


def _where(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type


def _close(name: str, names: Iterable[str]) -> str:
    """A hint that does not list a thousand nodes."""
    hint = nearest(name, names)
    return hint if hint.startswith("did") else "list them with `optkit inspect`"


def _widened(anchor: Anchor, weight: QuantizedWeight) -> Finding:
    channels = ", ".join(map(str, weight.widened[:5])) + (", ..." if len(weight.widened) > 5 else "")
    text = f"weight scale raised so that the bias fits int32 (output channel {channels})"
    return Finding("note", _where(anchor.node), text)


def _macs(model: ir.Model) -> dict[ir.Node, int]:
    counted = ((n, node_macs(n)) for n in model.graph.all_nodes())
    return {n: c.macs for n, c in counted if c is not None and c.macs is not None}


def _share(macs: Mapping[ir.Node, int], quantized: set[ir.Node], bits: int) -> str:
    total = sum(macs.values())
    inside = sum(m for n, m in macs.items() if n in quantized)
    kinds = Counter(n.op_type for n in quantized)
    text = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
    share = 100 * inside / total if total else 0.0
    narrow = "" if bits == 8 else f", weights of {bits} bits"
    return f"{share:.1f} % of convolution and matmul MACs in int8 ({text}{narrow})"
