"""What classifiers and regressors of ai.onnx.ml make of their scores: probabilities and labels.

The formulas are those of ONNX Runtime; the specification only names them.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const
from optkit.compiler.operators.scalars import let, like, select

_TINY = 1e-7  # SOFTMAX_ZERO leaves out what is nearer to zero


def _logistic(x: Any) -> Any:
    one = like(1, x)
    return let(one / (one + tirx.exp(-tirx.abs(x))), lambda v: select(x < like(0, x), one - v, v))


def logistic(data: te.Tensor) -> te.Tensor:
    """1 / (1 + exp(-x)), without overflow."""
    return te.compute(data.shape, lambda *at: _logistic(data(*at)), name="logistic")


def _probit(p: Any) -> Any:
    """The inverse of the normal distribution, with Winitzki's approximation of the inverse error function."""
    x = like(2, p) * p - like(1, p)
    a = 0.147
    log = tirx.log((like(1, x) - x) * (like(1, x) + x))

    def root(ln: Any) -> Any:
        v = like(2 / (3.14159 * a), x) + like(0.5, x) * ln
        return tirx.sqrt(tirx.sqrt(v * v - like(1 / a, x) * ln) - v)

    return like(1.41421356, x) * let(log, lambda ln: select(x < like(0, x), -root(ln), root(ln)))


def probit(data: te.Tensor) -> te.Tensor:
    """The quantile of the normal distribution at each element."""
    return te.compute(data.shape, lambda *at: _probit(data(*at)), name="probit")


def softmax_zero(data: te.Tensor) -> te.Tensor:
    """A softmax over the columns that are not zero; zeros stay."""
    rows, columns = data.shape
    dtype = str(data.dtype)
    k, m = te.reduce_axis((0, columns), name="k"), te.reduce_axis((0, columns), name="m")
    most = te.compute((rows,), lambda i: te.max(data(i, k), axis=k), name="most")

    def counts(value: Any) -> Any:
        return tirx.abs(value) > const(_TINY, dtype)

    def power(i: Any, j: Any) -> Any:
        value = data(i, j)
        scale = tirx.exp(select(counts(value), value - most(i), -most(i)))
        return select(counts(value), scale, value * scale)

    powers = te.compute((rows, columns), power, name="powers")
    total = te.compute(
        (rows,),
        lambda i: te.sum(select(counts(data(i, m)), powers(i, m), const(0.0, dtype)), axis=m),
        name="total",
    )
    return te.compute((rows, columns), lambda i, j: powers(i, j) / total(i), name="softmax_zero")


def first_largest(data: te.Tensor, labels: te.Tensor) -> te.Tensor:
    """For each row the label of its largest column, the first of several."""
    rows, columns = data.shape
    k, m = te.reduce_axis((0, columns), name="k"), te.reduce_axis((0, columns), name="m")
    most = te.compute((rows,), lambda i: te.max(data(i, k), axis=k), name="most")
    last = columns.astype("int32") - const(1, "int32")
    place = te.compute(
        (rows,),
        lambda i: te.min(select(data(i, m).equal(most(i)), m.astype("int32"), last), axis=m),
        name="place",
    )
    return te.compute((rows,), lambda i: labels(place(i)), name="labels")


def above(data: te.Tensor, column: int, limit: float, labels: te.Tensor) -> te.Tensor:
    """For each row the second label where a column is above a limit, else the first."""
    edge = const(limit, str(data.dtype))
    return te.compute((data.shape[0],), lambda i: select(data(i, column) > edge, labels(1), labels(0)), name="labels")


def pair(data: te.Tensor, how: str) -> te.Tensor:
    """One column of scores as two classes: "complement" 1 - x and x, "opposite" -x and x, "logistic" of those."""

    def element(i: Any, j: Any) -> Any:
        x = data(i, 0)
        first = j.equal(const(0, "int32"))
        if how == "complement":
            return select(first, like(1, x) - x, x)
        signed = select(first, -x, x)
        return _logistic(signed) if how == "logistic" else signed

    return te.compute((data.shape[0], 2), element, name="pair")


__all__ = ["above", "first_largest", "logistic", "pair", "probit", "softmax_zero"]
