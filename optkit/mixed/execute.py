"""Candidates run by ONNX Runtime, as the search evaluates them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from optkit.artifact.spec import TensorSpec
from optkit.errors import DataError, nearest
from optkit.measure.reference import Reference
from optkit.mixed.user_metric import Run
from optkit.precision import COMPUTE_TYPE


def onnx_runner(model: ir.Model, threads: int) -> Run:
    """run(feed) by ONNX Runtime, with the optimizations it has; what is marked for bfloat16 rounds to it."""
    session = Reference(rounding(model), optimized=True, threads=threads, exact=True)
    return batched(session.inputs, session.run)


def batched(inputs: Sequence[TensorSpec], run: Any) -> Run:
    """run(feed) that takes any multiple of a fixed batch, and says in one line what does not fit."""
    names = [spec.name for spec in inputs]
    batch = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)}

    def call(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not isinstance(feed, Mapping):
            raise DataError(f"run takes a dict of input name to array, not a {type(feed).__name__}")
        for name in feed:
            if name not in names:
                raise DataError(f"run: the model has no input {name!r}; {nearest(name, names)}")
        missing = [name for name in names if name not in feed]
        if missing:
            raise DataError(f"run: nothing for input {missing[0]!r}")
        arrays = {spec.name: np.asarray(feed[spec.name]) for spec in inputs}
        parts = [run(part) for part in _parts(arrays, next(iter(batch)) if len(batch) == 1 else None)]
        if len(parts) == 1:
            return dict(parts[0])
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return call


def _parts(arrays: dict[str, np.ndarray], batch: int | None) -> Iterator[dict[str, np.ndarray]]:
    rows = {array.shape[0] for array in arrays.values() if array.ndim}
    count = rows.pop() if len(rows) == 1 else 0
    if batch is None or batch == 0 or count <= batch or count % batch:
        yield arrays  # as it is: the model takes it, or says why not
        return
    for start in range(0, count, batch):
        yield {name: array[start : start + batch] if array.ndim else array for name, array in arrays.items()}


def rounding(model: ir.Model) -> ir.Model:
    """The model with operands rounded where nodes are marked for bfloat16; itself where none is."""
    if not any(node.metadata_props.get(COMPUTE_TYPE) == "bfloat16" for node in model.graph):
        return model
    copy = model.clone()
    for node in list(copy.graph):
        if node.metadata_props.get(COMPUTE_TYPE) != "bfloat16":
            continue
        for index in (0, 1):
            value = node.inputs[index]
            if value is None:
                continue
            short = _cast(value, ir.DataType.BFLOAT16, f"{node.name}_{index}_short")
            wide = _cast(short.outputs[0], ir.DataType.FLOAT, f"{node.name}_{index}_wide")
            copy.graph.insert_before(node, [short, wide])
            node.replace_input_with(index, wide.outputs[0])
    return copy


def _cast(value: ir.Value, kind: ir.DataType, name: str) -> ir.Node:
    output = ir.Value(name=name, type=ir.TensorType(kind), shape=value.shape)
    return ir.node("Cast", [value], {"to": int(kind)}, outputs=[output], name=f"{name}_cast")
