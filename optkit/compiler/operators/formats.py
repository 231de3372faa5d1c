"""Floating-point formats of at most 8 bits, as arithmetic on float32's bits.

Micikevicius et al., "FP8 Formats for Deep Learning", 2022, for E4M3 and E5M2; Noune et al., "8-bit Numerical Formats
for Deep Neural Networks", 2022, for the FNUZ kinds; "OCP Microscaling Formats (MX) Specification" 1.0, 2023, for the
others. Rules of conversion: ONNX operator Cast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tvm import tirx

from optkit.compiler.operators.common import const

_MANTISSA, _BIAS = 23, 127
_INFINITY = 0x7F800000


@dataclass(frozen=True)
class Format:
    """A sign, `exponent` bits and `mantissa` bits.

    Attributes:
        special: "ieee" has infinities and NaNs in its last exponent, "fn" one NaN of either sign, all bits set,
            "fnuz" one NaN in the place of -0, and "none" neither NaN nor infinity.
    """

    exponent: int
    mantissa: int
    bias: int
    special: Literal["ieee", "fn", "fnuz", "none"]

    @property
    def sign(self) -> int:
        """The sign's bit."""
        return 1 << (self.exponent + self.mantissa)

    @property
    def largest(self) -> int:
        """Code of the largest finite number."""
        return self.sign - 1 - {"ieee": 1 << self.mantissa, "fn": 1}.get(self.special, 0)


FORMATS = {
    "float8_e4m3fn": Format(4, 3, 7, "fn"),
    "float8_e4m3fnuz": Format(4, 3, 8, "fnuz"),
    "float8_e5m2": Format(5, 2, 15, "ieee"),
    "float8_e5m2fnuz": Format(5, 2, 16, "fnuz"),
    "float6_e2m3fn": Format(2, 3, 1, "none"),
    "float6_e3m2fn": Format(3, 2, 3, "none"),
    "float4_e2m1fn": Format(2, 1, 1, "none"),
}
SCALE = "float8_e8m0fnu"
"""Powers of two from 2^-127 to 2^127, and a NaN: an exponent without sign and mantissa."""
INTEGERS = {"int4": (4, True), "uint4": (4, False), "int2": (2, True), "uint2": (2, False)}
"""Bits and signedness of the integers kept in a byte."""


def _int(value: int) -> Any:
    return const(value, "int32")


def _bits(x: Any) -> Any:
    return tirx.reinterpret("int32", x)


def _float(bits: Any) -> Any:
    # Unsigned: TVM takes int32 in a condition for indices, and widens it to 64 bits under the reinterpretation.
    return tirx.reinterpret("float32", bits.astype("uint32"))


def decode(code: Any, form: Format) -> Any:
    """A byte as float32; bits above the format's are ignored."""
    return shared(code.astype("int32"), lambda value: _decode(value, form))


def _decode(code: Any, form: Format) -> Any:
    magnitude = code & _int(form.sign - 1)
    shift = _MANTISSA - form.mantissa
    normal = _float((magnitude << _int(shift)) + _int((_BIAS - form.bias) << _MANTISSA))
    small = magnitude.astype("float32") * const(2.0 ** (1 - form.bias - form.mantissa), "float32")
    value = tirx.Select(magnitude < _int(1 << form.mantissa), small, normal)
    if form.special == "ieee":
        last = _float((magnitude << _int(shift)) | _int(_INFINITY))
        value = tirx.Select(magnitude > _int(form.largest), last, value)
    elif form.special == "fn":
        value = tirx.Select(magnitude > _int(form.largest), _float(_int(_INFINITY | 1 << 22)), value)
    negative = (code & _int(form.sign)) != _int(0)
    value = tirx.Select(negative, -value, value)
    if form.special == "fnuz":
        value = tirx.Select((code & _int(2 * form.sign - 1)) == _int(form.sign), _nan(), value)
    return value


def shared(value: Any, body: Callable[[Any], Any]) -> Any:
    """`body(value)` with the value computed once: expressions are trees, and would be copied at every use."""
    var = tirx.Var("v", value.ty)
    return tirx.Let(var, value, body(var))


def _nan() -> Any:
    return _float(_int(_INFINITY | 1 << 22))


def encode(x: Any, form: Format, saturate: bool) -> Any:
    """float32 to a byte, rounded half to even.

    What is too large becomes the largest number with `saturate` (infinities too), else infinity, or NaN where the
    format has none; a format with neither always saturates, and makes a zero of NaN, as ml_dtypes does.
    """

    def sized(magnitude: Any, x: Any) -> Any:
        return shared(_magnitude(x, magnitude, form), lambda code: _limit(code, x, magnitude, form, saturate))

    return shared(x, lambda v: shared(_bits(v) & _int(0x7FFFFFFF), lambda magnitude: sized(magnitude, v)))


def _magnitude(x: Any, magnitude: Any, form: Format) -> Any:
    """The code of |x| as if the format had no largest number; `magnitude` are the bits of |x|."""
    shift = _MANTISSA - form.mantissa
    # Adding all but half of what is cut off, and the lowest bit kept, carries exactly where half-to-even goes up.
    carried = magnitude + ((magnitude >> _int(shift)) & _int(1)) + _int((1 << (shift - 1)) - 1)
    normal = (carried >> _int(shift)) - _int((_BIAS - form.bias) << form.mantissa)
    # The step between subnormal numbers as the unit: an integer then, and the first normal number if it carries.
    steps = tirx.nearbyint(tirx.abs(x) * const(2.0 ** (form.bias + form.mantissa - 1), "float32"))
    tiny = magnitude < _int((_BIAS - form.bias + 1) << _MANTISSA)
    return tirx.Select(tiny, tirx.Select(tiny, steps, const(0, "float32")).astype("int32"), normal)


def _limit(code: Any, x: Any, magnitude: Any, form: Format, saturate: bool) -> Any:
    """A code with its sign, and with what overflow and NaN become."""
    sign = (_bits(x) >> _int(31)) & _int(form.sign)
    # Infinity's code is beyond the largest one in every format.
    too_large = tirx.any(code > _int(form.largest), magnitude >= _int(_INFINITY))
    if saturate or form.special == "none":
        code = tirx.Select(too_large, _int(form.largest), code)
    else:
        beyond = {"ieee": form.largest + 1, "fn": form.largest + 1, "fnuz": 0}[form.special]
        code = tirx.Select(too_large, _int(beyond), code)
    is_nan = magnitude > _int(_INFINITY)
    if form.special == "fnuz":
        # the code of NaN is that of -0, which therefore becomes 0
        nan = is_nan if saturate else tirx.any(too_large, is_nan)
        code = tirx.Select(nan, _int(form.sign), tirx.Select(code == _int(0), code, code | sign))
    elif form.special == "none":
        code = tirx.Select(is_nan, _int(form.sign) ^ sign, code | sign)
    else:
        quiet = form.sign - 1 if form.special == "fn" else form.largest + 1 + (1 << (form.mantissa - 1))
        code = tirx.Select(is_nan, _int(quiet), code) | sign
    return code.astype("uint8")


def decode_scale(code: Any) -> Any:
    """E8M0 to float32; 2^-127 is a subnormal number there."""
    code = code.astype("int32")
    value = tirx.Select(code == _int(0), _float(_int(1 << 22)), _float(code << _int(_MANTISSA)))
    return tirx.Select(code == _int(255), _nan(), value)


def encode_scale(x: Any, saturate: bool, mode: str) -> Any:
    """float32 to E8M0: the exponent, rounded "up", "down" or to "nearest" (ties up).

    Of negative numbers, which have no meaning here, the magnitude is taken. NaN and infinity give NaN without
    `saturate`; with it, infinity gives the largest power.
    """
    magnitude = _bits(x) & _int(0x7FFFFFFF)
    power = magnitude >> _int(_MANTISSA)
    fraction = magnitude & _int((1 << _MANTISSA) - 1)
    half = _int(1 << (_MANTISSA - 1))
    # Subnormal numbers are below 2^-126; code 0 is 2^-127, half of that.
    up = {
        "up": tirx.Select(power == _int(0), fraction > half, fraction != _int(0)),
        "nearest": tirx.Select(power == _int(0), fraction >= half + (half >> _int(1)), fraction >= half),
        "down": tirx.const(False, "bool"),
    }[mode]
    code = power + tirx.Select(up, _int(1), _int(0))
    if saturate:
        code = tirx.min(code, _int(254))
    else:
        below = tirx.all(power == _int(0), fraction < half)
        code = tirx.Select(tirx.any(code > _int(254), magnitude >= _int(_INFINITY), below), _int(255), code)
    return tirx.Select(magnitude > _int(_INFINITY), _int(255), code).astype("uint8")


def decode_integer(code: Any, bits: int, signed: bool) -> Any:
    """The low bits of a byte as int32."""
    low = code.astype("int32") & const((1 << bits) - 1, "int32")
    if not signed:
        return low
    half = const(1 << (bits - 1), "int32")
    return (low ^ half) - half


def encode_integer(x: Any, bits: int) -> Any:
    """An integer's low bits: what does not fit loses its high bits."""
    return (x & const((1 << bits) - 1, str(x.ty.dtype))).astype("uint8")


__all__ = [
    "FORMATS",
    "INTEGERS",
    "SCALE",
    "Format",
    "decode",
    "decode_integer",
    "decode_scale",
    "encode",
    "encode_integer",
    "encode_scale",
    "shared",
]
