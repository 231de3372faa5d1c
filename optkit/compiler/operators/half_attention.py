"""Scaled dot-product attention in float16 for devices that compute it in one kernel of device code.

What stands here is the meaning, stage by stage: float16 products, everything else float32.
"""

from __future__ import annotations

from typing import Any

from tvm import te

from optkit.compiler.operator import OPERATOR
from optkit.compiler.operators.common import OP, const, static

SCALE = "optkit.scale"
"""Annotation of the block with the scaled scores: the number as text."""
BLOCK = 4
"""Neighbouring values of a row that threads take together."""


def half_attention(
    query: te.Tensor, key: te.Tensor, value: te.Tensor, mask: te.Tensor | None, scale: float, operator: str
) -> te.Tensor:
    """softmax(Q K^T * scale + mask) V: (..., M, D), (..., N, D), (..., N, E) -> (..., M, E), all float16.

    Args:
        mask: float32, of the scores' rank; axes of 1 are repeated.
        operator: its text form.
    """
    *lead, rows, depth = static(query.shape)
    columns, wide = static(value.shape)[-2:]
    k, n = te.reduce_axis((0, depth), "k"), te.reduce_axis((0, columns), "n")
    top_n, sum_n = (te.reduce_axis((0, columns), name) for name in ("t", "s"))

    def product(*i: Any) -> Any:
        *outer, row, column = i
        left, right = query(*outer, row, k), key(*outer, column, k)
        return te.sum(left.astype("float32") * right.astype("float32"), axis=k)

    scores = te.compute((*lead, rows, columns), product, name="scores", attrs={OP: "scores"})

    def logit(*i: Any) -> Any:
        scaled = scores(*i) * const(scale, "float32")
        if mask is None:
            return scaled
        extents = static(mask.shape)
        return scaled + mask(*(0 if isinstance(e, int) and e == 1 else p for p, e in zip(i, extents, strict=True)))

    logits = te.compute((*lead, rows, columns), logit, name="logits", attrs={OP: "logits", SCALE: str(scale)})
    top = te.compute((*lead, rows), lambda *i: te.max(logits(*i, top_n), axis=top_n), name="row_top")
    powers = te.compute((*lead, rows, columns), lambda *i: te.exp(logits(*i) - top(*i[:-1])), name="row_powers")
    total = te.compute((*lead, rows), lambda *i: te.sum(powers(*i, sum_n), axis=sum_n), name="row_total")

    def weigh(*i: Any) -> Any:
        *outer, row, o, v = i
        return te.sum(powers(*outer, row, n) * value(*outer, n, o * BLOCK + v).astype("float32"), axis=n)

    blocked = (*lead, rows, wide // BLOCK, BLOCK)
    weighted = te.compute(blocked, weigh, name="weighted", attrs={OP: "weighted"})
    attended = te.compute(
        blocked,
        lambda *i: weighted(*i) / total(*i[:-2]),
        name="attended",
        attrs={OP: "half_attention", OPERATOR: operator},
    )
    return te.compute(
        (*lead, rows, wide),
        lambda *i: attended(*i[:-1], i[-1] // BLOCK, i[-1] % BLOCK).astype("float16"),
        name="crop",
        attrs={OP: "crop"},
    )
