"""Definitions of operators without a function body in ONNX, written in ONNX's own operators."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from optkit.bodies import heads, microsoft, training

Body = Callable[[ir.Node], "ir.Function | None"]
"""The definition of a node's operator for this node; None where a variant has none."""

BODIES: dict[tuple[str, str], Body] = {**training.BODIES, **microsoft.BODIES, **heads.BODIES}
"""By domain and operator."""


def own_body(node: ir.Node) -> Body | None:
    """What defines the node's operator here."""
    return BODIES.get((node.domain, node.op_type))


__all__ = ["BODIES", "Body", "own_body"]
