"""Resize and Upsample in every mode: passes over one axis or a few, in whatever layout the image has.

Sizes and scales may be constants, arithmetic on symbolic shapes, or tensors of the run; weights are computed at
compile time where the first hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from tvm import relax, sym, tirx

from optkit.compiler.converters.extents import declared, known_extents, numbers, refuse, tensor, vector
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import resize as define
from optkit.compiler.operators.interpolation import Mode
from optkit.compiler.operators.resize import Axis
from optkit.compiler.values import INJECTIVE, OPAQUE, OUT_FUSABLE, PLAIN, Value


class _Plan:
    """What a node asks for, read from its attributes and inputs."""

    def __init__(self, low: Lowering, node: Node, inputs: list[Value | None]) -> None:
        self.low, self.node = low, node
        x, roi, scales, sizes = _operands(node, inputs)
        assert x is not None
        self.x, self.scales, self.sizes = x, scales, sizes
        rank = len(x.shape)
        given = node.get("axes")
        self.axes = [a % rank for a in given] if given is not None else list(range(rank))
        self.mode = _mode(node)
        self.policy = node.get("keep_aspect_ratio_policy", "stretch") if sizes is not None else "stretch"
        self.crops = self.mode.coordinate_transformation_mode == "tf_crop_and_resize"
        self.roi = roi if self.crops else None
        if self.crops and roi is None:
            raise refuse(node, "tf_crop_and_resize needs a roi; give one")

    def factors(self) -> list[float] | None:
        """The scales, where they are known now."""
        if self.scales is not None:
            known = numbers(self.scales)
            return None if known is None else [float(s) for s in known]
        wanted = known_extents(self.sizes)
        have = [self.x.shape[a] for a in self.axes]
        if wanted is None or not all(isinstance(d, int) for d in (*wanted, *have)):
            return None
        ratios = [float(np.float32(w) / np.float32(h)) for w, h in zip(wanted, have, strict=True)]
        if self.policy == "stretch":
            return ratios
        return [min(ratios) if self.policy == "not_larger" else max(ratios)] * len(ratios)

    def extents(self, factors: list[float] | None) -> list[Any]:
        """Extents of the result along `axes`."""
        have = [self.x.shape[a] for a in self.axes]
        if factors is not None and self.scales is not None:
            return [_scaled(self.node, d, f) for d, f in zip(have, factors, strict=True)]
        wanted = known_extents(self.sizes)
        if wanted is not None and self.policy == "stretch":
            return wanted
        if factors is not None and self.sizes is not None:
            return [int(d * f + 0.5) for d, f in zip(have, factors, strict=True)]
        shape = declared(self.low, self.node)
        if shape is not None and all(shape[a] is not None for a in self.axes):
            return [shape[a] for a in self.axes]
        if self.policy != "stretch":
            raise refuse(self.node, "its aspect ratio is kept for sizes known only when it runs; declare its output")
        return self._at_run_time()

    def _at_run_time(self) -> list[Any]:
        """Extents read from a tensor when the model runs."""
        low, count = self.low, len(self.axes)
        if self.sizes is not None:
            wanted = vector(low, self.sizes, "int64")
        else:
            assert self.scales is not None
            have = _as_tensor(low, [self.x.shape[a] for a in self.axes])
            product = relax.op.multiply(low.bind(relax.op.astype(have, "float32")), vector(low, self.scales, "float32"))
            wanted = low.bind(relax.op.astype(low.bind(product), "int64"))
        shape = low.bind(relax.op.tensor_to_shape(wanted))
        names = [tirx.Var(f"{low.node}_{i}", "int64") for i in range(count)]
        low.bb.match_cast(shape, relax.ShapeType(names))
        return names

    def scale_tensor(self) -> Any:
        """The scales as a tensor of the run, one float32 an axis."""
        low = self.low
        if self.scales is not None:
            return vector(low, self.scales, "float32")
        assert self.sizes is not None
        wanted = low.bind(relax.op.astype(tensor(low, self.sizes), "float32"))
        have = low.bind(relax.op.astype(_as_tensor(low, [self.x.shape[a] for a in self.axes]), "float32"))
        ratios = low.bind(relax.op.divide(wanted, have))
        if self.policy == "stretch":
            return ratios
        pick = relax.op.min if self.policy == "not_larger" else relax.op.max
        one = low.bind(pick(ratios, axis=0, keepdims=True))
        return low.bind(relax.op.broadcast_to(one, (len(self.axes),)))


def _operands(node: Node, inputs: list[Value | None]) -> list[Value | None]:
    """x, roi, scales, sizes; opset 10 and Upsample have x and scales. Empty tensors are absent ones."""
    full = [inputs[0], None, inputs[1] if len(inputs) > 1 else None, None]
    if node.op_type == "Resize" and node.opset >= 11:
        full = [*inputs, *[None] * (4 - len(inputs))]
    x, *rest = full
    return [x, *[None if v is None or (v.dtype != "shape" and v.shape == (0,)) else v for v in rest]]


def _mode(node: Node) -> Mode:
    old = node.op_type == "Upsample" or node.opset < 11
    transformation = node.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    kind = node.get("mode", "nearest")
    return Mode(
        mode="linear" if kind == "bilinear" else kind,
        coordinate_transformation_mode=transformation,
        nearest_mode=node.get("nearest_mode", "floor" if old else "round_prefer_floor"),
        cubic_coeff_a=float(node.get("cubic_coeff_a", -0.75)),
        exclude_outside=bool(node.get("exclude_outside", 0)) and kind != "nearest",
        antialias=bool(node.get("antialias", 0)) and kind != "nearest",
    )


def _scaled(node: Node, size: Any, factor: float) -> Any:
    """floor(size * factor), in float32 as ONNX Runtime computes it; a symbolic size needs a simple fraction."""
    if isinstance(size, int):
        return int(np.floor(np.float32(size) * np.float32(factor)))
    ratio = Fraction(factor).limit_denominator(512)
    if abs(float(ratio) - factor) > 1e-6 * factor:
        raise refuse(node, f"it scales a symbolic axis by {factor}, no simple fraction; fix it with --input-shape")
    if ratio.denominator == 1:
        return size * ratio.numerator
    return tirx.floordiv(size * ratio.numerator, ratio.denominator)


def _as_tensor(low: Lowering, extents: Sequence[Any]) -> Any:
    if all(isinstance(d, int) for d in extents):
        return relax.const(np.array(extents, "int64"))
    return low.bind(relax.op.shape_to_tensor(relax.ShapeExpr(list(extents))))


def resize(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Resize, and Upsample of older operator sets."""
    plan = _Plan(low, node, inputs)
    factors = plan.factors()
    extents = plan.extents(factors)
    axes = _axes(plan, factors, extents)
    shape = list(plan.x.shape)
    for a, axis in axes:
        shape[a] = axis.out
    x = plan.x
    block = x.block if x.block and len(x.shape) == 4 and all(a >= 2 for a, _ in axes) else PLAIN
    expr = x.form(block)
    if not axes:
        return x
    tables = {a: _tables(low, plan, expr, a, axis) for a, axis in axes}
    if plan.mode.mode == "nearest":
        expr = _nearest(low, plan, expr, axes, tables, block)
    else:
        expr = _weighted(low, plan, expr, axes, tables)
    if plan.crops:
        masks = [tables[a][2] for a, _ in axes]
        value = float(node.get("extrapolation_value", 0.0))
        order = [a for a, _ in axes]
        expr = low.emit(define.extrapolate, expr, order, value, *masks, name="extrapolate", kind=INJECTIVE)
    return low.blocked(shape, x.dtype, block, expr)


def _axes(plan: _Plan, factors: list[float] | None, extents: list[Any]) -> list[tuple[int, Axis]]:
    """The axes that change, shrinking ones first: later passes then have less to do."""
    found: list[tuple[float, int, Axis]] = []
    roi = numbers(plan.roi)
    count = len(plan.axes)
    for i, (axis, out) in enumerate(zip(plan.axes, extents, strict=True)):
        size = plan.x.shape[axis]
        fixed = isinstance(size, int) and isinstance(out, int)
        scale = None if factors is None else factors[i]
        if scale is None and plan.scales is None and plan.policy == "stretch":
            if fixed:
                scale = float(np.float32(out) / np.float32(size))
            elif sym.Analyzer().can_prove_equal(out, size):
                scale = 1.0
        bounds = None if roi is None else (float(roi[i]), float(roi[i + count]))
        same = scale == 1.0 and (bounds == (0.0, 1.0) or not plan.crops)
        if same and (not fixed or size == out):
            continue
        least = scale
        if least is None and fixed:
            # Rounding the extent moved it by less than one element.
            least = max(out - (0.5 if plan.policy != "stretch" else 0.0), 0.5) / size
        if least is None and plan.mode.antialias:
            raise refuse(plan.node, "antialiasing needs a known scale, or sizes; fix the shape with --input-shape")
        found.append((least or 1.0, axis, Axis(i, size, out, scale, least, bounds)))
    return [(axis, item) for _, axis, item in sorted(found, key=lambda f: (f[0], f[1]))]


def _tables(low: Lowering, plan: _Plan, expr: Any, at: int, axis: Axis) -> list[Any]:
    """Relax expressions of one axis' indices, weights and mask; constants where everything is known."""
    known = isinstance(axis.size, int) and isinstance(axis.out, int) and axis.scale is not None
    if known and (axis.roi is not None or not plan.crops):
        return [relax.const(table) for table in define.constant_tables(plan.mode, axis)]
    scales = plan.scale_tensor() if axis.scale is None else None
    roi = vector(low, plan.roi, "float32") if plan.roi is not None and axis.roi is None else None
    kernel = define.table_kernel(plan.mode, axis, at, len(plan.axes))
    made = low.emit(kernel, expr, scales, roi, name="resize_tables", kind=OPAQUE)
    return [low.bind(relax.TupleGetItem(made, i)) for i in range(3)]


def _resized(expr: Any, axes: Sequence[tuple[int, Axis]]) -> list[Any]:
    shape = [int(d) if isinstance(d, tirx.IntImm) else d for d in expr.ty.shape.values]
    for a, axis in axes:
        shape[a] = axis.out
    return shape


def _nearest(low: Lowering, plan: _Plan, expr: Any, axes: list[tuple[int, Axis]], tables: Any, block: int) -> Any:
    """One pass over all axes; whole scales read by arithmetic, others through their tables."""
    sources: list[Any] = []
    for a, axis in axes:
        table = tables[a][0]
        data = table.value.numpy()[:, 0] if not isinstance(table, relax.Var) else None
        step = define.stride(data, axis.size) if data is not None else None
        sources.append(step or table)
    order, out = [a for a, _ in axes], _resized(expr, axes)
    live = [s for s in sources if not isinstance(s, tuple)]

    def body(data: Any, *given: Any) -> Any:
        rest = iter(given)
        return define.gather(data, order, [s if isinstance(s, tuple) else next(rest) for s in sources], out)

    return low.emit(body, expr, *live, name="resize_nearest", kind=INJECTIVE)


def _weighted(low: Lowering, plan: _Plan, expr: Any, axes: list[tuple[int, Axis]], tables: Any) -> Any:
    """Axes of few taps together, the others one by one; between passes numbers stay real."""
    dtype = plan.x.dtype
    wide = "float64" if dtype == "float64" else "float32"
    taps = {a: plan.mode.window(1.0 if axis.least is None else axis.least)[1] for a, axis in axes}
    groups = [axes] if int(np.prod(list(taps.values()))) <= define.UNROLLED else [[pair] for pair in axes]
    for i, group in enumerate(groups):
        order, out = [a for a, _ in group], _resized(expr, group)
        flat = [table for a, _ in group for table in tables[a][:2]]
        kind = dtype if i == len(groups) - 1 else wide

        def body(data: Any, *given: Any, order: Any = order, out: Any = out, kind: str = kind) -> Any:
            return define.interpolate(data, order, given, out, kind)

        expr = low.emit(body, expr, *flat, name=f"resize_{plan.mode.mode}", kind=OUT_FUSABLE)
    return expr


CONVERTERS: dict[str, Converter] = {"Resize": resize, "Upsample": resize}
