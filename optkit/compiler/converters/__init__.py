"""Converters from ONNX nodes to Relax, asked in order; the last is TVM's own importer."""

from __future__ import annotations

from collections.abc import Sequence

from optkit.compiler.converters import (
    agreement,
    casts,
    classic,
    concat,
    control,
    conv,
    detection,
    elements,
    elementwise,
    exact,
    grids,
    imported,
    integer,
    integer_products,
    losses,
    matmul,
    movement,
    norms,
    pool,
    qlinear,
    quantized,
    quantized_ops,
    recurrent,
    reductions,
    resize,
    rows,
    sampling,
    selection,
    sequences,
    shapes,
    signal,
    symbolic,
    transposed,
)
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.values import Value
from optkit.exact import DOMAIN

_MODULES = (
    quantized,
    conv,
    matmul,
    movement,
    pool,
    concat,
    rows,
    elementwise,
    reductions,
    shapes,
    selection,
    casts,
    integer_products,
    qlinear,
    quantized_ops,
    recurrent,
    norms,
    losses,
    signal,
    grids,
    resize,
    sampling,
    detection,
    transposed,
    control,
    sequences,
    classic,
)
NATIVE: dict[str, Converter] = {op: f for module in reversed(_MODULES) for op, f in module.CONVERTERS.items()}
"""Operators with converters of our own; each may still decline a node."""
EXACT = exact.CONVERTERS
"""The functions of `optkit.exact`."""


def convert(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value] | None:
    """Our functions by name; else integer movement first, then our own converter, then TVM's."""
    if node.domain == DOMAIN:
        known = EXACT.get(node.op_type)
        return known(low, node, inputs) if known is not None else None
    moved = integer.move(low, node, inputs, _convert_real)
    return moved if moved is not None else elements.convert(low, node, inputs, _convert_real)


def _convert_real(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value] | None:
    known = symbolic.convert(low, node, inputs)
    if known is not None:
        return known
    inputs = agreement.agree(low, node, inputs)
    own = NATIVE.get(node.op_type)
    result = own(low, node, inputs) if own is not None else None
    return result if result is not None else imported.convert(low, node, inputs)


__all__ = ["EXACT", "NATIVE", "convert"]
