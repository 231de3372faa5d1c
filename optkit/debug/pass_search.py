"""The smallest part of a model that a wrong pass still gets wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optkit.debug import subgraph
from optkit.debug.judge import Judge, Outputs
from optkit.debug.tensors import compare, expose, same_names
from optkit.errors import OptkitError
from optkit.measure.reference import Reference
from optkit.pipeline import Pipeline
from optkit.precision import precision_of
from optkit.steps import Progress
from optkit.transform import Pass, PassContext


@dataclass(frozen=True)
class Case:
    """A model with inputs on which it fails.

    Attributes:
        tensor: the one that is wrong first.
        alone: whether it was seen to fail by itself.
        where: the node, where it is known.
    """

    model: ir.Model
    sample: dict[str, np.ndarray]
    tensor: str
    alone: bool
    reason: str = ""
    where: str = ""


def smallest_for_pass(before: ir.Model, after: ir.Model, made_by: Pass, judge: Judge, progress: Progress) -> Case:
    """The node whose output the pass made wrong, with as many before it as it takes for the pass to do so again.

    Args:
        before, after: the model that the pass was given, and what it made.
    """
    tensor = _first_wrong(before, after, judge)
    sample = next(judge.samples())
    names = [v.name for node in before.graph for v in node.outputs if v.name]
    values = {**sample, **Reference(expose(before, names)).run(sample)}
    made = subgraph.makers(before)
    order = {node: i for i, node in enumerate(before.graph)}
    stops = set(values)
    wanted = [tensor] if tensor in made else [v.name for v in before.graph.outputs if v.name]
    for number in range(len(order) + 1):
        inputs = subgraph.border(before, wanted, stops)
        part = _cut(before, inputs, wanted, values)
        progress("shrinking", number, None)
        if part is not None and _fails(part, values, made_by, judge):
            return Case(part, {name: values[name] for name in inputs}, tensor, True)
        inner = [name for name in inputs if name in made]
        if not inner:
            break
        # grow by half of what is already inside, so that deep models take few tries
        latest = sorted(inner, key=lambda name: -order[made[name]])
        stops -= set(latest[: max(1, (0 if part is None else subgraph.node_count(part)) // 2)])
    return Case(before, dict(sample), tensor, False)


def _first_wrong(before: ir.Model, after: ir.Model, judge: Judge) -> str:
    """The first tensor of both that leaves the tolerance; an output where none inside does."""
    precision = precision_of(after)
    found = compare(before, after, same_names(before), judge.samples)
    for name in (pair.key for pair in same_names(before)):
        if name in found and judge.check(name, found[name].figures(), precision).reason:
            return name
    return after.graph.outputs[0].name or ""


def _cut(model: ir.Model, inputs: list[str], outputs: list[str], values: dict[str, np.ndarray]) -> ir.Model | None:
    if not inputs:
        return None
    try:
        return subgraph.cut(model, inputs, outputs, values)
    except ValueError:
        return None


def _fails(part: ir.Model, values: dict[str, np.ndarray], made_by: Pass, judge: Judge) -> bool:
    """Whether the pass changes what the part computes."""
    sample = {v.name: values[v.name] for v in part.graph.inputs if v.name}
    context = PassContext(calibration=lambda: iter([sample]), reference=part.clone())
    try:
        result = Pipeline((made_by,)).run(part.clone(), context).model
        outputs = Outputs()
        outputs.add(Reference(part).run(sample), Reference(result).run(sample))
        return bool(judge.reason(outputs, precision_of(result)))
    except OptkitError:
        return False  # an option that names a node outside, say: not this error
