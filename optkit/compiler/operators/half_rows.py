"""Softmax of short rows in half precision, every step rounded to the type of its elements.

ONNX's reference computes Softmax with numpy's arithmetic on the type itself, and its results for float16 and
bfloat16 (operators Softmax and Attention) show those roundings. Rows are computed in float32, each step as numpy
does it: float16 is summed in float32 and rounded once, bfloat16 is rounded after every addition, in order.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.formats import shared
from optkit.compiler.operators.rows import map_of, or_nan, partial, raised, total_of

LONGEST = 32
"""Longer rows are computed in float32 and rounded at the end, as runtimes do. A sum of n terms that is rounded n
times is off by up to n / 512 of itself in bfloat16 (at n = 256 it stops growing), and attention over real images
and texts has rows of 49 (windows of 7 x 7) and more."""

_LOWEST = -87.0
"""Below, powers are 0: the polynomial behind `exp` ends at the smallest normal number, which bfloat16 would keep."""


def rounded(x: Any, kind: str) -> Any:
    """float32 to the nearest number of a half type, as float32."""
    if kind == "float16":
        return x.astype(kind).astype("float32")
    return shared(tirx.reinterpret("uint32", x), _upper_half)


def _upper_half(bits: Any) -> Any:
    # The NaNs met here come from bfloat16 or are the machine's own: the carry never runs through their payload.
    carried = bits + ((bits >> const(16, "uint32")) & const(1, "uint32")) + const(0x7FFF, "uint32")
    return tirx.reinterpret("float32", carried & const(0xFFFF0000, "uint32"))


_running = te.comm_reducer(
    lambda total, x: rounded(total + x, "bfloat16"), lambda dtype: const(0, dtype), name="running_bfloat16"
)
"""A sum that depends on the order: from the first element on, for rules never split a `row_total`."""


def softmax(data: te.Tensor, b: int, kind: str) -> te.Tensor:
    """Softmax over the last axis, of numbers of the type `kind`.

    float16 gives float16. bfloat16 comes as float32, and goes as float32 that one rounding remains to be done to.
    """
    *lead, size = static(data.shape)
    dtype, zero = str(data.dtype), const(0, "float32")
    top = partial("row_max", lead, size, b, lambda *i: data(*i).astype("float32"), te.max, tirx.min_value("float32"))

    def power_of(*i: Any) -> Any:
        below = rounded(data(*i).astype("float32") - top(*i[:-1]), kind)
        return shared(below, lambda v: tirx.Select(v < const(_LOWEST, "float32"), zero, rounded(raised(v), kind)))

    power = map_of(data.shape, power_of, "row_exp")
    if kind == "bfloat16":
        k = te.reduce_axis((0, size), "k")
        total = total_of(lambda *i: _running(power(*i, k), axis=k), lead, "row_sum")
    else:
        whole = partial("row_sum", lead, size, b, lambda *i: power(*i), te.sum, zero)
        total = total_of(lambda *i: rounded(whole(*i), kind), lead, "row_rounded")
    divisor = total_of(lambda *i: or_nan(total(*i), total(*i)), lead, "row_divisor")
    return map_of(data.shape, lambda *i: (power(*i) / divisor(*i[:-1])).astype(dtype), "row_out")


__all__ = ["LONGEST", "rounded", "softmax"]
