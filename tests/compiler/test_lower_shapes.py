"""Operators whose parameters are inputs of the model: results of shapes that nothing declares."""

from __future__ import annotations

import numpy as np

from tests.compiler.bundle import Bundle


def numbers(b: Bundle, *values: int) -> str:
    """An int64 input."""
    return b.input(len(values), dtype="int64", values=np.array(values))


def free(b: Bundle, value: str, label: str) -> None:
    """Cases for a value of a rank that ONNX does not infer: its elements and its shape."""
    b.case(b.op("Reshape", value, b.const(np.array([-1]))), label)
    b.case(b.op("Cast", b.op("Shape", value), to=1), f"{label}, shape")


def test_shapes_are_inputs() -> None:
    b = Bundle()
    x = b.input(2, 3, 4)
    for target in [(4, 6), (0, -1), (-1,), (2, 0, 2, 2)]:
        free(b, b.op("Reshape", x, numbers(b, *target)), f"Reshape {target}")
    for target in [(1,), (2, 1, 3, 4), (5, 1, 1, 1)]:
        free(b, b.op("Expand", x, numbers(b, *target)), f"Expand {target}")
    free(b, b.op("Expand", b.input(3, 1), numbers(b, 2, 1, 6)), "Expand both")
    free(b, b.op("Tile", x, numbers(b, 2, 1, 3)), "Tile")
    free(b, b.op("ConstantOfShape", numbers(b, 2, 3)), "ConstantOfShape")
    thin = b.input(1, 3, 1)
    free(b, b.op("Squeeze", thin, numbers(b, -1)), "Squeeze")
    free(b, b.op("Squeeze", thin, numbers(b, 0, 2)), "Squeeze two")
    free(b, b.op("Unsqueeze", x, numbers(b, 1, -1)), "Unsqueeze")
    free(b, b.op("Relu", b.op("Expand", b.input(1, 4), numbers(b, 3, 1))), "Relu behind")
    b.check()


def test_slices_are_inputs() -> None:
    b = Bundle()
    x = b.input(6, 5, 4)
    far = 1 << 40
    for starts, ends, axes, steps in [
        ([1], [4], None, None),
        ([0, -3], [far, far], [1, 0], None),
        ([-1, 4], [-far, 0], [0, 1], [-2, -1]),
        ([2], [2], [2], [1]),
        ([9], [20], [0], [1]),
        ([1, 0, 3], [5, 3, -9], [0, -2, -1], [3, 2, -1]),
    ]:
        given = ["" if v is None else numbers(b, *v) for v in (starts, ends, axes, steps)]
        free(b, b.op("Slice", x, *given), f"{starts} {ends} {axes} {steps}")
    b.check()


def test_pads_are_inputs() -> None:
    b = Bundle()
    x = b.input(3, 4, 5)
    whole = b.input(3, 4, dtype="int32", values=np.arange(12).reshape(3, 4))
    for mode in ("constant", "edge", "reflect", "wrap"):
        for pads in [(0, 1, 2, 0, 2, 1), (1, 0, 0, 2, 3, 4)]:
            free(b, b.op("Pad", x, numbers(b, *pads), mode=mode), f"{mode} {pads}")
        free(b, b.op("Pad", x, b.const(np.array([1, 2, 2, 1])), "", b.const(np.array([0, -1])), mode=mode), f"{mode}")
    free(b, b.op("Pad", x, numbers(b, 0, -1, 2, 0, 1, -2)), "negative pads")
    value, axes = b.input(dtype="int32", values=np.array(7)), numbers(b, 1)
    free(b, b.op("Pad", whole, numbers(b, 2, 1), value, axes), "value and axes")
    b.check()


def test_split_sizes_are_inputs() -> None:
    b = Bundle()
    for i, part in enumerate(b.op("Split", b.input(3, 7), numbers(b, 2, 0, 5), outputs=3, axis=1)):
        free(b, part, f"part {i}")
    b.check()


def test_symbolic_data() -> None:
    """A batch that is open, and parameters that are inputs."""
    b = Bundle()
    x = b.input(3, 4, free="batch")
    free(b, b.op("Reshape", x, numbers(b, 2, -1)), "Reshape")
    free(b, b.op("Slice", x, numbers(b, -2), numbers(b, 1 << 40), numbers(b, 0)), "Slice")
    free(b, b.op("Expand", x, numbers(b, 2, 1, 1)), "Expand")
    free(b, b.op("Tile", x, numbers(b, 2, 2)), "Tile")
    free(b, b.op("Size", x), "Size")
    free(b, b.op("ReduceSum", x, numbers(b, 0), keepdims=0), "ReduceSum")
    b.check()


def test_constants() -> None:
    b = Bundle()
    for name, value in [("value_int", 3), ("value_ints", [1, 2]), ("value_float", 0.5), ("value_floats", [0.5, 2.0])]:
        b.case(b.op("Constant", **{name: value}), name)
    x = b.input(2, 3, 4)
    b.case(b.op("Shape", x, start=1), "Shape")
    b.case(b.op("Reshape", x, b.op("Concat", b.op("Shape", x, end=1), b.const(np.array([-1])), axis=0)), "arithmetic")
    b.check()
