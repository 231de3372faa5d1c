"""exp, tanh, erf and what is made of them, as sequences of additions, products and quotients.

One text for every use: as ONNX nodes, in kernels that may contract a product and a sum into one instruction,
and in kernels that may not, because they must round as the ONNX nodes do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

T = Any
"""A float32 expression of whatever the arithmetic builds."""


class Arithmetic(Protocol):
    """Operations on float32 that IEEE 754 rounds in one way only."""

    def const(self, value: float) -> T:
        """The float32 nearest to `value`."""

    def add(self, a: T, b: T) -> T:
        """a + b."""

    def sub(self, a: T, b: T) -> T:
        """a - b."""

    def mul(self, a: T, b: T) -> T:
        """a * b."""

    def div(self, a: T, b: T) -> T:
        """a / b."""

    def smaller(self, a: T, b: T) -> T:
        """min(a, b)."""

    def larger(self, a: T, b: T) -> T:
        """max(a, b)."""

    def rint(self, a: T) -> T:
        """The nearest integer, ties to even."""

    def power_of_two(self, n: T) -> T:
        """2^n for an integer n in -126..127."""

    def let(self, value: T, body: Callable[[T], T], name: str) -> T:
        """`let name = value in body(name)`: evaluated once however often the body uses it."""


def _horner(o: Arithmetic, x: T, coefficients: Sequence[float]) -> T:
    total = o.const(coefficients[0])
    for c in coefficients[1:]:
        total = o.add(o.mul(total, x), o.const(c))
    return total


def _between(o: Arithmetic, value: T, low: float, high: float) -> T:
    """The value, but at least `low` and at most `high`; in this order of operands a NaN stays one."""
    return o.larger(o.const(low), o.smaller(o.const(high), value))


def exp(o: Arithmetic, value: T) -> T:
    """2^n * e^r with |r| <= ln 2 / 2; relative error below 3e-7 (Cody and Waite, 1980, chapter 6)."""

    def power(n: T, r: T) -> T:
        p = _horner(o, r, [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5])
        y = o.add(o.add(o.mul(o.mul(p, r), r), r), o.const(1.0))
        return o.mul(y, o.power_of_two(n))

    def reduced(x: T) -> T:
        def rest(n: T) -> T:
            r = o.sub(o.sub(x, o.mul(n, o.const(0.693359375))), o.mul(n, o.const(-2.12194440e-4)))
            return o.let(r, lambda r: power(n, r), "r")

        return o.let(o.rint(o.mul(x, o.const(math.log2(math.e)))), rest, "n")

    return o.let(_between(o, value, -87.3365478515625, 88.3762626647949), reduced, "x")


def sigmoid(o: Arithmetic, value: T) -> T:
    """1 / (1 + exp(-x))."""
    return o.div(o.const(1.0), o.add(o.const(1.0), exp(o, o.sub(o.const(0.0), value))))


def tanh(o: Arithmetic, value: T) -> T:
    """Odd rational approximation on |x| <= 7.9, +-1 beyond; absolute error below 3e-7."""

    def ratio(x: T) -> T:
        def of_square(s: T) -> T:
            p = _horner(
                o,
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
            q = _horner(o, s, [1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03])
            return o.div(o.mul(x, p), q)

        return o.let(o.mul(x, x), of_square, "s")

    limit = 7.90531110763549805
    return o.let(o.larger(o.smaller(value, o.const(limit)), o.const(-limit)), ratio, "x")


_ERF_LIMIT = 3.7
_ERF = [
    *[-0.0014166029, 0.0039359997, -0.0039178105, 0.005198838, -0.013834396, 0.025171917, -0.036377486],
    *[0.051462926, -0.070388995, 0.090627566, -0.11265098, 0.14078933, -0.19046755, 0.38213754],
]


def erf(o: Arithmetic, value: T) -> T:
    """x * p(2 (x / 3.7)^2 - 1) on |x| <= 3.7, +-1 beyond; absolute error below 4e-7; a NaN stays one.

    p is the polynomial of degree 13 that makes the largest error least, by Lawson's iteration (Cline, "Rate of
    Convergence of Lawson's Algorithm", Mathematics of Computation 26, 1972), with p(1) = 1 / 3.7. In a variable from -1
    to 1 its coefficients stay small, so float32 carries it without cancellation; there is no quotient to wait for.
    """

    def of(x: T) -> T:
        k = o.add(o.mul(o.mul(x, x), o.const(2 / _ERF_LIMIT**2)), o.const(-1.0))
        # Rounded, the polynomial may be a little more than 1.
        return o.let(k, lambda k: _between(o, o.mul(x, _horner(o, k, _ERF)), -1.0, 1.0), "k")

    return o.let(_between(o, value, -_ERF_LIMIT, _ERF_LIMIT), of, "x")


def gelu(o: Arithmetic, value: T) -> T:
    """x / 2 * (1 + erf(x / sqrt 2)): Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2."""

    def of(x: T) -> T:
        gate = o.add(erf(o, o.mul(x, o.const(math.sqrt(0.5)))), o.const(1.0))
        return o.mul(o.mul(x, o.const(0.5)), gate)

    return o.let(value, of, "g")


def gelu_tanh(o: Arithmetic, value: T) -> T:
    """The tanh form of GELU, same section."""

    def of(x: T) -> T:
        cube = o.mul(o.mul(o.mul(x, x), x), o.const(0.044715))
        inner = o.mul(o.add(x, cube), o.const(math.sqrt(2 / math.pi)))
        return o.mul(o.mul(x, o.const(0.5)), o.add(tanh(o, inner), o.const(1.0)))

    return o.let(value, of, "g")


def hard_sigmoid(o: Arithmetic, value: T, alpha: float = 1 / 6, beta: float = 0.5) -> T:
    """clip(alpha * x + beta, 0, 1)."""
    return o.smaller(o.larger(o.add(o.mul(value, o.const(alpha)), o.const(beta)), o.const(0.0)), o.const(1.0))


def hard_swish(o: Arithmetic, value: T) -> T:
    """x * clip(x / 6 + 1 / 2, 0, 1): Howard et al., "Searching for MobileNetV3", 2019, section 5.2."""
    return o.let(value, lambda x: o.mul(x, hard_sigmoid(o, x)), "g")


UNARY: dict[str, Callable[[Arithmetic, T], T]] = {
    "Exp": exp,
    "Sigmoid": sigmoid,
    "Tanh": tanh,
    "Erf": erf,
    "Gelu": gelu,
    "GeluTanh": gelu_tanh,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
}
"""By operator name; HardSigmoid as HardSwish has it (slope 1/6)."""
