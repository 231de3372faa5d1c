"""A layer's input as the columns that its weight multiplies: im2col for convolutions of any rank and group."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view


def columns(node: ir.Node, x: np.ndarray, kernel: tuple[int, ...], start: int = 0, stride: int = 1) -> np.ndarray:
    """(groups, positions, depth) of `x`, such that a group's outputs are its columns times its weight's rows.

    Args:
        node: Conv, Gemm or MatMul.
        x: its first input.
        kernel: spatial extents of its weight, () for a matrix product.
        start, stride: of the positions of each sample (of all rows of a matrix product), those to take.
    """
    if node.op_type != "Conv":
        return np.asarray(x.reshape(1, -1, x.shape[-1])[:, start::stride])
    view, rank = _windows(node, x, kernel), len(kernel)
    batch, groups, inside, *out = view.shape[: 3 + rank]
    places = np.unravel_index(np.arange(start, int(np.prod(out)), stride), out)
    index: tuple[Any, ...] = (slice(None), slice(None), slice(None), *places)
    taken = view[index]
    moved = taken.transpose(1, 0, 3, 2, *range(4, 4 + rank))
    return np.asarray(moved.reshape(groups, batch * taken.shape[3], inside * int(np.prod(kernel))))


def column_sums(node: ir.Node, x: np.ndarray, kernel: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """(groups, depth) float64 sums over all columns, and how many there are."""
    if node.op_type != "Conv":
        flat = x.reshape(1, -1, x.shape[-1])
        return np.asarray(flat.sum(axis=1, dtype=np.float64)), flat.shape[1]
    view, rank = _windows(node, x, kernel), len(kernel)
    count = view.shape[0] * int(np.prod(view.shape[3 : 3 + rank]))
    total = view.sum(axis=(0, *range(3, 3 + rank)), dtype=np.float64)
    return total.reshape(view.shape[1], -1), count


def _windows(node: ir.Node, x: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray:
    """A view (batch, groups, channels of a group, *outputs, *kernel)."""
    rank = len(kernel)
    strides = _ints(node, "strides", rank, 1)
    dilations = _ints(node, "dilations", rank, 1)
    groups = node.attributes.get_int("group", 1)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(node, x.shape[2:], reach, strides)
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    split = padded.reshape(x.shape[0], groups, x.shape[1] // groups, *padded.shape[2:])
    windows = sliding_window_view(split, reach, axis=tuple(range(3, 3 + rank)))
    outer = tuple(slice(None, None, s) for s in strides)
    inner = tuple(slice(None, None, d) for d in dilations)
    return windows[(slice(None), slice(None), slice(None), *outer, *inner)]


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
