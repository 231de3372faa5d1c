"""Small models made directly in Relax, and artifacts of them, for tests of the artifact and the runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optkit.artifact import BuildInfo, Manifest, Payload, TensorSpec, write_artifact
from optkit.artifact.link import link_library
from optkit.artifact.spec import storage

SOURCE = "0" * 64


def executable(
    inputs: Sequence[TensorSpec], weights: Sequence[tuple[str, np.ndarray]], body: Callable[..., Any]
) -> Any:
    """Compile `main(*inputs, *weights)`; `body(block_builder, *variables)` returns the result expression."""
    import tvm
    from tvm import relax, tirx

    from optkit.compiler.shape_order import order_shape_stores

    free: dict[str, Any] = {}

    def extent(d: int | str) -> Any:
        return free.setdefault(d, tirx.Var(d, "int64")) if isinstance(d, str) else d

    variables = [relax.Var(s.name, relax.TensorType(tuple(map(extent, s.shape)), storage(s.dtype))) for s in inputs]
    variables += [relax.Var(n, relax.TensorType(a.shape, a.dtype.name)) for n, a in weights]
    builder = relax.BlockBuilder()
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(body(builder, *variables))
        builder.emit_func_output(result)
    pipeline = tvm.transform.Sequential([relax.get_pipeline("default"), order_shape_stores])
    return tvm.compile(builder.get(), target="llvm", relax_pipeline=pipeline)


def mlp() -> tuple[list[TensorSpec], list[TensorSpec], list[tuple[str, np.ndarray]], Callable[..., Any]]:
    """relu(x @ w1) @ w2 + b with a free batch; the second output is x itself, the third the bias."""
    rng = np.random.default_rng(0)
    weights = [
        ("w1", rng.standard_normal((8, 15), np.float32)),
        ("w2", rng.standard_normal((15, 5), np.float32)),
        ("b", rng.standard_normal((5,), np.float32)),
    ]

    def body(builder: Any, x: Any, w1: Any, w2: Any, b: Any) -> Any:
        from tvm import relax

        hidden = builder.emit(relax.op.nn.relu(builder.emit(relax.op.matmul(x, w1))))
        product = builder.emit(relax.op.matmul(hidden, w2))
        return relax.Tuple([builder.emit(relax.op.add(product, b)), x, b])

    inputs = [TensorSpec("x", "float32", ["batch", 8])]
    outputs = [
        TensorSpec("y", "float32", ["batch", 5]),
        TensorSpec("same", "float32", ["batch", 8]),
        TensorSpec("bias", "float32", [5]),
    ]
    return inputs, outputs, weights, body


def mlp_reference(x: np.ndarray) -> np.ndarray:
    """numpy's answer for `mlp`."""
    (_, w1), (_, w2), (_, b) = mlp()[2]
    result: np.ndarray = np.maximum(x @ w1, 0) @ w2 + b
    return result


def payload(folder: Path, inputs: Any, outputs: Any, weights: Any, body: Any) -> Payload:
    """Compile and link a model of this module."""
    library = folder / "model.so"
    link_library(executable(inputs, weights, body), library)
    target = {"name": "cpu", "device": "cpu", "isa": ["x86_64"]}
    kernels = [{"name": "matmul", "rule": "none", "template": "none", "params": {}, "macs": 0, "nodes": []}]
    return Payload(library, weights, inputs, outputs, "cpu", kernels, target)


def pack(path: Path, parts: Payload) -> Manifest:
    """Write `parts` to `path` as a build of no particular model."""
    return write_artifact(path, parts, BuildInfo(SOURCE, pipeline="fold", options={"threads": 1}))


@pytest.fixture(scope="session")
def mlp_payload(tmp_path_factory: pytest.TempPathFactory) -> Payload:
    """The linked mlp."""
    return payload(tmp_path_factory.mktemp("mlp"), *mlp())


@pytest.fixture(scope="session")
def mlp_artifact(mlp_payload: Payload, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of the mlp; do not write to it."""
    path = tmp_path_factory.mktemp("artifact") / "mlp.optk"
    pack(path, mlp_payload)
    return path
