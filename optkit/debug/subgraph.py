"""Parts of a model that run on their own, and files of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from optkit.arrays import save_npz
from optkit.model import save_model
from optkit.tidy import infer_shapes


def makers(model: ir.Model) -> dict[str, ir.Node]:
    """The node of the main graph that makes each tensor, by the tensor's name."""
    return {v.name: node for node in model.graph for v in node.outputs if v.name}


def is_constant(value: ir.Value | None, seen: dict[ir.Value, bool]) -> bool:
    """Whether a value depends on no input of the model; `seen` keeps what is known."""
    if value is None:
        return True
    if value not in seen:
        producer = value.producer()
        if producer is None:
            seen[value] = not value.is_graph_input()
        else:
            seen[value] = True  # graphs have no cycles; this only stops a repeated question
            seen[value] = all(is_constant(v, seen) for v in producer.inputs) and not _subgraphs(producer)
    return seen[value]


def _subgraphs(node: ir.Node) -> bool:
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def border(model: ir.Model, outputs: Iterable[str], stops: Collection[str]) -> list[str]:
    """Names of the tensors at which going back from `outputs` ends: those in `stops`, and the model's inputs.

    Constants and what is computed of them belong inside.
    """
    made = makers(model)
    seen: dict[ir.Value, bool] = {}
    found: dict[str, None] = {}
    front = [made[name] for name in outputs if name in made]
    done: set[ir.Node] = set()
    while front:
        node = front.pop()
        if node in done:
            continue
        done.add(node)
        for value in node.inputs:
            if value is None or is_constant(value, seen):
                continue
            producer = value.producer()
            if producer is None or value.name in stops:
                found[value.name or ""] = None
            else:
                front.append(producer)
    return list(found)


def cut(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], sample: Mapping[str, np.ndarray]) -> ir.Model:
    """The part of a model between these tensors, as a model.

    Args:
        sample: the inputs' values, whose shapes become those of the inputs.

    Raises:
        ValueError: the inputs do not bound the outputs.
    """
    graph = ir.convenience.extract(model.graph, list(inputs), list(outputs))
    part = ir.Model(graph, ir_version=model.ir_version, functions=[f.clone() for f in model.functions.values()])
    common.RemoveUnusedFunctionsPass()(part)  # type: ignore[no-untyped-call]
    for value in part.graph.inputs:
        array = sample[value.name or ""]
        value.shape = ir.Shape(array.shape)
        if value.type is None:
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    for node in part.graph:
        for value in node.outputs:
            value.shape = None  # of the open axes, which have extents now
    infer_shapes(part)
    part.graph.name = "smallest"
    return part


def node_count(model: ir.Model) -> int:
    """Nodes that compute something from the inputs."""
    seen: dict[ir.Value, bool] = {}
    return sum(1 for node in model.graph if not all(is_constant(v, seen) for v in node.inputs))


def write(model: ir.Model, sample: Mapping[str, np.ndarray], path: Path) -> tuple[Path, Path]:
    """Write the model to `path` and its inputs beside it as .npz; both paths.

    The arrays are as `optkit verify --inputs` and `--calib-data` read them: one row a sample, or where the inputs
    do not agree in their first axis, one axis more, which `--calib-data` alone takes.
    """
    beside = path.with_suffix(".npz")
    save_model(model, path)
    first = {array.shape[0] if array.ndim else 0 for array in sample.values()}
    together = len(first) == 1 and 0 not in first
    save_npz(beside, {name: array if together else array[None] for name, array in sample.items()})
    return path, beside
