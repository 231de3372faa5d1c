"""The activation functions that recurrent operators may ask for, on one element in float32 or float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const
from optkit.compiler.operators.transcendental import CONTRACTED, exp
from optkit.exact import formulas

Activation = Callable[[Any], Any]

_DEFAULTS = {
    "Affine": (1.0, 0.0),
    "LeakyRelu": (0.01, 0.0),
    "ThresholdedRelu": (1.0, 0.0),
    "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, 0.0),
}
KNOWN = frozenset({*_DEFAULTS, "Relu", "Tanh", "Sigmoid", "Softsign", "Softplus"})


def activation(name: str, alpha: float | None, beta: float | None, kind: str) -> Activation:
    """The function, its missing parameters at ONNX's defaults (RNN, attributes activation_alpha and _beta)."""
    standard = _DEFAULTS.get(name, (0.0, 0.0))
    a = const(standard[0] if alpha is None else alpha, kind)
    b = const(standard[1] if beta is None else beta, kind)
    zero, one = const(0, kind), const(1, kind)
    fast = kind == "float32"

    def power(x: Any) -> Any:
        return exp(x) if fast else te.exp(x)

    def tanh(x: Any) -> Any:
        return formulas.tanh(CONTRACTED, x) if fast else te.tanh(x)

    def softplus(x: Any) -> Any:
        return te.max(x, zero) + te.log(one + power(-te.abs(x)))

    table: dict[str, Activation] = {
        "Relu": lambda x: te.max(x, zero),
        "Tanh": tanh,
        "Sigmoid": lambda x: formulas.sigmoid(CONTRACTED, x) if fast else one / (one + te.exp(-x)),
        "Affine": lambda x: a * x + b,
        "LeakyRelu": lambda x: tirx.Select(x < zero, a * x, x),
        "ThresholdedRelu": lambda x: tirx.Select(x > a, x, zero),
        "ScaledTanh": lambda x: a * tanh(b * x),
        "HardSigmoid": lambda x: te.min(te.max(a * x + b, zero), one),
        "Elu": lambda x: tirx.Select(x < zero, a * (power(te.min(x, zero)) - one), x),
        "Softsign": lambda x: x / (one + te.abs(x)),
        "Softplus": softplus,
    }
    return table[name]


__all__ = ["KNOWN", "Activation", "activation"]
