"""float32 rounded to bfloat16 by the processor's own instruction, as an operation that TVM vectorizes.

TVM legalizes conversions to bfloat16 into integer arithmetic before it generates code. This operation passes through
that as a call and becomes, vector by vector, a function in LLVM's own language, which selects `vcvtneps2bf16` (Intel
SDM; to nearest, ties to even, denormals as zero). `keep_on_stack` imports the functions where a kernel calls them.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir import Op, _ffi_api, register_op_attr
from tvm.tirx.op import register_intrin_lowering

NAME = "optkit_bf16_bits"
_OP = f"tirx.{NAME}"
_PURE = 1
_LANES = (2, 4, 8, 16, 32, 64)

FUNCTIONS = "".join(
    f"""
define linkonce_odr <{n} x i16> @{NAME}_{n}(<{n} x float> %x) alwaysinline {{
  %h = fptrunc <{n} x float> %x to <{n} x bfloat>
  %r = bitcast <{n} x bfloat> %h to <{n} x i16>
  ret <{n} x i16> %r
}}
"""
    for n in _LANES
)
"""What a kernel imports that rounds so."""


def _lower(call: Any) -> Any:
    value = call.args[0]
    lanes = tvm.DataType(str(value.ty.dtype)).lanes
    if lanes in _LANES:
        return tirx.call_extern(f"uint16x{lanes}", f"{NAME}_{lanes}", value)
    if lanes > 1:
        return rounded(value).astype(str(call.ty.dtype))
    # A number that is read once: variables that are bound in it would be bound again wherever it is repeated.
    real = tirx.Var("real", "float32")
    return tirx.Let(real, value, rounded(real).astype(str(call.ty.dtype)))


def _register() -> None:
    if _OP in _ffi_api.ListOpNames():
        return
    _ffi_api.RegisterOp(_OP, "The bits of a float32 rounded to bfloat16.")
    for key, value in (("TVectorizable", True), ("TCallEffectKind", _PURE), ("TScriptPrinterName", NAME)):
        register_op_attr(_OP, key, value)
    register_intrin_lowering(_OP, target="default", f=_lower)


_register()


def native(value: Any) -> Any:
    """A float32 as uint16 bits of the nearest bfloat16, where the target has an instruction for it."""
    return tvm.ir.Call(Op.get(_OP), [tirx.convert(value)], ret_ty="uint16")


def rounded(value: Any) -> Any:
    """A float32 as the bits, in a uint32, of the nearest bfloat16, ties to even; a NaN stays one."""

    real = tirx.convert(value)
    lanes = tvm.DataType(str(real.ty.dtype)).lanes

    def const(number: int) -> Any:
        bits = tirx.const(number, "uint32")
        return bits if lanes == 1 else tirx.Broadcast(bits, lanes)

    bits = tirx.reinterpret("uint32" if lanes == 1 else f"uint32x{lanes}", real)
    half = const(0x7FFF) + ((bits >> const(16)) & const(1))
    nan = (bits & const(0x7FFFFFFF)) > const(0x7F800000)
    return tirx.Select(nan, bits | const(0x400000), bits + half) >> const(16)
