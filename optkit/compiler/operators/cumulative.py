"""What runs along an axis one element after another: sums, products, the elimination behind a determinant."""

from __future__ import annotations

import math
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.loops import T, cell, loops, when
from optkit.compiler.operators.scalars import select

INT = "int64"


def cumulate(
    data: te.Tensor, axis: te.Tensor, known: int | None, product: bool, exclusive: bool, back: bool, *shape: Any
) -> Any:
    """Running sums or products of a flat tensor of `shape` along an axis that a tensor of one element names.

    Where the axis is known, lines along it run in parallel. float16 is summed in float32. An exclusive sum leaves its
    own element out; `back` starts at the end.
    """
    rank, dtype = len(shape), str(data.dtype)
    wide = "float32" if dtype == "float16" else dtype
    extents = [const(e, INT) if isinstance(e, int) else e for e in static(shape)]
    total = math.prod(extents[1:], start=extents[0])
    one = const(1, INT)

    def along(x: Any, y: Any, line: Any, length: Any, stride: Any) -> None:
        start = tirx.truncdiv(line, stride) * (length * stride) + tirx.truncmod(line, stride)
        sum_ = cell(wide, const(1 if product else 0, wide))
        with T.serial(0, length) as k:
            at = start + (length - one - k if back else k) * stride
            value = cell(wide, x[at].astype(wide))
            if exclusive:
                y[at] = sum_[0].astype(dtype)
            sum_[0] = sum_[0] * value[0] if product else sum_[0] + value[0]
            if not exclusive:
                y[at] = sum_[0].astype(dtype)

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        x, y = inputs[0], outputs[0]
        if known is not None:
            extent, apart = extents[known], math.prod(extents[known + 1 :], start=one)
            others = math.prod([e for d, e in enumerate(extents) if d != known], start=one)
            with T.parallel(0, others) as line:
                along(x, y, line, extent, apart)
            return
        given = inputs[1][0].astype(INT)
        chosen = cell(INT, select(given < const(0, INT), given + const(rank, INT), given))
        length, stride = cell(INT, extents[-1]), cell(INT, 1)
        for d in range(rank):
            length[0] = select(chosen[0] == const(d, INT), extents[d], length[0])
            stride[0] = stride[0] * select(chosen[0] < const(d, INT), extents[d], one)
        lines = cell(INT, tirx.truncdiv(total, tirx.max(length[0], one)))
        with T.serial(0, lines[0]) as line:
            along(x, y, line, length[0], stride[0])

    return loops([tuple(data.shape)], [dtype], [data, axis], body, "cumulate")


def determinant(data: te.Tensor) -> list[te.Tensor]:
    """Determinants of (B, N, N): the product of the pivots of Gaussian elimination with partial pivoting, in float64.

    Golub and Van Loan, Matrix Computations, 3.4. The second tensor is scratch.
    """
    batch, n, _ = static(data.shape)
    dtype, wide = str(data.dtype), "float64"

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        x, (y, m) = inputs[0], outputs
        with T.serial(0, batch) as b:
            with T.serial(0, n) as i, T.serial(0, n) as j:
                m[i, j] = x[b, i, j].astype(wide)
            result = cell(wide, 1.0)
            with T.serial(0, n) as k:
                best = cell("int32", k.astype("int32"))
                with T.serial(0, n) as i:
                    larger = tirx.abs(m[i, k]) > tirx.abs(m[best[0], k])
                    when(tirx.all(i > k, larger), lambda i=i: best.__setitem__(0, i.astype("int32")))  # type: ignore[misc]

                def swap(k: Any = k, best: Any = best) -> None:
                    result[0] = const(0.0, wide) - result[0]
                    with T.serial(0, n) as j:
                        kept = cell(wide, m[k, j])
                        m[k, j] = m[best[0], j]
                        m[best[0], j] = kept[0]

                when(best[0] != k.astype("int32"), swap)
                pivot = cell(wide, m[k, k])
                result[0] = result[0] * pivot[0]

                def eliminate(k: Any = k, pivot: Any = pivot) -> None:
                    with T.serial(0, n) as i:

                        def row(i: Any = i) -> None:
                            factor = cell(wide, m[i, k] / pivot[0])
                            with T.serial(0, n) as j:
                                m[i, j] = m[i, j] - factor[0] * m[k, j]

                        when(i > k, row)

                when(pivot[0] != const(0.0, wide), eliminate)
            y[b] = result[0].astype(dtype)

    found: list[te.Tensor] = loops([(batch,), (n, n)], [dtype, wide], [data], body, "determinant")
    return found


__all__ = ["cumulate", "determinant"]
