"""Packed weights, taken apart again by naive loops; register tiles."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from optkit.compiler import packing
from optkit.compiler.operators.conv import Window, first_input_block, input_blocks
from optkit.compiler.tiling import choose_tile
from optkit.compiler.values import block_array

FEW = settings(max_examples=40, derandomize=True)


@FEW
@given(
    groups=st.integers(1, 6),
    per_in=st.integers(1, 9),
    per_out=st.integers(1, 9),
    b=st.sampled_from([4, 8, 16]),
    g=st.sampled_from([1, 2, 4]),
    span=st.sampled_from([0, 32]),
)
def test_convolution_weights(groups: int, per_in: int, per_out: int, b: int, g: int, span: int) -> None:
    """Every weight lies where the kernel looks for it; everything else is zero."""
    channels, out = groups * per_in, groups * per_out
    weight = np.arange(1, out * per_in * 6 + 1).reshape(out, per_in, 3, 2)
    packed = packing.conv_weight(weight, groups, b, b, g, span)
    span = span or b
    total, kb = -(-channels // b), input_blocks(out, groups, channels, span, b)
    assert packed.shape == (-(-out // b), kb, 3, 2, b // g, b, g)
    count = 0
    for o in range(out):
        start = 0 if groups == 1 else min(first_input_block(o // span, out, groups, channels, span, b), total - kb)
        for i in range(per_in):
            channel = (o // per_out) * per_in + i
            block, lane = channel // b - start, channel % b
            found = packed[o // b, block, :, :, lane // g, o % b, lane % g]
            assert np.array_equal(found, weight[o, i])
            count += found.size
    assert np.count_nonzero(packed) == count == weight.size


@FEW
@given(channels=st.integers(1, 40), b=st.sampled_from([4, 8, 16]))
def test_depthwise_weights_and_channel_vectors(channels: int, b: int) -> None:
    weight = np.arange(1, channels * 6 + 1).reshape(channels, 1, 2, 3)
    packed = packing.depthwise_weight(weight, b)
    vector = packing.channel_vector(weight[:, 0, 0, 0], b, -1)
    for c in range(channels):
        assert np.array_equal(packed[c // b, :, :, c % b], weight[c, 0])
        assert vector[c // b, c % b] == weight[c, 0, 0, 0]
    assert np.count_nonzero(packed) == weight.size
    assert (vector == -1).sum() == vector.size - channels


@FEW
@given(k=st.integers(1, 20), n=st.integers(1, 40), b=st.sampled_from([4, 16]), g=st.sampled_from([1, 2, 4]))
def test_matrix_weights(k: int, n: int, b: int, g: int) -> None:
    weight = np.arange(1, k * n + 1).reshape(k, n)
    packed = packing.matmul_weight(weight, b, g)
    for i in range(k):
        for j in range(n):
            assert packed[j // b, i // g, j % b, i % g] == weight[i, j]
    assert np.count_nonzero(packed) == weight.size


@FEW
@given(channels=st.integers(1, 40), b=st.sampled_from([3, 4, 16]))
def test_blocked_constants(channels: int, b: int) -> None:
    array = np.arange(1, 2 * channels * 6 + 1).reshape(2, channels, 2, 3)
    blocked = block_array(array, b)
    assert blocked.shape == (2, -(-channels // b), 2, 3, b)
    for c in range(channels):
        assert np.array_equal(blocked[:, c // b, :, :, c % b], array[:, c])
    assert np.count_nonzero(blocked) == array.size


@given(extent=st.integers(1, 4000), blocks=st.integers(1, 130), registers=st.sampled_from([16, 32]))
@settings(max_examples=300, derandomize=True)
def test_tiles_fit_the_registers(extent: int, blocks: int, registers: int) -> None:
    tile = choose_tile(extent, blocks, registers)
    assert 1 <= tile.rows <= extent and 1 <= tile.blocks <= blocks
    assert blocks % tile.blocks == 0
    # accumulators, one operand of the outer product in registers, the other streamed through one
    assert tile.rows * tile.blocks + min(tile.rows, tile.blocks) + 1 <= registers
    assert tile.padded % tile.rows == 0
    assert extent <= tile.padded < extent + tile.rows


@FEW
@given(
    size=st.integers(1, 30),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    lead=st.integers(0, 4),
    trail=st.integers(0, 4),
    ceil=st.booleans(),
)
def test_output_sizes(size: int, kernel: int, stride: int, dilation: int, lead: int, trail: int, ceil: bool) -> None:
    """The definition: a window a stride, as long as it ends inside or, with `ceil`, starts there."""
    span = (kernel - 1) * dilation + 1
    if span > size + lead + trail or trail >= span:  # ONNX Runtime refuses windows of padding alone
        return
    window = Window((kernel, 1), (stride, 1), (dilation, 1), (lead, 0, trail, 0))
    count = 0
    while True:
        start = count * stride
        inside = start + span <= size + lead + trail
        # with `ceil` one window more than fits whole, but none that starts in the trailing padding
        begins = start - stride + span < size + lead + trail
        if not (((inside or begins) and start < size + lead) if ceil else inside):
            break
        count += 1
    assert window.output(size, 1, ceil)[0] == count
