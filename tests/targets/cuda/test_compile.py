"""CUDA code without a GPU: nvcc takes every kernel, the library holds its code, and twice the same bytes."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
from optkit_targets.cuda import nvcc, package

from optkit.api import transform
from optkit.artifact.link import link_library
from optkit.compiler.build import Built, build
from optkit.errors import CompileError
from optkit.plan import choose_pipeline
from optkit.registry import find_target
from tests.targets.cuda.detection import boxes, regions
from tests.targets.cuda.models import cnn, deep, grouped, narrow, others, projection, taps, tokens, wide
from tests.targets.cuda.sequences import gates, states
from tests.targets.cuda.transformers import attention, beside, encoder, head_sizes, heads

CASES = [
    *((cnn, name) for name in ("default", "int8", "fp16", "bf16", "tf32")),
    *((model, name) for model in (deep, tokens) for name in ("int8", "fp16")),
    *((model, name) for model in (deep, heads) for name in ("bf16", "tf32")),
    *((attention, name) for name in ("int8", "fp16", "bf16")),
    (heads, "fp16"),
    *((encoder, name) for name in ("int8-fp16", "bf16")),
    *((head_sizes, name) for name in ("fp16", "bf16")),
    *((narrow, name) for name in ("default", "fp16")),
    (others, "default"),
    (regions, "default"),
    (gates, "default"),
]
SHARED = 48 * 1024
"""Bytes of shared memory that a block has on every GPU without asking for more."""


def built(model: Callable[[], ir.Model], pipeline: str, target: str) -> Built:
    """The model compiled, but for nvcc."""
    return build(transform(model(), choose_pipeline(pipeline, {})).model, find_target(target))


@pytest.mark.needs_nvcc
@pytest.mark.parametrize(("model", "pipeline"), CASES, ids=lambda c: c if isinstance(c, str) else c.__name__)
def test_every_kernel_becomes_machine_code(model: Callable[[], ir.Model], pipeline: str, tmp_path: Path) -> None:
    made = built(model, pipeline, "cuda:sm_80")
    assert made.kernels
    assert {k.rule.split(".")[0] for k in made.kernels} == {"cuda"}
    source = made.executable.source()
    kernels = len(re.findall(r"__global__ void (?:__launch_bounds__\(\d+\) )?\w+\(.*\{", source))
    assert kernels >= len(made.kernels)
    (tmp_path / "k.cu").write_text(nvcc.with_device_code(source))
    for arch in ("sm_80", "sm_90a"):
        command = [nvcc.find_nvcc(), "-cubin", f"-arch={arch}", *nvcc.FLAGS, "-Xptxas=-v", "-o", "k.cubin", "k.cu"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Compiling entry function") == kernels
        assert all(int(size) <= SHARED for size in re.findall(r"(\d+) bytes smem", done.stderr))
        assert set(re.findall(r"(\d+) bytes spill", done.stderr)) == {"0"}


@pytest.mark.needs_nvcc
@pytest.mark.needs_compiler
def test_the_library_holds_the_code_and_is_reproducible(tmp_path: Path) -> None:
    libraries = []
    for name in ("one", "two"):
        made = built(cnn, "int8", "cuda:sm_90")
        link_library(made.executable, tmp_path / f"{name}.so")
        libraries.append((tmp_path / f"{name}.so").read_bytes())
    first, second = libraries
    assert first == second
    assert b"__global__" not in first
    assert b"fatbin" in first
    assert b"sm_90" in first
    for kernel in made.kernels:
        assert kernel.name.encode() in first


@pytest.mark.needs_nvcc
@pytest.mark.needs_compiler
def test_one_library_holds_the_code_of_several_gpus(tmp_path: Path) -> None:
    made = built(tokens, "int8", "cuda:h100+a100")
    link_library(made.executable, tmp_path / "both.so")
    content = (tmp_path / "both.so").read_bytes()
    assert made.target.name == "cuda:sm_80+sm_90"
    assert all(word in content for word in (b"sm_80", b"sm_90"))


def test_integers_use_dp4a_and_nothing_else_is_contracted() -> None:
    integer, real = (built(cnn, p, "cuda:sm_75").executable.source() for p in ("int8", "default"))
    assert "optkit_dp4a_u8s8(" in integer
    assert "fmaf(" not in integer
    assert "fmaf(" in real
    assert "-fmad=false" in nvcc.FLAGS
    assert not any("fast" in flag for flag in nvcc.FLAGS)


MEMORY = re.compile(r"\b(?:ld|st|atom|red|cp\.async)\.(?!param)")
BYTES, HALVES = "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32", "mma.sync.aligned.m16n8k16.row.col.f32.f16"
BFLOATS = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
TF32 = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"


@pytest.mark.needs_nvcc
@pytest.mark.parametrize(
    ("model", "count", "pipeline", "instruction"),
    [
        (deep, 4, "int8", BYTES),
        (deep, 4, "fp16", HALVES),
        (deep, 4, "bf16", BFLOATS),
        (deep, 4, "tf32", TF32),
        (tokens, 2, "int8", BYTES),
        (tokens, 2, "fp16", HALVES),
        (tokens, 2, "bf16", BFLOATS),
        (tokens, 2, "tf32", TF32),
        (heads, 2, "fp16", HALVES),
        (heads, 2, "bf16", BFLOATS),
        (heads, 1, "tf32", TF32),  # 83 columns are not in whole vectors
    ],
    ids=lambda c: getattr(c, "__name__", None),
)
def test_deep_sums_run_on_tensor_cores(
    model: Callable[[], ir.Model], count: int, pipeline: str, instruction: str, tmp_path: Path
) -> None:
    made = built(model, pipeline, "cuda:sm_80")
    assert sum(k.rule.startswith("cuda.tensor_") for k in made.kernels) == count
    (tmp_path / "k.cu").write_text(nvcc.with_device_code(made.executable.source()))
    command = [nvcc.find_nvcc(), "-ptx", "-arch=sm_80", *nvcc.FLAGS, "-o", "k.ptx", "k.cu"]
    subprocess.run(command, cwd=tmp_path, check=True)
    kernels = (tmp_path / "k.ptx").read_text().split(".visible .entry ")
    assert sum(instruction in text and "cp.async" in text for text in kernels) == count


@pytest.mark.needs_nvcc
@pytest.mark.parametrize(("pipeline", "types"), [("int8", "k32.s32.u8.s8"), ("fp16", "k16.f32.f16.f16")])
@pytest.mark.parametrize(("model", "strips"), [(wide, False), (taps, True)], ids=["wide", "taps"])
def test_large_products_run_by_warpgroups(
    model: Callable[[], ir.Model], strips: bool, pipeline: str, types: str, tmp_path: Path
) -> None:
    made = built(model, pipeline, "cuda:sm_90")
    assert sum(bool(k.params.get("wide")) for k in made.kernels) == 2
    assert any(k.params.get("strip") for k in made.kernels) == strips
    source = nvcc.with_device_code(made.executable.source())
    (tmp_path / "k.cu").write_text(source)
    command = [nvcc.find_nvcc(), *nvcc.FLAGS, "k.cu"]
    subprocess.run([*command, "-ptx", "-arch=sm_90a", "-o", "k.ptx"], cwd=tmp_path, check=True)
    kernels = (tmp_path / "k.ptx").read_text().split(".visible .entry ")
    assert sum(bool(re.search(rf"wgmma.mma_async.sync.aligned.m64n\d+{types}", text)) for text in kernels) == 2
    done = subprocess.run(
        [*command, "-cubin", "-arch=sm_90a", "-Xptxas=-v", "-o", "k.cubin"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "serialized" not in done.stderr
    assert set(re.findall(r"(\d+) bytes spill", done.stderr)) == {"0"}
    # What newer GPUs compile has no such instructions.
    subprocess.run([*command, "-ptx", "-arch=sm_90", "-o", "k.ptx"], cwd=tmp_path, check=True)
    assert "wgmma" not in (tmp_path / "k.ptx").read_text()
    assert b"sm_90a" in nvcc.compile_source(made.executable.source(), ["sm_90"])


@pytest.mark.needs_nvcc
@pytest.mark.parametrize(("pipeline", "arch"), [("int8", "sm_80"), ("fp16", "sm_90a")])
def test_large_thread_blocks_keep_their_sums_in_registers(pipeline: str, arch: str, tmp_path: Path) -> None:
    source = built(projection, pipeline, f"cuda:{arch.rstrip('a')}").executable.whole_source()
    assert "__launch_bounds__(512" in source
    (tmp_path / "k.cu").write_text(source)
    command = [nvcc.find_nvcc(), *nvcc.FLAGS, "-cubin", f"-arch={arch}", "-Xptxas=-v", "-o", "k.cubin", "k.cu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(re.findall(r"(\d+) bytes spill", done.stderr)) == {"0"}


@pytest.mark.needs_nvcc
@pytest.mark.parametrize("model", [states, gates])
def test_recurrent_layers_hold_their_weights(model: Callable[[], ir.Model], tmp_path: Path) -> None:
    source = built(model, "default", "cuda:sm_90").executable.whole_source()
    calls = re.findall(r"OptkitRecurrence<([^>]*)>::sums", source)
    assert calls
    assert {call.split(", ")[-1] for call in calls} == {"1"}
    (tmp_path / "k.cu").write_text(source)
    base = [nvcc.find_nvcc(), "-arch=sm_90a", *nvcc.FLAGS]
    command = [*base, "-cubin", "-Xptxas=-v", "-o", "k.cubin", "k.cu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(re.findall(r"(\d+) bytes spill", done.stderr)) == {"0"}
    subprocess.run([*base, "-ptx", "-o", "k.ptx", "k.cu"], cwd=tmp_path, check=True)
    assert "st.shared::cluster.f32" in (tmp_path / "k.ptx").read_text()


def test_regions_and_points_are_threads_of_their_own() -> None:
    source = built(regions, "default", "cuda:sm_90").executable.source()
    assert "roi_align_kernel" in source
    assert "__launch_bounds__(1)" not in source


@pytest.mark.needs_nvcc
@pytest.mark.parametrize("pipeline", ["int8-fp16", "default"])
def test_kernels_touch_memory_once_the_one_before_has_ended(pipeline: str, tmp_path: Path) -> None:
    made = built(encoder, pipeline, "cuda:sm_90")
    (tmp_path / "k.cu").write_text(made.executable.whole_source())
    command = [nvcc.find_nvcc(), "-ptx", "-arch=sm_90", *nvcc.FLAGS, "-o", "k.ptx", "k.cu"]
    subprocess.run(command, cwd=tmp_path, check=True)
    kernels = (tmp_path / "k.ptx").read_text().split(".visible .entry ")[1:]
    assert len(kernels) >= len(made.kernels)
    for kernel in kernels:
        before, waits, after = kernel.partition("griddepcontrol.wait;")
        assert waits
        assert not MEMORY.search(before)
        assert MEMORY.search(after)


def test_a_transformer_moves_and_converts_nothing_by_itself() -> None:
    made = built(encoder, "fp16", "cuda:sm_80")
    ends = {"cuda.injective": 1}  # to float16, with positions
    inner = {"cuda.rows": 2, "cuda.tensor_attention": 1, "cuda.tensor_matmul": 4}
    assert Counter(k.rule for k in made.kernels for _ in k.calls) == ends | inner


def test_bfloat16_attention_is_one_kernel_between_kernels_that_write_what_it_reads() -> None:
    made = built(encoder, "bf16", "cuda:sm_80")
    rules = Counter(k.rule for k in made.kernels for _ in k.calls)
    # Positions are added: the rest is done where sums are, and what normalization made is rounded in its kernel.
    assert rules == {"cuda.injective": 1, "cuda.rows": 2, "cuda.tensor_attention": 1, "cuda.tensor_matmul": 4}
    (attention_kernel,) = [k for k in made.kernels if k.rule == "cuda.tensor_attention"]
    assert attention_kernel.compute == "bfloat16"
    assert {record.compute for record in made.nodes} == {"bfloat16"}


@pytest.mark.parametrize("exclude", ["MatMul_3", "MatMul_4"])
def test_attention_of_one_bfloat16_product_is_not_one_kernel(exclude: str) -> None:
    model = transform(encoder(), choose_pipeline(f"default,bf16{{exclude=[{exclude}]}}", {})).model
    made = build(model, find_target("cuda:sm_80"))
    assert "cuda.tensor_attention" not in {kernel.rule for kernel in made.kernels}
    assert [record.node for record in made.nodes if record.compute == "float32"] == [exclude]


@pytest.mark.parametrize("pipeline", ["int8", "tf32"])
def test_older_gpus_go_without_them(pipeline: str) -> None:
    assert "Optkit" not in built(deep, pipeline, "cuda:sm_75").executable.source()


@pytest.mark.parametrize("model", [cnn, deep, tokens, heads, attention], ids=lambda m: m.__name__)
@pytest.mark.parametrize("batch", ["2", "n"])
def test_what_is_told_to_compute_in_tf32_does(model: Callable[[str], ir.Model], batch: str) -> None:
    """Every other product is in float32, and says why."""
    made = build(transform(model(batch), choose_pipeline("tf32", {})).model, find_target("cuda:sm_80"))
    done = sum(len(kernel.calls) for kernel in made.kernels if kernel.compute == "tensorfloat32")
    assert sum(record.compute == "tensorfloat32" for record in made.nodes) == done
    for record in made.nodes:
        assert record.compute == ("float32" if record.reason.startswith("not in TF32: ") else "tensorfloat32")


def test_float16_between_integers_runs_where_float16_alone_would() -> None:
    """Attention is one kernel, layers stay integer; with INT8 alone its products are float32's, on ordinary cores."""
    whole, mixed = (built(encoder, pipeline, "cuda:sm_80") for pipeline in ("int8", "int8-fp16"))

    def rules(made: Built) -> Counter[str]:
        return Counter(rule for kernel in made.kernels for rule in [kernel.rule] * len(kernel.calls))

    assert rules(whole)["cuda.matmul"] == 2
    assert not rules(mixed)["cuda.matmul"]
    assert rules(mixed)["cuda.tensor_attention"] == 1
    # Query, key and value of FP16 attention are one product.
    assert (rules(whole)["cuda.tensor_matmul"], rules(mixed)["cuda.tensor_matmul"]) == (6, 4)
    assert Counter(record.compute for record in whole.nodes) == {"int8": 6, "float32": 2}
    assert Counter(record.compute for record in mixed.nodes) == {"int8": 6, "float16": 2}
    # What leaves an integer layer is converted where its sums are, not by a kernel of its own.
    assert sum(len(k.calls) for k in mixed.kernels if "rescale" in k.name and "matmul" not in k.name) == 0
    assert sum(len(k.calls) for k in mixed.kernels) < sum(len(k.calls) for k in whole.kernels)


@pytest.mark.needs_nvcc
def test_suppression_compiles_to_the_same_bytes() -> None:
    """nvcc draws names of what is static anew every time."""
    source = built(boxes, "default", "cuda:sm_90").executable.source()
    assert nvcc.compile_source(source, ["sm_90"]) == nvcc.compile_source(source, ["sm_90"])


@pytest.mark.needs_nvcc
def test_what_nvcc_rejects_is_one_line() -> None:
    with pytest.raises(CompileError, match=r"nvcc failed for sm_80: .*error") as caught:
        nvcc.compile_source("int f( {", ["sm_80"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("groups", "channels", "pipeline", "arch", "rule"),
    [
        (2, 8, "fp16", "sm_80", "cuda.tensor_conv"),
        (2, 8, "fp16", "sm_75", "cuda.conv"),
        (2, 8, "int8", "sm_80", "cuda.tensor_conv"),
        (8, 8, "bf16", "sm_80", "cuda.tensor_conv"),
        (2, 8, "tf32", "sm_90", "cuda.tensor_conv"),
        (2, 8, "default", "sm_90", "cuda.conv"),
        (32, 4, "fp16", "sm_90", "cuda.tensor_conv"),
        (5, 24, "int8", "sm_90", "cuda.tensor_conv"),
        (17, 64, "fp16", "sm_90", "cuda.tensor_conv"),
        (17, 64, "int8", "sm_75", "cuda.conv"),
        (32, 1, "fp16", "sm_90", "cuda.conv"),
    ],
)
def test_groups_share_tiles_of_tensor_cores(groups: int, channels: int, pipeline: str, arch: str, rule: str) -> None:
    """Not where they are so small that nearly all products would be with zeros."""
    made = built(lambda: grouped(groups, channels=channels), pipeline, f"cuda:{arch}")
    assert rule in {kernel.rule for kernel in made.kernels}
    (record,) = made.nodes
    assert record.macs == 2 * 2 * channels * groups * channels * 9 * 9 * 7


@pytest.mark.parametrize(
    ("groups", "channels", "rule", "read"), [(2, 8, "cuda.tensor_conv", 16), (64, 2, "cuda.conv", 4)]
)
def test_groups_over_images_of_open_size_are_taken_alike(groups: int, channels: int, rule: str, read: int) -> None:
    """Weights are of what a tile's or a thread's columns read, with zeros between."""
    made = built(lambda: grouped(groups, "h", "w", channels, channels), "fp16", "cuda:sm_90")
    assert rule in {kernel.rule for kernel in made.kernels}
    assert max(array.size for _, array in made.weights) == channels * groups * read * 3 * 3


def test_a_missing_nvcc_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvcc, "cuda_program", lambda _name: None)
    with pytest.raises(CompileError, match=r"needs nvcc .* optkit\[cuda\]"):
        nvcc.find_nvcc()


def test_a_blob_of_another_layout_is_refused() -> None:
    with pytest.raises(CompileError, match="another version of TVM"):
        package.replace_code(b"\x08" + bytes(15), "source", b"code")


def test_attention_writes_what_the_next_product_reads() -> None:
    """Integers, which nothing but a reshape lies before; and what attentions share is converted once for all."""
    kernels = built(encoder, "int8-fp16", "cuda:sm_90").kernels
    (attention,) = (k for k in kernels if k.rule == "cuda.tensor_attention")
    assert "quantize" in attention.name
    assert not any("reshape" in k.name and "quantize" in k.name for k in kernels)


@pytest.mark.parametrize("batch", ["2", "n"])
@pytest.mark.parametrize("pipeline", ["fp16", "bf16", "int8-fp16"])
def test_residuals_are_part_of_attention(pipeline: str, batch: str) -> None:
    """Also those whose other side is made in the same kernel, before attention is."""
    kernels = built(lambda: beside(batch), pipeline, "cuda:sm_90").kernels
    found = [k for k in kernels if "attention" in k.name]
    assert {k.rule for k in found} == {"cuda.tensor_attention"}
    assert sorted(call for k in found for call in k.calls) == ["MatMul_14", "MatMul_4", "MatMul_9"]
    assert any("attention" in k.name and "add" in k.name for k in found)
