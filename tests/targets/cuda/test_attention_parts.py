"""Attention reads heads in place where they lie among others in rows: parts that a Split makes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from tests.compiler.bundle import relative
from tests.graphs import build as graph
from tests.graphs import session, weights
from tests.targets.cuda.simulate import computed, feeds
from tests.targets.cuda.test_kernels import passed


def divided(sizes: tuple[int, ...], parts: tuple[int, int, int]) -> ir.Model:
    """Attention of 2 heads of 16 whose operands are parts of one product, as a model has them."""
    names = [f"p{i}" for i in range(len(sizes))]
    lines = ["m = MatMul(x, w)", f"{', '.join(names)} = Split<axis=-1>(m, sizes)"]
    for name, part in zip("qkv", parts, strict=True):
        lines.append(f"{name}0 = Reshape(p{part}, heads)")
        lines.append(f"{name} = Transpose<perm=[0,{'2,3,1' if name == 'k' else '2,1,3'}]>({name}0)")
    lines += ["s = MatMul(q, k)", "p = Softmax<axis=-1>(s)", "o = MatMul(p, v)", "y = Transpose<perm=[0,2,1,3]>(o)"]
    return graph(
        "\n".join(lines),
        inputs="float[2,19,48] x",
        outputs="float[2,19,2,16] y",
        w=weights(48, sum(sizes), seed=0, scale=0.1),
        sizes=np.array(sizes, np.int64),
        heads=np.array([2, 19, 2, 16], np.int64),
    )


@pytest.mark.parametrize(
    ("sizes", "parts", "moved"),
    [
        ((32, 32, 32), (2, 0, 1), 0),
        ((48, 32, 32, 32), (1, 2, 3), 0),
        ((8, 32, 32, 32, 8), (1, 2, 3), 1),  # no part begins at a head of 16
        ((32, 32, 32, 8), (0, 1, 2), 1),  # rows are not whole heads
    ],
    ids=["in another order", "behind others", "not at a head", "not of heads"],
)
def test_parts_that_the_model_has_are_read_in_place(
    sizes: tuple[int, ...], parts: tuple[int, int, int], moved: int
) -> None:
    model = passed(divided(sizes, parts), "fp16")
    (found,), made = computed(model)
    assert relative(session(model).run(None, feeds(model))[0], found) < 5e-3
    rules = Counter(kernel.rule for kernel in made for _ in kernel.calls)
    assert rules["cuda.tensor_attention"] == 1
    assert ("cuda.tensor_matmul" in rules, any(kernel.name == "split" for kernel in made)) == (True, bool(moved))
