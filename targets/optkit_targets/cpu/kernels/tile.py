"""The inner loops of a product: a tile of accumulators in registers, however the product got there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optkit.compiler.operators.common import BITS
from optkit.target import Target
from optkit_targets.cpu.kernels.intrinsics import PAIRS, dot_product, pair_product
from optkit_targets.cpu.kernels.tools import extent, read_dtype, write_dtype


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
    pairs = read_dtype(sch, product) == BITS and target.has("bf16_vector")
    dot = pairs or ("int" in write_dtype(sch, product) and target.has("int8_vector"))
    steps = list(reduce[:-1]) if dot else list(reduce)
    if dot:
        sch.reorder(*steps, outer, inner, vector, reduce[-1])
    else:
        sch.reorder(*steps, outer, inner, vector)
        sch.vectorize(vector)
    sch.unroll(inner)
    sch.unroll(outer)
    init = sch.decompose_reduction(product, steps[0])
    for block in (store, init):
        *_, a, b, lane = sch.get_loops(block)
        sch.vectorize(lane)
        sch.unroll(b)
        sch.unroll(a)
    if pairs:
        # The instruction comes as a function of LLVM's, once a kernel.
        sch.annotate(sch.get_loops(product)[0], "pragma_import_llvm", PAIRS)
        sch.tensorize(vector, pair_product(lanes))
    elif dot:
        sch.tensorize(vector, dot_product(lanes, extent(sch, reduce[-1]) or 0))
