"""INT8 models with real values between their layers, compared where these become integers.

Where attention and normalization round to float16, an integer in some hundred lies at the edge of the next and falls to
the other side; from there it spreads, and ends differ by two or three parts in a hundred, on one CPU too where float32
takes float16's place. So the model is cut: every QuantizeLinear writes an output, and what follows reads integers that
are given, the same for all. No difference is passed on then, and each shows between which integers it arises.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

import optkit

STEPS, SHARE = 1, 0.02
"""How far integers may be apart, and which share of a tensor's may be."""
_GIVEN = ".given"


def cut(model: ir.Model) -> ir.Model:
    """The model with an output "x" and an input "x.given" in the place of every quantized activation x."""
    made = model.clone()
    for value in quantized(made):
        given = ir.Value(name=f"{value.name}{_GIVEN}", type=value.type, shape=value.shape)
        for node, place in list(value.uses()):
            node.replace_input_with(place, given)
        made.graph.inputs.append(given)
        made.graph.outputs.append(value)
    return made


def told(model: ir.Model) -> ir.Model:
    """The model with every quantized activation as one more output."""
    made = model.clone()
    made.graph.outputs.extend(quantized(made))
    return made


def quantized(model: ir.Model) -> list[ir.Value]:
    """What QuantizeLinear makes of activations."""
    nodes = (node for node in model.graph if node.op_type == "QuantizeLinear")
    return [node.outputs[0] for node in nodes if not node.outputs[0].is_graph_output()]


def given(model: Path, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs of a cut model: these, and the integers that ONNX Runtime finds in one that tells them."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    found = dict(zip(names, session.run(None, dict(feed)), strict=True))
    return {**feed, **{f"{name}{_GIVEN}": array for name, array in found.items()}}


def outputs(path: Path, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What an artifact of a cut model makes of these samples, repeated as often as it takes."""
    with optkit.load(path) as runner:
        return runner.run({spec.name: np.resize(feed[spec.name], spec.shape) for spec in runner.inputs})


def apart(found: np.ndarray, want: np.ndarray) -> tuple[int, float]:
    """How far integers are apart at most, and which share of them are; of the samples that are wanted."""
    if found.shape[1:] != want.shape[1:] or found.dtype != want.dtype:
        return 255, 1.0
    steps = np.abs(found[: len(want)].astype(np.int64) - want.astype(np.int64))
    return int(steps.max()), float(np.mean(steps > 0))


def compare(own: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of the outputs of a cut model on two machines: how many tensors, the worst of them, and if all may pass."""
    integers = [name for name, array in other.items() if array.dtype in (np.uint8, np.int8)]
    found = {name: apart(own[name], other[name]) for name in integers}
    return {
        "tensors": len(found),
        "equal": sum(steps == 0 for steps, _ in found.values()),
        "steps": max((steps for steps, _ in found.values()), default=0),
        "share": max((share for _, share in found.values()), default=0.0),
        "outside": [name for name, (steps, share) in found.items() if steps > STEPS or share > SHARE],
    }
