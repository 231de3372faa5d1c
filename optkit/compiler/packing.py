"""Weights in the order kernels read them, done once at compile time in numpy."""

from __future__ import annotations

import numpy as np

from optkit.compiler.operators.conv import first_input_block, input_blocks


def pad_axis(array: np.ndarray, axis: int, size: int, value: float = 0) -> np.ndarray:
    """`array` with `axis` filled up to `size` with `value`."""
    missing = size - array.shape[axis]
    if missing == 0:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, missing)
    return np.pad(array, widths, constant_values=value)


def round_up(size: int, multiple: int) -> int:
    """The next multiple.

    >>> round_up(17, 16)
    32
    """
    return -(-size // multiple) * multiple


def conv_weight(weight: np.ndarray, groups: int, b: int, c: int, g: int, span: int = 0) -> np.ndarray:
    """(O, C/groups, KH, KW) -> (O/b, KB, KH, KW, c/g, b, g).

    Output block `o` holds weights for the `KB` input blocks from `first_input_block(o)` on; a group smaller
    than a block, or one that straddles blocks, leaves zeros where other groups' channels lie.

    Args:
        span: output channels that read the same input blocks; those of a block where it is 0.
    """
    span = span or b
    out, per_in, kh, kw = weight.shape
    channels = per_in * groups
    total = -(-channels // c)
    kb = input_blocks(out, groups, channels, span, c)
    ob = -(-out // b)
    if groups == 1:
        full = pad_axis(pad_axis(weight, 0, ob * b), 1, total * c)
    else:
        full = np.zeros((ob * b, kb * c, kh, kw), weight.dtype)
        per_out = out // groups
        for o in range(out):
            start = min(first_input_block(o // span, out, groups, channels, span, c), total - kb) * c
            lead = (o // per_out) * per_in - start
            full[o, lead : lead + per_in] = weight[o]
    split = full.reshape(ob, b, kb, c // g, g, kh, kw)
    return np.ascontiguousarray(split.transpose(0, 2, 5, 6, 3, 1, 4))


def conv_words(packed: np.ndarray) -> np.ndarray:
    """int8 (O/b, 1, KH, KW, c/4, b, 4), or uint16 (..., c/2, b, 2) -> int32, or uint32 (O/b, words, KH, KW, b)."""
    words = np.ascontiguousarray(packed).view("<i4" if packed.dtype == np.int8 else "<u4")[:, 0, ..., 0]
    return np.ascontiguousarray(words.transpose(0, 3, 1, 2, 4))


def depthwise_weight(weight: np.ndarray, b: int) -> np.ndarray:
    """(C, 1, KH, KW) -> (C/b, KH, KW, b)."""
    channels, _, kh, kw = weight.shape
    blocks = -(-channels // b)
    full = pad_axis(weight[:, 0], 0, blocks * b).reshape(blocks, b, kh, kw)
    return np.ascontiguousarray(full.transpose(0, 2, 3, 1))


def depthwise_words(weight: np.ndarray, b: int) -> np.ndarray:
    """int8 (C, 1, KH, KW) -> int32 (C/b, KH, ceil(KW/4), b): four taps of a row in each."""
    packed = depthwise_weight(weight, b)
    taps = pad_axis(packed, 2, round_up(packed.shape[2], 4))
    split = taps.reshape(*taps.shape[:2], -1, 4, b).transpose(0, 1, 2, 4, 3)
    return np.ascontiguousarray(split).view("<i4")[..., 0]


def matmul_weight(weight: np.ndarray, b: int, g: int) -> np.ndarray:
    """(K, N) -> (N/b, K/g, b, g)."""
    k, n = weight.shape
    full = pad_axis(pad_axis(weight, 0, round_up(k, g)), 1, round_up(n, b))
    split = full.reshape(-1, g, full.shape[1] // b, b)
    return np.ascontiguousarray(split.transpose(2, 0, 3, 1))


def nibbles(packed: np.ndarray) -> np.ndarray:
    """uint8 of 0 to 15, (N/b, K, b) -> uint8 (N/b, ceil(K/2), b): two rows of K a byte, the first one low."""
    full = pad_axis(packed, 1, round_up(packed.shape[1], 2))
    return np.ascontiguousarray(full[:, 0::2] | full[:, 1::2] << 4)


def channel_vector(values: np.ndarray, b: int, fill: float = 0) -> np.ndarray:
    """(C,) -> (C/b, b)."""
    return np.ascontiguousarray(pad_axis(values, 0, round_up(len(values), b), fill).reshape(-1, b))
