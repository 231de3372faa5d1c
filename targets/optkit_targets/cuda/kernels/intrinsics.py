"""Instructions that templates name: dp4a on bytes, and multiply-adds that may be contracted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.tirx import op

DP4A = "optkit_dp4a_u8s8"
"""The device function in `optkit_targets.cuda.nvcc.PRELUDE`."""
FMA = "fmaf"
GROUP = 4


def use_dp4a(func: Any) -> Any:
    """Loops over four products of unsigned and signed bytes as one instruction.

    `for k in 4: C = C + int32(A[4 i + k]) * int32(B[j, k])` becomes `C = dp4a(A[4 i : 4 i + 4], B[j, 0 : 4], C)`.
    TVM's tensorize does the same, but not under the predicate of a thread block that is not full.
    """

    def replaced(loop: Any) -> Any:
        realize = loop.body
        if not isinstance(realize, s_tir.SBlockRealize) or int(loop.extent) != GROUP:
            return loop
        block = realize.block
        position = [i for i, value in enumerate(realize.iter_values) if value.same_as(loop.loop_var)]
        store = block.body
        if not position or not isinstance(store, tirx.BufferStore) or not isinstance(store.value, tirx.Add):
            return loop
        total, product = store.value.a, store.value.b
        if not isinstance(product, tirx.Mul) or not all(isinstance(x, tirx.Cast) for x in (product.a, product.b)):
            return loop
        data, weight = product.a.value, product.b.value
        if (str(data.ty.dtype), str(weight.ty.dtype)) != ("uint8", "int8"):
            return loop
        axis = block.iter_vars[position[0]]

        def first(node: Any) -> Any:
            """The node for k = 0."""
            zero = tirx.const(0, axis.var.ty.dtype)
            return tvm_ffi.structural_map(node, (tirx.Var, lambda v: zero if v.same_as(axis.var) else v))

        def word(load: Any) -> Any:
            *lead, last = [first(i) for i in load.indices]
            return tirx.BufferLoad(load.source, [*lead, tirx.Ramp(last, tirx.const(1, last.ty.dtype), GROUP)])

        value = op.call_pure_extern("int32", DP4A, word(data), word(weight), total)
        reads = [tirx.BufferRegion(r.source, _widen(r.region, axis.var, first)) for r in block.reads]
        keep = [i for i in range(len(block.iter_vars)) if i != position[0]]
        inner = s_tir.SBlock(
            [block.iter_vars[i] for i in keep],
            reads,
            block.writes,
            block.name_hint,
            tirx.BufferStore(store.buffer, value, store.indices),
            block.init,
            block.alloc_buffers,
            block.match_buffers,
            block.annotations,
        )
        return s_tir.SBlockRealize([realize.iter_values[i] for i in keep], realize.predicate, inner)

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.For, replaced)))


def _widen(region: Any, variable: Any, first: Callable[[Any], Any]) -> list[Any]:
    """The region over all four values of the variable, which only the innermost index has."""
    *lead, last = region
    if tvm_ffi.structural_equal(first(last.min), last.min):
        return [*lead, last]
    return [*lead, tvm.ir.Range.from_min_extent(first(last.min), tirx.const(GROUP, last.min.ty.dtype))]


def contract_products(func: Any) -> Any:
    """`acc = acc + a * b` in float32 as `acc = fma(a, b, acc)`, everywhere in `func`.

    The rest of the code is compiled without contraction; sums of products have no order to keep, and an fma
    costs what a multiplication alone does.
    """

    def contracted(store: Any) -> Any:
        value = store.value
        if not isinstance(value, tirx.Add) or str(value.ty.dtype) != "float32":
            return store
        total, product = value.a, value.b
        if not isinstance(product, tirx.Mul) or not isinstance(total, tvm.ir.TensorLoad):
            return store
        if not total.source.same_as(store.buffer):
            return store
        return tirx.BufferStore(
            store.buffer, op.call_pure_extern("float32", "fmaf", product.a, product.b, total), store.indices
        )

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.BufferStore, contracted)))
