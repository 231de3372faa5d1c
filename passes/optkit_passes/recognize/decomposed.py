"""Quantization spelled out in Mul, Round and Clip, as QuantizeLinear and DequantizeLinear.

What is found, around a Round (which rounds half to even, as QuantizeLinear does):

    q = Cast?(Clip(Round(x / s) + z, low, high))        x / s may be x * (1 / s)
    y = (Cast?(q) - z) * s                              z may be left out, or be in the Clip alone

and the same with the Clip before the Round: rounding is monotonic and keeps whole numbers, so the order of both does
not matter for whole bounds. With the zero point added before the Round, round(x / s + z) is round(x / s) + z for
even z only: an odd one turns ties the other way. Then r = round(x / s) lies in [low - z, high - z], and

    y = DequantizeLinear(QuantizeLinear(x, s, z'), s, z')

for any z' with which the type's range, moved by it, holds that interval. Where it is wider than the interval, x is
clipped to [(low - z) s, (high - z) s] before: its ends are whole steps, and rounding is monotonic. The float32
quotient x * fl(1 / s) may differ from x / s in its last bit, so may a tie of it.

Refused, with a finding: other roundings (Floor(x + 0.5)), bounds or zero points that are not whole, more than 256
steps, one step a channel for an activation, and odd zero points that are added before rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.graph import add_constant, is_op, nodes, producer
from optkit_passes.recognize import writer
from optkit_passes.recognize.constants import evaluate, scalar_of

_ROUNDING = 2.0**-22
"""What two float32 roundings may be off, relatively."""


@dataclass
class _Quantizer:
    """x -> Clip(Round(x / scale) + zero, low, high); `end` is its last node, in float or, cast, in integers."""

    x: ir.Value
    scale: np.ndarray
    zero: float
    low: float
    high: float
    end: ir.Node


def recognize_decomposed(model: ir.Model) -> list[Finding]:
    """Rewrite in place; a finding for each quantization found, and for each that is none of ours."""
    findings = []
    for node in nodes(model):
        if not isinstance(node.graph, ir.Graph):
            continue
        if is_op(node, "Round"):
            findings += _around(node)
        elif is_op(node, "Floor") and _rounds_up(node):
            findings.append(_refused(node, "it rounds halves up (Floor(x + 0.5)), where QuantizeLinear rounds to even"))
    for node in nodes(model):
        if is_op(node, "Cast") and isinstance(node.graph, ir.Graph):
            findings += _dequantizer(node)
    return findings


def _refused(node: ir.Node, why: str) -> Finding:
    return Finding("skipped", node.name or "", f"quantization spelled out stays so: {why}")


def _rounds_up(node: ir.Node) -> bool:
    """Floor(x / s + 0.5), clipped behind it."""
    half = producer(node.inputs[0], "Add")
    if half is None or all(scalar_of(v) != 0.5 for v in half.inputs):
        return False
    user = _only_user(node.outputs[0])
    return user is not None and is_op(user, "Clip", "Mul")


def _around(node: ir.Node) -> list[Finding]:
    """What a Round is the middle of."""
    found = _quantizer(node)
    if found is None:
        return []
    if isinstance(found, str):
        return [_refused(node, found)]
    constant = evaluate(found.x) is not None
    if found.scale.size > 1 and not constant:
        return [_refused(node, "an activation with a scale a channel has no integer kernel")]
    if constant and found.scale.size > 1 and found.zero == 0:
        return _weight(found)
    if found.scale.size > 1:
        return [_refused(node, "scales a channel with a zero point")]
    return _activation(found)


def _quantizer(node: ir.Node) -> _Quantizer | str | None:
    """The quantizer around a Round; why it is not one of ours, or None where nothing says that it is one."""
    low, high, zero = -np.inf, np.inf, 0.0
    value = node.inputs[0]
    before = producer(value, "Clip")
    if before is not None and _only_user(before.outputs[0]) is node:
        low, high = _bounds(before)
        value = before.inputs[0]
    early = producer(value, "Add")
    added = None
    if early is not None and _only_user(early.outputs[0]) in (node, before):
        x, added = _variable_and_scalar(early)
        value = x if added is not None else value
    divided = _divided(value)
    if divided is None:
        return None
    x, scale = divided
    end = node
    late = _only_user(node.outputs[0])
    if is_op(late, "Add") and late is not None:
        _, number = _variable_and_scalar(late)
        if number is not None:
            zero, end = number, late
            low, high = low + zero, high + zero
    elif added is not None:
        zero = added
        if zero % 2:
            return "an odd zero point is added before rounding, which turns ties the other way"
    clip = _only_user(end.outputs[0])
    if is_op(clip, "Clip") and clip is not None:
        a, b = _bounds(clip)
        low, high, end = float(np.maximum(low, a)), float(np.minimum(high, b)), clip
    elif _min_max(clip) and clip is not None:
        end, low, high = _clamp(clip, low, high)
    if not np.isfinite([low, high]).all():
        return None  # nothing says how many steps there are
    if any(v != np.rint(v) for v in (low, high, zero)):
        return "its bounds or its zero point are not whole"
    if high - low > 255 or high <= low:
        return f"it has {high - low + 1:.0f} steps, not 2 to 256"
    if not (scale > 0).all():
        return "its scale is not positive"
    return _Quantizer(x, scale, zero, low, high, end)


def _divided(value: ir.Value | None) -> tuple[ir.Value, np.ndarray] | None:
    """x and s of x / s or x * (1 / s)."""
    node = producer(value, "Div", "Mul")
    if node is None or node.inputs[0] is None or node.inputs[1] is None:
        return None
    step = evaluate(node.inputs[1])
    if is_op(node, "Div"):
        return None if step is None or step.dtype != np.float32 else (node.inputs[0], step)
    x = node.inputs[0]
    if step is None or (evaluate(x) is not None and evaluate(x).size < step.size):  # type: ignore[union-attr]
        x, step = node.inputs[1], evaluate(node.inputs[0])
    if step is None or step.dtype != np.float32 or not step.all():
        return None
    return x, (np.float32(1) / step).astype(np.float32)


def _min_max(node: ir.Node | None) -> bool:
    return is_op(node, "Min", "Max") and node is not None and len(node.inputs) == 2


def _clamp(node: ir.Node, low: float, high: float) -> tuple[ir.Node, float, float]:
    """Max and Min one after the other are a Clip, in either order, for low <= high."""
    end = node
    current: ir.Node | None = node
    while current is not None and _min_max(current):
        _, number = _variable_and_scalar(current)
        if number is None:
            break
        low, high = (max(low, number), high) if is_op(current, "Max") else (low, min(high, number))
        end, current = current, _only_user(current.outputs[0])
    return end, low, high


def _bounds(clip: ir.Node) -> tuple[float, float]:
    given = clip.inputs[1:]
    low, high = -np.inf, np.inf
    if given and given[0] is not None:
        found = scalar_of(given[0])
        low = np.nan if found is None else found
    if len(given) > 1 and given[1] is not None:
        found = scalar_of(given[1])
        high = np.nan if found is None else found
    return low, high


def _variable_and_scalar(node: ir.Node) -> tuple[ir.Value | None, float | None]:
    """The operand that is no constant number, and the number that the other one is."""
    for at in (1, 0):
        number = scalar_of(node.inputs[at])
        other = node.inputs[1 - at]
        if number is not None and other is not None and scalar_of(other) is None:
            return other, number
    return None, None


def _only_user(value: ir.Value) -> ir.Node | None:
    users = [user for user, _ in value.uses()]
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def _weight(found: _Quantizer) -> list[Finding]:
    """Float weights with a scale a channel: integers and a DequantizeLinear along the axis of the scales."""
    end, scale = found.end, found.scale
    q = evaluate(end.outputs[0])
    if q is None or found.low < -128 or found.high > 127:
        return [_refused(end, "its weights could not be computed as int8")]
    wide = [k for k, d in enumerate(scale.shape) if d > 1]
    if len(wide) != 1:
        return [_refused(end, f"scales of shape {scale.shape} are not one a channel")]
    axis = wide[0] + q.ndim - scale.ndim
    after = _rescaled(end, 0.0)
    if after is None or after[1].shape != scale.shape or not _same(after[1], scale):
        return [_refused(end, "what follows does not multiply by the scale that it was divided by")]
    graph, stem = after[0].graph, found.x.name or "weight"
    made = [
        add_constant(graph, f"{stem}_quantized", q.astype(np.int8)),
        add_constant(graph, f"{stem}_scale", after[1].reshape(-1)),
        add_constant(graph, f"{stem}_zero_point", np.zeros(scale.size, np.int8)),
    ]
    real = writer.insert(
        after[0], "DequantizeLinear", made, f"{stem}_dq", ir.DataType.FLOAT, {"axis": axis}, ir.Shape(q.shape)
    )
    _take_over(after[0], real)
    return [Finding("changed", end.name or "", "weight: quantization spelled out, computed as int8")]


def _activation(found: _Quantizer) -> list[Finding]:
    end, scale = found.end, float(found.scale.reshape(-1)[0])
    low, high = found.low - found.zero, found.high - found.zero
    cast = _only_user(end.outputs[0])
    if is_op(cast, "Cast") and cast is not None and cast.outputs[0].dtype in (ir.DataType.UINT8, ir.DataType.INT8):
        return _stored(found, cast, scale, low, high)
    after = _rescaled(end, found.zero)
    if after is None:
        return [_refused(end, "what follows does not multiply by a scale, less the zero point")]
    last, factor = after
    if factor.size != 1:
        return [_refused(end, "an activation is multiplied by a scale a channel")]
    if low > 0 or high < 0:
        return [_refused(end, "zero is none of its values")]
    step = float(factor.reshape(-1)[0])
    scale = step if abs(scale / step - 1) <= _ROUNDING else scale
    if low >= -128 and high <= 127:
        zero, full = np.asarray(np.int8(0)), (-128.0, 127.0)
    else:
        zero = np.asarray(np.uint8(-low))
        full = low, 255 + low
    if low == 0:
        zero, full = np.asarray(np.uint8(0)), (0.0, 255.0)
    x = clipped(last, found.x, (low, high), full, scale)
    stem = found.x.name or "activation"
    q = writer.quantize(last, x, scale, zero, stem)
    real = writer.dequantize(last, q, step, zero, stem)
    _take_over(last, real)
    return [Finding("changed", end.name or "", f"quantization spelled out, {high - low + 1:.0f} steps, as Q/DQ")]


def _stored(found: _Quantizer, cast: ir.Node, scale: float, low: float, high: float) -> list[Finding]:
    """Integers that are stored: the type and the zero point are given."""
    signed = cast.outputs[0].dtype == ir.DataType.INT8
    least, most = (-128, 127) if signed else (0, 255)
    if not least <= found.zero <= most or found.low < least or found.high > most:
        return [_refused(found.end, "its integers or its zero point leave the type that they are cast to")]
    zero = np.asarray(found.zero, np.int8 if signed else np.uint8)
    x = clipped(cast, found.x, (low, high), (least - found.zero, most - found.zero), scale)
    q = writer.quantize(cast, x, scale, zero, found.x.name or "activation")
    _take_over(cast, q)
    return [Finding("changed", found.end.name or "", "quantization spelled out, as QuantizeLinear")]


def clipped(
    before: ir.Node, x: ir.Value, bounds: tuple[float, float], full: tuple[float, float], scale: float
) -> ir.Value:
    """`x` clipped to whole steps where `bounds` is narrower than what quantization saturates to anyway."""
    if bounds[0] <= full[0] and bounds[1] >= full[1]:
        return x
    stem = f"{x.name or 'activation'}_clipped"
    limits = [add_constant(before.graph, f"{stem}_at", np.asarray(b * scale, np.float32)) for b in bounds]
    return writer.insert(before, "Clip", [x, *limits], stem, x.dtype)


def _rescaled(node: ir.Node, zero: float) -> tuple[ir.Node, np.ndarray] | None:
    """The node that ends (q - zero) * scale, and the scale; None where `node` is not followed by that."""
    current: ir.Node | None = _only_user(node.outputs[0])
    if zero:
        if not is_op(current, "Sub", "Add") or current is None:
            return None
        _, number = _variable_and_scalar(current)
        if number is None or (number if is_op(current, "Sub") else -number) != zero:
            return None
        if is_op(current, "Sub") and scalar_of(current.inputs[1]) is None:
            return None
        current = _only_user(current.outputs[0])
    if not is_op(current, "Mul") or current is None:
        return None
    before = {v for v in current.inputs if v is not None and v.producer() is not None and evaluate(v) is None}
    for at in (1, 0):
        scale = evaluate(current.inputs[at])
        if scale is not None and scale.dtype == np.float32 and (not before or current.inputs[at] not in before):
            other = current.inputs[1 - at]
            if other is not None and (other.producer() is not None):
                return current, scale
    return None


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((np.abs(a / b - 1) <= _ROUNDING).all())


def _dequantizer(cast: ir.Node) -> list[Finding]:
    """(Cast(q) - z) * s of integers of 8 bits, constant or not."""
    q = cast.inputs[0]
    if q is None or q.dtype not in (ir.DataType.UINT8, ir.DataType.INT8) or cast.outputs[0].dtype != ir.DataType.FLOAT:
        return []
    current, zero = _only_user(cast.outputs[0]), np.zeros((), np.float32)
    if is_op(current, "Sub") and current is not None and current.inputs[0] is cast.outputs[0]:
        given = evaluate(current.inputs[1])
        if given is None:
            return []
        zero, current = given, _only_user(current.outputs[0])
    if not is_op(current, "Mul") or current is None:
        return []
    chain = {cast.outputs[0]} | {n.outputs[0] for n in (current.inputs[0].producer(),) if n}  # type: ignore[union-attr]
    scale = next((evaluate(v) for v in current.inputs if v not in chain and evaluate(v) is not None), None)
    if scale is None or scale.dtype != np.float32:
        return []
    least, most = (0, 255) if q.dtype == ir.DataType.UINT8 else (-128, 127)
    if (zero != np.rint(zero)).any() or zero.min() < least or zero.max() > most:
        return [_refused(cast, "its zero point is not a whole number of its type")]
    parameters = _per_axis(scale, zero, len(q.shape) if q.shape is not None else 0)
    if parameters is None:
        return [_refused(cast, f"scales of shape {scale.shape} are not one a channel")]
    if parameters[2] is not None and evaluate(q) is None:
        return [_refused(cast, "an activation with a scale a channel has no integer kernel")]
    scales, zeros, axis = parameters
    stem = q.name or "quantized"
    made = [
        add_constant(cast.graph, f"{stem}_scale", scales),
        add_constant(cast.graph, f"{stem}_zero_point", zeros.astype(q.dtype.numpy())),
    ]
    attributes = {} if axis is None else {"axis": axis}
    real = writer.insert(
        current, "DequantizeLinear", [q, *made], f"{stem}_dq", ir.DataType.FLOAT, attributes, current.outputs[0].shape
    )
    _take_over(current, real)
    return [Finding("changed", current.name or "", "cast, offset and scale, as DequantizeLinear")]


def _per_axis(scale: np.ndarray, zero: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, int | None] | None:
    """Scales and zero points as vectors, and their axis; None where they lie along several."""
    if scale.size == 1 and zero.size == 1:
        return scale.reshape(()), zero.reshape(()), None
    shape = np.broadcast_shapes(scale.shape, zero.shape)
    wide = [k for k, d in enumerate(shape) if d > 1]
    if len(wide) != 1 or len(shape) > rank:
        return None
    axis = wide[0] + rank - len(shape)
    return np.broadcast_to(scale, shape).reshape(-1), np.broadcast_to(zero, shape).reshape(-1), axis


def _take_over(node: ir.Node, value: ir.Value) -> None:
    """Whoever reads the node's output reads `value`, which keeps its name where it is one of the model's."""
    old = node.outputs[0]
    value.shape = value.shape or old.shape
    if old.is_graph_output():
        value.name, old.name = old.name, None
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)


__all__ = ["clipped", "recognize_decomposed"]
