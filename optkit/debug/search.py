"""`optkit.debug.bisect`: the first pass and the first kernel whose outputs leave the tolerance, each made small."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from optkit.debug import subgraph
from optkit.debug.judge import Judge
from optkit.debug.kernel_search import KernelSearch
from optkit.debug.pass_search import smallest_for_pass
from optkit.debug.stages import Stage, choose_data, run_stages
from optkit.files import check_writable
from optkit.measure.verify import MAX_SAMPLES
from optkit.plan import PassesLike, choose_pipeline
from optkit.precision import precision_of
from optkit.source import ModelLike, open_source
from optkit.steps import Progress, choose_target, pass_context, pass_options, silent
from optkit.target import Target

SCHEMA = 1


@dataclass(frozen=True)
class Found:
    """Something that is wrong.

    Attributes:
        kind: whether a pass changed the answers or the compiled code computes others.
        where: the pass with its options, or the node.
        tensor: the first that leaves the tolerance.
        reason: how far, and the limit.
        nodes: names of the nodes of the saved model, constants left out.
        alone: whether that model fails by itself; where not, why is in the notes.
        path, inputs: the saved model and its inputs; None where nothing was to be written.
        rerun: the command that shows it again.
    """

    kind: Literal["pass", "kernel"]
    where: str
    tensor: str
    reason: str
    nodes: tuple[str, ...] = ()
    alone: bool = False
    path: Path | None = None
    inputs: Path | None = None
    rerun: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "kind": self.kind,
            "where": self.where,
            "tensor": self.tensor,
            "reason": self.reason,
            "nodes": list(self.nodes),
            "fails_alone": self.alone,
            "model": None if self.path is None else str(self.path),
            "inputs": None if self.inputs is None else str(self.inputs),
            "rerun": self.rerun,
        }


@dataclass(frozen=True)
class Bisection:
    """The outcome.

    Attributes:
        stages: label and "", or why the outputs leave the tolerance there, in order; the artifact last.
        found: the first wrong pass, the first wrong kernel; empty where everything keeps the tolerance.
    """

    model: str
    pipeline: str
    target: str
    stages: tuple[tuple[str, str], ...]
    found: tuple[Found, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "pipeline": self.pipeline,
            "target": self.target,
            "stages": [{"label": name, "within_tolerance": not why, "reason": why} for name, why in self.stages],
            "found": [each.as_dict() for each in self.found],
            "notes": list(self.notes),
        }


def bisect(
    model: ModelLike,
    *,
    passes: PassesLike = None,
    target: str | Target = "cpu",
    calib_data: object = None,
    preprocess: str | None = None,
    calib_method: str | None = None,
    calib_samples: int | None = None,
    calib_cache: str | os.PathLike[str] | None = None,
    exclude_nodes: Sequence[str] = (),
    exclude_op_types: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    samples: int | None = None,
    data: object = None,
    atol: float | None = None,
    rtol: float | None = None,
    output: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Bisection:
    """Find the first pass and the first kernel that are wrong, and the smallest model that shows it.

    A pass is wrong where the model after it, in ONNX Runtime, leaves the tolerance to the original; a kernel where
    the compiled model leaves that to ONNX Runtime on the same model, on inputs that agree.

    Args:
        model, passes, target, calib_data, preprocess, calib_method, calib_samples, calib_cache, exclude_nodes,
            exclude_op_types, input_shapes, seed, progress: as for `optkit.compile`.
        samples, data: what to compare on, see `optkit.debug.accuracy`; at most 8.
        atol, rtol: tolerances instead of the precision's own.
        output: ONNX file for the smallest failing model, its inputs beside it as .npz; where both a pass and a
            kernel are wrong the kernel's goes to `<output>.kernel.onnx`.

    Raises:
        UsageError, ModelError, DataError, PassError, CompileError: as `optkit.compile`.
    """
    path = None if output is None else check_writable(output)
    machine = choose_target(target, None)
    pipeline = choose_pipeline(passes, pass_options(calib_method, exclude_nodes, exclude_op_types))
    with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
        source = open_source(model, input_shapes, Path(folder))
        shared = None if calib_data is None else preprocess
        context = pass_context(source, machine, calib_data, shared, calib_samples, seed, progress, calib_cache)
        given = calib_data if data is None else data
        count = None if samples is None else min(samples, MAX_SAMPLES)
        opened = choose_data(source, given, preprocess, count, MAX_SAMPLES, seed)
        judge = Judge(source, opened, atol, rtol)
        limits = "".join(f" --{n} {v:g}" for n, v in (("atol", atol), ("rtol", rtol)) if v is not None)
        found: list[Found] = []
        notes: list[str] = []
        checked: list[tuple[str, str]] = []
        before: Stage | None = None
        for stage in run_stages(source, pipeline, context):
            if stage.modified or before is None:
                progress(f"checking after {stage.label}", 0, None)
                reason = judge.reason(judge.compare(stage.model), precision_of(stage.model))
            checked.append((stage.label, reason))
            if reason and not found:
                found.append(_wrong_pass(before, stage, reason, judge, path, limits, notes, progress))
            before = stage
        assert before is not None  # the loaded model at least
        found += _wrong_kernel(before.model, machine, judge, path, bool(found), limits, checked, notes, progress)
    return Bisection(source.stem, str(pipeline), machine.name, tuple(checked), tuple(found), tuple(notes))


def _wrong_pass(
    before: Stage | None,
    stage: Stage,
    reason: str,
    judge: Judge,
    path: Path | None,
    limits: str,
    notes: list[str],
    progress: Progress,
) -> Found:
    if before is None or stage.made_by is None:
        notes.append("the model as optkit loads it differs from the file; nothing smaller than the file shows that")
        return Found("pass", stage.text, "", reason)
    case = smallest_for_pass(before.model, stage.model, stage.made_by, judge, progress)
    if not case.alone:
        notes.append(f"{stage.text} is wrong only on the whole model: no part of it alone shows the error")
    saved, inputs = (None, None) if path is None else subgraph.write(case.model, case.sample, path)
    rerun = _command(saved, inputs, f" --passes {shlex.quote(stage.text)}", limits)
    nodes = tuple(n.name or n.op_type for n in case.model.graph)
    return Found("pass", stage.text, case.tensor, reason, nodes, case.alone, saved, inputs, rerun)


def _wrong_kernel(
    model: ir.Model,
    target: Target,
    judge: Judge,
    path: Path | None,
    second: bool,
    limits: str,
    checked: list[tuple[str, str]],
    notes: list[str],
    progress: Progress,
) -> list[Found]:
    reason = target.runs_here()
    if reason is not None:
        notes.append(f"kernels were not compared: {reason}")
        return []
    search = KernelSearch(model, target, judge, progress)
    why = search.outputs()
    checked.append(("artifact", why))
    if not why:
        return []
    case = search.smallest()
    notes += search.notes
    if path is not None and second:
        path = path.with_name(f"{path.stem}.kernel.onnx")
    saved, inputs = (None, None) if path is None else subgraph.write(case.model, case.sample, path)
    rerun = _command(saved, inputs, "", limits)
    nodes = [n for n in case.model.graph if not _constant(n)]
    named = next((n for n in reversed(nodes) if n.op_type not in ("QuantizeLinear", "DequantizeLinear")), None)
    where = case.where or (f"{named.op_type} {named.name}" if named is not None else "")
    names = tuple(n.name or n.op_type for n in nodes)
    return [Found("kernel", where, case.tensor, case.reason or why, names, case.alone, saved, inputs, rerun)]


def _constant(node: ir.Node) -> bool:
    seen: dict[ir.Value, bool] = {}
    return all(subgraph.is_constant(v, seen) for v in node.inputs)


def _command(model: Path | None, inputs: Path | None, passes: str, limits: str) -> str:
    if model is None:
        return ""
    return f"optkit debug bisect {shlex.quote(str(model))}{passes} --calib-data {shlex.quote(str(inputs))}{limits}"
