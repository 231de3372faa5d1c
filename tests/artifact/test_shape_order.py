"""Shape functions are written in one order, whatever order TVM found their slots in."""

from __future__ import annotations

from typing import Any

import pytest


def shape_function(slots: list[int], loads: int = 0) -> Any:
    """A module with one shape function: slot <- (slot + 1) * H[loads] for each slot, in the given order."""
    import tvm
    from tvm import tirx

    buffer = tirx.decl_buffer((tirx.const(8, "int64"),), "int64", "H")
    index = lambda i: tirx.const(i, "int64")  # noqa: E731
    stores = [
        tirx.BufferStore(buffer, index(slot + 1) * tirx.BufferLoad(buffer, [index(loads)]), [index(slot)])
        for slot in slots
    ]
    return tvm.IRModule({"shape_func": tirx.PrimFunc([buffer], tirx.SeqStmt(stores))})


@pytest.mark.parametrize("slots", [[3, 2, 1], [2, 3, 1], [1, 2, 3]])
def test_any_order_becomes_one(slots: list[int]) -> None:
    from optkit.compiler.shape_order import order_shape_stores

    found = [int(s.indices[0].value) for s in order_shape_stores(shape_function(slots))["shape_func"].body.seq]
    assert found == [1, 2, 3]


@pytest.mark.parametrize(("slots", "loads"), [([3, 2, 1], 2), ([3, 1, 1], 0)])
def test_order_that_matters_is_left_alone(slots: list[int], loads: int) -> None:
    from optkit.compiler.shape_order import order_shape_stores

    module = order_shape_stores(shape_function(slots, loads))
    assert [int(s.indices[0].value) for s in module["shape_func"].body.seq] == slots


def test_two_orders_of_one_computation_are_one_function() -> None:
    """As of a model and its twin without CUDA graphs; what calls the second calls the first then."""
    from tvm import relax

    from optkit.compiler.shape_order import order_shape_stores

    first, second = (shape_function(slots)["shape_func"] for slots in ([3, 2, 1], [2, 3, 1]))
    other = shape_function([4, 5])["shape_func"]
    heap, builder = relax.Var("heap", relax.TensorType([8], "int64")), relax.BlockBuilder()
    variables = [builder.add_func(func, "shape_func") for func in (first, second, other)]
    with builder.function("main", [heap]):
        for variable in variables:
            builder.emit(relax.Call(variable, [heap], ty_args=[relax.TupleType([])]))
        builder.emit_func_output(heap)
    module = order_shape_stores(builder.get())
    assert sorted(v.name_hint for v in module.functions) == ["main", "shape_func", "shape_func2"]
    called = [binding.value.op.name_hint for binding in module["main"].body.blocks[0].bindings]
    assert called == ["shape_func", "shape_func", "shape_func2"]
