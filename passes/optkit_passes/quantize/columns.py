"""A layer's input as the columns that its weight multiplies: im2col for convolutions of any rank and group."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view


def columns(node: ir.Node, x: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray | None:
    """(groups, positions, depth) of `x`, such that a group's outputs are its columns times its weight's rows.

    Args:
        node: Conv, Gemm or MatMul.
        x: its first input.
        kernel: spatial extents of its weight, () for a matrix product.

    Returns:
        A view or a copy; None for what is no such product (ConvTranspose).
    """
    if node.op_type in ("MatMul", "Gemm"):
        return np.asarray(x.reshape(1, -1, x.shape[-1]))
    if node.op_type != "Conv":
        return None
    rank = len(kernel)
    strides = _ints(node, "strides", rank, 1)
    dilations = _ints(node, "dilations", rank, 1)
    groups = node.attributes.get_int("group", 1)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(node, x.shape[2:], reach, strides)
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    windows = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    outer = tuple(slice(None, None, s) for s in strides)
    inner = tuple(slice(None, None, d) for d in dilations)
    windows = windows[(slice(None), slice(None), *outer, *inner)]
    batch, channels, *out = windows.shape[: 2 + rank]
    split = windows.reshape(batch, groups, channels // groups, *out, *kernel)
    space = range(3, 3 + rank)
    order = (1, 0, *space, 2, *range(3 + rank, 3 + 2 * rank))
    return np.asarray(split.transpose(order).reshape(groups, batch * int(np.prod(out)), -1))


def rows(weight: np.ndarray, node: ir.Node, axis: int) -> np.ndarray:
    """The weight as (groups, outputs of a group, depth), matching `columns`."""
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    return np.moveaxis(weight, axis, 0)[None]


def from_rows(split: np.ndarray, shape: tuple[int, ...], node: ir.Node, axis: int) -> np.ndarray:
    """The inverse of `rows`."""
    if node.op_type == "Conv":
        return split.reshape(shape)
    return np.ascontiguousarray(np.moveaxis(split[0], 0, axis))


def _ints(node: ir.Node, name: str, rank: int, default: int) -> list[int]:
    found = node.attributes.get(name)
    return list(found.as_ints()) if found is not None else [default] * rank


def _pads(node: ir.Node, extents: tuple[int, ...], reach: list[int], strides: list[int]) -> list[tuple[int, int]]:
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    rank = len(extents)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for extent, k, s in zip(extents, reach, strides, strict=True):
            total = max((-(-extent // s) - 1) * s + k - extent, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
        return pads
    given = _ints(node, "pads", 2 * rank, 0) if mode == "NOTSET" else [0] * (2 * rank)
    return [(given[i], given[i + rank]) for i in range(rank)]
