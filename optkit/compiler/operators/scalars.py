"""Element-wise operators as formulas on scalars of any type.

Every formula is `f(attributes, *operands) -> result`; operands and result are TIR expressions of one type, with
float16 computed in float32 by the caller. NaNs go through, integers wrap as C's do, and no division traps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import tirx

from optkit.compiler.operators.common import const

Attributes = Mapping[str, Any]
Scalar = Callable[..., Any]


def kind(x: Any) -> str:
    """The element type of an expression."""
    return str(x.ty.dtype)


def is_float(x: Any) -> bool:
    """Whether an expression is a floating-point number."""
    return kind(x).startswith("float")


def like(value: float, x: Any) -> Any:
    """A literal of x's type."""
    return const(value if is_float(x) else int(value), kind(x))


def select(condition: Any, a: Any, b: Any) -> Any:
    """condition ? a : b, both computed."""
    return tirx.Select(condition, a, b)


def let(value: Any, body: Callable[[Any], Any]) -> Any:
    """`body(v)` with v computed once."""
    var = tirx.Var("v", kind(value))
    return tirx.Let(var, value, body(var))


def libm(function: str, *args: Any) -> Any:
    """A call into the C library: `function` with the suffix of the operands' type."""
    dtype = kind(args[0])
    return tirx.call_pure_extern(dtype, function if dtype == "float64" else f"{function}f", *args)


def largest(a: Any, b: Any) -> Any:
    """max(a, b), NaN where one is."""
    return select(tirx.any(a > b, tirx.isnan(a)), a, b) if is_float(a) else tirx.Select(a > b, a, b)


def smallest(a: Any, b: Any) -> Any:
    """min(a, b), NaN where one is."""
    return select(tirx.any(a < b, tirx.isnan(a)), a, b) if is_float(a) else tirx.Select(a < b, a, b)


def _sigmoid(x: Any) -> Any:
    # exp of what is not positive never overflows
    power = tirx.exp(select(x < like(0, x), x, -x))
    one = like(1, x)
    return select(x < like(0, x), power, one) / (one + power)


def _tanh(x: Any) -> Any:
    return libm("tanh", x)


def softplus(x: Any) -> Any:
    """log(1 + e^x), without overflow."""
    return largest(x, like(0, x)) + libm("log1p", tirx.exp(-tirx.abs(x)))


def _gelu(a: Attributes, x: Any) -> Any:
    half, one = like(0.5, x), like(1, x)
    if a.get("approximate", "none") == "tanh":
        return half * x * (one + _tanh(like(0.7978845608028654, x) * (x + like(0.044715, x) * x * x * x)))
    return half * x * (one + libm("erf", x * like(0.7071067811865476, x)))


def _negative(x: Any, below: Any) -> Any:
    """x, but `below` where x is negative."""
    return select(x < like(0, x), below, x)


def _selu(a: Attributes, x: Any) -> Any:
    alpha, gamma = a.get("alpha", 1.6732632423543772), a.get("gamma", 1.0507009873554805)
    return like(gamma, x) * _negative(x, like(alpha, x) * libm("expm1", x))


def _hard_sigmoid(x: Any, alpha: float, beta: float) -> Any:
    return largest(like(0, x), smallest(like(1, x), like(alpha, x) * x + like(beta, x)))


def _celu(a: Attributes, x: Any) -> Any:
    alpha = like(a.get("alpha", 1.0), x)
    return _negative(x, alpha * libm("expm1", x / alpha))


def _sign(a: Attributes, x: Any) -> Any:
    zero = like(0, x)
    below = select(x < zero, like(-1, x), x) if not kind(x).startswith("uint") else x
    return select(x > zero, like(1, x), below)


def _absolute(a: Attributes, x: Any) -> Any:
    if is_float(x):
        return tirx.abs(x)
    return x if kind(x).startswith("uint") else select(x < like(0, x), like(0, x) - x, x)


def _is_inf(a: Attributes, x: Any) -> Any:
    infinity = tirx.infinity(kind(x))
    found = const(False, "bool")
    if a.get("detect_positive", 1):
        found = tirx.any(found, x == infinity)
    if a.get("detect_negative", 1):
        found = tirx.any(found, x == -infinity)
    return found


def _intrinsic(name: str) -> Scalar:
    function = getattr(tirx, name)
    return lambda a, x: function(x)


def _library(name: str) -> Scalar:
    return lambda a, x: libm(name, x)


FLOAT: dict[str, Scalar] = {
    **{op.capitalize(): _intrinsic(op) for op in ("exp", "log", "sqrt", "sin", "cos", "tan")},
    **{op.capitalize(): _intrinsic(op) for op in ("asin", "acos", "atan", "floor", "ceil")},
    **{op.capitalize(): _library(op) for op in ("sinh", "cosh", "asinh", "acosh", "atanh", "erf")},
    "Tanh": lambda a, x: _tanh(x),
    "Sigmoid": lambda a, x: _sigmoid(x),
    "Round": lambda a, x: tirx.nearbyint(x),
    "Reciprocal": lambda a, x: like(1, x) / x,
    "Elu": lambda a, x: _negative(x, like(a.get("alpha", 1.0), x) * libm("expm1", x)),
    "Celu": _celu,
    "Selu": _selu,
    "LeakyRelu": lambda a, x: _negative(x, like(a.get("alpha", 0.01), x) * x),
    "ThresholdedRelu": lambda a, x: select(x > like(a.get("alpha", 1.0), x), x, like(0, x)),
    "HardSigmoid": lambda a, x: _hard_sigmoid(x, a.get("alpha", 0.2), a.get("beta", 0.5)),
    "HardSwish": lambda a, x: x * _hard_sigmoid(x, 1 / 6, 0.5),
    "Softplus": lambda a, x: softplus(x),
    "Softsign": lambda a, x: x / (like(1, x) + tirx.abs(x)),
    "Mish": lambda a, x: x * _tanh(softplus(x)),
    "Gelu": _gelu,
}
"""Functions of one floating-point number."""

UNARY: dict[str, Scalar] = {
    **FLOAT,
    "Abs": _absolute,
    "Neg": lambda a, x: like(0, x) - x if not is_float(x) else -x,
    "Sign": _sign,
    "Relu": lambda a, x: largest(x, like(0, x)),
}
"""Functions of one number."""

PREDICATES: dict[str, Scalar] = {"IsInf": _is_inf, "IsNaN": lambda a, x: tirx.isnan(x)}
"""Questions about one floating-point number."""

__all__ = ["FLOAT", "PREDICATES", "UNARY", "Attributes", "Scalar", "is_float", "kind", "largest", "let", "libm", "like"]
__all__ += ["select", "smallest", "softplus"]
