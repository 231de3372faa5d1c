"""A float product that is rounded where it stands.

Backends may contract a * b + c into one fused multiply-add, which rounds once, and of a * b + c * d they
choose which product loses its rounding. Convolutions want that. Dequantized values do not: a residual sum of
two of them would then round to another integer than the reference's, and than another schedule's.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir import op as _op
from tvm.tirx.op import register_intrin_lowering

_NAME = "tirx.optkit_product"
_PURE = 1  # CallEffectKind.kPure, which the registry wants as a plain int


def _register() -> None:
    _op._ffi_api.RegisterOp(_NAME, "a * b, rounded, never contracted into a fused multiply-add")
    _op.register_op_attr(_NAME, "TVectorizable", True)
    _op.register_op_attr(_NAME, "TCallEffectKind", _PURE)
    fence = tvm.target.codegen.llvm_lookup_intrinsic_id("llvm.arithmetic.fence")

    def llvm(call: Any) -> Any:
        value = call.args[0] * call.args[1]
        return tirx.call_llvm_pure_intrin(value.ty, tirx.const(fence, "int32"), value)

    def cuda(call: Any) -> Any:
        # CUDA C++ Programming Guide, "Intrinsic Functions": __fmul_rn is never merged into an fma.
        return tirx.call_pure_extern("float32", "__fmul_rn", *call.args)

    register_intrin_lowering(_NAME, target="default", f=llvm)
    register_intrin_lowering(_NAME, target="cuda", f=cuda)


_register()


def product(a: Any, b: Any) -> Any:
    """a * b in float32, rounded to nearest even whatever is added to it."""
    return tirx.call_intrin("float32", _NAME, a, b)


__all__ = ["product"]
