"""Ensembles of decision trees: all trees of all samples go down one level at a time.

A node is a row of tables; a leaf is a row that leads to itself, so that shallow branches wait for deep ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)
"""Comparisons, numbered as ai.onnx.ml 5 does."""


@dataclass(frozen=True)
class Trees:
    """Tables over nodes, then leaves.

    Attributes:
        feature, yes, no: column that a node looks at, and where it leads; a leaf leads to itself.
        split, mode: what it compares with, and how.
        missing: whether NaN goes to `yes`.
        members: sets for `MEMBER`, padded with NaN.
        target, weight: of leaves, 0 elsewhere.
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
    target: np.ndarray
    weight: np.ndarray
    roots: np.ndarray
    depth: int


def descend(
    x: te.Tensor,
    at: te.Tensor,
    feature: te.Tensor,
    split: te.Tensor,
    mode: te.Tensor,
    missing: te.Tensor,
    members: te.Tensor,
    yes: te.Tensor,
    no: te.Tensor,
    modes: Sequence[int],
    width: int,
) -> te.Tensor:
    """(samples, trees) rows after one more comparison."""

    def element(sample: Any, tree: Any) -> Any:
        row = at(sample, tree)
        value, limit, kind = x(sample, feature(row)), split(row), mode(row)
        tests = {
            LEQ: lambda: value <= limit,
            LT: lambda: value < limit,
            GTE: lambda: value >= limit,
            GT: lambda: value > limit,
            EQ: lambda: value.equal(limit),
            NEQ: lambda: tirx.NE(value, limit),
            MEMBER: lambda: tirx.any(*(value.equal(members(row, i)) for i in range(width))),
        }
        found = tirx.const(False, "bool")
        for number in modes:
            found = tirx.any(found, tirx.all(kind.equal(tirx.const(number, "int32")), tests[number]()))
        if str(x.dtype).startswith("float"):
            found = tirx.any(found, tirx.all(tirx.NE(value, value), missing(row).astype("bool")))
        return tirx.Select(found, yes(row), no(row))

    return te.compute(at.shape, element, name="descend")


def collect(at: te.Tensor, target: te.Tensor, weight: te.Tensor, targets: int, how: str, dtype: str) -> te.Tensor:
    """(samples, targets): sum, least or greatest weight of the leaves that the trees ended in."""
    samples, trees = at.shape
    tree = te.reduce_axis((0, trees), name="tree")
    most = float(np.finfo(dtype).max)
    neutral = {"sum": 0.0, "min": most, "max": -most}[how]
    reduce = {"sum": te.sum, "min": te.min, "max": te.max}[how]

    def element(sample: Any, column: Any) -> Any:
        row = at(sample, tree)
        here = tirx.Select(target(row).equal(column.astype("int32")), weight(row), tirx.const(neutral, dtype))
        return reduce(here, axis=tree)

    return te.compute((samples, targets), element, name="collect")
