"""Running artifacts: right answers, exact errors, memory that is shared where it can be and nowhere else."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from optkit.artifact import TensorSpec
from optkit.errors import DataError, UsageError
from optkit.runtime import Runner, load
from optkit.runtime.tensors import aligned_empty
from tests.relax_models import mlp_reference, pack, payload


@pytest.fixture(scope="module")
def runner(mlp_artifact: Path) -> Iterator[Runner]:
    with load(mlp_artifact, threads=1) as loaded:
        yield loaded


def sample(batch: int = 3) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, 8), np.float32)


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_free_batch(runner: Runner, batch: int) -> None:
    x = sample(batch)
    out = runner.run({"x": x})
    assert list(out) == ["y", "same", "bias"]
    np.testing.assert_allclose(out["y"], mlp_reference(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out["same"], x)


def test_ways_to_call(runner: Runner) -> None:
    x = sample()
    expected = runner.run({"x": x})["y"]
    np.testing.assert_array_equal(runner(x)["y"], expected)
    np.testing.assert_array_equal(runner(x=x)["y"], expected)
    assert runner.inputs == (TensorSpec("x", "float32", ["batch", 8]),)
    assert [o.name for o in runner.outputs] == ["y", "same", "bias"]


def layouts() -> dict[str, np.ndarray]:
    x = sample(4)
    wide = np.zeros((4, 16), np.float32)
    wide[:, ::2] = x
    odd = np.empty(4 * 4 * 8 + 4, np.uint8)[4:].view(np.float32).reshape(4, 8)
    odd[...] = x
    fixed = x.copy()
    fixed.flags.writeable = False
    aligned = aligned_empty((4, 8), np.dtype(np.float32))
    aligned[...] = x
    return {
        "fortran": np.asfortranarray(x),
        "strided": wide[:, ::2],
        "misaligned": odd,
        "read-only": fixed,
        "big endian": x.astype(">f4"),
        "aligned": aligned,
    }


@pytest.mark.parametrize("name", list(layouts()))
def test_any_layout_gives_the_same(runner: Runner, name: str) -> None:
    x = layouts()[name]
    before = x.copy()
    np.testing.assert_array_equal(runner(x)["y"], runner(sample(4))["y"])
    np.testing.assert_array_equal(x, before)


def test_outputs_are_the_callers_own(mlp_artifact: Path) -> None:
    runner = load(mlp_artifact, threads=1)
    x = layouts()["aligned"]
    first = runner(x)
    kept = {name: array.copy() for name, array in first.items()}
    runner(sample(4) * 7)
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
    assert not np.shares_memory(first["same"], x)
    first["same"][:] = 0
    first["bias"][:] = 1e9
    first["y"][:] = 0
    np.testing.assert_array_equal(x, sample(4))
    np.testing.assert_array_equal(runner(x)["y"], kept["y"])
    runner.close()
    runner.close()
    last = first["y"]
    del runner, first
    gc.collect()
    np.testing.assert_array_equal(last, np.zeros_like(kept["y"]))


def test_closed(mlp_artifact: Path) -> None:
    runner = load(mlp_artifact)
    runner.close()
    with pytest.raises(UsageError, match="the runner is closed"):
        runner(sample())


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({}, r"input 'x' is missing; the model takes x: float32\[batch, 8\]"),
        ({"y": sample()}, r"the model has no input 'y'"),
        ({"x": sample(), "z": sample()}, r"the model has no input 'z'"),
        ({"x": sample()[0]}, r"input 'x' must have 2 dimensions \(batch, 8\), got 1: \(8\)"),
        ({"x": sample()[:, :7]}, r"must have shape \(batch, 8\), got \(3, 7\) \(dimension 1 is 7, not 8\)"),
        ({"x": sample().astype(np.float64)}, r"input 'x' must be float32, got float64"),
        ({"x": sample().astype(np.int32)}, r"input 'x' must be float32, got int32"),
        ({"x": sample().tolist()}, r"must be an array \(numpy, or anything with DLPack\), not list"),
        ({"x": None}, r"not NoneType"),
        ({"x": np.array(["a"])}, r"must be float32, got str"),
    ],
)
def test_wrong_inputs(runner: Runner, feed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        runner.run(feed)
    assert "\n" not in str(caught.value)


def test_positional_errors(runner: Runner) -> None:
    with pytest.raises(DataError, match="2 inputs given, the model has 1: x"):
        runner(sample(), sample())
    with pytest.raises(DataError, match="given twice"):
        runner(sample(), x=sample())


def two_inputs(tmp_path: Path, a: TensorSpec, b: TensorSpec, out: TensorSpec, op: str) -> Runner:
    def body(builder: Any, x: Any, y: Any) -> Any:
        from tvm import relax

        return builder.emit(getattr(relax.op, op)(x, y))

    pack(tmp_path / "two.optk", payload(tmp_path, [a, b], [out], [], body))
    return load(tmp_path / "two.optk", threads=1)


def test_one_name_is_one_extent(tmp_path: Path) -> None:
    specs = [TensorSpec(n, "float32", ["n", 2]) for n in ("a", "b", "c")]
    runner = two_inputs(tmp_path, specs[0], specs[1], specs[2], "add")
    ones = np.ones((4, 2), np.float32)
    np.testing.assert_array_equal(runner(ones, ones)["c"], ones + ones)
    with pytest.raises(DataError, match="input 'b' has 3 in dimension 0, but 'n' is 4 in 'a'"):
        runner(ones, ones[:3])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float16", "float64", "bfloat16"])
def test_element_types_pass_through(dtype: str, tmp_path: Path) -> None:
    spec = [TensorSpec(n, dtype, ["n"]) for n in ("a", "b", "c")]
    runner = two_inputs(tmp_path, spec[0], spec[1], spec[2], "maximum")
    numpy = spec[0].numpy
    a, b = np.arange(5).astype(numpy), np.array([3, 1, 3, 1, 9]).astype(numpy)
    out = runner(a, b)["c"]
    assert out.dtype == numpy
    np.testing.assert_array_equal(out, np.array([3, 1, 3, 3, 9]).astype(numpy))
    assert runner(np.asarray(a)[1:], b[1:])["c"].shape == (4,)
    with pytest.raises(DataError, match=f"must be {dtype}, got complex64"):
        runner(a, b.astype(np.float32).astype(np.complex64))


def test_booleans(tmp_path: Path) -> None:
    spec = [TensorSpec(n, "bool", [3]) for n in ("a", "b", "c")]
    runner = two_inputs(tmp_path, spec[0], spec[1], spec[2], "logical_and")
    out = runner(np.array([True, True, False]), np.array([True, False, False]))["c"]
    assert out.dtype == np.bool_
    assert out.tolist() == [True, False, False]


def test_scalars_and_single_output(tmp_path: Path) -> None:
    spec = [TensorSpec(n, "float32", []) for n in ("a", "b", "c")]
    runner = two_inputs(tmp_path, spec[0], spec[1], spec[2], "add")
    out = runner(np.float32(2), np.array(3, np.float32))["c"]
    assert out.shape == ()
    assert float(out) == 5


def test_reads_what_it_is_given_without_copying(tmp_path: Path) -> None:
    """An aligned array is used in place: the tensor's address is the array's."""
    spec = TensorSpec("a", "bfloat16", ["n"])
    runner = two_inputs(tmp_path, spec, TensorSpec("b", "bfloat16", ["n"]), spec, "add")
    x = aligned_empty((8,), np.dtype(ml_dtypes.bfloat16))
    assert runner._bridge.from_input(spec, x).data_ptr() == x.ctypes.data


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
def test_copies_as_made_of_device_tensors(runner: Runner, dtype: str) -> None:
    """The way results come back from a device, taken on the CPU."""
    spec = TensorSpec("a", dtype, [2, 3])
    x = np.array([[0, 1, 2], [3, 4, 5]]).astype(spec.numpy)
    tensor = runner._bridge.from_input(spec, x)
    copy = runner._bridge.download(tensor, spec.numpy)
    np.testing.assert_array_equal(copy, x)
    assert copy.dtype == spec.numpy


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_thread_counts(mlp_artifact: Path, threads: int) -> None:
    runner = load(mlp_artifact, threads=threads)
    assert runner.threads == threads
    expected = mlp_reference(sample(17))
    np.testing.assert_allclose(runner(sample(17))["y"], expected, rtol=1e-5, atol=1e-5)
    runner.threads = 3 - min(threads, 2)
    np.testing.assert_allclose(runner(sample(17))["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", [0, -1, "two", 1.5])
def test_wrong_thread_counts(mlp_artifact: Path, wrong: Any) -> None:
    with pytest.raises(UsageError, match="threads must be a whole number of at least 1"):
        load(mlp_artifact, threads=wrong)


def test_threads_from_the_environment(mlp_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "3")
    assert load(mlp_artifact).threads == 3
    monkeypatch.setenv("TVM_NUM_THREADS", "many")
    with pytest.raises(UsageError, match="TVM_NUM_THREADS"):
        load(mlp_artifact)


def test_shared_between_threads(runner: Runner) -> None:
    failures: list[int] = []

    def work(batch: int) -> None:
        x, expected = sample(batch), mlp_reference(sample(batch))
        runs = (runner(x)["y"] for _ in range(50))
        failures.append(sum(not np.allclose(y, expected, atol=1e-4) for y in runs))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(1, 7)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == [0] * 6


@pytest.mark.needs_torch
def test_torch_tensors(runner: Runner) -> None:
    torch = pytest.importorskip("torch")
    x = sample(4)
    expected = runner(x)["y"]
    np.testing.assert_array_equal(runner(torch.from_numpy(x))["y"], expected)
    np.testing.assert_array_equal(runner(torch.from_numpy(np.asfortranarray(x)))["y"], expected)
    np.testing.assert_array_equal(runner(torch.from_numpy(np.vstack([x, x]))[4:])["y"], expected)
    with pytest.raises(DataError, match="must be float32, got float64"):
        runner(torch.from_numpy(x).double())
    with pytest.raises(DataError, match="input 'x'"):
        runner(torch.empty((4, 8), device="meta"))


def test_outputs_may_stay_on_the_device(runner: Runner) -> None:
    torch = pytest.importorskip("torch")
    x = sample(4)
    want = runner.run({"x": x})
    mine = torch.from_numpy(x.copy())
    found = runner.run_on_device({"x": mine})
    runner.synchronize()
    assert found.keys() == want.keys()
    for name, tensor in found.items():
        np.testing.assert_array_equal(torch.from_dlpack(tensor).numpy(), want[name])
        np.testing.assert_array_equal(np.from_dlpack(tensor), want[name])
    assert torch.from_dlpack(found["y"]).data_ptr() == found["y"].data_ptr()
    torch.from_dlpack(found["same"]).zero_()
    torch.from_dlpack(found["bias"]).zero_()
    assert np.array_equal(mine.numpy(), x)
    np.testing.assert_array_equal(runner.run({"x": x})["bias"], want["bias"])
    with pytest.raises(UsageError, match="str is no CUDA stream"):
        runner.run_on_device({"x": x}, stream="fast")
