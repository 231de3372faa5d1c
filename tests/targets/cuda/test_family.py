"""Names of CUDA targets and what they mean, with GPUs of several kinds or none."""

from __future__ import annotations

import optkit_targets.cuda as cuda
import pytest

from optkit.compiler.host import host_variant
from optkit.errors import UsageError
from optkit.registry import find_target


def gpus(monkeypatch: pytest.MonkeyPatch, *found: tuple[int, int]) -> None:
    """Let the driver report these GPUs."""
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: list(found))


@pytest.mark.parametrize(
    ("name", "canonical", "arch"),
    [
        ("cuda:sm_75", "cuda:sm_75", "sm_75"),
        ("h100", "cuda:sm_90", "sm_90"),
        ("cuda:h200", "cuda:sm_90", "sm_90"),
        ("cuda:t4", "cuda:sm_75", "sm_75"),
        ("a10", "cuda:sm_86", "sm_86"),
        ("jetson-orin", "cuda:jetson-orin", "sm_87"),
    ],
)
def test_names(name: str, canonical: str, arch: str) -> None:
    target = find_target(name)
    assert target.name == canonical
    assert target.tvm["arch"] == arch
    assert target.isa[-1] == arch
    assert target.device == "cuda"
    assert target.rules()[-1].name == "cuda.fallback"


def test_every_listed_name_makes_a_target() -> None:
    for name, line in cuda.CudaFamily().names().items():
        assert find_target(name).device == "cuda"
        assert line and "\n" not in line


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="sm_90"):
        find_target("cuda:sm_91")


@pytest.mark.parametrize(
    ("found", "arch"), [((), "sm_80"), (((8, 9),), "sm_89"), (((8, 8), (9, 0)), "sm_88"), (((12, 1),), "sm_121")]
)
def test_cuda_alone_is_this_machines(
    monkeypatch: pytest.MonkeyPatch, found: tuple[tuple[int, int], ...], arch: str
) -> None:
    gpus(monkeypatch, *found)
    target = cuda.CudaFamily().make("cuda")
    assert (target.name, target.tvm["arch"]) == ("cuda", arch)


def test_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch)
    hopper = find_target("cuda:sm_90")
    assert hopper.runs_here() == "needs an NVIDIA GPU with compute capability >= 9.0; none found here"
    gpus(monkeypatch, (8, 6))
    assert hopper.runs_here() == "needs an NVIDIA GPU with compute capability >= 9.0; this one has 8.6"
    assert find_target("a10").runs_here() is None
    gpus(monkeypatch, (10, 0))
    assert hopper.runs_here() is None


def test_the_host_variant_keeps_layouts_and_runs_here() -> None:
    target = find_target("cuda:sm_80")
    host = host_variant(target)
    assert host.runs_here() is None
    assert (host.lanes, host.device) == (target.lanes, "cpu")
    assert host.has("int8_dot")
    assert host.rules()[-1].name == "cpu.fallback"


def test_arm_boards_get_an_arm_host() -> None:
    target = find_target("jetson-orin")
    assert str(target.tvm_host["mtriple"]).startswith("aarch64")
    assert target.isa[0] == "aarch64"


def test_threads_leave_multiprocessors_alone() -> None:
    assert find_target("h100").with_threads(1).cores == find_target("h100").cores
    assert find_target("cpu").with_threads(1).cores == 1


def test_several_gpus_are_laid_out_for_the_lowest() -> None:
    both = find_target("cuda:h100+sm_80")
    assert both.name == "cuda:sm_80+sm_90"
    assert both.tvm["arch"] == "sm_80"
    assert both.isa[-2:] == ("sm_80", "sm_90")
    assert find_target("cuda:sm_90+h100+h200").name == "cuda:sm_90"
    with pytest.raises(UsageError, match="different processors"):
        find_target("cuda:jetson-orin+h100")
    with pytest.raises(UsageError, match="unknown CUDA target 'sm_1'"):
        find_target("cuda:sm_1+h100")
