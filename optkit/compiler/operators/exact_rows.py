"""The functions of `optkit.exact` over rows and channels, bit for bit what their ONNX bodies compute.

Sums here are over integers (in int32, or in float64 that holds them exactly), so lanes may add in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from optkit.compiler.operators.common import OP, const, static
from optkit.compiler.operators.exact import product
from optkit.compiler.operators.rows import partial
from optkit.compiler.operators.transcendental import ROUNDED
from optkit.exact import formulas
from optkit.exact.functions import ROW_BITS, SOFTMAX_BITS

_NO_STEP = -60.0
"""An exponent whose power is less than half a step: those below it are as well, whatever they are."""
_INT32_POWERS = 1 << (31 - SOFTMAX_BITS - 1)
"""So many powers a lane may sum in int32."""


def _total(name: str, lead: list[Any], value: Any) -> te.Tensor:
    return te.compute(tuple(lead), value, name=name, attrs={OP: "row_total"})


def softmax(data: te.Tensor, b: int) -> te.Tensor:
    """Softmax over the last axis, in float32."""
    *lead, size = static(data.shape)
    kind = "int32" if size <= b * _INT32_POWERS else "int64"
    top = partial("row_max", lead, size, b, lambda *i: data(*i), te.max, tirx.min_value("float32"))

    def steps(*i: Any) -> Any:
        # Below that no step is left, and far below a denormal, over which processors stumble.
        power = formulas.exp(ROUNDED, te.max(const(_NO_STEP, "float32"), data(*i) - top(*i[:-1])))
        return tirx.nearbyint(product(power, const(2.0**SOFTMAX_BITS, "float32")))

    power = te.compute(data.shape, steps, name="row_exp", attrs={OP: "row_map"})
    total = partial("row_sum", lead, size, b, lambda *i: power(*i).astype(kind), te.sum, const(0, kind), wide="int64")
    inverse = _total("row_inverse", lead, lambda *i: const(1, "float32") / total(*i).astype("float32"))
    return te.compute(
        data.shape, lambda *i: product(power(*i), inverse(*i[:-1])), name="row_out", attrs={OP: "row_map"}
    )


def layer_norm(data: te.Tensor, scale: te.Tensor, shift: te.Tensor, epsilon: float, b: int) -> te.Tensor:
    """Layer normalization over the last axis, in float32 with statistics in float64."""
    *lead, size = static(data.shape)
    zero, one = const(0, "float64"), const(1, "float64")
    unit, count = const(2.0**ROW_BITS, "float32"), const(float(size), "float64")

    def wide(a: Any, c: Any) -> Any:
        return product(a, c, "float64")

    def magnitude(*i: Any) -> Any:
        return te.max(data(*i), const(0, "float32") - data(*i))

    top = partial("row_max", lead, size, b, magnitude, te.max, const(0, "float32"))
    safe = _total("row_top", lead, lambda *i: te.max(top(*i), const(1e-30, "float32")))
    factor = _total("row_factor", lead, lambda *i: unit / safe(*i))

    def integer(*i: Any) -> Any:
        return tirx.nearbyint(product(data(*i), factor(*i[:-1])))

    steps = te.compute(data.shape, integer, name="row_steps", attrs={OP: "row_map"})
    total = partial("row_sum", lead, size, b, lambda *i: steps(*i).astype("float64"), te.sum, zero)

    def squared(*i: Any) -> Any:
        return steps(*i).astype("float64") * steps(*i).astype("float64")

    squares = partial("row_square", lead, size, b, squared, te.sum, zero)
    mean = _total("row_mean", lead, lambda *i: total(*i) / count)
    low = _total("row_low", lead, lambda *i: mean(*i).astype("float32"))

    def inverse_deviation(*i: Any) -> Any:
        size_of_unit = safe(*i).astype("float64") / unit.astype("float64")
        relative = const(float(np.float32(epsilon)), "float64") / wide(size_of_unit, size_of_unit)
        variance = te.max(squares(*i) / count - wide(mean(*i), mean(*i)), zero)
        return (one / te.sqrt(variance + relative)).astype("float32")

    inverse = _total("row_inverse", lead, inverse_deviation)

    def out(*i: Any) -> Any:
        centred = product(steps(*i) - low(*i[:-1]), inverse(*i[:-1]))
        return product(centred, scale(i[-1])) + shift(i[-1])

    return te.compute(data.shape, out, name="row_out", attrs={OP: "row_map"})


def lrn(data: te.Tensor, size: int, beta: float, alpha: float, bias: float) -> te.Tensor:
    """Local response normalization over axis 1: Krizhevsky, Sutskever and Hinton 2012, section 3.3."""
    channels, before = static(data.shape)[1], (size - 1) // 2
    share = const(float(np.float32(np.float32(alpha) / np.float32(size))), "float32")

    def square(n: Any, c: Any, *space: Any) -> Any:
        read = data(n, c, *space)
        return te.if_then_else(tirx.all(c >= 0, c < channels), product(read, read), const(0, "float32"))

    def element(n: Any, c: Any, *space: Any) -> Any:
        total = square(n, c - before, *space)
        for i in range(1, size):
            total = total + square(n, c - before + i, *space)
        return product(total, share) + const(bias, "float32")

    base = te.compute(data.shape, element, name="lrn_base")

    def out(*i: Any) -> Any:
        root = te.sqrt(base(*i))
        return data(*i) / {0.5: root, 0.75: product(root, te.sqrt(root)), 1.0: base(*i)}[beta]

    return te.compute(data.shape, out, name="lrn")
