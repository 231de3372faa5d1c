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
