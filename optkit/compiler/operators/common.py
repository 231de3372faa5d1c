"""Helpers the operator definitions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import sym, te, tirx

from optkit.compiler import rounding

OP = "optkit.op"
"""Block annotation that names an operator to the kernel rules."""


def const(value: float, dtype: str) -> Any:
    """A literal of the given type."""
    return tirx.const(value, dtype)


def number(value: Any, dtype: str) -> Any:
    """A whole number, known or an expression, as one of the given type."""
    return const(value, dtype) if isinstance(value, int) else value.astype(dtype)


def static(shape: Sequence[Any]) -> list[Any]:
    """Shape with known extents as plain ints and symbolic ones left alone."""
    return [int(d) if isinstance(d, (int, tirx.IntImm)) else d for d in shape]


def simplified(extent: Any) -> Any:
    """An extent as TVM writes it."""
    return extent if isinstance(extent, int) else sym.Analyzer().simplify(extent)


def flatten(index: Sequence[Any], shape: Sequence[Any]) -> Any:
    """How many elements of a tensor of this shape are before the one at an index; the first extent does not matter."""
    flat: Any = 0
    for i, extent in zip(index, shape, strict=True):
        flat = flat * extent + i
    return flat


def unflatten(flat: Any, shape: Sequence[Any]) -> list[Any]:
    """The index into `shape` of the element that is so many rows behind the first."""
    index: list[Any] = []
    for position, extent in reversed(list(enumerate(shape))):
        index.append(flat % extent if position else flat)
        flat = flat // extent
    return index[::-1]


BITS = "uint16"
"""bfloat16 numbers as their bits, for kernels with an instruction for pairs of them: TVM turns arithmetic on bfloat16
into float32's wherever it meets the type, and has no vectors that choose between such numbers."""


PAIR = "uint32"
"""Two bfloat16 numbers as their bits, the first in the lower half."""


def accumulator(dtype: str) -> str:
    """Type that sums of products of `dtype` are kept in."""
    return "int32" if "int" in dtype and dtype not in (BITS, PAIR) else "float32"


def factor(value: Any, tensor: te.Tensor, kind: str) -> Any:
    """An element of `tensor` as it is multiplied: in the type of the sum."""
    if str(tensor.dtype) == BITS:
        return tirx.reinterpret("float32", value.astype("uint32") << tirx.const(16, "uint32"))
    return value.astype(kind)


def widened(data: te.Tensor) -> te.Tensor:
    """Bits of bfloat16 as float32, for what reads every element several times; any other tensor as it is."""
    if str(data.dtype) != BITS:
        return data
    return te.compute(data.shape, lambda *i: factor(data(*i), data, "float32"), name="widen")


def four(byte: Callable[[int], Any]) -> Any:
    """Four unsigned bytes in an int32, the first the lowest."""
    word = byte(0).astype("int32")
    for place in (1, 2, 3):
        word = word | (byte(place).astype("int32") << const(8 * place, "int32"))
    return word


def dot_four(left: Any, right: Any) -> Any:
    """Sum of the products of four unsigned bytes in an int32 with four signed ones, what a dot product is of.

    Written as the intrinsic's description has it: the two must be one expression.
    """
    terms = [
        ((left >> const(8 * i, "int32")) & const(255, "int32"))
        * ((right << const(24 - 8 * i, "int32")) >> const(24, "int32"))
        for i in range(4)
    ]
    return terms[0] + terms[1] + terms[2] + terms[3]


def dot_two(left: Any, right: Any) -> Any:
    """Sum of the products of two pairs of bfloat16 numbers; written as the intrinsic's description has it."""

    def real(word: Any) -> Any:
        return tirx.reinterpret("float32", word)

    half, upper = const(16, PAIR), const(0xFFFF0000, PAIR)
    return real(left << half) * real(right << half) + real(left & upper) * real(right & upper)


def rounded_bits(value: Any, native: bool) -> Any:
    """A float32 as the bits of the nearest bfloat16, ties to even; a NaN stays one.

    Args:
        native: the target has an instruction for it; denormals become zero then.
    """
    return rounding.native(value) if native else rounding.rounded(value).astype(BITS)


def to_bits(data: te.Tensor, native: bool = False) -> te.Tensor:
    """float32 -> the bits of bfloat16, see `rounded_bits`."""
    return te.compute(data.shape, lambda *i: rounded_bits(data(*i), native), name="to_bits")


def pad_axes(
    data: te.Tensor,
    before: Sequence[int],
    extents: Sequence[int],
    axis: int,
    value: float,
    dtype: str | None = None,
) -> te.Tensor:
    """`data` with the axes from `axis` on widened to `extents`, `before` elements of `value` in front.

    Returns `data` itself where nothing changes.
    """
    shape = static(data.shape)
    inner = shape[axis : axis + len(extents)]
    if not any(before) and inner == list(extents) and dtype in (None, str(data.dtype)):
        return data
    kind = dtype or str(data.dtype)
    if kind == "bfloat16":
        # TVM cannot vectorize a choice between bfloat16 values. float32 holds them exactly, and the loop
        # that multiplies them then need not widen them again at every use.
        kind = "float32"
    full = [*shape[:axis], *extents, *shape[axis + len(extents) :]]

    def element(*index: Any) -> Any:
        source = list(index)
        inside = []
        for i, (lead, size, extent) in enumerate(zip(before, inner, extents, strict=True)):
            source[axis + i] = index[axis + i] - lead
            if lead:
                inside.append(index[axis + i] >= lead)
            if lead + size < extent:
                inside.append(index[axis + i] < lead + size)
        read = data(*source).astype(kind)
        return te.if_then_else(tirx.all(*inside), read, const(value, kind)) if inside else read

    return te.compute(full, element, name="pad", attrs={OP: "pad"})
