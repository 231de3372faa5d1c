"""Normalizations over channels, groups and given axes, and BatchNormalization in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax
from tvm.sym import Analyzer

from optkit.compiler.converters.rows import product, real, reshape, row_kind, row_lanes, rows_of
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import norms as define
from optkit.compiler.values import PLAIN, Value


def _per_channel(low: Lowering, x: Value, scale: Value, shift: Value, inner: int, epsilon: float, name: str) -> Value:
    """x (N, C, *S) normalized over every group of `inner` channels; one scale and shift a channel."""
    n, c, *space = x.shape
    groups = c if inner == 1 else c // inner
    rows = rows_of(low, low.wrap(reshape(low, x.plain(), [n, groups, inner, *space])), range(2, 3 + len(space)))

    def kernel(data: Any, s: Any, t: Any) -> Any:
        # Of the kernel's own extents: those of the model's shapes are no variables of it.
        area = Analyzer().simplify(data.shape[2] // inner)

        def place(batch: Any, group: Any, i: Any) -> Any:
            return group if inner == 1 else group * inner + i // area

        return define.normalize(data, s, t, epsilon, row_lanes(low), place=place)

    if inner != 1 and low.target.device == "cpu" and not isinstance(product(space), int):
        # Which channel an element is of would be a division an element: rows first, then planes.
        even = low.emit(define.normalize, rows.expr, None, None, epsilon, row_lanes(low), name=name, kind=row_kind(low))
        planes = reshape(low, rows.restore(even).plain(), x.shape)
        by = [reshape(low, vector.plain(), [c, *[1] * len(space)]) for vector in (scale, shift)]
        made = low.bind(relax.op.add(low.bind(relax.op.multiply(planes, by[0])), by[1]))
        return low.blocked(x.shape, x.dtype, PLAIN, made)
    out = low.emit(kernel, rows.expr, scale.plain(), shift.plain(), name=name, kind=row_kind(low))
    expr = reshape(low, rows.restore(out).plain(), x.shape)
    return low.blocked(x.shape, x.dtype, PLAIN, expr)


def instance_normalization(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """InstanceNormalization: every channel of every example by itself (Ulyanov et al., 2016)."""
    x, scale, shift = inputs
    if x is None or scale is None or shift is None or not real(x) or len(x.shape) < 3:
        return None
    epsilon = float(node.get("epsilon", 1e-5))
    return _per_channel(low, x, scale, shift, 1, epsilon, "instance_norm")


def group_normalization(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """GroupNormalization (Wu and He, 2018); before opset 21, scale and bias are one number a group."""
    x, scale, shift = inputs
    if x is None or scale is None or shift is None or not real(x) or len(x.shape) < 3:
        return None
    groups, channels = int(node.get("num_groups", 1)), x.shape[1]
    if not isinstance(channels, int):
        return None
    if node.opset < 21:
        scale, shift = (
            low.wrap(relax.op.repeat(v.plain(), channels // groups, axis=0)) if v.shape != (channels,) else v
            for v in (scale, shift)
        )
    return _per_channel(low, x, scale, shift, channels // groups, float(node.get("epsilon", 1e-5)), "group_norm")


def mean_variance_normalization(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """MeanVarianceNormalization: (x - mean) / (deviation + 1e-9) over `axes`."""
    x = inputs[0]
    if x is None or not real(x):
        return None
    rows = rows_of(low, x, [int(a) for a in node.get("axes", [0, 2, 3])])
    args = (rows.expr, None, None, 1e-9, row_lanes(low), True, True)
    return rows.restore(low.emit(define.normalize, *args, name="mean_variance_norm", kind=row_kind(low)))


def lp_normalization(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """LpNormalization along one axis, p of 1 or 2; a row of zeros stays what it is."""
    x = inputs[0]
    if x is None or not real(x):
        return None
    rows = rows_of(low, x, [int(node.get("axis", -1))])
    p = int(node.get("p", 2))
    return rows.restore(low.emit(define.lp_normalize, rows.expr, p, row_lanes(low), name="lp_norm", kind=row_kind(low)))


def training_batch_normalization(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value] | None:
    """BatchNormalization with `training_mode`: by the batch's own moments, which the running ones take up."""
    x, scale, shift, mean, var = inputs
    if x is None or scale is None or shift is None or mean is None or var is None or not real(x):
        return None
    channels = relax.ShapeExpr([x.shape[1]])
    rows = rows_of(low, x, [a for a in range(len(x.shape)) if a != 1])
    epsilon, lanes = float(node.get("epsilon", 1e-5)), low.target.lanes

    def kernel(data: Any, s: Any, t: Any) -> Any:
        return define.normalize(data, s, t, epsilon, row_lanes(low), place=lambda channel, i: channel)

    def spread(data: Any) -> Any:
        return define.variance(data, lanes, define.mean(data, lanes))

    y = rows.restore(low.emit(kernel, rows.expr, scale.plain(), shift.plain(), name="batch_norm", kind=row_kind(low)))
    momentum = float(node.get("momentum", 0.9))
    found = [y]
    for old, moment in ((mean, lambda data: define.mean(data, lanes)), (var, spread)):
        new = low.bind(relax.op.reshape(low.emit(moment, rows.expr, name="batch_moment"), channels))
        found.append(_running(low, old, new, momentum))
    return found[: node.outputs]


def _running(low: Lowering, old: Value, new: Any, momentum: float) -> Value:
    kind = str(new.ty.dtype)
    before = old.plain() if old.dtype == kind else low.bind(relax.op.astype(old.plain(), kind))
    kept = relax.op.multiply(before, relax.const(momentum, kind))
    mixed = low.bind(relax.op.add(low.bind(kept), relax.op.multiply(new, relax.const(1 - momentum, kind))))
    return low.wrap(mixed if kind == old.dtype else relax.op.astype(mixed, old.dtype))


CONVERTERS: dict[str, Converter] = {
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "LpNormalization": lp_normalization,
}
