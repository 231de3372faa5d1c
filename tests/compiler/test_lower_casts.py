"""Conversions between element types against ml_dtypes and numpy, bit by bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

import optkit.backend

FLOAT8 = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")
OTHERS = ("FLOAT4E2M1", "BFLOAT16", "FLOAT16")
INTEGERS = ("INT4", "UINT4", "INT2", "UINT2", "INT8", "UINT8", "INT16", "UINT16")
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e30, 448, 464, 465, 240, 248, 249, 57344, 61440, 61441]


def kind(name: str) -> np.dtype:
    return ir.DataType[name].numpy()


Wanted = tuple[str, dict[str, object]]


def run(wanted: list[Wanted], x: np.ndarray, op: str = "Cast") -> list[np.ndarray]:
    """One input, and one node for each output."""
    return run_each([(to, more, x) for to, more in wanted], op)


def run_each(cases: list[tuple[str, dict[str, object], np.ndarray]], op: str = "Cast") -> list[np.ndarray]:
    """A node for each case, all in one model."""
    nodes, inputs, outputs = [], [], []
    for i, (to, more, x) in enumerate(cases):
        number = TensorProto.DataType.Value(to)
        nodes.append(helper.make_node(op, [f"x{i}"], [f"y{i}"], to=number, **more))
        inputs.append(helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape))
        outputs.append(helper.make_tensor_value_info(f"y{i}", number, x.shape))
    graph = helper.make_graph(nodes, "casts", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)], ir_version=12)
    return list(optkit.backend.prepare(model).run([x for _, _, x in cases]))


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal bits, but for the sign and the payload of NaN."""
    if found.dtype != expected.dtype:
        return False
    with np.errstate(invalid="ignore"):
        a, b = (v.astype("float64") for v in (found, expected))
    signs = np.signbit(a) == np.signbit(b)
    return bool(np.all((np.isnan(a) & np.isnan(b)) | ((a == b) & signs)))


def numbers(dtype: str) -> np.ndarray:
    """Numbers of every magnitude, all halves between two codes, and what is special."""
    generator = np.random.default_rng(0)
    wide = generator.standard_normal(3000) * 10.0 ** generator.integers(-9, 7, 3000)
    codes = [np.arange(256, dtype=np.uint8).view(kind(n)).astype("float64") for n in FLOAT8]
    codes.append(np.arange(16, dtype=np.uint8).view(kind("FLOAT4E2M1")).astype("float64"))
    ordered = [np.unique(c[np.isfinite(c)]) for c in codes]
    halves = [(c[1:] + c[:-1]) / 2 for c in ordered]
    near = [h * (1 + s * 2.0**-40) for h in halves for s in (-1, 1)]  # on either side, for float64 only
    with np.errstate(over="ignore"):
        return np.concatenate([wide, *codes, *halves, *near, SPECIAL]).astype(dtype)


def test_to_narrow_floats() -> None:
    """Rounded half to even, saturated as asked."""
    x = numbers("float32")
    wanted = [(n, {"saturate": s}) for n in FLOAT8 for s in (0, 1)] + [(n, {}) for n in OTHERS]
    for (name, more), found in zip(wanted, run(wanted, x), strict=True):
        target = kind(name)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = x.astype(target)
            if more.get("saturate"):
                info = ml_dtypes.finfo(target)
                expected = np.clip(x, float(info.min), float(info.max)).astype(target)
        assert same(found, expected), (name, more)


def test_doubles_are_rounded_once() -> None:
    """Never further from the number than through float32, and nearer where that rounds twice."""
    x = numbers("float64")
    wanted = [("FLOAT8E4M3FN", {"saturate": 0}), ("BFLOAT16", {}), ("FLOAT16", {})]
    for (name, _), found in zip(wanted, run(wanted, x), strict=True):
        with np.errstate(over="ignore"):
            twice = x.astype("float32").astype(kind(name)).astype("float64")
        once = found.astype("float64")
        both = np.isfinite(once) & np.isfinite(twice)
        error, other = (np.abs(v[both] - x[both]) for v in (once, twice))
        assert np.all(error <= other), name
        assert (error < other).any() or name != "FLOAT8E4M3FN"
        assert same(found[~both], twice[~both].astype(kind(name))) or name == "FLOAT8E4M3FN"


def test_from_narrow_types() -> None:
    """Every code of every type of at most 8 bits."""
    widths = {
        **dict.fromkeys((*FLOAT8, "FLOAT8E8M0"), 8),
        "FLOAT4E2M1": 4,
        "INT4": 4,
        "UINT4": 4,
        "INT2": 2,
        "UINT2": 2,
    }
    codes = [np.arange(2**width, dtype=np.uint8).view(kind(name)) for name, width in widths.items()]
    for name, x, found in zip(widths, codes, run_each([("FLOAT", {}, x) for x in codes]), strict=True):
        assert same(found, x.astype("float32")), name


def test_to_integers() -> None:
    """Truncated towards zero; integers lose the high bits that do not fit."""
    x = np.concatenate([np.arange(-300, 300), [-70000, 70000, 2**31 - 1, -(2**31)]]).astype("int32")
    wanted = [(name, {}) for name in (*INTEGERS, "INT64", "BOOL")]
    for (name, _), found in zip(wanted, run(wanted, x), strict=True):
        expected = x.astype("int64").astype(kind(name))
        assert np.array_equal(found, expected), name
    y = (np.arange(-40, 64) / 8).astype("float32")
    wanted = [(name, {}) for name in ("INT4", "INT8", "UINT16", "INT64", "BOOL")]
    fits = {"INT4": y < 8, "UINT16": y > -1}
    for (name, _), found in zip(wanted, run(wanted, y), strict=True):
        where = fits.get(name, np.full(y.shape, True))
        expected = y[where].astype(bool) if name == "BOOL" else np.trunc(y[where]).astype("int64").astype(kind(name))
        assert np.array_equal(found[where], expected), name


def test_powers_of_two() -> None:
    """E8M0 in each rounding: up, down, nearest."""
    x = np.array([1.0, 1.1, 1.49, 1.5, 1.9, 2.0, 3.0, 2.0**-127, 1.2 * 2.0**-127, 3e38, np.inf, np.nan], "float32")
    modes = ("up", "down", "nearest")
    found = run([("FLOAT8E8M0", {"round_mode": m, "saturate": 1}) for m in modes], x)
    codes = {m: list(f.view(np.uint8)) for m, f in zip(modes, found, strict=True)}
    assert codes["up"] == [127, 128, 128, 128, 128, 128, 129, 0, 1, 254, 254, 255]
    assert codes["down"] == [127, 127, 127, 127, 127, 128, 128, 0, 0, 254, 254, 255]
    assert codes["nearest"] == [127, 127, 127, 128, 128, 128, 129, 0, 0, 254, 254, 255]
    (strict,) = run([("FLOAT8E8M0", {"round_mode": "nearest", "saturate": 0})], x)
    assert list(strict.view(np.uint8)[-3:]) == [255, 255, 255]


def test_bits_keep_their_pattern() -> None:
    x = np.arange(256, dtype=np.uint8)
    found = run([(name, {}) for name in ("INT8", "FLOAT8E5M2")], x, "BitCast")
    assert [f.dtype for f in found] == [np.dtype("int8"), kind("FLOAT8E5M2")]
    assert all(np.array_equal(f.view(np.uint8), x) for f in found)


def test_narrow_tensors_move() -> None:
    """Weights and inputs of 4 bits keep their type through operators that only move them."""
    x = np.arange(-8, 8).reshape(2, 8).astype(ml_dtypes.int4)
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT4, [2, 8])]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.INT4, [8, 2]) for i in (0, 1)]
    nodes = [helper.make_node("Transpose", [name], [f"y{i}"]) for i, name in enumerate(("x", "w"))]
    graph = helper.make_graph(nodes, "moves", inputs, outputs, [numpy_helper.from_array(x, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.checker.check_model(model)
    for found in optkit.backend.prepare(model).run([x]):
        assert found.dtype == x.dtype and np.array_equal(found, x.T)


def test_bfloat16_rounds_after_every_operator() -> None:
    """Sums of three: one rounding each, as if every intermediate were stored."""
    generator = np.random.default_rng(0)
    a, b, c = (generator.standard_normal(1000).astype(ml_dtypes.bfloat16) for _ in "abc")
    values = [helper.make_tensor_value_info(n, TensorProto.BFLOAT16, [1000]) for n in "abcy"]
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Mul", ["s", "c"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "sums", values[:3], values[3:]), opset_imports=[helper.make_opsetid("", 21)]
    )
    (found,) = optkit.backend.prepare(model).run([a, b, c])
    assert same(found, (a + b) * c)


def test_bfloat16_weights_stay_constant() -> None:
    """A product with bfloat16 weights is summed in float32 and rounded once, on the packed kernels."""
    generator = np.random.default_rng(0)
    x, w = (generator.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((5, 40), (40, 24)))
    ends = [helper.make_tensor_value_info(n, TensorProto.BFLOAT16, s) for n, s in (("x", [5, 40]), ("y", [5, 24]))]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    prepared = optkit.backend.prepare(model)
    (found,) = prepared.run([x])
    exact = x.astype("float64") @ w.astype("float64")
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(found.astype("float64"), exact, rtol=2.0**-8, atol=1e-5)
    assert [k for k in prepared.runner.manifest.kernels if "matmul" in k and "batch" not in k]
