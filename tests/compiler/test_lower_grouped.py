"""Weights of 2 to 8 bits with float activations: integers in the artifact, floats in registers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from optkit.compiler.build import Built
from optkit.compiler.check import check_kernels
from optkit.compiler.operator import Operator
from optkit.registry import find_target
from tests.compiler.bundle import Bundle
from tests.targets.cpu.test_scheduled_models import runnable

TYPES = ("int8", "uint8", "int4", "uint4")
# rows, K, N, group: one row and several tiles of them; columns that fill no vector; groups that do not fill K
GEOMETRY = [(1, 64, 48, 32), (5, 96, 33, 16), (37, 64, 64, 32), (3, 50, 32, 32), (2, 31, 16, 0), (9, 24, 80, 0)]


def bundle(kind: str, seed: int = 0, transposed: bool = False) -> Bundle:
    made = Bundle(opset=21, seed=seed)
    for rows, depth, columns, group in GEOMETRY:
        blocks = (-(-depth // group), columns) if group else (columns,)
        bits = 4 if "4" in kind else 8
        low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        dtype = getattr(ml_dtypes, kind) if bits == 4 else np.dtype(kind)
        q = made.generator.integers(low, high, (depth, columns), endpoint=True)
        scale = made.generator.uniform(0.01, 0.1, blocks).astype(np.float32)
        zero = made.generator.integers(low, high, blocks, endpoint=True)
        parts = [q.astype(dtype), scale, zero.astype(dtype)]
        axis = 0 if group else 1
        if transposed:
            parts, axis = [np.ascontiguousarray(part.T) for part in parts], 1 - axis
        extra = [made.const(parts[2])] if rows not in (37, 9) else []
        weight = made.op(
            "DequantizeLinear", *map(made.const, parts[:2]), *extra, axis=axis, block_size=group if group else None
        )
        x = made.input(rows, depth)
        if transposed:
            y = made.op("Gemm", x, weight, made.const(made.normal(columns)), transB=1)
        else:
            y = made.op("Relu", made.op("MatMul", x, weight))
        made.case(y, f"{kind} {rows}x{depth}x{columns} in groups of {group}")
    return made


def templates(built: Built) -> set[str]:
    return {k.template for k in built.kernels if k.operator}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_every_type(kind: str, transposed: bool) -> None:
    built = bundle(kind, transposed=transposed).check()
    assert templates(built) == {"grouped"}
    assert {n.compute for n in built.nodes} == {"float32"}
    codes = [array for _, array in built.weights if array.dtype.itemsize == 1]
    assert len(codes) == len(GEOMETRY)
    lanes = find_target("cpu").lanes
    wanted = [
        -(-columns // lanes) * lanes * (-(-depth // 2) if "4" in kind else depth) for _, depth, columns, _ in GEOMETRY
    ]
    assert sorted(array.size for array in codes) == sorted(wanted)


@pytest.mark.parametrize("target", ["x86-64-v3", "cpu"])
def test_scheduled_and_unscheduled_agree(target: str) -> None:
    for kind in ("uint4", "int8"):
        assert check_kernels(bundle(kind).model(), runnable(target)) == []


def test_operator_is_named() -> None:
    built = bundle("uint4").build()
    operators = [Operator.parse(k.operator) for k in built.kernels if k.operator]
    assert {(o.kind, o.compute) for o in operators} == {("grouped_matmul", "float32")}
    assert sum(o.macs() for o in operators) == sum(m * k * n for m, k, n, _ in GEOMETRY)


def test_alpha_is_not_forgotten() -> None:
    """A factor on the product is on the weights, which are floats then."""
    made = Bundle(opset=21)
    q = made.generator.integers(0, 16, (16, 64)).astype(ml_dtypes.uint4)
    scale = made.generator.uniform(0.01, 0.1, (16, 2)).astype(np.float32)
    weight = made.op("DequantizeLinear", made.const(q), made.const(scale), axis=1, block_size=32)
    made.case(made.op("Gemm", made.input(3, 64), weight, transB=1, alpha=0.25), "alpha")
    assert templates(made.check()) == {"packed"}


def test_groups_along_the_columns_stay_right() -> None:
    made = Bundle(opset=21)
    q = made.generator.integers(0, 16, (24, 64)).astype(ml_dtypes.uint4)
    scale = made.generator.uniform(0.01, 0.1, (24, 2)).astype(np.float32)
    weight = made.op("DequantizeLinear", made.const(q), made.const(scale), axis=1, block_size=32)
    made.case(made.op("MatMul", made.input(3, 24), weight), "along N")
    assert templates(made.check()) == {"packed"}
