"""ai.onnx.ml's SVMClassifier and SVMRegressor, with the conventions of ONNX Runtime."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from optkit.compiler.converters import scores as parts
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators.common import const
from optkit.compiler.values import OPAQUE, Value
from optkit.errors import UnsupportedError


def _distances(x: te.Tensor, vectors: te.Tensor) -> te.Tensor:
    """(samples, vectors): squared distances."""
    k = te.reduce_axis((0, vectors.shape[1]), name="k")

    def element(i: Any, j: Any) -> Any:
        apart = x(i, k) - vectors(j, k)
        return te.sum(apart * apart, axis=k)

    return te.compute((x.shape[0], vectors.shape[0]), element, name="distances")


def _kernel(low: Lowering, node: Node, x: Any, vectors: np.ndarray) -> Any:
    """(samples, support vectors): LINEAR, POLY, RBF or SIGMOID with kernel_params gamma, coef0 and degree."""
    kind = str(node.get("kernel_type", "LINEAR"))
    given = parts.floats(node, "kernel_params")
    gamma, offset, degree = (relax.const(np.float32(v), "float32") for v in (*given, 0.0, 0.0, 0.0)[:3])
    if kind == "RBF":
        far = low.emit(_distances, x, parts.table(vectors), name="distances", kind=OPAQUE)
        return low.bind(relax.op.exp(low.bind(relax.op.negative(low.bind(relax.op.multiply(far, gamma))))))
    if kind not in ("LINEAR", "POLY", "SIGMOID"):
        raise UnsupportedError(f"kernel_type {kind!r} is unknown; LINEAR, POLY, RBF or SIGMOID is meant")
    product = low.bind(relax.op.matmul(x, parts.table(np.ascontiguousarray(vectors.T))))
    if kind == "LINEAR":
        return product
    shifted = low.bind(relax.op.add(low.bind(relax.op.multiply(product, gamma)), offset))
    return low.bind(relax.op.tanh(shifted) if kind == "SIGMOID" else relax.op.power(shifted, degree))


def _vectors(low: Lowering, node: Node, x: Any, count: int) -> np.ndarray:
    given, width = parts.floats(node, "support_vectors"), parts.features(low, x, node)
    if len(given) != count * width:
        raise UnsupportedError(f"it has {len(given)} numbers in {count} support_vectors of {width} features")
    return given.reshape(count, width)


def svm_regressor(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """SVMRegressor: a sum over support vectors, or over features where it has none; the sign of it for one_class."""
    if parts.post_transform(node) != "NONE":
        raise UnsupportedError("its post_transform has no agreed meaning; do it with operators behind it")
    x, count = parts.matrix(low, inputs[0], "float32"), int(node.get("n_supports", 0))
    coefficients, rho = parts.floats(node, "coefficients"), parts.floats(node, "rho")
    around = _kernel(low, node, x, _vectors(low, node, x, count)) if count else x
    if len(coefficients) != (count or parts.features(low, x, node)) or not len(rho):
        raise UnsupportedError(f"it has {len(coefficients)} coefficients and {len(rho)} rho for {count} vectors")
    result = low.bind(relax.op.matmul(around, parts.table(coefficients.reshape(-1, 1))))
    result = low.bind(relax.op.add(result, parts.table(rho[:1])))
    if node.get("one_class", 0):
        one, zero = (relax.const(np.float32(v), "float32") for v in (1.0, 0.0))
        inside = low.bind(relax.op.greater(result, zero))
        result = low.bind(relax.op.where(inside, one, low.bind(relax.op.negative(one))))
    return low.wrap(result)


def _votes(duels: te.Tensor, first: te.Tensor, second: te.Tensor, classes: int) -> te.Tensor:
    """(samples, classes): how many duels each class wins."""
    k = te.reduce_axis((0, duels.shape[1]), name="k")

    def element(i: Any, c: Any) -> Any:
        winner = tirx.Select(duels(i, k) > const(0.0, "float32"), first(k), second(k))
        return te.sum(winner.equal(c.astype("int32")).astype("float32"), axis=k)

    return te.compute((duels.shape[0], classes), element, name="votes")


def svm_classifier(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    """SVMClassifier: a duel of every two classes; the label is the class that wins most, the scores are the duels.

    Refuses calibrated probabilities (prob_a) and the form without support vectors.
    """
    labels, how = parts.class_labels(node, "classlabels_ints"), parts.post_transform(node)
    if node.get("prob_a"):
        raise UnsupportedError("calibrated probabilities (prob_a) are not supported; fit it with probability=False")
    sizes = np.array(node.get("vectors_per_class") or [], np.int64)
    count, classes = int(sizes.sum()), len(labels)
    if not count or len(sizes) != classes or classes < 2:
        raise UnsupportedError("it has no support vectors for each of two classes or more; use a LinearClassifier")
    x = parts.matrix(low, inputs[0], "float32")
    pairs = list(itertools.combinations(range(classes), 2))
    coefficients, rho = parts.floats(node, "coefficients"), parts.floats(node, "rho")
    if len(coefficients) != (classes - 1) * count or len(rho) < len(pairs):
        raise UnsupportedError(f"it has {len(coefficients)} coefficients and {len(rho)} rho for {classes} classes")
    rows = coefficients.reshape(classes - 1, count)
    owner = np.repeat(np.arange(classes), sizes)
    # A class has a row of coefficients for each other class: those before it first.
    weights = [np.where(owner == i, rows[j - 1], np.where(owner == j, rows[i], 0)) for i, j in pairs]
    around = _kernel(low, node, x, _vectors(low, node, x, count))
    duels = low.bind(relax.op.matmul(around, parts.table(np.stack(weights, 1).astype(np.float32))))
    duels = low.bind(relax.op.add(duels, parts.table(rho[: len(pairs)])))
    first, second = (np.array(side, np.int32) for side in zip(*pairs, strict=True))
    args = [duels, parts.table(first), parts.table(second), classes]
    votes = low.emit(_votes, *args, name="votes", kind=OPAQUE)
    found = parts.largest(low, votes, labels)
    if classes == 2:
        return [low.wrap(found), low.wrap(parts.paired(low, duels, how, positive=how != "NONE"))]
    return [low.wrap(found), low.wrap(parts.transformed(low, duels, how))]


CONVERTERS: dict[str, Converter] = {"SVMClassifier": svm_classifier, "SVMRegressor": svm_regressor}
