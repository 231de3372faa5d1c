"""A model of which some nodes are left to ONNX Runtime: what lies between them becomes one executable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import tvm

from optkit.artifact.spec import Partition, TensorSpec, numpy_has
from optkit.compiler.build import (
    Built,
    Prepared,
    TensorInfo,
    build,
    interface,
    packaged,
    prepare,
    scheduled,
    tvm_target,
)
from optkit.compiler.planning import Records
from optkit.compiler.preflight import preflight
from optkit.compiler.schedule import Kernel
from optkit.compiler.variants import new_names, renamed, shared
from optkit.errors import CompileError, UnsupportedError
from optkit.measure.reference import Reference
from optkit.model import model_bytes
from optkit.partition import Part, split
from optkit.runtime.parts import ONNXRUNTIME
from optkit.target import Target
from optkit.tidy import infer_shapes, name_nodes

_ROUNDS = 64


def build_with_fallback(model: ir.Model, target: Target, tuned: Records | None = None) -> Built:
    """Compile what can be compiled, and leave the rest of the nodes to ONNX Runtime.

    What the preflight does not know, the lowering says: each node that it refuses is left too.

    Raises:
        UnsupportedError: nothing can be compiled, or a value between two parts is no tensor of numbers.
    """
    name_nodes(model)
    left = {issue.node for issue in preflight(model, target) if issue.status == "unsupported"}
    for _ in range(_ROUNDS):
        try:
            return _build(model, target, left, tuned) if left else build(model, target, tuned)
        except UnsupportedError as error:
            more = set(error.nodes) - left
            if not more:
                raise
            left |= more
    raise CompileError(f"{len(left)} nodes cannot be compiled, and there are more; leave the model to ONNX Runtime")


def _build(model: ir.Model, target: Target, left: set[str], tuned: Records | None) -> Built:
    parts = split(model, left)
    if all(part.chosen for part in parts):
        raise UnsupportedError("no node of the model can be compiled; run it in ONNX Runtime")
    known: dict[str, TensorSpec] = {}
    steps: list[_Step] = []
    for number, part in enumerate(parts):
        _tell(part, known)
        step = _left(part, f"part{number}.onnx") if part.chosen else _compiled(part, target, tuned)
        steps.append(step)
        known |= {spec.name: spec for spec in step.outputs}
    return _merge(model, target, steps, tuned)


@dataclass(frozen=True)
class _Step:
    """A part and what became of it: kernels without schedules, or the ONNX model in a member of the artifact."""

    part: Part
    outputs: tuple[TensorSpec, ...]
    ready: Prepared | None = None
    member: str = ""
    content: bytes = b""


def _left(part: Part, member: str) -> _Step:
    specs = Reference(part.model).output_specs
    for spec, value in zip(specs, part.outputs, strict=True):
        if not numpy_has(spec.dtype):
            raise UnsupportedError(f"value {spec.name!r} is {spec.dtype}, which cannot go to ONNX Runtime and back")
        if not spec.shape and value.shape is None:
            raise UnsupportedError(f"value {spec.name!r}, which ONNX Runtime computes, is of unknown rank")
    try:
        content = model_bytes(part.model)
    except ValueError as error:
        raise UnsupportedError("what is left to ONNX Runtime takes more than 2 GiB, which no file may") from error
    return _Step(part, specs, member=member, content=content)


def _compiled(part: Part, target: Target, tuned: Records | None) -> _Step:
    ready = prepare(part.model, target, tuned)
    specs = tuple(TensorSpec(i.name, i.dtype, i.shape) for i in interface(ready)[1])
    for spec in specs:
        if not numpy_has(spec.dtype):
            raise UnsupportedError(f"value {spec.name!r} is {spec.dtype}, which cannot go to ONNX Runtime and back")
    return _Step(part, specs, ready)


def _tell(part: Part, known: Mapping[str, TensorSpec]) -> None:
    """Give the part's inputs the types and shapes that the parts before it have found."""
    for value in part.inputs:
        spec = known.get(value.name or "")
        if spec is not None:
            value.dtype = ir.DataType.from_numpy(spec.numpy)
            value.shape = ir.Shape([_axis(d) for d in spec.shape])
    infer_shapes(part.model)


def _axis(extent: int | str) -> int | str:
    return extent if isinstance(extent, int) else "".join(c if c.isalnum() else "_" for c in extent)


def _merge(model: ir.Model, target: Target, steps: Sequence[_Step], tuned: Records | None) -> Built:
    """One executable of every part that was compiled, and one list of weights."""
    functions: dict[Any, Any] = {}
    taken: set[str] = set()
    kernels: list[Kernel] = []
    weights: list[tuple[str, np.ndarray]] = []
    partitions: list[Partition] = []
    with tvm_target(target):
        for number, step in enumerate(steps):
            inputs = tuple(value.name or "" for value in step.part.inputs)
            if step.ready is None:
                partitions.append(Partition(ONNXRUNTIME, step.member, inputs, step.outputs, nodes=step.part.nodes))
                continue
            module, made = scheduled(step.ready, target, tuned)
            names = new_names(module, taken, f"part{number}")
            functions |= renamed(module, names)
            kernels += [replace(kernel, name=names[kernel.name]) for kernel in made]
            weights, indices = shared(weights, step.ready.weights, f"part{number}")
            partitions.append(Partition("vm", names["main"], inputs, step.outputs, tuple(indices)))
        merged = tvm.IRModule(functions)
        executable = packaged(merged, target)
    return Built(
        executable,
        weights,
        [_info(v) for v in model.graph.inputs if v.name not in model.graph.initializers],
        [_info(v, steps) for v in model.graph.outputs],
        kernels,
        [record for step in steps if step.ready for record in step.ready.lowered.records],
        merged,
        target,
        partitions=tuple(partitions),
        members={step.member: step.content for step in steps if step.member},
        operators={o: sites for step in steps if step.ready for o, sites in step.ready.lowered.operators.items()},
    )


def _info(value: ir.Value, steps: Sequence[_Step] = ()) -> TensorInfo:
    for step in steps:
        for spec in step.outputs:
            if spec.name == value.name:
                return TensorInfo(spec.name, spec.dtype, spec.shape)
    if value.dtype is None or value.shape is None:
        raise UnsupportedError(f"{value.name!r} has no shape or type; give it with --input-shape")
    shape = tuple(d if isinstance(d, int) else d.value or f"{value.name}_{i}" for i, d in enumerate(value.shape))
    return TensorInfo(value.name or "", value.dtype.numpy().name, shape)
