"""Calls of the functions in `optkit.exact`: one kernel each, the bits of their bodies."""

from __future__ import annotations

import functools

from optkit.compiler.converters import elementwise
from optkit.compiler.converters.rows import like, matrix, row_kind, row_lanes
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import exact_rows
from optkit.compiler.operators.transcendental import ROUNDED, mapped
from optkit.compiler.values import PLAIN, Value
from optkit.errors import UnsupportedError
from optkit.exact.formulas import UNARY
from optkit.exact.functions import LRN_BETAS, lrn_name


def _unary(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    x = inputs[0]
    if x is None:
        return None
    define = mapped(node.op_type, ROUNDED)
    return elementwise.apply(low, lambda e: low.emit(define, low.bind(e), name=node.op_type.lower()), [x])


def _softmax(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    x = inputs[0]
    if x is None or not isinstance(x.shape[-1], int):
        raise UnsupportedError(f"node {node.name!r}: an exact softmax needs rows of known length")
    out = low.emit(exact_rows.softmax, matrix(low, x), row_lanes(low), name="exact_softmax", kind=row_kind(low))
    return like(low, x, out)


def _layer_normalization(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    x, scale, shift = inputs
    if x is None or scale is None or shift is None:
        return None
    args = [matrix(low, x), scale.plain(), shift.plain(), float(node.get("epsilon")), row_lanes(low)]
    return like(low, x, low.emit(exact_rows.layer_norm, *args, name="exact_layer_norm", kind=row_kind(low)))


def _lrn(size: int, beta: float, low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    x = inputs[0]
    if x is None:
        return None
    numbers = float(node.get("alpha")), float(node.get("bias"))
    out = low.emit(exact_rows.lrn, x.plain(), size, beta, *numbers, name="exact_lrn")
    return low.blocked(x.shape, x.dtype, PLAIN, out)


CONVERTERS: dict[str, Converter] = {
    **dict.fromkeys(UNARY, _unary),
    "Softmax": _softmax,
    "LayerNormalization": _layer_normalization,
    **{lrn_name(s, b): functools.partial(_lrn, s, b) for s in range(1, 16) for b in LRN_BETAS},
}
