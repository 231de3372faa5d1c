"""Scaled dot-product attention in 16 bits for devices that compute it in one kernel of device code.

What stands here is the meaning, stage by stage: products of float16 or bfloat16, everything else float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import te

from optkit.compiler.operator import OPERATOR, Operator
from optkit.compiler.operators.common import OP, const, static

SCALE = "optkit.scale"
"""Annotation of the block with the scaled scores: the number as text."""
SEATS = "optkit.seats"
"""Annotation of the last block: of query, key, value and result, "i" where heads lie inside rows, "o" otherwise."""
FIRST = "optkit.first"
"""Annotation of the last block: of query, key and value, the first head in a tensor that may hold more of them."""
BLOCK = 4
"""Neighbouring values of a row that threads take together."""


def half_attention(
    query: te.Tensor,
    key: te.Tensor,
    value: te.Tensor,
    mask: te.Tensor | None,
    scale: float,
    operator: str,
    seats: str = "oooo",
    first: Sequence[int] = (0, 0, 0),
    result: str = "float16",
) -> te.Tensor:
    """softmax(Q K^T * scale + mask) V: (..., M, D), (..., N, D), (..., N, E) -> (..., M, E), float16 or bfloat16.

    Args:
        mask: float32, of the scores' rank; axes of 1 are repeated.
        operator: its text form.
        seats: of query, key, value and result, as in `SEATS`: (..., M, heads, D) instead of (..., heads, M, D).
        first: of query, key and value, as in `FIRST`.
        result: type of the result.
    """
    *lead, rows, depth = seated(static(query.shape), seats[0])
    lead[-1] = heads_of(operator, lead)
    columns, wide = seated(static(value.shape), seats[2])[-2:]
    k, n = te.reduce_axis((0, depth), "k"), te.reduce_axis((0, columns), "n")
    top_n, sum_n = (te.reduce_axis((0, columns), name) for name in ("t", "s"))

    def product(*i: Any) -> Any:
        *outer, row, column = i
        left, right = (
            tensor(*seated([*outer[:-1], outer[-1] + head, at, k], seat))
            for tensor, at, seat, head in zip((query, key), (row, column), seats, first, strict=False)
        )
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
        at = [*outer[:-1], outer[-1] + first[2], n, o * BLOCK + v]
        weighed = value(*seated(at, seats[2])).astype("float32")
        return te.sum(powers(*outer, row, n) * weighed, axis=n)

    blocked = (*lead, rows, wide // BLOCK, BLOCK)
    weighted = te.compute(blocked, weigh, name="weighted", attrs={OP: "weighted"})
    attended = te.compute(
        blocked,
        lambda *i: weighted(*i) / total(*i[:-2]),
        name="attended",
        attrs={OP: "half_attention", OPERATOR: operator, SEATS: seats, FIRST: " ".join(map(str, first))},
    )

    def crop(*i: Any) -> Any:
        *outer, row, e = seated(i, seats[3])
        return attended(*outer, row, e // BLOCK, e % BLOCK).astype(result)

    return te.compute(tuple(seated([*lead, rows, wide], seats[3])), crop, name="crop", attrs={OP: "crop"})


def heads_of(operator: str, lead: Sequence[Any]) -> Any:
    """How many heads attention has, where its query has the leading axes `lead`, the last of them maybe longer.

    Open axes are no part of the operator.
    """
    *outer, last = lead
    if not isinstance(last, int):
        return last
    return Operator.parse(operator).sizes[0] // math.prod(extent for extent in outer if isinstance(extent, int))


def seated(index: Sequence[Any], seat: str) -> list[Any]:
    """An index, or extents, with heads and rows changed about where heads lie inside."""
    *outer, a, b, last = index if len(index) > 2 else (None, *index)
    found = [*outer, b, a, last] if seat == "i" else [*outer, a, b, last]
    return [i for i in found if i is not None]
