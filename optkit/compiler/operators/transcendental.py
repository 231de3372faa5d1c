"""`optkit.exact.formulas` as tensor expressions: plain arithmetic, no call per element into libm.

LLVM scalarizes `exp` and its kin; polynomials stay in vector registers, whatever their width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const
from optkit.compiler.operators.exact import product
from optkit.exact import formulas


class Contracted:
    """Arithmetic on float32 in which a product and a sum may become one instruction."""

    def const(self, value: float) -> Any:
        return const(value, "float32")

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def sub(self, a: Any, b: Any) -> Any:
        return a - b

    def mul(self, a: Any, b: Any) -> Any:
        return a * b

    def div(self, a: Any, b: Any) -> Any:
        return a / b

    def smaller(self, a: Any, b: Any) -> Any:
        return te.min(a, b)

    def larger(self, a: Any, b: Any) -> Any:
        return te.max(a, b)

    def rint(self, a: Any) -> Any:
        return tirx.nearbyint(a)

    def power_of_two(self, n: Any) -> Any:
        return tirx.reinterpret("float32", (n.astype("int32") + 127) << 23)

    def let(self, value: Any, body: Callable[[Any], Any], name: str) -> Any:
        var = tirx.Var(name, "float32")
        return tirx.Let(var, value, body(var))


class Rounded(Contracted):
    """The same, every product rounded where it stands: bit for bit what the ONNX functions compute."""

    def mul(self, a: Any, b: Any) -> Any:
        return product(a, b)


CONTRACTED, ROUNDED = Contracted(), Rounded()


def exp(value: Any) -> Any:
    """e^x, see `formulas.exp`."""
    return formulas.exp(CONTRACTED, value)


def mapped(name: str, arithmetic: Contracted = CONTRACTED) -> Callable[[te.Tensor], te.Tensor]:
    """A tensor expression that applies `formulas.UNARY[name]` to every element."""
    formula = formulas.UNARY[name]

    def define(data: te.Tensor) -> te.Tensor:
        return te.compute(data.shape, lambda *i: formula(arithmetic, data(*i)), name=name.lower())

    return define
