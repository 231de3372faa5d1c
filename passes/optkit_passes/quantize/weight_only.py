"""Weights of matrix products in 2 to 8 bits, activations in float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np
import onnx_ir as ir

from optkit.errors import PassError, UsageError, nearest
from optkit.opset import raise_opset
from optkit.tidy import infer_shapes
from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes.quantize.anchors import Anchor, make_anchor
from optkit_passes.quantize.collect import collect
from optkit_passes.quantize.data_free import made_up_samples
from optkit_passes.quantize.gptq import Hessian, gptq
from optkit_passes.quantize.grids import Grid, GroupedCodes, round_to_nearest
from optkit_passes.quantize.weights import RANGES

METHODS = ("gptq", "rtn")
"""How weights are rounded: so that the layer's output changes least, or each to the nearest."""

OPSET = 21
"""The first with 4-bit integers and `block_size`."""

HESSIAN_BYTES = 1 << 30
"""Sums of calibration inputs that are kept at once; more layers mean more passes over the samples."""


@dataclass(frozen=True)
class WeightOnly(Pass):
    """Weights of MatMul and Gemm in 2 to 8 bits by groups, activations in float: less to read where batches are small.

    A weight of (K, N) becomes integers with a scale, and a zero point unless `symmetric`, for every `group_size` rows
    of a column; what it was is DequantizeLinear of them with `block_size` (opset 21), int4 or uint4 up to 4 bits, int8
    or uint8 beyond. ONNX Runtime makes its MatMulNBits of that (4 bits, groups of 16 or more), optkit a kernel that
    reads the integers. Gemm becomes MatMul and Add.

    `method=gptq` rounds the weights of one input after the other and corrects those that are left (Frantar et al.
    2022, arXiv 2210.17323), for the inputs that the float model has on calibration data; `rtn` rounds to nearest and
    needs no data.

    Findings: every product that stays float and why, and what the weights take.

    Raises:
        DataError: calibration data is empty, does not fit, or leads to NaN or Inf.
        UsageError: an option is out of range, or names nothing in the model.
        PassError: the model cannot be brought to opset 21.
    """

    name: ClassVar[str] = "weight_only"

    bits: int = option(4, "bits of a weight, 2 to 8")
    group_size: int = option(32, "rows of a column that share a scale; 0: all of them")
    method: str = option("gptq", f"how weights are rounded: {', '.join(METHODS)}")
    symmetric: bool = option(False, "no zero points: a group's grid is the same on both sides of zero")
    weight_range: str = option("max", f"what of a group's weights to keep: {', '.join(RANGES)} (Choukroun 2019)")
    act_order: bool = option(False, "gptq: begin with the inputs that are largest")
    damping: float = option(0.01, "gptq: of the mean of the Hessian's diagonal, added to it")
    exclude: tuple[str, ...] = option((), "names of nodes that stay float")
    samples: int | None = option(None, "gptq: use at most so many calibration samples, the first")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Quantize the weights of `model` in place."""
        self._check_options(model)
        infer_shapes(model)
        anchors, findings = self._anchors(model)
        if not anchors:
            return Result(model, False, findings)
        if model.graph.opset_imports.get("", 0) < OPSET:
            names = [_where(a.node) for a in anchors]
            reason = raise_opset(model, OPSET)
            if reason:
                raise PassError(f"weight_only needs opset {OPSET}: {reason}")
            infer_shapes(model)
            anchors = [a for a in self._anchors(model)[0] if _where(a.node) in names]
        grid = Grid(self.bits, self.symmetric, self.weight_range)
        made: dict[ir.Node, GroupedCodes] = {}
        lost = {}
        for hessians in self._hessians(model, anchors, context, findings):
            for anchor in anchors:
                source = anchor.node.inputs[0]
                assert anchor.weight is not None and source is not None
                if anchor.node in made or (self.method == "gptq" and source not in hessians):
                    continue
                w = anchor.weight if anchor.axis == 1 else anchor.weight.T
                group = min(self.group_size or len(w), len(w))
                if self.method == "rtn":
                    made[anchor.node] = round_to_nearest(w, grid, group)
                else:
                    sums = hessians[source].sums
                    made[anchor.node] = gptq(w, sums, grid, group, self.damping, self.act_order)
                lost[anchor.node] = float(
                    np.square(w - made[anchor.node].real()).sum() / max(np.square(w).sum(), 1e-30)
                )
                context.progress(f"rounding weights ({self.method})", len(made), len(anchors))
        for anchor in anchors:
            _rewrite(model.graph, anchor, made[anchor.node], self)
            text = f"weights of {self.bits} bits, {10 * np.log10(1 / max(lost[anchor.node], 1e-12)):.1f} dB"
            findings.append(Finding("changed", _where(anchor.node), text))
        findings.append(Finding("note", "", self._summary(list(made.values()))))
        return Result(model, True, findings)

    def _check_options(self, model: ir.Model) -> None:
        if not 2 <= self.bits <= 8:
            raise UsageError(f"weight_only: bits={self.bits} is not between 2 and 8")
        if self.group_size != 0 and self.group_size < 2:
            raise UsageError(f"weight_only: group_size={self.group_size} is neither 0 nor at least 2")
        for what, value, known in (("method", self.method, METHODS), ("weight_range", self.weight_range, RANGES)):
            if value not in known:
                raise UsageError(f"weight_only: unknown {what} {value!r}; {nearest(value, known)}")
        if not 0 < self.damping <= 1:
            raise UsageError(f"weight_only: damping={self.damping} is not in (0, 1]")
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"weight_only: samples={self.samples} is not at least 1")
        names = {_where(n) for n in model.graph}
        for name in self.exclude:
            if name not in names:
                raise UsageError(f"weight_only: no node {name!r} to exclude; list them with `optkit inspect`")

    def _anchors(self, model: ir.Model) -> tuple[list[Anchor], list[Finding]]:
        anchors, findings = [], []
        for node in model.graph:
            if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
                continue
            producer = node.inputs[1].producer() if node.inputs[1] is not None else None
            made: Anchor | str = "excluded by name"
            if _where(node) not in self.exclude:
                made = make_anchor(node)
            if isinstance(made, Anchor) and made.weight is None:
                made = "both operands are activations"
            if producer is not None and producer.op_type == "DequantizeLinear":
                made = "it is quantized already"
            if isinstance(made, str):
                findings.append(Finding("skipped", _where(node), f"{node.op_type} stays float: {made}"))
            else:
                anchors.append(made)
        return anchors, findings

    def _hessians(
        self, model: ir.Model, anchors: Sequence[Anchor], context: PassContext, findings: list[Finding]
    ) -> Iterator[Mapping[ir.Value, Hessian]]:
        """Sums of the inputs of some products after the other, as many as fit HESSIAN_BYTES; none for rtn."""
        if self.method == "rtn":
            yield {}
            return
        depths: dict[ir.Value, int] = {}
        for anchor in anchors:
            assert anchor.weight is not None and anchor.node.inputs[0] is not None
            depths[anchor.node.inputs[0]] = anchor.weight.shape[1 - anchor.axis]
        if context.calibration is None:
            text = "no calibration data: gptq corrects for made-up inputs, accuracy may suffer; give real samples"
            findings.append(Finding("warning", "", text))
        open_samples = context.calibration or made_up_samples(model, context.seed)
        batch: dict[ir.Value, Hessian] = {}
        used, waiting = 0, list(depths.items())
        while waiting or batch:
            size = 8 * waiting[0][1] ** 2 if waiting else 0
            if waiting and (not batch or used + size <= HESSIAN_BYTES):
                value, depth = waiting.pop(0)
                batch[value], used = Hessian(depth), used + size
                continue
            observers = {value: hessian.observe for value, hessian in batch.items()}
            collect(model, observers, open_samples, samples=self.samples, progress=context.progress)
            yield batch
            batch, used = {}, 0

    def _summary(self, made: list[GroupedCodes]) -> str:
        count = sum(m.codes.size for m in made)
        more = sum(m.scale.size * (32 + (0 if self.symmetric else self.bits)) for m in made)
        group = f"groups of {self.group_size}" if self.group_size else "columns"
        return (
            f"{len(made)} matrix products have weights of {self.bits} bits in {group} ({self.method}), "
            f"{self.bits + more / count:.2f} bits a weight with scales"
        )


def _rewrite(graph: ir.Graph, anchor: Anchor, made: GroupedCodes, options: WeightOnly) -> None:
    """The node's weight becomes a DequantizeLinear, (K, N); a Gemm becomes MatMul and Add."""
    node = anchor.node
    old, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    assert old is not None
    stem = _free(graph, old.name or "weight")
    kind = _type(options)
    middle = 0 if not options.symmetric else 2 ** (options.bits - 1)
    blocked = len(made.scale) > 1
    q = (made.codes.astype(np.int16) - middle).astype(kind)
    parts = {"quantized": q, "scale": made.scale if blocked else made.scale[0]}
    if not options.symmetric:
        parts["zero_point"] = (made.zero if blocked else made.zero[0]).astype(kind)
    inputs = []
    for what, array in parts.items():
        inputs.append(_initializer(graph, f"{stem}_{what}", array))
    shape = ir.Shape(made.codes.shape)
    attributes = {"axis": 0, "block_size": made.group} if blocked else {"axis": 1}
    real = ir.Value(name=f"{stem}_dequantized", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    dequantize = ir.node("DequantizeLinear", inputs, attributes, outputs=[real], name=f"{stem}_DequantizeLinear")
    graph.insert_before(node, dequantize)
    if node.op_type == "MatMul":
        node.replace_input_with(1, real)
    else:
        _split_gemm(graph, node, real, anchor.bias, stem)
    for unused in (old, bias):
        _drop(graph, unused)


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _drop(graph: ir.Graph, value: ir.Value | None) -> None:
    """Remove a constant that nothing reads any more."""
    if value is None or value.uses() or value.is_graph_output():
        return
    producer = value.producer()
    if producer is not None:
        graph.remove(producer, safe=True)
    elif value.name is not None and value.name in graph.initializers:
        del graph.initializers[value.name]


def _split_gemm(graph: ir.Graph, node: ir.Node, real: ir.Value, bias: np.ndarray | None, stem: str) -> None:
    """MatMul of the (K, N) weight, which holds alpha, and Add of the bias, which holds beta."""
    name, output = node.name, node.outputs[0]
    product = ir.node("MatMul", [node.inputs[0], real], name=f"{name}_MatMul" if bias is not None else name)
    graph.insert_before(node, product)
    last = product
    if bias is not None:
        value = _initializer(graph, f"{stem}_bias", bias)
        product.outputs[0].name = f"{stem}_product"
        product.outputs[0].shape, product.outputs[0].type = output.shape, output.type
        last = ir.node("Add", [product.outputs[0], value], name=name)
        graph.insert_before(node, last)
    result = last.outputs[0]
    result.shape, result.type = output.shape, output.type
    ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
    result.name, output.name = output.name, None
    graph.remove(node, safe=True)


def _type(options: WeightOnly) -> np.dtype:
    signed, unsigned = (ml_dtypes.int4, ml_dtypes.uint4) if options.bits <= 4 else (np.int8, np.uint8)
    kind: np.dtype = np.dtype(signed if options.symmetric else unsigned)
    return kind


def _free(graph: ir.Graph, stem: str) -> str:
    """A stem that no weight of an earlier node took: shared weights are quantized for every node's own inputs."""
    name, number = stem, 0
    while f"{name}_quantized" in graph.initializers:
        number += 1
        name = f"{stem}_{number}"
    return name


def _where(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type
