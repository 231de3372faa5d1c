"""Trees whose leaves are nodes, by random ensembles against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from optkit.errors import UnsupportedError
from tests.compiler.bundle import BUNDLED, Bundle

ML = "ai.onnx.ml"
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
AFTER = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
FEATURES = 5


def _ensemble(g: np.random.Generator, trees: int, modes: tuple[str, ...]) -> tuple[dict[str, Any], list[Any]]:
    """Attributes of random trees, and the tree's and node's number of each leaf."""
    found: dict[str, list[Any]] = {
        f"nodes_{name}": []
        for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    leaves = []

    def grow(tree: int, depth: int, numbers: list[int]) -> int:
        number = len(numbers)
        numbers.append(number)
        leaf = depth == 0 or (number and g.random() < 0.3)
        row = len(found["nodes_modes"])
        values = (tree, number, int(g.integers(FEATURES)), float(np.round(g.normal(), 1)), str(g.choice(modes)), 0, 0)
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
        if leaf:
            found["nodes_modes"][row] = "LEAF"
            leaves.append((tree, number))
        else:
            found["nodes_truenodeids"][row] = grow(tree, depth - 1, numbers)
            found["nodes_falsenodeids"][row] = grow(tree, depth - 1, numbers)
        return number

    for tree in range(trees):
        grow(tree, int(g.integers(0, 5)), [])
    found["nodes_missing_value_tracks_true"] = [int(v) for v in g.integers(0, 2, len(found["nodes_modes"]))]
    return found, leaves


def _weights(g: np.random.Generator, what: str, leaves: list[Any], columns: list[list[int]]) -> dict[str, Any]:
    """A weight for every column that `columns` lists for a leaf."""
    rows = [(t, n, c) for (t, n), each in zip(leaves, columns, strict=True) for c in each]
    return {
        f"{what}_treeids": [r[0] for r in rows],
        f"{what}_nodeids": [r[1] for r in rows],
        f"{what}_ids": [r[2] for r in rows],
        f"{what}_weights": [float(v) for v in g.normal(size=len(rows)).astype("float32")],
    }


def _samples(b: Bundle, rows: int, dtype: str = "float32", holes: bool = True) -> str:
    """Features, some of them exactly at a split and some NaN."""
    x = np.round(b.normal(rows, FEATURES), 1)
    if holes:
        x[b.generator.random(x.shape) < 0.1] = np.nan
    return b.input(rows, FEATURES, dtype=dtype, values=x)


def _mixed(g: np.random.Generator, leaves: list[Any], count: int) -> list[list[int]]:
    return [sorted(g.choice(count, int(g.integers(1, count + 1)), replace=False).tolist()) for _ in leaves]


@settings(BUNDLED, max_examples=2)
@given(st.integers(0, 1000))
def test_regressors(seed: int) -> None:
    b = Bundle(seed=seed)
    g = b.generator
    words, shapes = ("SUM", "AVERAGE", "MIN", "MAX"), (1, 3, 2)
    for word in words:
        modes = MODES if g.random() < 0.5 else (str(g.choice(MODES)),)
        for targets in (1, int(g.choice(shapes))):
            after = str(g.choice(AFTER))
            nodes, leaves = _ensemble(g, int(g.integers(1, 8)), modes)
            columns = [[0]] * len(leaves) if targets == 1 else _mixed(g, leaves, targets)
            weights = _weights(g, "target", leaves, columns)
            base = [float(v) for v in g.normal(size=targets)] if g.random() < 0.5 else None
            how = {"n_targets": targets, "aggregate_function": word, "post_transform": str(after), "base_values": base}
            y = b.op("TreeEnsembleRegressor", _samples(b, 9), domain=ML, **nodes, **weights, **how)
            b.case(y, f"{word} {targets} {after} {base}", "float32", (9, targets))
    b.check()


@settings(BUNDLED, max_examples=2)
@given(st.integers(0, 1000))
def test_classifiers(seed: int) -> None:
    b = Bundle(seed=seed)
    g = b.generator
    kinds = [(3, "mixed"), (4, "one each"), (2, "both"), (2, "first"), (2, "second"), (2, "positive")]
    for classes, kind in kinds:
        for after in g.choice(AFTER, 1):
            nodes, leaves = _ensemble(g, int(g.integers(1, 8)), (MODES[0],) if g.random() < 0.5 else MODES)
            columns = {
                "mixed": _mixed(g, leaves, classes),
                "one each": [[t % classes] for t, _ in leaves],
                "both": [[0, 1] for _ in leaves],
                "second": [[1] for _ in leaves],
            }.get(kind, [[0] for _ in leaves])
            weights = _weights(g, "class", leaves, columns)
            if kind == "positive":
                weights["class_weights"] = [abs(v) / 4 for v in weights["class_weights"]]
            sizes = [None, classes] if classes > 2 or kind == "both" else [None, None]
            size = sizes[int(g.integers(2))]
            base = None if size is None else [float(v) for v in g.normal(size=size)]
            labels = [int(v) for v in g.permutation(20)[:classes]]
            how = {"classlabels_int64s": labels, "post_transform": str(after), "base_values": base}
            x = _samples(b, 9)
            label, scores = b.op("TreeEnsembleClassifier", x, domain=ML, outputs=2, **nodes, **weights, **how)
            b.case(label, f"label {kind} {after} {base}", "int64", (9,))
            b.case(scores, f"scores {kind} {after} {base}", "float32", (9, classes))
    b.check()


def test_double_and_integer_features() -> None:
    b = Bundle(ml=3)
    g = b.generator
    nodes, leaves = _ensemble(g, 6, MODES[:4])
    for dtype in ("int64", "int32"):
        weights = _weights(g, "class", leaves, [[t % 3] for t, _ in leaves])
        labels = {"classlabels_int64s": [4, 5, 6]}
        x = _samples(b, 20, dtype, holes=False)
        label, scores = b.op("TreeEnsembleClassifier", x, domain=ML, outputs=2, **nodes, **weights, **labels)
        b.case(label, f"label {dtype}", "int64", (20,))
        b.case(scores, f"scores {dtype}", "float32", (20, 3))
    # Splits that float32 cannot tell from the samples at them.
    splits = np.array(nodes.pop("nodes_values")) + 1e-12 * np.sign(g.normal(size=len(nodes["nodes_modes"])))
    nodes["nodes_values_as_tensor"] = numpy_helper.from_array(splits)
    weights = _weights(g, "target", leaves, [[0] for _ in leaves])
    weights["target_weights_as_tensor"] = numpy_helper.from_array(np.array(weights.pop("target_weights"), "float64"))
    x = b.input(60, FEATURES, dtype="float64", values=np.round(b.normal(60, FEATURES).astype("float64"), 1))
    b.case(b.op("TreeEnsembleRegressor", x, domain=ML, n_targets=1, **nodes, **weights), "double", "float32", (60, 1))
    b.check()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"nodes_truenodeids": [7, 0, 0]}, "do not exist"),
        ({"nodes_modes": ["BRANCH_MEMBER", "LEAF", "LEAF"]}, "BRANCH_MEMBER"),
        ({"nodes_featureids": [9, 0, 0]}, "columns of its input"),
        ({"nodes_truenodeids": [0, 0, 0]}, "cycle"),
        ({"target_nodeids": [1, 5]}, "do not exist"),
    ],
)
def test_refusals_say_what_is_wrong(change: dict[str, Any], why: str) -> None:
    b = Bundle()
    given = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
    }
    y = b.op("TreeEnsembleRegressor", _samples(b, 2), domain=ML, n_targets=1, **{**given, **change})
    b.case(y, why, "float32", (2, 1))
    with pytest.raises(UnsupportedError, match=why):
        b.build()
