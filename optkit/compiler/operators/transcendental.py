"""exp, tanh and erf as plain arithmetic, so that they vectorize: no call per element into libm.

LLVM scalarizes these intrinsics; polynomials stay in vector registers, whatever their width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const


def _f(value: float) -> Any:
    return const(value, "float32")


def bound(value: Any, body: Callable[[Any], Any], name: str) -> Any:
    """`let name = value in body(name)`: evaluated once however often the body uses it."""
    var = tirx.Var(name, "float32")
    return tirx.Let(var, value, body(var))


def _horner(x: Any, coefficients: Sequence[float]) -> Any:
    total: Any = _f(coefficients[0])
    for c in coefficients[1:]:
        total = total * x + _f(c)
    return total


def exp(value: Any) -> Any:
    """2^n * e^r with |r| <= ln 2 / 2; relative error below 3e-7 (Cody and Waite, 1980, chapter 6)."""

    def power(n: Any, r: Any) -> Any:
        p = _horner(r, [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5])
        y = p * r * r + r + _f(1.0)
        return y * tirx.reinterpret("float32", (n.astype("int32") + 127) << 23)

    def reduced(x: Any) -> Any:
        return bound(
            tirx.nearbyint(x * _f(math.log2(math.e))),
            lambda n: bound(x - n * _f(0.693359375) - n * _f(-2.12194440e-4), lambda r: power(n, r), "r"),
            "n",
        )

    clipped = te.max(te.min(value, _f(88.3762626647949)), _f(-87.3365478515625))
    return bound(clipped, reduced, "x")


def sigmoid(value: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return _f(1.0) / (_f(1.0) + exp(_f(0.0) - value))


def tanh(value: Any) -> Any:
    """Odd rational approximation on |x| <= 7.9, +-1 beyond; absolute error below 3e-7."""

    def ratio(x: Any) -> Any:
        def of_square(s: Any) -> Any:
            p = _horner(
                s,
                [
                    -2.76076847742355e-16,
                    2.00018790482477e-13,
                    -8.60467152213735e-11,
                    5.12229709037114e-08,
                    1.48572235717979e-05,
                    6.37261928875436e-04,
                    4.89352455891786e-03,
                ],
            )
            q = _horner(s, [1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03])
            return x * p / q

        return bound(x * x, of_square, "s")

    return bound(te.max(te.min(value, _f(7.90531110763549805)), _f(-7.90531110763549805)), ratio, "x")


def erf(value: Any) -> Any:
    """1 - poly(t) exp(-x^2), t = 1 / (1 + p|x|), with the sign of x; absolute error below 2e-7.

    Abramowitz and Stegun, 1964, formula 7.1.26 (1.5e-7).
    """

    def of(x: Any) -> Any:
        magnitude = te.max(x, _f(0.0) - x)

        def tail(t: Any) -> Any:
            poly = _horner(t, [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592]) * t
            return _f(1.0) - poly * exp(_f(0.0) - x * x)

        positive = bound(_f(1.0) / (_f(1.0) + magnitude * _f(0.3275911)), tail, "t")
        return bound(positive, lambda y: tirx.Select(x < _f(0.0), _f(0.0) - y, y), "y")

    return bound(value, of, "x")


def gelu(value: Any) -> Any:
    """x / 2 * (1 + erf(x / sqrt 2)): Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2."""
    return bound(value, lambda x: x * _f(0.5) * (erf(x * _f(math.sqrt(0.5))) + _f(1.0)), "g")


def gelu_tanh(value: Any) -> Any:
    """The tanh form of GELU, same section."""
    inner = _f(math.sqrt(2 / math.pi))
    return bound(
        value,
        lambda x: x * _f(0.5) * (tanh((x + x * x * x * _f(0.044715)) * inner) + _f(1.0)),
        "g",
    )


def silu(value: Any) -> Any:
    """x * sigmoid(x)."""
    return bound(value, lambda x: x * sigmoid(x), "g")


def mapped(function: Callable[[Any], Any]) -> Callable[[te.Tensor], te.Tensor]:
    """A tensor expression that applies a scalar function to every element."""

    def define(data: te.Tensor) -> te.Tensor:
        return te.compute(data.shape, lambda *i: function(data(*i)), name=function.__name__)

    return define
