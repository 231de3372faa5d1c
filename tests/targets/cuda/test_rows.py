"""Kernels of rows: how threads share them, what is loaded at once, and what joins them."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import tvm
from optkit_targets.cuda.nvcc import with_device_code
from tvm import te, tirx

from optkit.compiler.build import prepare
from optkit.compiler.check import check_prepared
from optkit.compiler.operators import norms, rows
from optkit.compiler.schedule import Kernel, choose, schedule_module
from optkit.registry import find_target
from tests.targets.cuda.reduced import forks, lengths, twice
from tests.targets.cuda.simulate import simulated
from tests.targets.cuda.test_kernels import passed
from tests.targets.cuda.transformers import encoder


def scheduled(model: ir.Model, pipeline: str, largest: bool) -> list[Kernel]:
    """Kernels for a GPU, which with threads one after the other make what they make unscheduled."""
    target = find_target("cuda:sm_80")
    ready = prepare(passed(model, pipeline), target)
    assert check_prepared(ready, simulated(target, largest=largest)) == []
    with tvm.target.Target(dict(target.tvm)):
        return schedule_module(ready.module, target, ready.labels)[1]


@pytest.mark.parametrize(
    ("batch", "pipeline", "largest"),
    [("3", "default", False), ("3", "default", True), ("3", "fp16", False), ("n", "default", False)],
)
def test_rows_of_any_length_are_what_the_unscheduled_kernels_make(batch: str, pipeline: str, largest: bool) -> None:
    kernels = scheduled(lengths(batch), pipeline, largest)
    assert sum(kernel.rule == "cuda.rows" for kernel in kernels) == 9


def _function(kind: str, count: int | str, size: int | str, dtype: str) -> tirx.PrimFunc:
    shape = [te.var(n, "int64") if isinstance(n, str) else n for n in (count, size)]
    x = te.placeholder(shape, dtype, "x")
    if kind == "softmax":
        return te.create_prim_func([x, rows.softmax(x, rows.WHOLE)])
    vectors = [te.placeholder((size,), dtype, name) for name in "gs"]
    return te.create_prim_func([x, *vectors, norms.normalize(x, *vectors, 1e-5, rows.WHOLE)])


@pytest.mark.parametrize(
    ("count", "size", "dtype", "threads", "together", "lanes"),
    [
        (197, 768, "float16", 32, 1, 8),  # a row for every multiprocessor of 132
        (2364, 197, "float16", 32, 4, 1),
        (5000, 10, "float32", 8, 16, 2),
        (1, 1000, "float32", 128, 1, 4),  # one row: more threads
        (5000, 4096, "float16", 128, 1, 8),
        ("n", 768, "float32", 32, 4, 4),
        (7, "n", "float32", 32, 1, 1),
        (1, 768, "float16", 96, 1, 8),
        (9, 1, "float32", 4, 8, 1),
    ],
)
def test_threads_follow_from_lengths_and_counts(
    count: int | str, size: int | str, dtype: str, threads: int, together: int, lanes: int
) -> None:
    choice = choose(_function("softmax", count, size, dtype), find_target("cuda:sm_90"))
    assert choice.rule == "cuda.rows"
    assert dict(choice.params) == {"threads": threads, "rows": together, "lanes": lanes}
    assert all(value in choice.space[name] for name, value in choice.params.items())


def _source(func: tirx.PrimFunc) -> str:
    target = find_target("cuda:sm_90")
    choice = choose(func, target)
    with tvm.target.Target(dict(target.tvm), host=dict(target.tvm_host)):
        made = tvm.compile(tvm.IRModule({"main": choice.apply(func, choice.params).with_attr("global_symbol", "main")}))
    return with_device_code(made.mod.imports[0].inspect_source())


@pytest.mark.needs_nvcc
@pytest.mark.parametrize("count", [197, "n"])
def test_a_warp_sums_a_row_without_shared_memory(count: int | str) -> None:
    """Two sums of five shuffles and one that hands out the result; nobody waits for the block."""
    source = _source(_function("layer norm", count, 768, "float16"))
    kernel = source[source.rindex('extern "C"') :]
    assert kernel.count("__shfl_down_sync") == 10
    assert kernel.count("__shfl_sync") == 2
    assert "__shared__" not in kernel
    assert "__syncthreads" not in kernel
    assert "__activemask" not in source
    assert kernel.count("optkit_row_mask()") == 2
    assert kernel.index("optkit_follow") < kernel.index("*(uint4*)")
    # Of 768 halves 24 a thread, read three times in three vectors each, and scales and shifts once.
    assert kernel.count("= *(uint4*)(x_ptr") == 9
    assert kernel.count(" < n") <= 1  # one condition around all of it


@pytest.mark.needs_nvcc
def test_warps_wait_once_for_a_sum() -> None:
    """The second sum's parts lie where the first one's did, and wait until those have been read."""
    source = _source(_function("softmax", 1, 1000, "float32"))
    kernel = source[source.rindex('extern "C"') :]
    assert kernel.count("__syncthreads") == 3
    assert kernel.count("__shfl_down_sync") == 10
    assert "volatile" not in kernel


def _called(model: str, name: str = "cuda:sm_90") -> list[str]:
    build = {"encoder": encoder, "twice": twice}[model]
    ready = prepare(passed(build(), "int8-fp16"), find_target(name))
    text = ready.module["main"].script()
    return [line.split("call_tir(")[1].split(",")[0] for line in text.splitlines() if "call_tir(" in line]


def test_normalization_reads_half_precision_and_quantizes() -> None:
    found = _called("encoder")
    normal = [name for name in found if "layer_norm" in name]
    assert len(normal) == 2
    assert all(name.startswith("fused_layer_norm_quantize") for name in normal)
    assert not [name for name in found if name.startswith(("cast", "quantize"))]
    assert "layer_norm" in _called("encoder", "icelake-server")  # CPUs have it as it was


def test_what_is_read_twice_is_normalized_once() -> None:
    found = _called("twice")
    assert sum("layer_norm" in name for name in found) == 2
    assert sum(name.startswith("fused_layer_norm_quantize") for name in found) == 1


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("pipeline", ["int8", "int8-fp16"])
@pytest.mark.parametrize("batch", ["3", "n"])
def test_rows_and_their_integers_are_one_kernel(batch: str, pipeline: str, largest: bool) -> None:
    kernels = scheduled(forks(batch), pipeline, largest)
    both = [kernel for kernel in kernels if "_quantize" in kernel.name]
    assert len(both) == 5
    assert {kernel.rule for kernel in both} == {"cuda.rows"}
    assert {kernel.calls[0].rpartition("_")[0] for kernel in both} == {"LayerNormalization", "Softmax"}
    assert not any(kernel.name.startswith("quantize") for kernel in kernels)
