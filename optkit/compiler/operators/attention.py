"""Scaled dot-product attention, softmax(Q K^T * scale + mask) V, without a buffer of all scores.

A band of rows at a time: its scores, their exponentials and the weighted sum of the values are made while the band is
in the cache. Whole rows of scores are held, so the softmax is the plain one, in two passes; what is saved is memory of
the square of the sequence and its traffic (Rabe and Staats, "Self-attention Does Not Need O(n^2) Memory", 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from optkit.compiler.operator import OPERATOR
from optkit.compiler.operators.common import BITS, OP, const, factor, rounded_bits, static
from optkit.compiler.operators.rows import or_nan, partial, raised, total_of
from optkit.compiler.tiling import Tile


def attention(
    query: te.Tensor,
    key: te.Tensor,
    value: te.Tensor,
    mask: te.Tensor | None,
    scale: float,
    b: int,
    tiles: tuple[Tile, Tile],
    band: int,
    operator: str,
    native: bool = False,
) -> te.Tensor:
    """(..., M, K), (..., N, K), (..., N, D) -> (..., M, D) float32; bits of bfloat16 are multiplied in pairs.

    Args:
        key: its K is even where it is bits.
        mask: added to the scaled scores, of their rank; axes of 1 are repeated.
        tiles: register tiles of the two products; of the first, keys are filled up to whole blocks of it.
        band: rows that are worked on together, a multiple of those of both tiles.
        operator: its text form.
        native: the target rounds to bfloat16 by an instruction.
    """
    *lead, rows, depth = static(query.shape)
    columns, wide = static(value.shape)[-2:]
    pairs = str(query.dtype) == BITS
    g = 2 if pairs else 1
    padded, wanted = whole(rows, band), b * tiles[0].blocks
    width, terms = whole(columns, wanted), whole(columns, g)
    blocks = whole(columns, wanted, tiles[0].blocks)
    packed_key = _packed("key", lead, (blocks, depth // g, b), g, key, lambda o, k, v: (o * b + v, k), columns, 0)
    packed_value = _packed(
        "value", lead, (wide // b, terms // g, b), g, value, lambda o, n, v: (n, o * b + v), columns, 1
    )
    scores = _product("scores", lead, (padded, blocks, b), depth, query, packed_key, rows, tiles[0])

    def logit(*i: Any) -> Any:
        *outer, m, n = i
        scaled = scores(*outer, m, n // b, n % b) * const(scale, "float32")
        if mask is not None:
            at = (
                *outer,
                m if known(padded, rows) else te.min(m, rows - 1),
                n if known(width, columns) else te.min(n, columns - 1),
            )
            extents = static(mask.shape)
            scaled = scaled + mask(*(0 if known(e, 1) else p for p, e in zip(at, extents, strict=True)))
        # -inf and not the least number: that would weigh 1 in a row that is masked as a whole.
        return scaled if known(width, columns) else tirx.Select(n < columns, scaled, const(float("-inf"), "float32"))

    logits = te.compute((*lead, padded, width), logit, name="logits")
    lowest = tirx.min_value("float32")
    head = [*lead, padded]
    steps = None if isinstance(width, int) else blocks
    top = partial("row_max", head, width, b, lambda *i: logits(*i), te.max, lowest, steps=steps)

    def power(*i: Any) -> Any:
        real = raised(logits(*i) - top(*i[:-1]))
        return rounded_bits(real, native) if pairs else real

    powers = te.compute((*lead, padded, width), power, name="row_exp", attrs={OP: "row_map"})
    zero = const(0, "float32")
    total = partial(
        "row_sum", head, width, b, lambda *i: factor(powers(*i), powers, "float32"), te.sum, zero, steps=steps
    )

    def reciprocal(*i: Any) -> Any:
        found = or_nan(total(*i), const(1, "float32") / total(*i))
        # Attention to no token at all is the sum of none.
        return found if isinstance(columns, int) else tirx.Select(columns == 0, zero, found)

    inverse = total_of(reciprocal, head, "row_inverse")
    summed = _product("weighted", lead, (padded, wide // b, b), terms, powers, packed_value, padded, tiles[1])
    return te.compute(
        (*lead, rows, wide),
        lambda *i: summed(*i[:-1], i[-1] // b, i[-1] % b) * inverse(*i[:-1]),
        name="attention",
        attrs={OP: "attention", "optkit.band": band, OPERATOR: operator},
    )


def whole(extent: Any, step: int, times: int | None = None) -> Any:
    """An extent, which may be open, in steps, the last one whole; `times` in the place of each step's length."""
    return (extent + step - 1) // step * (step if times is None else times)


def known(a: Any, b: Any) -> bool:
    """Whether two extents are certainly the same number."""
    return isinstance(a, int) and isinstance(b, int) and a == b


def _packed(
    name: str,
    lead: Sequence[Any],
    shape: tuple[Any, int, int],
    g: int,
    data: te.Tensor,
    place: Callable[[Any, Any, Any], tuple[Any, Any]],
    columns: Any,
    axis: int,
) -> te.Tensor:
    """A matrix as the register tile reads it; rows past the last of `data` are zero.

    Args:
        place: where output block, step of the sum and lane lie in `data`.
        axis: of the place, that which counts rows of `data`: 0, and the step of the sum is its column, or 1.
    """
    rank, kind = len(lead), str(data.dtype)

    def element(*i: Any) -> Any:
        outer, (o, k, v, *r) = i[:rank], i[rank:]
        row, column = place(o, k * g + r[0] if r else k, v)
        total = shape[0] * shape[2] if axis == 0 else shape[1] * g
        if known(total, columns):
            return data(*outer, row, column)
        return te.if_then_else(row < columns, data(*outer, te.min(row, columns - 1), column), const(0, kind))

    full = (*lead, *shape, *((g,) if g > 1 else ()))
    return te.compute(full, element, name=name, attrs={OP: name})


def _product(
    name: str,
    lead: Sequence[Any],
    shape: tuple[Any, int, int],
    depth: Any,
    left: te.Tensor,
    right: te.Tensor,
    rows: Any,
    tile: Tile,
) -> te.Tensor:
    """Rows of `left` times a packed matrix, in float32; rows past the last repeat it."""
    rank, g = len(lead), 2 if str(left.dtype) == BITS else 1
    k = te.reduce_axis((0, depth // g), "k")
    r = [te.reduce_axis((0, g), "r")] if g > 1 else []

    def element(*i: Any) -> Any:
        outer, (m, o, v) = i[:rank], i[rank:]
        row = m if shape[0] is rows or known(shape[0], rows) else te.min(m, rows - 1)
        read = factor(left(*outer, row, k * g + r[0] if r else k), left, "float32")
        return te.sum(read * factor(right(*outer, o, k, v, *r), right, "float32"), axis=[k, *r])

    return te.compute((*lead, *shape), element, name=name, attrs={OP: name, **tile.attrs()})
