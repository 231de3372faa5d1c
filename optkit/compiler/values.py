"""A tensor while the graph is lowered: one logical value in whichever layouts were asked for so far.

This is the layout pass. Each ONNX value is plain, blocked by some number of channels, or both; a consumer
asks for the form it wants and gets the one that exists or one move. Convolutions want and make blocked
values, element-wise operators take the form their operands have, everything else asks for plain ones. So
moves appear only where a blocked region begins or ends.

Quantized values stay integers the same way: a DequantizeLinear makes no code until a consumer asks for the
real numbers, and an integer accumulator becomes real only if its consumer is not a QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax, tirx

from optkit.artifact.spec import storage
from optkit.compiler.operators import layout, quant

if TYPE_CHECKING:
    from optkit.compiler.lowering import Lowering

PLAIN = 0
INJECTIVE, OUT_FUSABLE, OPAQUE = 2, 4, 8
"""TVM's operator kinds for fusion, given where its own analysis would have to guess."""

Shape = tuple[Any, ...]


def dims(shape: Sequence[Any]) -> Shape:
    """Known extents as ints, symbolic ones as TIR expressions."""
    return tuple(int(d) if isinstance(d, (int, tirx.IntImm)) else d for d in shape)


class Value:
    """A logical tensor with its forms: 0 is plain, b is (N, C/b, *spatial, b)."""

    def __init__(
        self,
        low: Lowering,
        shape: Shape | None,
        dtype: str,
        forms: dict[int, Any] | None = None,
        const: np.ndarray | None = None,
    ) -> None:
        self.low, self.dtype, self.const = low, dtype, const
        self._shape = shape
        self.forms: dict[int, Any] = forms or {}

    @property
    def shape(self) -> Shape:
        """Logical extents, (N, C, *spatial) for an image."""
        if self._shape is None:
            raise ValueError("a value of unknown rank has no shape")
        return self._shape

    @property
    def block(self) -> int:
        """The form it was made in: moves made since for some consumer do not change what the others prefer."""
        return int(next(iter(self.forms), PLAIN))

    def form(self, block: int) -> Any:
        """The Relax expression of this value in the given form, moved once if need be."""
        if block not in self.forms:
            self.forms[block] = self.make(block)
        return self.forms[block]

    def make(self, block: int) -> Any:
        """Compute a form that is not there yet."""
        if self.const is not None:
            array = self.const if block == PLAIN else block_array(self.const, block)
            kind = storage(self.dtype)
            return relax.const(array if kind == self.dtype else array.view(kind), kind)
        if block != PLAIN and PLAIN not in self.forms and self.low.target.device == "cpu":
            made, source = next(iter(self.forms.items()))
            if max(made, block) % min(made, block) == 0:
                return self.low.emit(layout.to_other_blocks, source, self.shape[1], block, name="to_other_blocks")
        if block != PLAIN:
            return self.low.emit(layout.to_blocked, self.form(PLAIN), block, name="to_blocked", kind=INJECTIVE)
        source = next(iter(self.forms.values()))
        return self.low.emit(layout.to_plain, source, self.shape[1], name="to_plain", kind=INJECTIVE)

    def plain(self) -> Any:
        """The plain form."""
        return self.form(PLAIN)


def block_array(array: np.ndarray, block: int) -> np.ndarray:
    """numpy (N, C, *S) -> (N, C/b, *S, b)."""
    n, c, *space = array.shape
    missing = -c % block
    full = np.pad(array, [(0, 0), (0, missing), *[(0, 0)] * len(space)])
    split = full.reshape(n, -1, block, *space)
    return np.ascontiguousarray(np.moveaxis(split, 2, -1))


@dataclass(frozen=True)
class Affine:
    """A real value as (q - zero) * scale; q is kept unsigned, `signed` says that the model has it as int8."""

    q: Value
    scale: float
    zero: int
    signed: bool


class Dequantized(Value):
    """The output of a DequantizeLinear on an activation; every consumer absorbs its own copy."""

    def __init__(self, low: Lowering, affine: Affine) -> None:
        super().__init__(low, affine.q.shape, "float32")
        self.affine = affine

    @property
    def block(self) -> int:
        return self.affine.q.block

    def form(self, block: int) -> Any:
        a = self.affine
        return self.low.emit(quant.dequantize, a.q.form(block), a.scale, a.zero, name="dequantize")


class Deferred(Value):
    """A value that nobody has computed; its plain form is made where someone asks for any."""

    @property
    def block(self) -> int:
        return PLAIN

    def make(self, block: int) -> Any:
        return self.make_plain() if block == PLAIN else super().make(block)

    def make_plain(self) -> Any:
        """Compute the plain form."""
        raise NotImplementedError


class Known(Deferred):
    """Integers that follow from the shapes of other tensors; a tensor only where someone asks for it.

    `elements` is an array of ints and TIR expressions.
    """

    def __init__(self, low: Lowering, elements: np.ndarray, dtype: str) -> None:
        super().__init__(low, tuple(elements.shape), dtype)
        self.elements = elements

    def make_plain(self) -> Any:
        """A tensor of what the extents are when the model runs."""
        extents = [tirx.const(e, "int64") if isinstance(e, int) else e for e in self.elements.flat]
        expr = self.low.bind(relax.op.shape_to_tensor(relax.ShapeExpr(extents)))
        if len(self.shape) != 1:
            expr = self.low.bind(relax.op.reshape(expr, self.shape))
        return expr if self.dtype == "int64" else self.low.bind(relax.op.astype(expr, self.dtype))


class QuantizedWeight(Value):
    """A constant int8 or int32 tensor behind a DequantizeLinear: real = (q - zero) * scale.

    `zero` holds one number or one a channel, in int64; None where all are 0. `narrow` has the integers as the model
    does, where they are of half a byte and a kernel can read them so.
    """

    def __init__(
        self,
        low: Lowering,
        q: np.ndarray,
        scale: np.ndarray,
        axis: int,
        real: np.ndarray,
        zero: np.ndarray | None = None,
        narrow: GroupedWeight | None = None,
    ) -> None:
        super().__init__(low, tuple(real.shape), str(real.dtype), const=real)
        self.q, self.scale, self.axis, self.zero, self.narrow = q, scale, axis, zero, narrow


class GroupedWeight(Value):
    """A constant matrix of integers behind a DequantizeLinear, with scales and zero points for groups of one axis.

    Attributes:
        q: of any integer type of at most 8 bits.
        scale, zero: of `q`'s rank; along `axis` one a group of `group`, along the other one an element. `zero` may be
            None.
    """

    def __init__(
        self,
        low: Lowering,
        q: np.ndarray,
        scale: np.ndarray,
        zero: np.ndarray | None,
        axis: int,
        group: int,
        real: np.ndarray,
    ) -> None:
        super().__init__(low, tuple(real.shape), str(real.dtype), const=real)
        self.q, self.scale, self.zero, self.axis, self.group = q, scale, zero, axis, group


class Accumulated(Value):
    """The int32 result of an integer convolution or matrix product, real only if someone asks.

    real = clip((acc + bias[c]) * scale[c], low, high)
    """

    def __init__(
        self,
        low: Lowering,
        shape: Shape,
        acc: Any,
        block: int,
        bias: np.ndarray,
        scale: np.ndarray,
        bounds: tuple[float, float] = (float("-inf"), float("inf")),
    ) -> None:
        super().__init__(low, shape, "float32")
        self.acc, self.acc_block, self.bias, self.scale, self.bounds = acc, block, bias, scale, bounds

    @property
    def block(self) -> int:
        return self.acc_block

    def vectors(self, scale: np.ndarray) -> tuple[Any, Any]:
        """Bias and scale as constants in the accumulator's layout."""
        return relax.const(self.bias.astype("int32")), relax.const(scale.astype("float32"))

    def channel(self) -> quant.ChannelIndex:
        """How the accumulator's index finds its channel."""
        return quant.blocked_channel if self.acc_block else quant.last_channel

    def make(self, block: int) -> Any:
        if self.acc_block not in self.forms:
            real = self.low.emit(
                quant.dequantize_accumulator,
                self.acc,
                *self.vectors(self.scale),
                self.channel(),
                name="rescale",
            )
            low, high = self.bounds
            if self.bounds != (float("-inf"), float("inf")):
                real = self.low.clip(real, low, high)
            self.forms[self.acc_block] = real
        return self.forms[block] if block in self.forms else super().make(block)
