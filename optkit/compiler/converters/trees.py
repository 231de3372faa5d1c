"""ai.onnx.ml's TreeEnsemble (version 5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from optkit.compiler.converters.scores import TRANSFORMS, table, transformed
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import ensembles
from optkit.compiler.operators.ensembles import MEMBER, Trees
from optkit.compiler.values import OPAQUE, Value
from optkit.errors import UnsupportedError

_AVERAGE, _SUM, _MIN, _MAX = 0, 1, 2, 3
_PARALLEL = 512  # comparisons of a sample that are worth a thread


def _ints(node: Node, name: str) -> np.ndarray:
    return np.array(list(node.get(name) or ()), np.int32)


def _tables(node: Node, dtype: str) -> Trees:
    """The node's attributes as tables, leaves behind the nodes."""
    weight = np.asarray(node.get("leaf_weights"))
    modes, splits = np.asarray(node.get("nodes_modes")), np.asarray(node.get("nodes_splits"))
    nodes, leaves = len(modes), len(weight)
    lead = []
    for side in ("true", "false"):
        to, leaf = _ints(node, f"nodes_{side}nodeids"), _ints(node, f"nodes_{side}leafs")
        lead.append(np.where(leaf != 0, to + nodes, to))
    own = np.arange(nodes, nodes + leaves, dtype=np.int32)
    yes, no = (np.concatenate([side, own]).astype(np.int32) for side in lead)
    if len(yes) != nodes + leaves or (yes < 0).any() or (no < 0).any() or max(yes.max(), no.max()) >= nodes + leaves:
        raise UnsupportedError("its nodes lead to nodes that do not exist")
    roots = _ints(node, "tree_roots")
    missing = _ints(node, "nodes_missing_value_tracks_true")
    none = np.zeros(leaves)
    return Trees(
        feature=np.concatenate([_ints(node, "nodes_featureids"), none]).astype(np.int32),
        yes=yes,
        no=no,
        split=np.concatenate([splits, none]).astype(dtype),
        mode=np.concatenate([modes, none]).astype(np.int32),
        missing=np.concatenate([missing if len(missing) else np.zeros(nodes), none]).astype(np.int32),
        members=_members(node, modes, nodes + leaves, dtype),
        roots=roots,
        depth=depth_of(yes, no, roots, np.arange(nodes + leaves) >= nodes),
    )


def _members(node: Node, modes: np.ndarray, rows: int, dtype: str) -> np.ndarray:
    """Sets by node: `membership_values` lists them for the nodes of that mode, in order, each ended by NaN."""
    sets: list[list[float]] = [[]]
    values = node.get("membership_values")
    for value in [] if values is None else np.asarray(values).tolist():
        if value != value:
            sets.append([])
        else:
            sets[-1].append(value)
    width = max([1, *map(len, sets)])
    table = np.full((rows, width), np.nan, dtype)
    # Depth first: the sets belong to nodes in the order of the node tables.
    for row, values_of in zip(np.flatnonzero(modes == MEMBER), sets, strict=False):
        table[row, : len(values_of)] = values_of
    return table


def depth_of(yes: np.ndarray, no: np.ndarray, roots: np.ndarray, leaf: np.ndarray) -> int:
    """Steps that lead every row of every tree to a leaf."""
    rows, depth = np.unique(roots), 0
    while not leaf[rows].all():
        if depth > len(leaf):
            raise UnsupportedError("its trees have a cycle")
        inner = rows[~leaf[rows]]
        rows, depth = np.unique(np.concatenate([yes[inner], no[inner]])), depth + 1
    return depth


def walk(low: Lowering, x: Any, trees: Trees) -> Any:
    """(samples, trees): the rows of the leaves that the rows of `x` end in."""
    columns = x.ty.shape.values[1]
    if not hasattr(columns, "value"):
        raise UnsupportedError("how many features its input has is known only at run time; fix it with --input-shape")
    if trees.feature.min(initial=0) < 0 or trees.feature.max(initial=0) >= int(columns.value):
        raise UnsupportedError(f"its nodes look at more than the {int(columns.value)} columns of its input")
    names = ("roots", "feature", "split", "mode", "missing", "members", "yes", "no")
    tables = [table(getattr(trees, name)) for name in names]
    modes = sorted({int(m) for m in trees.mode})
    parallel = len(trees.roots) * trees.depth >= _PARALLEL
    return low.emit(ensembles.descend, x, *tables, modes, parallel, name="descend", kind=OPAQUE)


def tree_ensemble(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """TreeEnsemble with a sum, mean, least or greatest of the leaves."""
    x = inputs[0]
    if x is None or node.domain != "ai.onnx.ml" or x.dtype not in ("float32", "float64") or len(x.shape) != 2:
        raise UnsupportedError("its input must be a matrix of float32 or float64")
    after, how = int(node.get("post_transform", 0)), int(node.get("aggregate_function", _SUM))
    if not 0 <= after < len(TRANSFORMS):
        raise UnsupportedError(f"post_transform {after} is unknown; 0 to {len(TRANSFORMS) - 1} are meant")
    trees = _tables(node, x.dtype)
    nodes = len(trees.feature) - len(np.asarray(node.get("leaf_weights")))
    at = walk(low, low.tensor(x), trees)
    word = {_AVERAGE: "sum", _SUM: "sum", _MIN: "min", _MAX: "max"}[how]
    weight = np.concatenate([np.zeros(nodes), np.asarray(node.get("leaf_weights"))])
    weight = weight / len(trees.roots) if how == _AVERAGE else weight
    target = np.concatenate([np.full(nodes, -1), _ints(node, "leaf_targetids")]).astype(np.int32)
    leaves = [table(target), table(weight.astype(x.dtype))]
    targets = int(node.get("n_targets", 0))
    result: Any = low.emit(ensembles.collect, at, *leaves, targets, word, x.dtype, name="collect", kind=OPAQUE)
    return low.wrap(transformed(low, result, TRANSFORMS[after]))


CONVERTERS: dict[str, Converter] = {"TreeEnsemble": tree_ensemble}
