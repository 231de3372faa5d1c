"""The inner loops of a product: a tile of accumulators in registers, however the product got there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optkit.compiler.operators.common import BITS, PAIR
from optkit.compiler.stack import ROLLED
from optkit.target import Target
from optkit_targets.cpu.kernels.intrinsics import (
    PAIRS,
    dot_product,
    pair_product,
    pair_word_product,
    word_product,
)
from optkit_targets.cpu.kernels.tools import extent, read_dtype, write_dtype

SHORT = 16
"""Steps of the outermost reduction loop that LLVM might unroll."""


def register_tile(
    sch: Any, product: Any, store: Any, tile: tuple[Any, Any, Any], reduce: Sequence[Any], target: Target
) -> None:
    """Reduce outside, the tile unrolled inside, one vector or dot-product instruction at the core.

    Args:
        product: the block of the accumulation, its accumulators in "local" scope.
        store: the block that writes the finished tile out, with the tile's loops innermost.
        tile: the product's loops over the outer and the inner tile axis, and over vector lanes.
        reduce: its reduction loops, the last one over the channels of a dot product.
    """
    outer, inner, vector = tile
    lanes = extent(sch, vector) or 0
    dtype = read_dtype(sch, product)
    pairs = dtype == BITS and target.has("bf16_vector")
    words = {"int32": target.has("int8_vector"), PAIR: target.has("bf16_vector")}.get(dtype, False)
    dot = not words and (pairs or ("int" in write_dtype(sch, product) and target.has("int8_vector")))
    steps = list(reduce[:-1]) if dot else list(reduce)
    if dot:
        sch.reorder(*steps, outer, inner, vector, reduce[-1])
    else:
        sch.reorder(*steps, outer, inner, vector)
        if not words:
            sch.vectorize(vector)
    sch.unroll(inner)
    sch.unroll(outer)
    outermost = next((loop for loop in steps if extent(sch, loop) != 1), steps[0])
    if (extent(sch, outermost) or SHORT + 1) <= SHORT:
        sch.annotate(outermost, ROLLED, 1)
    init = sch.decompose_reduction(product, steps[0])
    for block in (store, init):
        *_, a, b, lane = sch.get_loops(block)
        sch.vectorize(lane)
        sch.unroll(b)
        sch.unroll(a)
    if pairs or (words and dtype == PAIR):
        # The instruction comes as a function of LLVM's, once a kernel.
        sch.annotate(sch.get_loops(product)[0], "pragma_import_llvm", PAIRS)
        sch.tensorize(vector, pair_product(lanes) if pairs else pair_word_product(lanes))
    elif words:
        sch.tensorize(vector, word_product(lanes, broadcast=True))
    elif dot:
        sch.tensorize(vector, dot_product(lanes, extent(sch, reduce[-1]) or 0, dtype))
