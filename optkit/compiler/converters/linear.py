"""ai.onnx.ml's LinearClassifier and LinearRegressor, with the conventions of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler.converters import scores as parts
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.values import Value
from optkit.errors import UnsupportedError


def _products(low: Lowering, node: Node, x: Any, rows: int) -> Any:
    """x times the coefficients, a row of them for each target, plus the intercepts."""
    coefficients, intercepts = parts.floats(node, "coefficients"), parts.floats(node, "intercepts")
    width = parts.features(low, x, node)
    if len(coefficients) != rows * width:
        raise UnsupportedError(f"it has {len(coefficients)} coefficients for {rows} targets of {width} features")
    weight = np.ascontiguousarray(coefficients.reshape(rows, width).T)
    result = low.bind(relax.op.matmul(x, parts.table(weight)))
    return low.bind(relax.op.add(result, parts.table(intercepts))) if len(intercepts) == rows else result


def linear_classifier(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    """LinearClassifier: the label of the largest score, or of the sign of a single one, and the scores."""
    labels, how = parts.class_labels(node, "classlabels_ints"), parts.post_transform(node)
    x = parts.matrix(low, inputs[0], "float32")
    count = len(parts.floats(node, "intercepts")) or len(labels)
    scores = _products(low, node, x, count)
    if count > 1:
        if len(labels) < count:
            raise UnsupportedError(f"it has {len(labels)} labels for {count} classes")
        found = parts.largest(low, scores, labels)
        return [low.wrap(found), low.wrap(parts.transformed(low, scores, how))]
    both = len(labels) == 2
    found = parts.above(low, scores, 0, 0.0, labels if both else np.array([0, 1], np.int64))
    if both:
        scores = parts.paired(low, scores, how, positive=True)
    elif how == "PROBIT":
        scores = parts.transformed(low, scores, how)
    return [low.wrap(found), low.wrap(scores)]


def linear_regressor(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """LinearRegressor; as in ONNX Runtime a single target takes no transform but PROBIT."""
    targets, how = int(node.get("targets", 1)), parts.post_transform(node)
    scores = _products(low, node, parts.matrix(low, inputs[0], "float32"), targets)
    return low.wrap(parts.transformed(low, scores, how) if targets > 1 or how == "PROBIT" else scores)


CONVERTERS: dict[str, Converter] = {"LinearClassifier": linear_classifier, "LinearRegressor": linear_regressor}
