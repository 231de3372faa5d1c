"""Tensors that hold less or more than they state are refused when a model is read."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from optkit.errors import ModelError
from optkit.onnx_tensors import check_tensors

KINDS = [
    "float32",
    "float64",
    "float16",
    "int8",
    "int64",
    "uint16",
    "bool",
    "bfloat16",
    "int4",
    "uint4",
    "float8_e4m3fn",
]


def tensor(dtype: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    known = hasattr(ml_dtypes, dtype)
    return numpy_helper.from_array(np.ones(shape, getattr(ml_dtypes, dtype) if known else dtype), "t")


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (5, 3)])
def test_whole_tensors_pass(dtype: str, shape: tuple[int, ...]) -> None:
    check_tensors([tensor(dtype, shape)])


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "INT32", "INT8", "INT64", "UINT64", "BOOL", "FLOAT16"])
def test_tensors_outside_raw_data_pass_and_are_counted(kind: str) -> None:
    made = helper.make_tensor("t", getattr(onnx.TensorProto, kind), [2, 3], [1] * 6)
    check_tensors([made])
    made.dims[0] = 4
    with pytest.raises(ModelError, match=r"tensor 't' holds 6 elements, its extents \[4, 3\] need 12"):
        check_tensors([made])


def test_strings_are_counted() -> None:
    check_tensors([helper.make_tensor("t", onnx.TensorProto.STRING, [2], [b"a", b"b"])])


@pytest.mark.parametrize("dtype", KINDS)
def test_truncated_and_overlong_data_is_named(dtype: str) -> None:
    for change in (lambda raw: raw[:-1], lambda raw: raw + b"\0"):
        broken = tensor(dtype, (5, 3))
        broken.raw_data = change(broken.raw_data)
        with pytest.raises(ModelError, match="tensor 't' holds"):
            check_tensors([broken])


@pytest.mark.parametrize(
    ("dims", "kind", "text"),
    [([-1], 1, "negative"), ([1 << 40, 1 << 40], 1, "any machine"), ([1], 99, "unknown"), ([1], 0, "no element")],
)
def test_impossible_tensors_are_named(dims: list[int], kind: int, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        check_tensors([onnx.TensorProto(name="t", dims=dims, data_type=kind)])
