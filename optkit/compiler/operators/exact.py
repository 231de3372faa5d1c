"""A float product that is rounded where it stands.

Backends may contract a * b + c into one fused multiply-add, which rounds once, and of a * b + c * d they
choose which product loses its rounding. Convolutions want that. Dequantized values do not: a residual sum of
two of them would then round to another integer than the reference's, and than another schedule's.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import te, tirx
from tvm.ir import op as _op
from tvm.tirx.op import register_intrin_lowering

from optkit.compiler.operators.common import const, static

_NAME = "tirx.optkit_product"
_PURE = 1  # CallEffectKind.kPure, which the registry wants as a plain int


def _register() -> None:
    _op._ffi_api.RegisterOp(_NAME, "a * b, rounded, never contracted into a fused multiply-add")
    _op.register_op_attr(_NAME, "TVectorizable", True)
    _op.register_op_attr(_NAME, "TCallEffectKind", _PURE)
    # Modules are printed on the way, and the printer warns of a name that it does not know, once an occurrence.
    _op.register_op_attr(_NAME, "TScriptPrinterName", _NAME.partition(".")[2])
    fence = tvm.target.codegen.llvm_lookup_intrinsic_id("llvm.arithmetic.fence")

    def llvm(call: Any) -> Any:
        value = call.args[0] * call.args[1]
        return tirx.call_llvm_pure_intrin(value.ty, tirx.const(fence, "int32"), value)

    def cuda(call: Any) -> Any:
        # CUDA C++ Programming Guide, "Intrinsic Functions": __fmul_rn is never merged into an fma.
        name = "__dmul_rn" if str(call.args[0].ty.dtype) == "float64" else "__fmul_rn"
        return tirx.call_pure_extern(str(call.args[0].ty.dtype), name, *call.args)

    register_intrin_lowering(_NAME, target="default", f=llvm)
    register_intrin_lowering(_NAME, target="cuda", f=cuda)


_register()


def product(a: Any, b: Any, dtype: str = "float32") -> Any:
    """a * b in float32 or float64, rounded to nearest even whatever is added to it."""
    return tirx.call_intrin(dtype, _NAME, a, b)


def multiply(a: te.Tensor, b: te.Tensor | float, fused: bool = True) -> te.Tensor:
    """a * b with numpy's broadcasting, every product rounded where it stands.

    Args:
        fused: whether it may become part of the convolution that an operand comes from. Where not, axes of one place
            are read as broadcast ones, with which TVM does not do that.
    """
    if isinstance(b, float):
        return te.compute(a.shape, lambda *i: product(a(*i), const(b, "float32")), name="multiply")
    shapes = [static(t.shape) for t in (a, b)]
    rank = max(map(len, shapes))
    padded = [[1] * (rank - len(s)) + s for s in shapes]
    full = [y if _one(x) else x for x, y in zip(*padded, strict=True)]

    def read(t: te.Tensor, shape: list[Any], index: tuple[Any, ...]) -> Any:
        given = zip(shape, full[rank - len(shape) :], index[rank - len(shape) :], strict=True)
        return t(*(0 if _one(d) and not (fused and _one(whole)) else i for d, whole, i in given))

    return te.compute(full, lambda *i: product(read(a, shapes[0], i), read(b, shapes[1], i)), name="multiply")


def _one(extent: Any) -> bool:
    return isinstance(extent, int) and extent == 1


__all__ = ["multiply", "product"]
