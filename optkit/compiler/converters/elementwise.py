"""Element-wise operators: in whatever layout their operands have, and always computed in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from optkit.compiler.converters import general
from optkit.compiler.converters.norms import training_batch_normalization
from optkit.compiler.converters.operands import Formula, apply, common_block
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import transcendental as math_ops
from optkit.compiler.operators.exact import multiply
from optkit.compiler.values import PLAIN, Accumulated, Value

op = relax.op


def _c(value: float) -> Any:
    return relax.const(float(value), "float32")


def _hard_sigmoid(x: Any, alpha: float, beta: float) -> Any:
    return op.minimum(op.maximum(op.add(op.multiply(x, _c(alpha)), _c(beta)), _c(0)), _c(1))


def _map(low: Lowering, function: str) -> Formula:
    """A function without a vector instruction, as arithmetic (see operators/transcendental.py)."""
    return lambda x: low.emit(math_ops.mapped(function), low.bind(x), name=function.lower())


def _exp(low: Lowering) -> Formula:
    """The polynomial's range ends before float32's: near there, 2 e^(x - ln 2), which overflows where e^x does."""
    power = _map(low, "Exp")

    def formula(x: Any) -> Any:
        x = low.bind(x)
        large = low.bind(op.greater(x, _c(88.0)))
        y = low.bind(power(op.where(large, op.subtract(x, _c(math.log(2))), x)))
        return op.where(large, op.add(y, y), y)

    return formula


_LIBM = ("Exp", "Sigmoid", "Tanh", "Erf")


def _leaky(alpha: float) -> Formula:
    return lambda x: op.add(op.maximum(x, _c(0)), op.multiply(op.minimum(x, _c(0)), _c(alpha)))


_UNARY: dict[str, Callable[[Lowering, Node], Formula]] = {
    "Relu": lambda low, n: op.nn.relu,
    "Sqrt": lambda low, n: op.sqrt,
    "Abs": lambda low, n: op.abs,
    "Neg": lambda low, n: op.negative,
    "LeakyRelu": lambda low, n: _leaky(n.get("alpha", 0.01)),
    "HardSigmoid": lambda low, n: lambda x: _hard_sigmoid(x, n.get("alpha", 0.2), n.get("beta", 0.5)),
    "HardSwish": lambda low, n: lambda x: op.multiply(x, _hard_sigmoid(x, 1 / 6, 0.5)),
    "Gelu": lambda low, n: _map(low, "GeluTanh" if n.get("approximate", "none") == "tanh" else "Gelu"),
}

_BINARY: dict[str, Formula] = {
    "Add": op.add,
    "Sub": op.subtract,
    "Mul": op.multiply,
    "Div": op.divide,
    "PRelu": lambda x, slope: op.add(op.maximum(x, _c(0)), op.multiply(op.minimum(x, _c(0)), slope)),
}


def _float(value: Value) -> bool:
    return value.dtype in ("float32", "float16")


def _unary(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    x = inputs[0]
    if x is None or not _float(x) or x.const is not None:
        return None
    if node.op_type == "Relu" and isinstance(x, Accumulated):
        return _bounded(x, 0.0, float("inf"))
    if node.op_type == "Sqrt":
        x = _without_lanes(x)
    if node.op_type == "Exp":
        return apply(low, _exp(low), [x])
    if node.op_type in _LIBM:
        return apply(low, _map(low, node.op_type), [x])
    return apply(low, _UNARY[node.op_type](low, node), [x])


def _bounded(x: Accumulated, low_bound: float, high_bound: float) -> Accumulated:
    """An accumulator with a tighter range; the clip happens where the value is made real or requantized."""
    low, high = (min(max(bound, low_bound), high_bound) for bound in x.bounds)
    bounds = low, high
    return Accumulated(x.low, x.shape, x.acc, x.acc_block, x.bias, x.scale, bounds)


def _clip(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    x = inputs[0]
    if x is None or not _float(x) or x.const is not None:
        return None
    bounds = [node.get("min", float("-inf")), node.get("max", float("inf"))]
    for i in (0, 1):
        given = inputs[i + 1] if len(inputs) > i + 1 else None
        if given is not None:
            if given.const is None or given.const.size != 1:
                return None
            bounds[i] = float(given.const.reshape(()))
    if isinstance(x, Accumulated):
        return _bounded(x, *bounds)

    def formula(e: Any) -> Any:
        if bounds[0] != float("-inf"):
            e = op.maximum(e, _c(bounds[0]))
        return op.minimum(e, _c(bounds[1])) if bounds[1] != float("inf") else e

    return apply(low, formula, [x])


def _binary(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    a, b = inputs[0], inputs[1]
    if a is None or b is None or not _float(a) or a.dtype != b.dtype:
        return None
    if a.const is not None and b.const is not None:
        return None
    formula = _BINARY[node.op_type]
    return apply(low, _rounded(low) if low.rounded and node.op_type == "Mul" else formula, [a, b])


def _prelu(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """PRelu; before opset 7 its slopes were one per channel, whatever follows the channels.

    Converting the opset leaves such a vector as it is. Where it does not broadcast, it can mean nothing else.
    """
    x, slope = inputs[0], inputs[1]
    if x is not None and slope is not None and len(slope.shape) == 1 and len(x.shape) > 2:
        length = slope.shape[0]
        if isinstance(length, int) and length != 1 and x.shape[1] == length and x.shape[-1] != length:
            shape = (length, *[1] * (len(x.shape) - 2))
            if slope.const is not None:
                slope = Value(low, shape, slope.dtype, const=slope.const.reshape(shape))
            else:
                slope = low.wrap(low.bind(op.reshape(slope.plain(), shape)))
    operands = [x, slope]
    return _binary(low, node, operands) or general.binary(low, node, operands)


def _rounded(low: Lowering) -> Formula:
    """Products that no sum behind them contracts."""

    def formula(a: Any, b: Any) -> Any:
        if isinstance(a, tvm.ir.GenericConst):
            a, b = b, a
        number = float(b.value.numpy()) if isinstance(b, tvm.ir.GenericConst) and not b.value.shape else None
        # On a CPU SiLU behind an INT8 convolution is as quick in a kernel of its own, or quicker (YOLOv8n: 3 %).
        fused = low.target.device != "cpu"
        return low.emit(multiply, low.bind(a), low.bind(b) if number is None else number, fused, name="multiply")

    return formula


def _fold(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Max, Min and Sum of several operands."""
    values = [v for v in inputs if v is not None]
    if not all(_float(v) and v.dtype == values[0].dtype for v in values) or all(v.const is not None for v in values):
        return None
    step: Formula = {"Max": op.maximum, "Min": op.minimum, "Sum": op.add}[node.op_type]

    # Of two numbers of which one is NaN, maximum gives the second: behind a constant that is right.
    values.sort(key=lambda v: v.const is None)
    safe = node.op_type == "Sum" or (len(values) == 2 and values[0].const is not None)

    def formula(*exprs: Any) -> Any:
        total = exprs[0]
        for e in exprs[1:]:
            total = step(total, e) if safe else op.where(op.isnan(total), total, step(total, e))
        return total

    return apply(low, formula, values)


def _batch_norm(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value] | None:
    """x * s + t with s = scale / sqrt(var + epsilon), t = bias - mean * s (Ioffe and Szegedy, 2015, section 3.1)."""
    x = inputs[0]
    if node.get("training_mode", 0):
        return training_batch_normalization(low, node, inputs)
    if x is None or not _float(x) or node.outputs != 1:
        return None
    scale, bias, mean, var = (v.const.astype("float64") if v and v.const is not None else None for v in inputs[1:5])
    if scale is None or bias is None or mean is None or var is None:
        return None
    s = scale / np.sqrt(var + float(node.get("epsilon", 1e-5)))
    shape = (1, len(s), *[1] * (len(x.shape) - 2))
    factors = [
        Value(low, shape, x.dtype, const=array.reshape(shape).astype("float32")) for array in (s, bias - mean * s)
    ]
    return apply(low, lambda e, f, t: op.add(op.multiply(e, f), t), [x, *factors])


def _equal(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Equal of booleans, which LLVM does not compare; TVM has the others."""
    if any(v is None or v.dtype != "bool" for v in inputs):
        return None
    values = [v for v in inputs if v is not None]
    return general.elementwise(low, lambda a, b: tirx.EQ(a.astype("uint8"), b.astype("uint8")), values, "bool", "equal")


def _identity(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    return inputs[0] if node.outputs == 1 else None


def _divide(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Division by a tensor whose last block has empty lanes would make NaNs there; it is done plain."""
    a, b = inputs[0], inputs[1]
    if b is not None and b.const is not None and a is not None and _float(a) and a.const is None and not low.rounded:
        # float32, whatever b is: the reciprocal of a small float16 overflows
        reciprocal = Value(low, b.shape, a.dtype, const=(1.0 / b.const.astype("float64")).astype("float32"))
        return apply(low, op.multiply, [a, reciprocal])
    if a is not None and b is not None and _float(a) and a.dtype == b.dtype:
        block = common_block([a, b])
        if block and any(v.const is None and len(v.shape) > 1 and _padded(v.shape[1], block) for v in (a, b)):
            inputs = [_as_plain(a), _as_plain(b)]
    return _binary(low, node, inputs)


def _power(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Pow by 2 or 3 as products, as ONNX Runtime has them, and by 0.5 as a root, a function libm takes long for."""
    x, power = inputs
    if x is None or power is None or power.const is None or power.const.size != 1 or not _float(x) or low.rounded:
        return None
    if len(power.shape) > len(x.shape) or x.const is not None:
        return None
    formulas: dict[float, Formula] = {
        0.5: op.sqrt,
        2.0: lambda e: op.multiply(e, e),
        3.0: lambda e: op.multiply(op.multiply(e, e), e),
    }
    exponent = float(power.const.reshape(()))
    formula = formulas.get(exponent)
    if formula is None:
        return None
    return apply(low, lambda e: formula(low.bind(e)), [_without_lanes(x) if exponent == 0.5 else x])


def _padded(channels: Any, block: int) -> bool:
    return not isinstance(channels, int) or channels % block != 0


def _without_lanes(x: Value) -> Value:
    """A value without empty lanes, which may hold negative numbers: the NaN of their root would reach all channels."""
    return _as_plain(x) if x.block and _padded(x.shape[1], x.block) else x


def _as_plain(value: Value) -> Value:
    if value.const is not None:
        return value
    return value.low.blocked(value.shape, value.dtype, PLAIN, value.plain())


_PLAIN_FLOAT = frozenset(
    [
        *["Log", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Floor", "Ceil", "Round", "Sign", "Reciprocal"],
        *["Elu", "Selu", "Mish", "Softsign", "ThresholdedRelu", "Pow", "Mean"],
    ]
)
"""Left to TVM's converters where all operands are float32; some of them fail on float16."""


def _otherwise(fast: Converter | None, op_type: str) -> Converter:
    """`fast` where it applies, else the general form."""

    def convert(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value] | None:
        found = None if fast is None else fast(low, node, inputs)
        if found is not None:
            return found
        kinds = {v.dtype for v in inputs if v is not None}
        if "shape" in kinds or (op_type in _PLAIN_FLOAT and kinds == {"float32"}):
            return None
        return general.CONVERTERS[op_type](low, node, inputs)

    return convert


_FAST: dict[str, Converter] = {
    **dict.fromkeys((*_UNARY, *_LIBM), _unary),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(("Max", "Min", "Sum"), _fold),
    "Div": _divide,
    "Pow": _power,
    "PRelu": _prelu,
    "Clip": _clip,
}
CONVERTERS: dict[str, Converter] = {
    **{op_type: _otherwise(_FAST.get(op_type), op_type) for op_type in general.CONVERTERS},
    "Equal": _equal,
    "BatchNormalization": _batch_norm,
    "Identity": _identity,
}

__all__ = ["CONVERTERS", "apply", "common_block"]
