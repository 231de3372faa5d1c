"""A sum of two convolutions reads the quantized one as integers."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from optkit.api import transform
from optkit.compiler.build import prepare
from optkit.plan import choose_pipeline
from optkit.registry import find_target
from tests.graphs import build, weights

SIDES = ("b = Conv<pads=[1,1,1,1]>(r, w1)", "d = Conv(r, w2)")


def block(first: int) -> ir.Model:
    """A residual block whose shortcut is a convolution, and one behind it."""
    body = ["a = Conv(x, w0)", "r = Relu(a)", SIDES[first], SIDES[1 - first], "s = Add(b, d)", "t = Relu(s)"]
    kernels = [(1, 1), (3, 3), (1, 1), (1, 1)]
    return build(
        "\n".join([*body, "y = Conv(t, w3)"]),
        inputs="float[1,32,9,7] x",
        outputs="float[1,32,9,7] y",
        **{f"w{i}": weights(32, 32, *kernel, seed=i, scale=0.2) for i, kernel in enumerate(kernels)},
    )


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
@pytest.mark.parametrize("first", [0, 1])
def test_the_shortcut_is_bytes_in_memory(first: int, target: str) -> None:
    model = transform(block(first), choose_pipeline("int8", {})).model
    module = prepare(model, find_target(target)).module
    names = [name.name_hint for name, _ in module.functions.items()]
    (whole,) = (name for name in names if "add" in name)
    assert "rescale" in whole and "dequantize" in whole and whole.endswith("quantize1")
    assert sum("requantize" in name and "dequantize" not in name for name in names) == 2
