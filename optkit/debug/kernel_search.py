"""The first kernel that computes otherwise than ONNX Runtime, and the smallest model that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from optkit.debug import subgraph
from optkit.debug.judge import Judge
from optkit.debug.kernels import compiled
from optkit.debug.pass_search import Case
from optkit.debug.structure import DEQUANTIZE, QUANTIZE, delivery
from optkit.debug.tensors import expose
from optkit.errors import OptkitError
from optkit.measure.checks import RELATIVE_LIMITS
from optkit.measure.compare import Comparison
from optkit.measure.reference import Reference
from optkit.measure.verify import verify
from optkit.precision import holds_halves, precision_of
from optkit.steps import Progress
from optkit.target import Target
from optkit.transform import Sample

_STEPS = 1
_SHARE = 0.01
"""Integers of both may differ by one, near a tie, in so many of a tensor's elements."""
_INT8_RELATIVE = 1e-3
"""Of float tensors in an int8 model: what a few such ties make of them."""
_TRIES = 48


class KernelSearch:
    """One search in one model.

    Attributes:
        notes: what a reader has to know about how the case was found.
    """

    def __init__(self, model: ir.Model, target: Target, judge: Judge, progress: Progress) -> None:
        self.model, self.target, self.judge, self.progress = model, target, judge, progress
        self.notes: list[str] = []
        self.precision, self._halves = precision_of(model), holds_halves(model)
        self._order = {name: i for i, name in enumerate(subgraph.makers(model))}
        self._values: dict[str, np.ndarray] = {}
        self._tries = 0

    def outputs(self) -> str:
        """Why the compiled model's outputs leave the tolerance to ONNX Runtime on the same model, "" if they do not.

        Raises:
            UnsupportedError, CompileError: it cannot be compiled.
        """
        self.progress("compile", 0, None)
        int8 = self.precision == "int8"
        with compiled(self.model, self.target) as runner:
            return verify(
                self.model,
                self.model if int8 else None,
                runner,
                self.judge.samples(),
                self.precision,
                atol=self.judge.atol,
                rtol=self.judge.rtol,
            ).reason

    def smallest(self) -> Case:
        """The case, after `outputs` gave a reason."""
        names = self._borders()
        sample, wrong = self._first_wrong(names)
        if not wrong:
            self.notes.append(
                "with its inner tensors shown, which keeps kernels from being fused over them, the compiled model is "
                "right: the fault is in a fused kernel, found by compiling the model up to one tensor after another"
            )
            sample, wrong = self._first_prefix(names)
        if not wrong:
            whole = {v.name: sample[v.name] for v in self.model.graph.inputs if v.name}
            self.notes.append("no part of the model alone shows the error; the whole of it was saved")
            return Case(self.model, whole, self.model.graph.outputs[0].name or "", False)
        self._values = {**sample, **self._reference(sample)}
        grown = self._grow(wrong, names)
        if grown is None:
            self.notes.append(f"{wrong!r} is wrong only in the whole model, which was saved")
            whole = {v.name: sample[v.name] for v in self.model.graph.inputs if v.name}
            return Case(self.model, whole, wrong, False)
        return self._shrink(grown)

    def _borders(self) -> list[str]:
        """Tensors at which kernels end in any case, in graph order: integers that are read, and floats outside.

        What stands between two of them the compiler fuses; showing it would be another program.
        """
        seen: dict[ir.Value, bool] = {}
        names = []
        for node in self.model.graph:
            inside = node.op_type == DEQUANTIZE or (node.op_type != QUANTIZE and delivery(node) is not None)
            if inside and not any(v.is_graph_output() for v in node.outputs):
                continue
            names += [
                v.name for v in node.outputs if v.name and v.type is not None and not subgraph.is_constant(v, seen)
            ]
        return names

    def _first_wrong(self, names: list[str]) -> tuple[Sample, str]:
        """The first sample and tensor, in graph order, that differ with all tensors shown; "" where none does."""
        shown = expose(self.model, names)
        self.progress("compile with tensors shown", 0, None)
        best: tuple[int, Sample] | None = None
        first: Sample = {}
        with compiled(shown, self.target) as runner:
            reference = Reference(shown)
            for sample in self.judge.samples():
                first = first or sample
                expected, found = reference.run(sample), runner.run(sample)
                wrong = [self._order[n] for n in expected if n in self._order and self._wrong(expected[n], found[n])]
                if wrong and (best is None or min(wrong) < best[0]):
                    best = min(wrong), sample
        if best is None:
            return first, ""
        return best[1], list(self._order)[best[0]]

    def _first_prefix(self, names: list[str]) -> tuple[Sample, str]:
        """The first tensor up to which the model, compiled without anything shown, is wrong; by halving."""
        sample = next(self.judge.samples())
        self._values = {**sample, **self._reference(sample)}
        inputs = [v.name for v in self.model.graph.inputs if v.name]
        outputs = [v.name for v in self.model.graph.outputs if v.name in self._order]
        candidates = [n for n in names if n in self._values]
        candidates = [n for n in candidates if n not in outputs] + [n for n in outputs if n]

        def fails(name: str) -> bool:
            return self._fails(subgraph.border(self.model, [name], ()) or inputs, [name]) is not None

        low, high = 0, len(candidates) - 1
        if high < 0 or not fails(candidates[high]):
            return sample, ""
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fails(candidates[middle]) else (middle + 1, high)
        return sample, candidates[low]

    def _grow(self, wrong: str, names: list[str]) -> Case | None:
        """From the one kernel that makes a tensor backwards until what is cut out fails alone."""
        stops = {n for n in names if n in self._values}
        size = 1
        while True:
            inputs = subgraph.border(self.model, [wrong], stops)
            case = self._fails(inputs, [wrong])
            inner = sorted((n for n in inputs if n in self._order), key=lambda n: -self._order[n])
            if case is not None or not inner:
                return case
            stops -= set(inner[:size])
            size *= 2

    def _shrink(self, case: Case) -> Case:
        """Single nodes of a failing part, then its beginnings and its ends: the smallest that still fails."""
        seen: dict[ir.Value, bool] = {}
        made = subgraph.makers(self.model)
        inside = {n.name for n in case.model.graph}
        nodes = [
            n for n in self.model.graph if n.name in inside and not all(subgraph.is_constant(v, seen) for v in n.inputs)
        ]
        cores = [n for n in nodes if n.op_type not in (QUANTIZE, DEQUANTIZE)]
        if len(cores) <= 1:
            return self._named(case, cores or nodes)
        start = list(case.sample)
        for node in cores:
            found = self._fails(self._reads(node), [node.outputs[0].name or ""])
            if found is not None:
                return self._named(found, [node])
        tries: list[tuple[list[str], str]] = []
        for node in cores:
            tries.append((start, node.outputs[0].name or ""))
            tries.append((subgraph.border(self.model, [case.tensor], {*start, *self._reads(node)}), case.tensor))
        best = case
        for inputs, output in tries:
            found = self._fails(inputs, [output]) if output in made else None
            if found is not None and subgraph.node_count(found.model) < subgraph.node_count(best.model):
                best = found
        return best

    def _named(self, case: Case, nodes: list[ir.Node]) -> Case:
        where = f"{nodes[0].op_type} {nodes[0].name}" if nodes else ""
        return Case(case.model, case.sample, case.tensor, case.alone, case.reason, where)

    def _reads(self, node: ir.Node) -> list[str]:
        """A node's inputs, or the integers that they are dequantized from."""
        seen: dict[ir.Value, bool] = {}
        names = []
        for value in node.inputs:
            if value is None or subgraph.is_constant(value, seen):
                continue
            producer = value.producer()
            if producer is not None and producer.op_type == DEQUANTIZE and producer.inputs[0] is not None:
                value = producer.inputs[0]
            names.append(value.name or "")
        return list(dict.fromkeys(names))

    def _fails(self, inputs: Iterable[str], outputs: list[str]) -> Case | None:
        """The part between these tensors where it fails alone on the reference's values, else None."""
        names = list(inputs)
        if self._tries >= _TRIES or not names or not all(n in self._values for n in names):
            return None
        self._tries += 1
        self.progress("shrinking", self._tries, None)
        sample = {n: self._values[n] for n in names}
        try:
            part = subgraph.cut(self.model, names, outputs, sample)
            expected = Reference(part).run(sample)
            with compiled(part, self.target) as runner:
                found = runner.run(sample)
        except (ValueError, OptkitError):
            return None  # it cannot be had alone
        reason = next((r for n in outputs if (r := self._wrong(expected[n], found[n], n))), "")
        return Case(part, sample, outputs[0], True, reason) if reason else None

    def _reference(self, sample: Sample) -> Mapping[str, np.ndarray]:
        names = [v.name for node in self.model.graph for v in node.outputs if v.name and v.type is not None]
        return Reference(expose(self.model, names)).run(sample)

    def _wrong(self, expected: np.ndarray, found: np.ndarray, name: str = "") -> str:
        """How far two tensors are apart, "" where they agree."""
        if expected.shape != found.shape:
            return f"{name!r} has shape {found.shape}, ONNX Runtime's {expected.shape}"
        sums = Comparison()
        sums.add(expected, found)
        figures = sums.figures()
        if figures.nonfinite:
            return f"{name!r}: {figures.nonfinite} values are NaN or infinite in only one of both"
        if expected.dtype.kind in "iub":
            share = figures.mismatches / max(figures.elements, 1)
            bits8 = expected.dtype.itemsize == 1 and expected.dtype.kind in "iu"
            if (bits8 and figures.max_abs <= _STEPS and share <= _SHARE) or not figures.mismatches:
                return ""
            return f"{name!r}: {100 * share:.1f} % of the integers differ, by up to {figures.max_abs:g}"
        if self.judge.atol is not None and not figures.max_abs <= self.judge.atol:
            return f"{name!r}: absolute error {figures.max_abs:.2e} exceeds {self.judge.atol:.2e}"
        limit = self.judge.rtol
        if limit is None:
            limit = RELATIVE_LIMITS.get("fp16" if self._halves else self.precision, _INT8_RELATIVE)
        if not figures.relative <= limit:
            return f"{name!r}: relative error {figures.relative:.2e} exceeds {limit:.2e}"
        return ""
