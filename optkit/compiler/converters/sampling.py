"""Operators that read or place pixels by computed positions: GridSample, RoiAlign, DeformConv, Col2Im and kin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm import relax

from optkit.compiler.converters import matmul
from optkit.compiler.converters.extents import declared, known_extents, refuse, vector
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import regions, sampling, unfold
from optkit.compiler.values import INJECTIVE, OPAQUE, OUT_FUSABLE, PLAIN, Value


def _flat(low: Lowering, expr: Any, shape: Sequence[Any]) -> Any:
    return low.bind(relax.op.reshape(expr, tuple(shape)))


def _parts(low: Lowering, call: Any, count: int) -> list[Any]:
    return [low.bind(relax.TupleGetItem(call, i)) for i in range(count)]


def grid_sample(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """GridSample over any number of spatial axes."""
    x, grid = inputs[0], inputs[1]
    assert x is not None and grid is not None
    # Until opset 19 the modes were named after their two-dimensional forms.
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(node.get("mode", "linear"), node.get("mode", "linear"))
    padding, align = node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0))
    n, channels, *space = x.shape
    *_, rank = grid.shape
    out = grid.shape[1:-1]
    points = math.prod(out)
    flat_grid = _flat(low, grid.plain(), (n, points, rank))
    taps = low.emit(sampling.grid_taps, x.plain(), flat_grid, mode, padding, align, name="grid_taps", kind=OPAQUE)
    pixels, weights = (low.bind(relax.op.expand_dims(e, 1)) for e in _parts(low, taps, 2))
    flat = _flat(low, x.plain(), (n, channels, math.prod(space)))
    result = low.emit(sampling.gather_taps, flat, pixels, weights, 1, name="grid_sample", kind=OUT_FUSABLE)
    return low.wrap(relax.op.reshape(result, (n, channels, *out)))


def affine_grid(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """AffineGrid of a size that is constant, arithmetic on shapes, or declared with the output."""
    theta, size = inputs[:2]
    assert theta is not None
    out, wanted = declared(low, node), known_extents(size)
    if wanted is not None:
        space = wanted[2:]
    elif out is not None and None not in out:
        space = out[1:-1]
    else:
        raise refuse(node, "the grid's size is known only when it runs; declare the output's shape")
    align = bool(node.get("align_corners", 0))
    return low.wrap(low.emit(sampling.affine_grid, theta.plain(), space, align, name="affine_grid", kind=INJECTIVE))


def _pair(node: Node, name: str, default: int) -> tuple[int, int]:
    a, b = node.get(name) or (default, default)
    return int(a), int(b)


def deform_conv(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """DeformConv in two dimensions: sampled columns, then a matrix product a group."""
    x, weight, offset = inputs[:3]
    bias, mask = (inputs[i] if i < len(inputs) else None for i in (3, 4))
    assert x is not None and weight is not None and offset is not None
    if len(x.shape) != 4:
        raise refuse(node, f"it has {len(x.shape) - 2} spatial axes; only two can be compiled")
    groups, shifted = int(node.get("group", 1)), int(node.get("offset_group", 1))
    n, channels, h, w = x.shape
    filters, per_in, kh, kw = weight.shape
    oh, ow = offset.shape[2:]
    pads = list(node.get("pads") or (0, 0, 0, 0))
    shifts = _flat(low, offset.plain(), (n, shifted, kh * kw, 2, oh, ow))
    scales = None if mask is None else _flat(low, mask.plain(), (n, shifted, kh * kw, oh, ow))
    window = (kh, kw), _pair(node, "strides", 1), _pair(node, "dilations", 1), (int(pads[0]), int(pads[1]))
    data = x.plain()
    taps = low.emit(sampling.deformed_taps, data, shifts, scales, *window, name="deformed_taps", kind=OPAQUE)
    flat = _flat(low, data, (n, channels, h * w))
    columns = low.emit(
        sampling.gather_taps, flat, *_parts(low, taps, 2), shifted, name="deformed_columns", kind=OUT_FUSABLE
    )
    result = _product(low, node, columns, weight, (n, groups, per_in * kh * kw, oh * ow))
    result = _flat(low, result, (n, filters, oh, ow))
    if bias is not None:
        result = low.bind(relax.op.add(result, _flat(low, bias.plain(), (1, filters, 1, 1))))
    return low.blocked((n, filters, oh, ow), x.dtype, PLAIN, result)


def _product(low: Lowering, node: Node, columns: Any, weight: Value, shape: tuple[Any, ...]) -> Any:
    """(N, groups, K, P) columns by (O, K) weights -> (N, O, P), through the packed product where it takes them."""
    n, groups, inner, points = shape
    columns = _flat(low, columns, shape)
    filters = weight.shape[0]
    if groups == 1 and weight.const is not None:
        left = low.wrap(relax.op.permute_dims(_flat(low, columns, (n, inner, points)), [0, 2, 1]))
        table = weight.const.reshape(filters, inner).T
        right = Value(low, table.shape, weight.dtype, const=table)
        made = matmul.matmul(low, replace(node, op_type="MatMul", attributes={}), [left, right])
        if isinstance(made, Value):
            return low.bind(relax.op.permute_dims(made.plain(), [0, 2, 1]))
    split = _flat(low, weight.plain(), (1, groups, filters // groups, inner))
    return low.bind(relax.op.matmul(split, columns))


def _region_pool(low: Lowering, x: Value, made: Any) -> Value:
    """(R, PH, PW, C) of a kernel as (R, C, PH, PW) in the type of the image."""
    if str(made.ty.dtype) != x.dtype:
        made = low.bind(relax.op.astype(made, x.dtype))
    return low.wrap(relax.op.permute_dims(made, [0, 3, 1, 2]))


def roi_align(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """RoiAlign in both modes and both coordinate transformations."""
    x, rois, batch = inputs[:3]
    assert x is not None and rois is not None and batch is not None
    size = int(node.get("output_height", 1)), int(node.get("output_width", 1))
    older = "output_half_pixel" if node.opset < 16 else "half_pixel"
    half = node.get("coordinate_transformation_mode", older) == "half_pixel"
    data = low.bind(relax.op.permute_dims(x.plain(), [0, 2, 3, 1]))
    options = (
        size,
        float(node.get("spatial_scale", 1.0)),
        int(node.get("sampling_ratio", 0)),
        node.get("mode", "avg") == "max",
        half,
        low.target.device == "cuda",
    )
    made = low.emit(regions.roi_align, data, rois.plain(), batch.plain(), *options, name="roi_align", kind=OPAQUE)
    return _region_pool(low, x, made)


def max_roi_pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """MaxRoiPool."""
    x, rois = inputs[:2]
    assert x is not None and rois is not None
    height, width = node.get("pooled_shape")
    size, scale = (int(height), int(width)), float(node.get("spatial_scale", 1.0))
    data = low.bind(relax.op.permute_dims(x.plain(), [0, 2, 3, 1]))
    options = size, scale, low.target.device == "cuda"
    made = low.emit(regions.max_roi_pool, data, rois.plain(), *options, name="max_roi_pool", kind=OPAQUE)
    return _region_pool(low, x, made)


def col2im(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Col2Im; the image's shape is constant or declared, the block may be a tensor of the run."""
    x, shape, block = inputs[:3]
    assert x is not None and shape is not None and block is not None
    out = declared(low, node)
    image = known_extents(shape) or (None if out is None or None in out else out[2:])
    if image is None:
        raise refuse(node, "the image's shape is known only when it runs; declare the output's shape")
    rank = len(image)
    known = known_extents(block)
    if known is not None:
        channels = x.shape[1] // math.prod(known)
    elif out is not None and isinstance(out[1], int):
        channels = out[1]
    else:
        raise refuse(node, "the block's shape is known only when it runs; declare the output's shape")
    strides, dilations = (list(node.get(name) or [1] * rank) for name in ("strides", "dilations"))
    pads = list(node.get("pads") or [0] * (2 * rank))
    given = known if known is not None else vector(low, block, "int64")
    expr = low.emit(
        unfold.col2im, x.plain(), given, image, strides, dilations, pads, channels, name="col2im", kind=OUT_FUSABLE
    )
    return low.blocked((x.shape[0], channels, *image), x.dtype, PLAIN, expr)


def max_unpool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """MaxUnpool: indices count in the shape that kernel, strides and padding give, whatever `output_shape` is."""
    x, indices = inputs[:2]
    wanted = inputs[2] if len(inputs) > 2 else None
    assert x is not None and indices is not None
    kernel = list(node.get("kernel_shape"))
    rank = len(kernel)
    strides, pads = node.get("strides") or [1] * rank, node.get("pads") or [0] * (2 * rank)
    plane = list(x.shape[:2])
    for d, size in enumerate(x.shape[2:]):
        plane.append((size - 1) * strides[d] - pads[d] - pads[d + rank] + kernel[d])
    out: list[Any] | None = plane if wanted is None else known_extents(wanted) or declared(low, node)
    if out is None or None in out:
        raise refuse(node, "its output_shape is known only when it runs; declare the output's shape")
    args = x.plain(), indices.plain()
    expr = low.emit(unfold.max_unpool, *args, plane, out, name="max_unpool", kind=OPAQUE)
    return low.blocked(out, x.dtype, PLAIN, expr)


def _shuffle(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """DepthToSpace and SpaceToDepth, DCR and CRD."""
    x = inputs[0]
    assert x is not None
    define = unfold.blocks_to_space if node.op_type == "DepthToSpace" else unfold.space_to_blocks
    depth_first = node.get("mode", "DCR") == "DCR"
    block = int(node.get("blocksize"))
    return low.wrap(low.emit(define, x.plain(), block, depth_first, name=define.__name__, kind=INJECTIVE))


CONVERTERS: dict[str, Converter] = {
    "AffineGrid": affine_grid,
    "GridSample": grid_sample,
    "DeformConv": deform_conv,
    "RoiAlign": roi_align,
    "MaxRoiPool": max_roi_pool,
    "Col2Im": col2im,
    "MaxUnpool": max_unpool,
    "DepthToSpace": _shuffle,
    "SpaceToDepth": _shuffle,
}
