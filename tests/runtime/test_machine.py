"""An artifact for another machine is refused in one line; the runtime imports nothing heavy."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optkit.artifact import Payload
from optkit.errors import ArtifactError
from optkit.runtime import gpu, isa, load
from tests.relax_models import pack

AVX512 = frozenset(["avx2", "fma", "avx512f", "avx512vnni", "sse42", "abm"])


@pytest.mark.parametrize(
    ("words", "arch", "lacking"),
    [
        (("x86_64", "avx512f", "avx512_vnni"), "x86_64", []),
        (("x86_64", "avx512vnni", "sse4.2", "lzcnt"), "x86_64", []),
        (("x86_64", "amx_int8"), "x86_64", ["amx_int8"]),
        (("aarch64",), "x86_64", ["aarch64"]),
        (("arm64",), "aarch64", []),
        (("x86_64", "sm_90", "cuda"), "x86_64", []),
    ],
)
def test_missing_features(words: tuple[str, ...], arch: str, lacking: list[str]) -> None:
    assert isa.missing(words, arch, AVX512) == lacking


def test_features_of_arm(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nFeatures\t: fp asimd asimddp asimdhp i8mm sve\n")
    features = isa.features(str(tmp_path / "cpuinfo"))
    assert isa.missing(("aarch64", "neon", "dotprod", "fullfp16", "i8mm", "sve"), "aarch64", features) == []
    assert isa.missing(("sve2", "bf16"), "aarch64", features) == ["sve2", "bf16"]


def test_this_machine_tells_its_features() -> None:
    assert isa.features()


def test_artifact_for_another_cpu(mlp_payload: Payload, tmp_path: Path) -> None:
    target = {"name": "future", "device": "cpu", "isa": [isa.architecture(), "avx1024_imaginary"]}
    pack(tmp_path / "f.optk", dataclasses.replace(mlp_payload, target=target))
    with pytest.raises(ArtifactError, match="the artifact needs avx1024_imaginary, which this CPU") as caught:
        load(tmp_path / "f.optk")
    assert "\n" not in str(caught.value)


def test_capability() -> None:
    assert gpu.needed_capability(("x86_64", "sm_90a")) == (9, 0)
    assert gpu.needed_capability(("sm_120",)) == (12, 0)
    assert gpu.needed_capability(("x86_64",)) == (0, 0)


def test_artifact_for_a_gpu_that_is_not_there(mlp_payload: Payload, tmp_path: Path) -> None:
    target = {"name": "cuda:sm_990", "device": "cuda", "isa": [isa.architecture(), "sm_990"]}
    pack(tmp_path / "g.optk", dataclasses.replace(mlp_payload, target=target, device="cuda"))
    with pytest.raises(ArtifactError, match=r"needs an NVIDIA GPU \(compute capability ≥ 99\.0\)") as caught:
        load(tmp_path / "g.optk")
    assert "\n" not in str(caught.value)


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment},
    )


RUN = """
import sys
import numpy as np
from optkit.runtime import load
runner = load(sys.argv[1], threads=2)
out = runner(np.ones((2, 8), np.float32))
heavy = {"tvm", "torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript"} & {m.partition(".")[0] for m in sys.modules}
assert not heavy, heavy
print(out["y"].shape)
"""


def test_imports_nothing_heavy(mlp_artifact: Path) -> None:
    done = run_python(RUN, str(mlp_artifact))
    assert done.stdout == "(2, 5)\n", done.stderr


def test_runs_where_tvm_is_not_installed(mlp_artifact: Path) -> None:
    """The libraries the artifact carries are enough."""
    hide = (
        "import sys, importlib.util as u\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'tvm' else real(name, package)\n"
    )
    done = run_python(hide + RUN, str(mlp_artifact))
    assert done.stdout == "(2, 5)\n", done.stderr


def test_tvm_can_be_imported_before_or_after(mlp_artifact: Path) -> None:
    lines = RUN.replace("assert not heavy, heavy\n", "")
    for code in ("import tvm\n" + lines, lines + "import tvm\ntvm.runtime.tensor(out['y'])\n"):
        done = run_python(code, str(mlp_artifact))
        assert done.returncode == 0, done.stderr
        assert "(2, 5)" in done.stdout


def test_nothing_is_left_in_the_temporary_folder(mlp_artifact: Path, tmp_path: Path) -> None:
    done = run_python(RUN, str(mlp_artifact), TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_does_not_pin_the_calling_thread(mlp_artifact: Path) -> None:
    code = "import os\nbefore = os.sched_getaffinity(0)\n" + RUN + "assert os.sched_getaffinity(0) == before\n"
    done = run_python(code, str(mlp_artifact))
    assert done.returncode == 0, done.stderr
