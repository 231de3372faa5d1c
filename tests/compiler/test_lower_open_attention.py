"""Attention to any number of tokens, one kernel on CPUs too, at several lengths, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from optkit.compiler.build import build as compile_model
from tests.compiler.bundle import relative, run
from tests.graphs import build, session
from tests.targets.cpu.test_scheduled_models import runnable

MASKS = {"none": "", "keys": "float[n,1,1,m]", "all": "float[n,1,l,m]", "one for all": "float[l,m]"}
SIZES = ((1, 1, 1), (1, 8, 64), (2, 77, 77), (3, 5, 130), (1, 300, 17), (2, 9, 0))


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
@pytest.mark.parametrize("name", MASKS)
def test_every_length_is_right(name: str, target: str) -> None:
    mask = MASKS[name]
    scores = "r = MatMul(q, k) s = Mul(r, scale) t = Add(s, mask)" if mask else "r = MatMul(q, k) t = Mul(r, scale)"
    body = f"{scores} p = Softmax<axis=-1>(t) y = MatMul(p, v)"
    given = "float[n,3,l,16] q, float[n,3,16,m] k, float[n,3,m,32] v" + (f", {mask} mask" if mask else "")
    model = build(body, inputs=given, outputs="float[n,3,l,32] y", scale=np.float32(0.25))
    built = compile_model(model, runnable(target))
    assert [kernel.template for kernel in built.kernels if kernel.template == "attention"]
    reference = session(model)
    for n, rows, columns in SIZES:
        generator = np.random.default_rng(rows)
        extents = {"n": n, "l": rows, "m": columns}
        shapes = [[extents.get(str(d), d) for d in value.shape] for value in reference.get_inputs()]
        feeds = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]
        if mask:
            feeds[-1] = np.where(feeds[-1] > 1, -20, 0.5).astype(np.float32)
        named = {value.name: array for value, array in zip(reference.get_inputs(), feeds, strict=True)}
        expected = reference.run(None, named)[0]
        (found,) = run(built, feeds)
        assert found.shape == expected.shape and relative(expected, found) < 3e-6
