"""Rows that a model finds, such as boxes, matched with those of the reference, in any order.

Rounding moves a score over a threshold or past another one, in every runtime: a box comes or goes, two change places.
Element by element, everything behind it then differs. Rows that are found by values (NonMaxSuppression, NonZero,
Compress, Unique) are therefore compared as a set where they do not agree as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from optkit.measure.checks import OutputCheck
from optkit.measure.compare import Comparison, Figures
from optkit.measure.deciders import deciding
from optkit.measure.reference import ModelSource
from optkit.model import load_model

SHARE, AT_LEAST = 0.05, 10
"""Share of a sample's rows that may have no counterpart; of so many rows one may."""

Judge = Callable[[str, Figures], OutputCheck]
Arrays = Mapping[str, np.ndarray]


def appeal(
    checks: Sequence[OutputCheck], judge: Judge, source: ModelSource, samples: Sequence[tuple[Arrays, Arrays]]
) -> list[OutputCheck]:
    """What `judge` says of outputs that failed, of the rows alone that have a counterpart, if nearly all have.

    Outputs with the same number of rows in every sample describe the same things: their rows belong together.

    Args:
        judge: makes a check of an output's figures, the limit on the relative error among its limits for floats.
        samples: what the reference answers, and what was found.
    """
    failed = {check.name for check in checks if check.reason}
    if not failed:
        return list(checks)
    original = source if isinstance(source, ir.Model) else load_model(source)
    counted = [check.name for check in checks if deciding(original, check.name)]
    groups: dict[tuple[tuple[int, int], ...], list[str]] = {}
    for name in counted:
        if all(name in found and _rows_alike(expected[name], found[name]) for expected, found in samples):
            key = tuple((len(expected[name]), len(found[name])) for expected, found in samples)
            groups.setdefault(key, []).append(name)
    again: dict[str, OutputCheck] = {}
    for names in groups.values():
        if failed & set(names):
            again |= {check.name: check for check in _matched(names, judge, samples)}
    return [again.get(check.name, check) for check in checks]


def _rows_alike(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(a.ndim and b.ndim and a.shape[1:] == b.shape[1:])


def _matched(names: Sequence[str], judge: Judge, samples: Sequence[tuple[Arrays, Arrays]]) -> list[OutputCheck]:
    comparisons = {name: Comparison() for name in names}
    rows = alone = allowed = 0
    for expected, found in samples:
        reach = {n: judge(n, Comparison().figures()).limits.get("relative", 0.0) * _size(expected[n]) for n in names}
        pairs = match([expected[n] for n in names], [found[n] for n in names], list(reach.values()))
        here, there = ([pair[side] for pair in pairs] for side in (0, 1))
        for name in names:
            comparisons[name].add(expected[name][here], found[name][there])
        most = max(len(expected[names[0]]), len(found[names[0]]))
        rows, alone = rows + most, alone + most - len(pairs)
        allowed += max(int(SHARE * most), int(most >= AT_LEAST))
    checks = [judge(name, comparisons[name].figures()) for name in names]
    problem = f"{alone} of {rows} rows have no counterpart, {allowed} may" if alone > allowed else ""
    return [
        replace(
            check,
            limits={**check.limits, "rows_alone": float(allowed)},
            rows_alone=alone,
            reason=f"output {check.name!r}: {problem}" if problem else check.reason,
        )
        for check in checks
    ]


def _size(array: np.ndarray) -> float:
    """The largest finite magnitude."""
    values = np.abs(array.astype(np.float64))
    return float(values[np.isfinite(values)].max(initial=0.0))


def match(expected: Sequence[np.ndarray], found: Sequence[np.ndarray], reach: Sequence[float]) -> list[tuple[int, int]]:
    """Pairs of rows of which every element of every array is within reach of the other's, each row in one at most.

    A row takes the nearest that is left.

    >>> match([np.array([1.0, 5.0, 9.0])], [np.array([9.1, 1.0])], [0.2])
    [(0, 1), (2, 0)]
    """
    left = np.ones(len(found[0]), bool)
    pairs = []
    for i in range(len(expected[0])):
        far = np.zeros(len(left))
        for a, b, most in zip(expected, found, reach, strict=True):
            row, rows = a[i].astype(np.float64).ravel(), b.astype(np.float64).reshape(len(b), -1)
            with np.errstate(invalid="ignore"):
                apart = np.where((rows == row) | (np.isnan(rows) & np.isnan(row)), 0.0, np.abs(rows - row))
            worst = np.nan_to_num(apart, nan=np.inf).max(1, initial=0.0)
            far += np.where(worst <= most, worst / most if most else 0.0, np.inf)
        far[~left] = np.inf
        if len(far) and np.isfinite(far[j := int(far.argmin())]):
            pairs.append((i, j))
            left[j] = False
    return pairs
