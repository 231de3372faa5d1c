"""Elements by their indices, those that no axis has among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compiler.bundle import BUNDLED, Bundle, run
from tests.compiler.test_lower_conv import conv


def _places(b: Bundle, extent: int, shape: tuple[int, ...], dtype: str = "int64") -> np.ndarray:
    return b.generator.integers(-extent, extent, shape).astype(dtype)


@BUNDLED
@given(st.integers(0, 1000), st.sampled_from(["int32", "int64"]))
def test_gather(seed: int, dtype: str) -> None:
    b = Bundle(seed=seed)
    sizes = [int(n) for n in b.generator.integers(1, 9, 3)]
    x, table = b.input(*sizes), b.const(b.normal(*sizes))
    for axis in (0, 1, 2, -1):
        for shape in [(), (1,), (5,), (2, 3)]:
            places = _places(b, sizes[axis], shape, dtype)
            at = b.input(*shape, dtype=dtype, values=places)
            b.case(b.op("Gather", x, at, axis=axis), f"{sizes} axis {axis}, {shape}")
            b.case(b.op("Gather", table, at, axis=axis), f"table {sizes} axis {axis}, {shape}")
            b.case(b.op("Gather", x, b.const(places), axis=axis), f"{sizes} axis {axis}, constant {shape}")
            b.case(b.op("Gather", table, b.const(places), axis=axis), f"both constant, {sizes} axis {axis}, {shape}")
    b.check()


def test_gather_of_other_types_and_extents_found_at_run_time() -> None:
    b = Bundle()
    for dtype in ("float64", "float16", "int8", "int64", "bool"):
        x = b.input(4, 16, dtype=dtype, values=b.generator.integers(0, 2, (4, 16)))
        b.case(b.op("Gather", x, b.input(3, dtype="int64", values=_places(b, 4, (3,)))), dtype)
    x = b.input(6, 5, free="n")
    for axis in (0, 1):
        at = b.input(3, dtype="int64", free="m", values=_places(b, 5, (3,)))
        b.case(b.op("Gather", x, at, axis=axis), f"open, axis {axis}")
        b.case(b.op("Gather", x, b.const(np.array(-1)), axis=axis), f"open, the last of axis {axis}")
        b.case(b.op("Gather", x, b.const(np.array([1, -2])), axis=axis), f"open, two of axis {axis}")
    sizes = b.op("Shape", x)
    b.case(b.op("Gather", sizes, b.const(np.array([1, 0, -2]))), "extents")
    one = b.op("Unsqueeze", b.op("Gather", sizes, b.const(np.array(-2))), b.const(np.array([0])))
    b.case(b.op("Reshape", x, b.op("Concat", b.const(np.array([5])), one, axis=0)), "an extent in a shape")
    b.check()


@BUNDLED
@given(st.integers(0, 1000), st.sampled_from(["int32", "int64"]))
def test_gather_elements(seed: int, dtype: str) -> None:
    b = Bundle(seed=seed)
    sizes = [int(n) for n in b.generator.integers(2, 7, 3)]
    x = b.input(*sizes)
    for axis in (0, 1, -1):
        for less in (0, 1):
            shape = [n - less for n in sizes]
            shape[axis] = 4
            places = b.generator.integers(-sizes[axis], sizes[axis], shape)
            at = b.input(*shape, dtype=dtype, values=places)
            b.case(b.op("GatherElements", x, at, axis=axis), f"{sizes} by {shape} on {axis}")
    b.check()


def test_gather_nd() -> None:
    b = Bundle()
    sizes = [3, 4, 5, 2]
    x = b.input(*sizes)
    for batches, depth, lead in [
        (0, 1, (3,)),
        (0, 2, (2, 2)),
        (0, 4, (7,)),
        (1, 2, (3, 6)),
        (2, 1, (3, 4)),
        (2, 2, (3, 4, 2)),
    ]:
        named = sizes[batches : batches + depth]
        places = np.stack([b.generator.integers(-n, n, lead) for n in named], -1)
        at = b.input(*places.shape, dtype="int64", values=places)
        b.case(b.op("GatherND", x, at, batch_dims=batches), f"batches {batches}, depth {depth}, {lead}")
    rows = b.input(4, 6, free="n")
    at = b.input(3, 1, dtype="int64", values=np.array([[1], [-1], [3]]))
    b.case(b.op("GatherND", rows, at), "open rows")
    b.check()


def test_an_index_outside_becomes_the_nearest_inside(capfd: pytest.CaptureFixture[str]) -> None:
    b = Bundle()
    places = np.array([-(2**40), -7, -6, -1, 0, 5, 6, 2**40])
    inside = np.array([0, 0, 0, 5, 0, 5, 5, 5])
    table = b.normal(6, 16)
    x = b.input(6, 16, values=table)
    at = b.input(8, dtype="int64", values=places)
    b.case(b.op("Gather", x, at), "Gather")
    b.case(b.op("Gather", b.const(table), at), "Gather from a table")
    b.case(b.op("GatherND", x, b.op("Unsqueeze", at, b.const(np.array([1])))), "GatherND")
    wide = b.op("Expand", b.op("Unsqueeze", at, b.const(np.array([1]))), b.const(np.array([8, 16])))
    b.case(b.op("GatherElements", x, wide, axis=0), "GatherElements")
    built = b.build()
    found = run(built, [b.feeds[i.name] for i in built.inputs])
    for label, array in zip(b.labels.values(), found, strict=True):
        np.testing.assert_array_equal(array, table.astype("float32")[inside], err_msg=label)
    assert "Warning" not in capfd.readouterr().err


def test_a_slice_at_a_known_place_is_part_of_the_moves_around_it() -> None:
    """As a detector's head takes the one image of a batch out of its maps, and joins them."""
    b = Bundle()
    x = b.input(1, 16, 4, 6)
    maps = []
    for _ in range(2):
        image = b.op("Gather", conv(b, x, 16, 32, (1, 1)), b.const(np.array(0)), axis=0)
        maps.append(b.op("Reshape", image, b.const(np.array([32, -1]))))
    b.case(b.op("Transpose", b.op("Concat", *maps, axis=1), perm=[1, 0]), "joined")
    b.case(b.op("Gather", x, b.const(np.array(-2)), axis=3), "from behind")
    names = [kernel.name for kernel in b.check().kernels]
    assert len([name for name in names if "pick" in name]) == 2
    assert not [name for name in names if name.startswith("to_plain")]
