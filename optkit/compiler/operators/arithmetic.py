"""Quotients, remainders, powers and shifts of any type, as formulas on scalars (see `scalars`)."""

from __future__ import annotations

import re
from typing import Any

from tvm import tirx

from optkit.compiler.operators.common import const
from optkit.compiler.operators.scalars import Attributes, Scalar, is_float, kind, let, libm, like, select


def bits(dtype: str) -> int:
    """The width of an integer type."""
    found = re.search(r"\d+", dtype)
    assert found is not None, dtype
    return int(found.group())


def _signed(x: Any) -> bool:
    return kind(x).startswith("int")


def _safe(b: Any) -> Any:
    """A divisor that no processor traps at: 0, and -1 because of the smallest integer, are 1."""
    zero = b == like(0, b)
    return select(tirx.any(zero, b == like(-1, b)) if _signed(b) else zero, like(1, b), b)


def divide(a: Attributes, x: Any, y: Any) -> Any:
    """x / y; integers towards zero, and x / 0 = 0."""
    if is_float(x):
        return x / y
    quotient = select(y == like(0, y), like(0, x), tirx.truncdiv(x, _safe(y)))
    return select(y == like(-1, y), like(0, x) - x, quotient) if _signed(x) else quotient


def modulo(a: Attributes, x: Any, y: Any) -> Any:
    """The remainder with the sign of y, or of x with fmod=1; that of a division by the integer 0 is 0."""
    truncated = bool(a.get("fmod", 0))
    if is_float(x):
        remainder = libm("fmod", x, y)
        if truncated:
            return remainder

        def floored(r: Any) -> Any:
            other_side = tirx.any(tirx.all(r < like(0, r), y > like(0, y)), tirx.all(r > like(0, r), y < like(0, y)))
            return select(r == like(0, r), libm("copysign", r, y), select(other_side, r + y, r))

        return let(remainder, floored)
    # where _safe replaces the divisor, by 1, the remainder is 0
    remainder, zero = tirx.truncmod(x, _safe(y)), like(0, x)
    if truncated or not _signed(x):
        return remainder
    other_side = tirx.any(tirx.all(remainder < zero, y > zero), tirx.all(remainder > zero, y < zero))
    return select(other_side, remainder + y, remainder)


def power(a: Attributes, x: Any, y: Any) -> Any:
    """x^y in the type of x: by squaring where both are integers, else in floating point."""
    if is_float(x):
        return tirx.power(x, y.astype(kind(x)))
    if is_float(y):
        wide = "float64" if bits(kind(x)) > 16 or kind(y) == "float64" else "float32"
        return tirx.power(x.astype(wide), y.astype(wide)).astype(kind(x))
    return _integer_power(x, y.astype("int64"))


def _integer_power(x: Any, e: Any) -> Any:
    """Square and multiply; products wrap. A negative exponent truncates 1 / x^-e towards zero."""
    one, zero = like(1, x), const(0, "int64")
    # only 0, 1 and -1 have powers beyond 63 in range, and of those only the parity counts
    small = tirx.min(tirx.max(e, zero - e), const(62, "int64") + (e & const(1, "int64")))
    positive, factor = one, x
    for step in range(6):
        bit = (small >> const(step, "int64")) & const(1, "int64")
        positive = positive * select(bit == const(1, "int64"), factor, one)
        factor = factor * factor
    units = select(x == one, one, like(0, x))
    if _signed(x):
        odd = select((e & const(1, "int64")) == const(1, "int64"), like(-1, x), one)
        units = select(x == like(-1, x), odd, units)
    return select(e < zero, units, positive)


def shift(a: Attributes, x: Any, y: Any) -> Any:
    """BitShift: shifts by a negative number, or by the width of the type and more, leave only the sign."""
    width = bits(kind(x))
    outside = y >= like(width, y)
    if _signed(y):
        outside = tirx.any(outside, y < like(0, y))
    amount = select(outside, like(0, y), y)
    if str(a.get("direction")) == "RIGHT":
        left = select(x < like(0, x), like(-1, x), like(0, x)) if _signed(x) else like(0, x)
        return select(outside, left, x >> amount)
    return select(outside, like(0, x), x << amount)


BINARY: dict[str, Scalar] = {
    "Add": lambda a, x, y: x + y,
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    "Div": divide,
    "Mod": modulo,
    "Pow": power,
    "BitShift": shift,
    "BitwiseAnd": lambda a, x, y: x & y,
    "BitwiseOr": lambda a, x, y: x | y,
    "BitwiseXor": lambda a, x, y: x ^ y,
    "PRelu": lambda a, x, slope: select(x < like(0, x), x * slope, x),
}
"""Functions of two numbers."""

__all__ = ["BINARY", "bits", "divide", "modulo", "power", "shift"]
