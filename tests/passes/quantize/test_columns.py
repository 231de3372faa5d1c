"""A layer's columns times its weight's rows are its outputs, whatever the geometry."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st
from optkit_passes.quantize.columns import column_sums, columns, from_rows, rows

from tests.graphs import build, session, weights


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[ir.Model, np.ndarray]:
    rank = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    inside, outside = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 2)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    extents = [draw(st.integers(5, 8)) for _ in range(rank)]
    mode = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    pads = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    attributes = [f"group={groups}, strides={strides}, kernel_shape={kernel}"]
    if mode == "NOTSET":
        attributes += [f"pads={pads}, dilations={dilations}"]
    else:
        attributes += [f'auto_pad="{mode}"'] + ([f"dilations={dilations}"] if mode == "VALID" else [])
    shape = (2, groups * inside, *extents)
    names = ",".join("abcde"[: rank + 2])
    model = build(
        f"y = Conv<{', '.join(attributes)}>(x, w)",
        f"float[{','.join(map(str, shape))}] x",
        f"float[{names}] y",
        w=weights(groups * outside, inside, *kernel, seed=1),
    )
    return model, weights(*shape, seed=2)


@settings(max_examples=60)
@given(convolutions())
def test_columns_times_rows_is_the_convolution(case: tuple[ir.Model, np.ndarray]) -> None:
    model, x = case
    node = next(iter(model.graph))
    weight = node.inputs[1].const_value.numpy()
    split = rows(weight, node, 0)
    got = split @ columns(node, x, weight.shape[2:]).transpose(0, 2, 1)
    expected = session(model).run(None, {"x": x})[0]
    batch, channels, *space = expected.shape
    got = got.reshape(channels, batch, *space).swapaxes(0, 1)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(from_rows(split, weight.shape, node, 0), weight)


def test_a_matrix_product_of_any_rank() -> None:
    model = build("y = MatMul(x, w)", "float[2,3,4] x", "float[a,b,c] y", w=weights(4, 5))
    node, x = next(iter(model.graph)), weights(2, 3, 4, seed=1)
    weight = node.inputs[1].const_value.numpy()
    split = rows(weight, node, 1)
    got = (split @ columns(node, x, ()).transpose(0, 2, 1))[0].T.reshape(2, 3, 5)
    np.testing.assert_allclose(got, session(model).run(None, {"x": x})[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(from_rows(split, weight.shape, node, 1), weight)


@settings(max_examples=30)
@given(convolutions(), st.integers(0, 3), st.integers(1, 4))
def test_sums_and_some_of_the_columns(case: tuple[ir.Model, np.ndarray], start: int, stride: int) -> None:
    model, x = case
    node = next(iter(model.graph))
    kernel = tuple(node.inputs[1].shape)[2:]
    every = columns(node, x, kernel)
    sums, count = column_sums(node, x, kernel)
    assert count == every.shape[1]
    np.testing.assert_allclose(sums, every.sum(axis=1, dtype=np.float64), rtol=1e-6, atol=1e-5)
    each = every.reshape(every.shape[0], x.shape[0], -1, every.shape[2])[:, :, start::stride]
    some = columns(node, x, kernel, start, stride)
    np.testing.assert_array_equal(some, each.reshape(every.shape[0], -1, every.shape[2]))
