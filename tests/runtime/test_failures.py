"""What CUDA reports becomes one line that says what to do. The texts are what CUDA 13 and TVM 0.27 print."""

from __future__ import annotations

from pathlib import Path

import pytest

from optkit.errors import ArtifactError, OptkitError
from optkit.runtime import gpu
from optkit.runtime.failures import cause, explained

HEAD = "Check failed: (e == cudaSuccess || e == cudaErrorCudartUnloading) is false: CUDA: "


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("out of memory", "out of memory"),
        ("no CUDA-capable device is detected", "no NVIDIA GPU"),
        ("CUDA driver version is insufficient for CUDA runtime version", "too old"),
        ("no kernel image is available for execution on the device", "no code for this GPU"),
        ("the provided PTX was compiled with an unsupported toolchain (CUDA_ERROR_UNSUPPORTED_PTX_VERSION)", "no code"),
        ("an illegal memory access was encountered", "start it again"),
        ("unspecified launch failure", "start it again"),
        ("uncorrectable ECC error encountered", "lost"),
        ("CUDA-capable device(s) is/are busy or unavailable", "lost"),
    ],
)
def test_known_failures_say_what_to_do(text: str, says: str) -> None:
    line = cause(f"Traceback (most recent call last):\n  File cuda_device_api.cc, line 7\n{HEAD}{text}")
    assert says in line
    assert "\n" not in line


def test_a_launch_that_fails_is_named() -> None:
    text = "InternalError: CUDALaunch Error: CUDA_ERROR_INVALID_VALUE\n grid=(1,70000,1),  block=(128,1,1)\n"
    assert cause(text) == "a kernel could not be launched: CUDA_ERROR_INVALID_VALUE"


def test_others_are_quoted_by_their_last_line() -> None:
    assert cause("Traceback\n  File vm.cc\nValueError: shapes differ") == "ValueError: shapes differ"
    assert "GPU" not in cause("cannot reshape: out of memory range")


def test_where_an_artifact_is_named_it_is_its_error() -> None:
    with (
        pytest.raises(ArtifactError, match=r"^m.optk: it cannot be loaded: .* no code"),
        explained("it cannot be loaded", "m.optk"),
    ):
        raise RuntimeError(f"{HEAD}no kernel image is available for execution on the device")
    with pytest.raises(OptkitError, match="as it was"), explained("unused"):
        raise OptkitError("as it was")


def test_the_cuda_runtime_is_found_in_the_toolkit_and_in_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "nvidia" / "cu13" / "lib" / "libcudart.so.13"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", "/opt/cuda")
    found = list(gpu._cuda_runtimes())
    assert found[0] == Path("/opt/cuda/lib64/libcudart.so.13")
    assert found[-1] == wheel


def test_programs_of_the_toolkit_are_found_in_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia" / "cu13" / "bin" / "nvcc-of-a-wheel"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    assert gpu.cuda_program(program.name) is None
    monkeypatch.syspath_prepend(str(tmp_path))
    assert gpu.cuda_program(program.name) == str(program)
    other = tmp_path / "toolkit" / "bin" / program.name
    other.parent.mkdir(parents=True)
    other.touch(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    assert gpu.cuda_program(program.name) == str(other)
