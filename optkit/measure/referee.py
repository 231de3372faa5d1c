"""A second opinion where an output is far from ONNX Runtime's: the same model, its functions computed in float64.

ONNX Runtime's float32 kernels approximate these functions to about 1e-7 of their largest value. Where an output is
all near zero, as a detector's probabilities on an input without anything to detect, that is a large part of it: a
sigmoid of -14 comes out with an error of a few percent. Its float64 kernels do not approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from optkit.measure.checks import OutputCheck, Runs
from optkit.measure.compare import Comparison, Figures
from optkit.measure.reference import ModelSource, Reference
from optkit.model import load_model
from optkit.tidy import infer_shapes

FUNCTIONS = frozenset({"Exp", "Log", "LogSoftmax", "Sigmoid", "Softmax", "Tanh"})
"""Those that ONNX Runtime's CPU provider has in float64, too."""


def appeal(
    failed: OutputCheck,
    judge: Callable[[Figures], OutputCheck],
    source: ModelSource,
    runner: Runs,
    samples: Sequence[Mapping[str, np.ndarray]],
    threads: int = 1,
) -> OutputCheck:
    """What `judge` says of the distance to the more precise reference, if it passes that and ONNX Runtime is farther.

    Else the failed check, unchanged; also where the model computes none of the functions.
    """
    model = source.clone() if isinstance(source, ir.Model) else load_model(source)
    functions = compute_in_double(model)
    if not functions:
        return failed
    usual, precise = Reference(source, threads=threads), Reference(model, threads=threads)
    ours, theirs = Comparison(), Comparison()
    for sample in samples:
        expected = precise.run(sample)[failed.name]
        ours.add(expected, runner.run(sample)[failed.name])
        theirs.add(expected, usual.run(sample)[failed.name])
    check, own = judge(ours.figures()), theirs.figures()
    if check.reason or not check.figures.relative < own.relative:
        return failed
    reference = f"ONNX Runtime with {', '.join(functions)} in float64"
    return replace(check, reference=reference, onnxruntime=own)


def compute_in_double(model: ir.Model) -> list[str]:
    """Let every float32 FUNCTIONS node of the model read and answer in float64, between casts; their operators."""
    infer_shapes(model)
    found: set[str] = set()
    for node in [n for graph in model.graphs() for n in graph]:
        x = node.inputs[0] if node.inputs else None
        if node.domain not in ("", "ai.onnx") or node.op_type not in FUNCTIONS or node.graph is None:
            continue
        if x is None or x.dtype != ir.DataType.FLOAT:
            continue
        output = node.outputs[0]
        widened = ir.node("Cast", [x], {"to": ir.DataType.DOUBLE.value}, name=f"{node.name}_widened")
        wide = ir.Node(node.domain, node.op_type, widened.outputs, node.attributes.values(), name=f"{node.name}_wide")
        narrowed = ir.node("Cast", wide.outputs, {"to": ir.DataType.FLOAT.value}, name=node.name)
        result = narrowed.outputs[0]
        result.shape, result.type = output.shape, output.type
        for i, value in enumerate((*widened.outputs, *wide.outputs)):
            value.name = f"{output.name}_double_{i}"
        result.name, output.name = output.name, None
        node.graph.insert_before(node, [widened, wide, narrowed])
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        node.graph.remove(node, safe=True)
        found.add(node.op_type)
    return sorted(found)
