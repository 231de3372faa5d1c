"""Tensors as long as others are, and operands whose open extents meet only when the model runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from optkit.compiler.build import build as compile_model
from optkit.errors import UnsupportedError
from optkit.model import load_model
from optkit.registry import find_target
from tests.compiler.bundle import Bundle, relative, run
from tests.graphs import build, session, weights


def extent(b: Bundle, value: str, axis: int) -> str:
    """An extent as a vector of one number."""
    return b.op("Shape", value, start=axis, end=axis + 1)


def count(b: Bundle, limit: str, start: int = 0, delta: int = 1) -> str:
    """Range up to a vector of one number."""
    whole = b.op("Squeeze", limit, b.const(np.array([0])))
    return b.op("Range", b.const(np.array(start)), whole, b.const(np.array(delta)))


def test_arithmetic_on_extents() -> None:
    b = Bundle()
    x = b.input(5, 4, free="n")
    n = extent(b, x, 0)
    two, zero = b.const(np.array([2])), b.const(np.array([0]))
    numbers = b.op("Cast", count(b, n), to=1)
    b.case(b.op("Mul", x, b.op("Unsqueeze", numbers, b.const(np.array([1])))), "one number a row")
    for start, delta in [(1, 1), (0, 2), (7, -3), (9, 1)]:
        b.case(count(b, n, start, delta), f"Range({start}, n, {delta})")
    half = b.op("Div", b.op("Sub", b.op("Mul", n, two), b.const(np.array([1]))), two)
    b.case(count(b, half), "(2n - 1) / 2")
    narrow = b.op("Cast", b.op("Cast", n, to=6), to=7)
    b.case(b.op("Reshape", x, b.op("Concat", two, narrow, b.const(np.array([-1])), axis=0)), "Reshape")
    shape = b.op("Shape", x)
    b.case(b.op("Cast", b.op("Gather", shape, b.const(np.array(-2))), to=1), "Gather")
    b.case(b.op("Add", b.op("Slice", shape, zero, two), b.const(np.array([[1], [2]]))), "a matrix of extents")
    b.check()


def test_as_many_as_were_found() -> None:
    b = Bundle()
    x = b.input(6, 3, values=np.array([[1, 0, 2], [0, 0, 0], [3, 0, 0], [0, 4, 5], [0, 0, 0], [6, 7, 8]], "float32"))
    found = b.op("Transpose", b.op("NonZero", x))
    numbers = b.op("Unsqueeze", count(b, extent(b, found, 0)), b.const(np.array([1])))
    b.case(b.op("Concat", numbers, found, axis=1), "a number before each")
    b.case(b.op("Add", numbers, found), "a number to each")
    b.check()


def test_extents_that_meet_at_run_time() -> None:
    b = Bundle()
    x, y, one = (b.input(rows, 4, free=name) for rows, name in ((3, "n"), (3, "m"), (1, "k")))
    for op_type in ("Add", "Mul", "Less", "Max"):
        b.case(b.op(op_type, x, y), op_type)
        b.case(b.op(op_type, x, one), f"{op_type} of one row")
        b.case(b.op(op_type, one, x), f"one row {op_type}")
    b.case(b.op("Add", b.op("Add", one, x), y), "a sum of sums")
    b.case(b.op("Add", b.input(3, 4), one), "Add to a known extent")
    b.case(b.op("Where", b.op("Less", x, y), x, one), "Where")
    b.case(b.op("Concat", x, y, b.input(3, 2), axis=1), "Concat")
    b.check()


def test_an_open_axis_of_one_element_is_dropped() -> None:
    b = Bundle()
    x = b.input(1, 3, 1, free="n")
    b.case(b.op("Squeeze", x, b.const(np.array([0]))), "Squeeze")
    b.case(b.op("Squeeze", x, b.const(np.array([-1, 0]))), "Squeeze two")
    b.check()


@pytest.mark.parametrize("op_type", ["Add", "Concat", "Squeeze"])
def test_extents_that_do_not_fit_are_an_error(op_type: str) -> None:
    b = Bundle()
    x, y = b.input(3, 4, free="n"), b.input(5, 4, free="m")
    axis = b.const(np.array([0]))
    result = {"Add": lambda: b.op("Add", x, y), "Concat": lambda: b.op("Concat", x, y, axis=1)}.get(
        op_type, lambda: b.op("Squeeze", x, axis)
    )()
    b.case(result, op_type)
    built = b.build()
    with pytest.raises(RuntimeError, match=r"(?i)match|shape|expect"):
        run(built, list(b.feeds.values()))


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
def test_images_of_open_size_become_rows_without_a_copy(target: str) -> None:
    """As detectors' heads have it: of quotients TVM cannot prove that a product of two is as many elements."""
    body = """
        c = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) d = Conv<strides=[2,2], pads=[1,1,1,1]>(c, v)
        r = Reshape(c, rows) s = Reshape(d, rows) j = Concat<axis=2>(r, s) y = Softmax<axis=1>(j)
    """
    constants = {"w": weights(12, 3, 3, 3), "v": weights(12, 12, 3, 3, seed=1), "rows": np.array([0, 12, -1])}
    model = build(body, inputs="float[n,3,h,w0] x", outputs="float[n,12,k] y", **constants)
    built = compile_model(model, find_target(target))
    assert not [kernel.name for kernel in built.kernels if "reshape" in kernel.name]
    if target == "cpu":
        for n, h, w in ((1, 9, 7), (2, 16, 33), (3, 1, 2)):
            x = weights(n, 3, h, w, seed=h)
            assert relative(session(model).run(None, {"x": x})[0], run(built, [x])[0]) < 1e-5


@pytest.mark.parametrize(
    "body", ["y = Slice(x, zero, e, axes)", "y = Slice(x, e, far, axes)", "g = Neg(e) y = Slice(x, g, far, axes)"]
)
def test_what_is_cut_as_long_as_another_tensor_ends_where_it_ends(body: str) -> None:
    names = {"axes": np.array([2, 3]), "zero": np.array([0, 0]), "far": np.array([2**63 - 1, -1])}
    used = {name: value for name, value in names.items() if name in body}
    inputs = "float[n,4,h,w0] x, float[m,4,h2,w2] r"
    model = build(f"e = Shape<start=2>(r) {body}", inputs=inputs, outputs="float[a,b,c,d] y", **used)
    built = compile_model(model, find_target("cpu"))
    for size, other in (((3, 4), (7, 9)), ((7, 9), (3, 4)), ((5, 5), (5, 9)), ((0, 3), (2, 2)), ((3, 3), (0, 0))):
        x, r = (np.arange(4 * h * w, dtype=np.float32).reshape(1, 4, h, w) for h, w in (size, other))
        assert np.array_equal(run(built, [x, r])[0], session(model).run(None, {"x": x, "r": r})[0])


def test_axes_that_only_a_run_could_name_are_refused() -> None:
    b = Bundle()
    b.case(b.op("Squeeze", b.input(1, 3, free="n")), "Squeeze", dtype="float32", shape=["r"])
    with pytest.raises(UnsupportedError, match="name them in axes"):
        b.build()


@pytest.mark.parametrize("batch", ["", "n"])
def test_gates_are_complete_before_they_meet_the_image(batch: str) -> None:
    b = Bundle()
    x = b.op("Conv", b.input(2, 16, 6, 6, free=batch), b.const(b.normal(32, 16, 1, 1, scale=0.2)))
    gate = b.op("Conv", b.op("GlobalAveragePool", x), b.const(b.normal(32, 32, 1, 1, scale=0.2)))
    b.case(b.op("Mul", x, b.op("HardSigmoid", gate)), "gate")
    names = [kernel.name for kernel in b.check().kernels]
    (image,) = (name for name in names if "to_plain" in name)
    assert "multiply" in image
    assert "conv2d" not in image


def _axes(path: Path, shapes: dict[str, list[int | str | None]]) -> list[list[int | str | None]]:
    """Shapes of inputs as they are after loading."""
    graph = helper.make_graph(
        [helper.make_node("Relu", [name], [f"{name}_out"]) for name in shapes],
        "g",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(f"{name}_out", 1, shape) for name, shape in shapes.items()],
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())
    inputs = load_model(path).graph.inputs
    return [[d if isinstance(d, int) else d.value for d in v.shape or ()] for v in inputs]


def test_open_axes_have_names(tmp_path: Path) -> None:
    found = _axes(tmp_path / "one.onnx", {"x": [-1, 3, "?", None, "width"]})
    assert found == [["batch", 3, "x_2", "x_3", "width"]]


def test_open_axes_of_two_inputs_need_not_be_equal(tmp_path: Path) -> None:
    found = _axes(tmp_path / "two.onnx", {"x": [None, 3], "y": [None, "n"], "z": ["n", "x_0"]})
    assert found == [["x_0_", 3], ["y_0", "n"], ["n", "x_0"]]


STACKS = {
    "both are counted": "float[n,3,4,5] a, float[m,3,5,6] b",
    "one is a number": "float[n,1,4,5] a, float[2,3,5,6] b",
    "one has fewer axes": "float[n,k,4,5] a, float[m,5,6] b",
    "sums of as many terms": "float[n,3,4,s] a, float[n,3,t,6] b",
    "rows and columns too": "float[n,3,r,5] a, float[m,3,5,c] b",
}


@pytest.mark.parametrize("name", STACKS)
def test_stacks_of_matrices_that_meet_at_run_time(name: str) -> None:
    """Of equal numbers, or one of them of one, which the product repeats."""
    model = build("y = MatMul(a, b)", inputs=STACKS[name], outputs="float[p,q,r2,c2] y")
    built = compile_model(model, find_target("cpu"))
    reference = session(model)
    for n, m in ((2, 2), (1, 2), (2, 1)):
        extents = {"n": n, "m": 3 if name == "one has fewer axes" else m, "k": 3, "s": 5, "t": 5, "r": 4, "c": 6}
        feeds = {}
        for value in reference.get_inputs():
            shape = [extents.get(str(d), d) for d in value.shape]
            feeds[value.name] = np.random.default_rng(len(feeds)).standard_normal(shape).astype(np.float32)
        expected = reference.run(None, feeds)[0]
        (found,) = run(built, list(feeds.values()))
        assert expected.shape == found.shape and relative(expected, found) < 1e-5
