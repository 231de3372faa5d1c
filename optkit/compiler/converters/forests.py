"""ai.onnx.ml's TreeEnsembleClassifier and TreeEnsembleRegressor: the older form, in which leaves are nodes.

Comparisons and sums are in float32, or in float64 where the input is, and the binary cases are as in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler.converters import scores as parts
from optkit.compiler.converters.trees import depth_of, walk
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import ensembles
from optkit.compiler.operators.ensembles import Trees
from optkit.compiler.values import OPAQUE, Value
from optkit.errors import UnsupportedError

_MODES = {
    "BRANCH_LEQ": ensembles.LEQ,
    "BRANCH_LT": ensembles.LT,
    "BRANCH_GTE": ensembles.GTE,
    "BRANCH_GT": ensembles.GT,
    "BRANCH_EQ": ensembles.EQ,
    "BRANCH_NEQ": ensembles.NEQ,
}
_WORDS = {"SUM": "sum", "AVERAGE": "sum", "MIN": "min", "MAX": "max"}


def _ints(node: Node, name: str) -> np.ndarray:
    return np.array(node.get(name) or [], np.int64)


@dataclass(frozen=True)
class _Weights:
    """What leaves give: `row` gives `value` to `column`; `tree` of each row."""

    row: np.ndarray
    column: np.ndarray
    value: np.ndarray
    columns: int


def _trees(node: Node, dtype: str) -> tuple[Trees, dict[tuple[int, int], int]]:
    """The nodes as tables, and the row of each tree's and node's number."""
    tree, number = _ints(node, "nodes_treeids"), _ints(node, "nodes_nodeids")
    rows = {(int(t), int(n)): i for i, (t, n) in enumerate(zip(tree, number, strict=True))}
    if len(rows) != len(tree) or not rows:
        raise UnsupportedError("its nodes are not one to each number, or there are none")
    words = [str(m) for m in node.get("nodes_modes")]
    unknown = sorted(set(words) - {*_MODES, "LEAF"})
    if unknown:
        raise UnsupportedError(f"nodes of mode {unknown[0]!r} are not supported; use {', '.join(_MODES)}")
    leaf = np.array([word == "LEAF" for word in words])
    own = np.arange(len(rows))
    yes, no = own.copy(), own.copy()
    for side, name in ((yes, "true"), (no, "false")):
        to = _ints(node, f"nodes_{name}nodeids")
        for i in np.flatnonzero(~leaf):
            side[i] = rows.get((int(tree[i]), int(to[i])), -1)
    if (yes < 0).any() or (no < 0).any():
        raise UnsupportedError("its nodes lead to nodes that do not exist")
    roots = np.flatnonzero(np.diff(tree, prepend=tree[0] - 1)).astype(np.int32)
    missing = _ints(node, "nodes_missing_value_tracks_true")
    # A leaf leads to itself whatever it compares.
    first = next((_MODES[w] for w in words if w != "LEAF"), ensembles.LEQ)
    trees = Trees(
        feature=np.where(leaf, 0, _ints(node, "nodes_featureids")).astype(np.int32),
        yes=yes.astype(np.int32),
        no=no.astype(np.int32),
        split=np.where(leaf, 0, parts.floats(node, "nodes_values", dtype)).astype(dtype),
        mode=np.array([_MODES.get(w, first) for w in words], np.int32),
        missing=(missing if len(missing) else np.zeros(len(own))).astype(np.int32),
        members=np.full((len(own), 1), np.nan, dtype),
        roots=roots,
        depth=depth_of(yes, no, roots, leaf),
    )
    return trees, rows


def _weights(node: Node, what: str, rows: dict[tuple[int, int], int], columns: int, dtype: str) -> _Weights:
    """The lists `target_*` or `class_*`."""
    pairs = zip(_ints(node, f"{what}_treeids"), _ints(node, f"{what}_nodeids"), strict=True)
    row = np.array([rows.get((int(t), int(n)), -1) for t, n in pairs], np.int64)
    column, value = _ints(node, f"{what}_ids"), parts.floats(node, f"{what}_weights", dtype)
    if (row < 0).any() or (column < 0).any() or (column >= columns).any() or len(value) != len(row):
        raise UnsupportedError(f"its weights belong to nodes or to one of {columns} columns that do not exist")
    return _Weights(row, column, value, columns)


def _collect(low: Lowering, at: Any, weights: _Weights, rows: int, how: str) -> Any:
    """(samples, columns): sum, least or greatest over the leaves that the samples ended in."""
    dtype = weights.value.dtype.name
    if len(np.unique(weights.row)) == len(weights.row):
        target, value = np.full(rows, -1, np.int32), np.zeros(rows, dtype)
        target[weights.row], value[weights.row] = weights.column, weights.value
        args = [parts.table(target), parts.table(value), weights.columns, how, dtype]
        return low.emit(ensembles.collect, at, *args, name="collect", kind=OPAQUE)
    dense = np.full((rows, weights.columns), ensembles.neutral(how, dtype), dtype)
    if how == "sum":
        np.add.at(dense, (weights.row, weights.column), weights.value)
    else:
        {"min": np.minimum, "max": np.maximum}[how].at(dense, (weights.row, weights.column), weights.value)
    return low.emit(ensembles.collect_rows, at, parts.table(dense), how, name="collect", kind=OPAQUE)


def _reached(trees: Trees, weights: _Weights) -> np.ndarray:
    """For each column 1 where every sample ends in a leaf with a weight for it, 0 where none does, else -1."""
    rows = len(trees.yes)
    tree_of = np.searchsorted(trees.roots, np.arange(rows), side="right") - 1
    leaf = trees.yes == np.arange(rows)
    has = np.zeros((rows, weights.columns), bool)
    has[weights.row, weights.column] = True
    missing = np.zeros((len(trees.roots), weights.columns), np.int64)
    np.add.at(missing, tree_of[leaf], ~has[leaf])
    return np.where((missing == 0).any(0), 1, np.where(has[leaf].any(0), -1, 0))


def _has(low: Lowering, at: Any, weights: _Weights, rows: int) -> Any:
    """(samples, columns): whether a leaf with a weight for the column was reached."""
    ones = _Weights(weights.row, weights.column, np.ones_like(weights.value), weights.columns)
    zero = relax.const(0.0, weights.value.dtype.name)
    return low.bind(relax.op.greater(_collect(low, at, ones, rows, "sum"), zero))


def _dtype(x: Value | None) -> str:
    return "float64" if x is not None and x.dtype == "float64" else "float32"


def _add(low: Lowering, scores: Any, base: np.ndarray) -> Any:
    return low.bind(relax.op.add(scores, parts.table(base)))


def _single(low: Lowering, expr: Any) -> Any:
    return expr if str(expr.ty.dtype) == "float32" else low.bind(relax.op.astype(expr, "float32"))


def tree_regressor(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """TreeEnsembleRegressor; as in ONNX Runtime a single target takes no transform but PROBIT."""
    how, dtype = parts.post_transform(node), _dtype(inputs[0])
    word, targets = str(node.get("aggregate_function", "SUM")), int(node.get("n_targets", 1))
    if word not in _WORDS:
        raise UnsupportedError(f"aggregate_function {word!r} is unknown; one of {', '.join(_WORDS)} is meant")
    trees, rows = _trees(node, dtype)
    weights = _weights(node, "target", rows, targets, dtype)
    at = walk(low, parts.matrix(low, inputs[0], dtype), trees)
    scores = _collect(low, at, weights, len(rows), _WORDS[word])
    if word == "AVERAGE":
        scores = low.bind(relax.op.divide(scores, relax.const(len(trees.roots), dtype)))
    if word in ("MIN", "MAX") and (_reached(trees, weights) != 1).any():
        has = _has(low, at, weights, len(rows))
        scores = low.bind(relax.op.where(has, scores, relax.const(0.0, dtype)))
    base = parts.floats(node, "base_values", dtype)
    if len(base) == targets:
        scores = _add(low, scores, base)
    scores = parts.transformed(low, scores, how) if targets > 1 or how == "PROBIT" else scores
    return low.wrap(_single(low, scores))


def tree_classifier(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    """TreeEnsembleClassifier: the label of the largest score and the scores; two classes may share one score."""
    how, dtype = parts.post_transform(node), _dtype(inputs[0])
    labels = parts.class_labels(node, "classlabels_int64s")
    trees, rows = _trees(node, dtype)
    weights = _weights(node, "class", rows, len(labels), dtype)
    base = parts.floats(node, "base_values", dtype)
    at = walk(low, parts.matrix(low, inputs[0], dtype), trees)
    scores = _collect(low, at, weights, len(rows), "sum")
    if len(labels) == 2:
        found, scores = _two(low, scores, labels, trees, weights, base, how)
        return [low.wrap(found), low.wrap(_single(low, scores))]
    if len(labels) == 1:
        if len(base) > 1:
            raise UnsupportedError(f"it has {len(base)} base_values for one class")
        scores = _add(low, scores, base) if len(base) else scores
        found = parts.above(low, scores, 0, 0.0, np.array([0, 1], np.int64))
        scores = parts.transformed(low, scores, how) if how == "PROBIT" else scores
        return [low.wrap(found), low.wrap(_single(low, scores))]
    if len(base) > len(labels):
        raise UnsupportedError(f"it has {len(base)} base_values for {len(labels)} classes")
    ranked = scores = _add(low, scores, np.pad(base, (0, len(labels) - len(base)))) if len(base) else scores
    reached = _reached(trees, weights)
    reached[: len(base)] = 1
    if (reached != 1).any():
        # A class that no leaf spoke for is not chosen, however low the others are.
        has = low.bind(
            relax.op.logical_or(_has(low, at, weights, len(rows)), parts.table(np.arange(len(labels)) < len(base)))
        )
        ranked = low.bind(relax.op.where(has, scores, relax.const(-np.inf, dtype)))
    found = parts.largest(low, ranked, labels)
    return [low.wrap(found), low.wrap(_single(low, parts.transformed(low, scores, how)))]


def _two(
    low: Lowering, scores: Any, labels: np.ndarray, trees: Trees, weights: _Weights, base: np.ndarray, how: str
) -> tuple[Any, Any]:
    """Label and scores of two classes; where leaves speak for one class only, its score stands for both."""
    lone = len(np.unique(weights.column)) == 1
    positive = bool((weights.value >= 0).all())
    reached = int(_reached(trees, weights)[1])
    if reached < 0:
        raise UnsupportedError("some leaves have no weight for the second class; give every leaf one, 0 if need be")
    column, names = reached, labels if lone else np.array([0, 1], np.int64)
    limit = 0.5 if lone and positive else 0.0
    dtype = weights.value.dtype.name
    if len(base) == 2 and reached:
        # The second base value alone counts, and only the first class's score.
        second = _add(low, low.bind(relax.op.strided_slice(scores, [1], [0], [1])), base[1:])
        scores = low.bind(relax.op.concat([low.bind(relax.op.negative(second)), second], 1))
    elif len(base) == 2:
        scores = _add(low, scores, base)
    elif len(base) == 1:
        scores = _add(low, scores, np.array([base[0], 0], dtype))
    elif len(base) > 2:
        raise UnsupportedError(f"it has {len(base)} base_values for two classes")
    found = parts.above(low, scores, column, limit, names)
    if reached or len(base) == 2:
        return found, parts.transformed(low, scores, how)
    if not lone:
        raise UnsupportedError("none of its leaves has a weight")
    score = low.bind(relax.op.strided_slice(scores, [1], [0], [1]))
    return found, parts.paired(low, score, how, positive)


CONVERTERS: dict[str, Converter] = {
    "TreeEnsembleClassifier": tree_classifier,
    "TreeEnsembleRegressor": tree_regressor,
}
