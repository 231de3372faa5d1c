"""Builds of models of open extents are the same every time, whatever their shapes are computed of."""

from __future__ import annotations

import numpy as np
import pytest

from optkit.compiler.build import prepare
from optkit.registry import find_target
from tests.graphs import build, weights

BODY = """
    c = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w) r = Relu(c)
    p = Conv<pads=[1,1,1,1], strides=[2,2]>(r, v) s = Relu(p)
    f = Reshape(s, flat) t = Transpose<perm=[0,2,1]>(f) e = Shape<start=0, end=1>(x) l = Concat<axis=0>(e, rows, rows)
    o = Expand(token, l) j = Concat<axis=1>(o, t)
    m = ReduceMean(j, axes) d = Sub(j, m) y = Softmax<axis=1>(d)
"""
CONSTANTS = {"w": weights(16, 3, 3, 3), "v": weights(16, 16, 3, 3, seed=1), "token": weights(1, 1, 16, seed=2)}
SHAPES = {"flat": np.array([0, 16, -1]), "axes": np.array([-1]), "rows": np.array([1])}


@pytest.mark.parametrize("target", ["x86-64-v3", "cuda:sm_90"])
def test_numbers_of_kernels_come_in_one_order(target: str) -> None:
    """TVM collects them in sets that are ordered by addresses, which differ even within a process."""
    ends = {"inputs": "float[n,3,h,w0] x", "outputs": "float[n,t,16] y"}
    built = [prepare(build(BODY, **ends, **CONSTANTS, **SHAPES), find_target(target)) for _ in range(6)]
    assert len({str(one.module.script(show_meta=False)) for one in built}) == 1
