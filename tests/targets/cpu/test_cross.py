"""Named CPUs: what they claim, and code for each of them, whether or not it runs here."""

from __future__ import annotations

import re

import pytest
from optkit_targets.cpu.chips import CHIPS

from optkit.compiler.build import Built
from optkit.compiler.check import check_kernels
from optkit.compiler.host import host_variant
from optkit.errors import CompileError, UsageError
from optkit.registry import find_target
from tests.compiler.bundle import Bundle
from tests.compiler.test_lower_conv import conv as real_conv
from tests.compiler.test_lower_integer import UNSIGNED, bias, conv, pair, quantize, uneven, weight

INTEGER = {
    "x86-64-v3": r"\bvpmaddwd\b.*%ymm",
    "alderlake": r"\bvpdpbusd\b.*%ymm",
    "x86-64-v4": r"\bvpmaddwd\b.*%zmm",
    "skylake-avx512": r"\bvpmaddwd\b.*%zmm",
    "cascadelake": r"\bvpdpbusd\b.*%zmm",
    "cooperlake": r"\bvpdpbusd\b.*%zmm",
    "sapphirerapids": r"\btdpbusd\b",
    "znver5": r"\bvpdpbusd\b.*%zmm",
    "cortex-a72": r"\b[su]?ml[as]l2?\b|\bmla\b",
    "cortex-a76": r"\bsdot\s+v\d+\.4s",
    "neoverse-v1": r"\busdot\s+v\d+\.4s",
}
REAL = {"aarch64": r"\bfmla\b.*4s", "x86_64": r"\bvfmadd\d+ps\b"}


def network() -> Bundle:
    """A small CNN in float32 and one in int8."""
    b = Bundle()
    x = b.input(1, 3, 12, 11, free="n")
    stem = b.op("Relu", real_conv(b, x, 3, 20, (3, 3), pads=[1, 1, 1, 1], strides=[2, 2]))
    deep = b.op("Sigmoid", real_conv(b, stem, 20, 20, (3, 3), 20, pads=[1, 1, 1, 1]))
    joined = b.op(
        "Concat", b.op("MaxPool", stem, kernel_shape=[2, 2]), b.op("AveragePool", deep, kernel_shape=[2, 2]), axis=1
    )
    flat = b.op("Flatten", b.op("GlobalAveragePool", joined))
    b.case(b.op("Softmax", b.op("Gemm", flat, b.const(b.normal(40, 10)))), "float32")
    y = pair(b, x, 0.03, UNSIGNED)
    q = pair(b, b.op("Relu", conv(b, y, 3, 20, (3, 3), pads=[1, 1, 1, 1])), 0.03, UNSIGNED)
    q = pair(b, b.op("Add", conv(b, q, 20, 20, (3, 3), 20, pads=[1, 1, 1, 1]), q), 0.03, UNSIGNED)
    mean = pair(b, b.op("GlobalAveragePool", conv(b, q, 20, 24, (1, 1))), 0.01, UNSIGNED)
    w, scales = weight(b, (10, 24), 0, True, 24)
    dense = b.op("Gemm", b.op("Flatten", mean), w, bias(b, 10, scales * uneven(0.01)), transB=1)
    b.case(quantize(b, dense, 0.02, UNSIGNED), "int8")
    return b


def build(target: str) -> Built:
    return network().build(target)


@pytest.mark.parametrize("name", sorted(INTEGER))
def test_a_small_network_builds(name: str) -> None:
    """With the instructions the target is chosen for."""
    built = build(name)
    text = built.assembly()
    assert re.search(REAL[CHIPS[name].arch], text)
    assert re.search(INTEGER[name], text)
    assert [r.compute for r in built.nodes].count("int8") == 4
    if CHIPS[name].arch == "x86_64" and CHIPS[name].lanes == 8:
        assert "%zmm" not in text


@pytest.mark.parametrize("name", ["cortex-a76", "neoverse-v1", "sapphirerapids", "x86-64-v3"])
def test_the_host_variant_computes_the_same(name: str) -> None:
    """Another CPU's layouts and packing, run here: right, and every schedule of it."""
    variant = host_variant(find_target(name))
    b = network()
    b.check(variant)
    assert [str(m) for m in check_kernels(b.model(), variant)] == []


def test_kernels_are_not_compared_where_they_do_not_run() -> None:
    foreign = "cortex-a76" if find_target("cortex-a76").runs_here() else "x86-64-v3"
    with pytest.raises(CompileError, match="this machine is"):
        check_kernels(network().model(), find_target(foreign))


def test_every_named_cpu_is_consistent() -> None:
    family = {name: find_target(name) for name in CHIPS}
    for name, target in family.items():
        assert target.name == name and target.device == "cpu" and target.isa[0] == CHIPS[name].arch
        assert target.lanes in (4, 8, 16) and target.registers in (16, 32)
        assert target.has("int8_dot") <= target.has("int8_vector"), name
        assert target.summary
    assert family["cascadelake"].has("int8_dot") and not family["skylake-avx512"].has("int8_dot")
    assert not family["znver3"].has("int8_dot")


def test_an_unknown_cpu_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="znver5"):
        find_target("cpu:znver55")


def test_this_machine_runs_its_own_code() -> None:
    assert find_target("cpu").runs_here() is None
