"""Rows that a warp shares: NaNs go through maxima that are made of parts."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from optkit_targets.cuda.kernels.reduce import ReduceRule
from tvm import te

from optkit.compiler.operators.reductions import REDUCTIONS, along, reduce
from optkit.registry import find_target
from tests.targets.cuda.simulate import serial


@pytest.mark.parametrize("name", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("lanes", [32, 256])
def test_nans_go_through_parts(name: str, lanes: int) -> None:
    data = te.placeholder((3, 133), "float32", "data")
    func = te.create_prim_func([data, reduce(along(data, [1], False), REDUCTIONS[name], "float32", "float32")])
    choices = ReduceRule().choices(func, find_target("cuda:sm_90"))
    assert choices
    assert lanes in choices[0].space["lanes"]
    made = serial(choices[0].apply(func, {**choices[0].params, "lanes": lanes}))
    array = np.random.default_rng(5).standard_normal((3, 133)).astype(np.float32)
    array[0, 0] = array[1, 100] = np.nan
    out = tvm.runtime.empty([3], "float32")
    tvm.compile(tvm.IRModule({"main": made.with_attr("global_symbol", "main")}), "llvm")["main"](
        tvm.runtime.tensor(array), out
    )
    expected = array.max(1) if name == "ReduceMax" else array.min(1)
    np.testing.assert_array_equal(out.numpy(), expected)
    assert np.isnan(expected).tolist() == [True, True, False]
