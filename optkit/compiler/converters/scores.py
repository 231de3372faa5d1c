"""Parts that the classifiers and regressors of ai.onnx.ml share: their input, labels and post transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.operators import scores as define
from optkit.compiler.values import OPAQUE, Value
from optkit.errors import UnsupportedError

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
"""As TreeEnsemble numbers them."""


def table(array: np.ndarray) -> Any:
    """A constant of exactly the array's type: left to itself, Relax narrows float64."""
    return relax.const(array, array.dtype.name)


def matrix(low: Lowering, x: Value | None, dtype: str) -> Any:
    """The input as rows of features of a type; a vector is one row."""
    if x is None or len(x.shape) not in (1, 2):
        raise UnsupportedError("its input must be a matrix, a row for each sample; reshape it")
    expr = low.tensor(x)
    if x.dtype != dtype:
        expr = low.bind(relax.op.astype(expr, dtype))
    return expr if len(x.shape) == 2 else low.bind(relax.op.expand_dims(expr, 0))


def features(low: Lowering, expr: Any, node: Node) -> int:
    """How many columns the input has."""
    columns = expr.ty.shape.values[1]
    if not hasattr(columns, "value"):
        raise UnsupportedError("how many features its input has is known only at run time; fix it with --input-shape")
    return int(columns.value)


def floats(node: Node, name: str, dtype: str = "float32") -> np.ndarray:
    """An attribute that is a list of numbers, or a tensor of the name with `_as_tensor`; empty where it is absent."""
    given = node.get(f"{name}_as_tensor")
    values = node.get(name) if given is None or not np.size(given) else np.asarray(given).reshape(-1)
    return np.array([] if values is None else values, dtype)


def class_labels(node: Node, name: str) -> np.ndarray:
    """The numbers of the classes; refuses strings."""
    if node.get("classlabels_strings"):
        raise UnsupportedError(
            "its labels are strings, which have no place in a kernel; train on numbers and name the classes outside"
        )
    return np.array(node.get(name) or [], np.int64)


def post_transform(node: Node) -> str:
    """The name of the transform; refuses what is none."""
    name = str(node.get("post_transform", "NONE"))
    if name not in TRANSFORMS:
        raise UnsupportedError(f"post_transform {name!r} is unknown; one of {', '.join(TRANSFORMS)} is meant")
    return name


def transformed(low: Lowering, scores: Any, how: str) -> Any:
    """The scores of several classes after a post transform."""
    if how == "SOFTMAX":
        return low.bind(relax.op.nn.softmax(scores, -1))
    known = {"LOGISTIC": define.logistic, "SOFTMAX_ZERO": define.softmax_zero, "PROBIT": define.probit}
    return low.emit(known[how], scores, name=how.lower(), kind=OPAQUE) if how in known else scores


def paired(low: Lowering, score: Any, how: str, positive: bool) -> Any:
    """One score as those of two classes; `positive` says that it is a probability.

    Refuses PROBIT, for which ONNX Runtime leaves the second column open.
    """
    if how == "PROBIT":
        raise UnsupportedError("PROBIT of one score for two classes is not defined; do it with operators behind it")
    kind = "logistic" if how == "LOGISTIC" else "complement" if positive else "opposite"
    return low.emit(define.pair, score, kind, name="pair", kind=OPAQUE)


def largest(low: Lowering, scores: Any, labels: np.ndarray) -> Any:
    """The label of each row's largest score."""
    return low.emit(define.first_largest, scores, table(labels), name="labels", kind=OPAQUE)


def above(low: Lowering, scores: Any, column: int, limit: float, labels: np.ndarray) -> Any:
    """The second label where a column is above a limit, else the first."""
    return low.emit(define.above, scores, column, limit, table(labels), name="labels", kind=OPAQUE)


__all__ = ["TRANSFORMS", "above", "class_labels", "features", "floats", "largest", "matrix", "paired"]
__all__ += ["post_transform", "table", "transformed"]
