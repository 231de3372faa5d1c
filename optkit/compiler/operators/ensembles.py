"""Ensembles of decision trees: which leaf of each tree a sample ends in, and what the leaves say together.

A node is a row of tables; a leaf is a row that leads to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from optkit.compiler.operators.loops import T, cell, loops

LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)
"""Comparisons, numbered as ai.onnx.ml 5 does."""

_REDUCE: dict[str, Any] = {"sum": te.sum, "min": te.min, "max": te.max}


def neutral(how: str, dtype: str) -> float:
    """The weight that changes no sum, or no least or greatest."""
    most = float(np.finfo(dtype).max)
    return {"sum": 0.0, "min": most, "max": -most}[how]


@dataclass(frozen=True)
class Trees:
    """Tables over nodes, then leaves.

    Attributes:
        feature, yes, no: column that a node looks at, and where it leads; a leaf leads to itself.
        split, mode: what it compares with, and how.
        missing: whether NaN goes to `yes`.
        members: sets for `MEMBER`, padded with NaN.
        roots: first row of each tree.
        depth: steps from a root to the deepest leaf.
    """

    feature: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    split: np.ndarray
    mode: np.ndarray
    missing: np.ndarray
    members: np.ndarray
    roots: np.ndarray
    depth: int


def descend(
    x: te.Tensor,
    roots: te.Tensor,
    feature: te.Tensor,
    split: te.Tensor,
    mode: te.Tensor,
    missing: te.Tensor,
    members: te.Tensor,
    yes: te.Tensor,
    no: te.Tensor,
    modes: Sequence[int],
    parallel: bool,
) -> te.Tensor:
    """(samples, trees): the rows of the leaves that the samples end in; `modes` are those that occur."""
    real = str(x.dtype).startswith("float")
    width = int(members.shape[1])

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        x, roots, feature, split, mode, missing, members, yes, no = inputs

        def follows(sample: Any, row: Any) -> Any:
            """Whether a sample goes to `yes`."""
            value, limit = x[sample, feature[row]], split[row]
            tests = {
                LEQ: lambda: value <= limit,
                LT: lambda: value < limit,
                GTE: lambda: value >= limit,
                GT: lambda: value > limit,
                EQ: lambda: tirx.EQ(value, limit),
                # != is false for NaN in the code that TVM generates.
                NEQ: lambda: tirx.any(tirx.NE(value, limit), tirx.isnan(value)) if real else tirx.NE(value, limit),
                MEMBER: lambda: tirx.any(*(tirx.EQ(value, members[row, i]) for i in range(width))),
            }
            found = tirx.const(False, "bool")
            for number in modes:
                same = tirx.EQ(mode[row], tirx.const(number, "int32")) if len(modes) > 1 else tirx.const(True, "bool")
                found = tirx.any(found, tirx.all(same, tests[number]()))
            if real:
                found = tirx.any(found, tirx.all(tirx.isnan(value), missing[row] != tirx.const(0, "int32")))
            return found

        with (T.parallel if parallel else T.serial)(0, samples) as sample, T.serial(0, trees) as tree:
            row = cell("int32", roots[tree])
            with T.While(yes[row[0]] != row[0]):
                row[0] = tirx.Select(follows(sample, row[0]), yes[row[0]], no[row[0]])
            outputs[0][sample, tree] = row[0]

    samples, trees = x.shape[0], roots.shape[0]
    tables = [x, roots, feature, split, mode, missing, members, yes, no]
    found: te.Tensor = loops([(samples, trees)], ["int32"], tables, body, "descend")
    return found


def collect(at: te.Tensor, target: te.Tensor, weight: te.Tensor, targets: int, how: str, dtype: str) -> te.Tensor:
    """(samples, targets): sum, least or greatest weight of the leaves that the trees ended in."""
    samples, trees = at.shape
    tree = te.reduce_axis((0, trees), name="tree")
    nothing = tirx.const(neutral(how, dtype), dtype)

    def element(sample: Any, column: Any) -> Any:
        row = at(sample, tree)
        here = tirx.Select(target(row).equal(column.astype("int32")), weight(row), nothing)
        return _REDUCE[how](here, axis=tree)

    return te.compute((samples, targets), element, name="collect")


def collect_rows(at: te.Tensor, weights: te.Tensor, how: str) -> te.Tensor:
    """As `collect`, of leaves that hold a weight for every target."""
    samples, trees = at.shape
    tree = te.reduce_axis((0, trees), name="tree")

    def element(sample: Any, column: Any) -> Any:
        return _REDUCE[how](weights(at(sample, tree), column), axis=tree)

    return te.compute((samples, weights.shape[1]), element, name="collect")
