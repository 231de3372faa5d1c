"""Conversions between element types, as arithmetic (ONNX operators Cast and BitCast)."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from optkit.artifact.spec import storage
from optkit.compiler.operators import formats
from optkit.compiler.operators.common import const

REALS = ("float16", "float32", "float64")


def load(x: Any, dtype: str) -> Any:
    """An element of any type as a number that arithmetic can be done with: float16 to 64, or an integer."""
    if dtype in formats.FORMATS:
        return formats.decode(x, formats.FORMATS[dtype])
    if dtype == formats.SCALE:
        return formats.decode_scale(x)
    if dtype in formats.INTEGERS:
        return formats.decode_integer(x, *formats.INTEGERS[dtype])
    if dtype == "bfloat16":
        return tirx.reinterpret("float32", tirx.reinterpret("uint16", x).astype("uint32") << const(16, "uint32"))
    return x.astype("int32") if dtype == "bool" else x


def store(x: Any, dtype: str, saturate: bool = True, mode: str = "up") -> Any:
    """A number as an element of any type.

    Args:
        saturate: what is too large for a format of 8 bits becomes its largest number.
        mode: rounding to powers of two, see `formats.encode_scale`.
    """
    real = "float" in str(x.ty.dtype)
    if dtype in formats.FORMATS:
        return formats.encode(single(x), formats.FORMATS[dtype], saturate)
    if dtype == formats.SCALE:
        return formats.encode_scale(single(x), saturate, mode)
    if dtype == "bfloat16":
        return to_bfloat16(single(x))
    if dtype in formats.INTEGERS:
        return formats.encode_integer(x.astype("int32") if real else x, formats.INTEGERS[dtype][0])
    if dtype == "bool":
        return x != const(0, str(x.ty.dtype))
    if dtype == "float16":
        return x if str(x.ty.dtype) == dtype else single(x).astype(dtype)
    if dtype in REALS or not real:
        return x.astype(dtype)
    return _truncate(x, dtype)


def _truncate(x: Any, dtype: str) -> Any:
    """A float towards zero as an integer, as numpy does it: out of range, the high bits are lost."""
    if dtype in ("int32", "int64"):
        return x.astype(dtype)
    if dtype == "uint64":
        # beyond int64's range only the unsigned conversion is right, below zero only the signed one
        top = const(2.0**63, str(x.ty.dtype)) if str(x.ty.dtype) != "float16" else None
        signed = x.astype("int64").astype(dtype)
        return signed if top is None else tirx.Select(x >= top, x.astype(dtype), signed)
    return x.astype("int64" if dtype == "uint32" else "int32").astype(dtype)


def single(x: Any) -> Any:
    """A number as float32 from which any narrower type is rounded as from the number itself.

    float64 and wide integers are rounded to odd, which keeps what was cut off visible to the second rounding
    (Boldo and Melquiond, "Emulation of FMA and Correctly Rounded Sums", 2008, section 2).
    """
    dtype = str(x.ty.dtype)
    if dtype in ("int32", "uint32", "int64", "uint64"):
        x, dtype = x.astype("float64"), "float64"
    if dtype != "float64":
        return x.astype("float32")
    return formats.shared(x, _to_odd)


def _to_odd(x: Any) -> Any:
    near = x.astype("float32")
    bits = tirx.reinterpret("uint32", near)
    back = near.astype("float64")
    one = const(1, "uint32")
    beyond = tirx.abs(back) > tirx.abs(x)
    odd = tirx.Select(beyond, bits - one, bits) | one
    # NaN compares unequal to itself: its bits stay as they are
    return tirx.reinterpret("float32", tirx.Select(tirx.any(back < x, back > x), odd, bits))


def to_bfloat16(x: Any) -> Any:
    """float32 to bfloat16, half to even; NaN stays NaN whatever its payload."""
    return formats.shared(tirx.reinterpret("uint32", x), _upper_half)


def _upper_half(bits: Any) -> Any:
    sixteen = const(16, "uint32")
    carried = bits + ((bits >> sixteen) & const(1, "uint32")) + const(0x7FFF, "uint32")
    is_nan = (bits & const(0x7FFFFFFF, "uint32")) > const(0x7F800000, "uint32")
    kept = tirx.Select(is_nan, bits | const(1 << 22, "uint32"), carried)
    return tirx.reinterpret("bfloat16", (kept >> sixteen).astype("uint16"))


def cast(data: te.Tensor, source: str, dtype: str, saturate: bool = True, mode: str = "up") -> te.Tensor:
    """Every element of type `source` as `dtype`; both may be types that are kept in bytes."""
    return te.compute(data.shape, lambda *i: store(load(data(*i), source), dtype, saturate, mode), name="cast")


def bitcast(data: te.Tensor, dtype: str) -> te.Tensor:
    """Every element's bits as another type of the same size."""
    kind, given = storage(dtype), str(data.dtype)

    def element(*i: Any) -> Any:
        if kind == "bool":
            return data(*i) != const(0, given)
        return data(*i).astype(kind) if given == "bool" else tirx.reinterpret(kind, data(*i))

    return te.compute(data.shape, element, name="bitcast")


__all__ = ["REALS", "bitcast", "cast", "load", "single", "store", "to_bfloat16"]
