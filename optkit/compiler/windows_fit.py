"""The least extents of open axes with which every window of a model fits into what it slides over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.sym import Analyzer

from optkit.compiler.values import Value
from optkit.shape_ranges import Least

_WINDOWS = frozenset(
    [
        *["Conv", "ConvInteger", "QLinearConv", "ConvTranspose", "DeformConv"],
        *["MaxPool", "AveragePool", "LpPool", "QLinearAveragePool"],
    ]
)
_MOST = 1 << 16
"""Larger extents are not tried."""


def spatial(op_type: str, outputs: Sequence[Value]) -> list[Any]:
    """Open extents over which the node's windows slide, of its output."""
    if op_type not in _WINDOWS or not outputs or outputs[0].shape is None:
        return []
    return [extent for extent in outputs[0].shape[2:] if not isinstance(extent, (int, tirx.IntImm))]


def least_extents(needs: Sequence[tuple[str, Any]], symbols: Mapping[str, Any]) -> dict[str, Least]:
    """The least extent of every axis that windows bound, by the name that artifacts give the axis.

    Args:
        needs: names of nodes, and extents that have to be 1 or more. One of several axes, or of none of the inputs',
            bounds nothing; all others grow with their axis.
        symbols: variables of the inputs' axes.
    """
    axes = {var: str(var.name) for var in symbols.values()}
    found: dict[str, Least] = {}
    for node, extent in needs:
        used: list[Any] = []
        tvm_ffi.structural_walk(extent, (tirx.Var, lambda var, used=used: used.append(var)))
        names = {axes.get(var, "") for var in used}
        if len(names) != 1 or "" in names:
            continue
        var, (name,) = used[0], names
        least = _least(extent, var, found[name].extent if name in found else 1)
        if least is not None and least > (found[name].extent if name in found else 1):
            found[name] = Least(least, node)
    return found


def _least(extent: Any, var: Any, first: int) -> int | None:
    """The least value of the variable, `first` or more, with which the extent is 1 or more; None where none is."""

    def fits(value: int) -> bool:
        known = Analyzer()
        known.bind(var, tirx.const(value, "int64"))
        made = known.simplify(extent)
        return isinstance(made, tirx.IntImm) and int(made) >= 1

    low, high = first, first
    while not fits(high):
        low, high = high + 1, 2 * high
        if high > _MOST:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low
