"""ONNX Runtime as the reference and as a rival."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from optkit.artifact.spec import TensorSpec
from optkit.errors import DataError, ModelError, OptkitError

ModelSource = ir.Model | str | os.PathLike[str]

_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(bool)": "bool",
    **{f"tensor({k}{b})": f"{k}{b}" for k in ("int", "uint") for b in (8, 16, 32, 64)},
}


class Reference:
    """A session of ONNX Runtime on the CPU.

    Args:
        model: a path, or a model in memory.
        optimized: graph optimizations as by default; off means that what runs is what the file says.
        threads: of one operator; they do not spin between runs.
        exact: products of bytes do not saturate, which they else do on CPUs without VNNI.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
    """

    def __init__(self, model: ModelSource, optimized: bool = False, threads: int = 1, exact: bool = False) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        if not optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = _open(model, options)
        except OptkitError:
            raise
        except Exception as e:  # its exceptions share no base class
            raise ModelError(f"ONNX Runtime cannot load {_name(model)}: {_line(e)}") from e
        self.inputs = tuple(_spec(a) for a in self._session.get_inputs())
        self.outputs = tuple(a.name for a in self._session.get_outputs())

    @property
    def output_specs(self) -> tuple[TensorSpec, ...]:
        """The outputs as ONNX Runtime infers them; an output of unknown rank looks like a scalar.

        Raises:
            ModelError: one is no plain tensor.
        """
        return tuple(_spec(a, "output") for a in self._session.get_outputs())

    def run(self, sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; extra arrays in the sample are ignored.

        Raises:
            DataError: an input is missing or does not fit the model.
        """
        missing = [s.name for s in self.inputs if s.name not in sample]
        if missing:
            raise DataError(f"the sample lacks the input {missing[0]!r}")
        try:
            results = self._session.run(None, {s.name: sample[s.name] for s in self.inputs})
        except Exception as e:
            raise DataError(f"ONNX Runtime cannot run the model on this sample: {_line(e)}") from e
        return dict(zip(self.outputs, map(np.asarray, results), strict=True))


def _open(model: ModelSource, options: Any) -> Any:
    import onnxruntime as ort

    providers = ["CPUExecutionProvider"]
    if not isinstance(model, ir.Model):
        return ort.InferenceSession(os.fspath(model), options, providers=providers)
    from optkit.model import save_model, to_proto

    try:
        return ort.InferenceSession(to_proto(model).SerializeToString(), options, providers=providers)
    except ValueError:
        # protobuf serializes no more than 2 GiB
        with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
            path = Path(folder) / "model.onnx"
            save_model(model, path)
            return ort.InferenceSession(str(path), options, providers=providers)


def _spec(argument: Any, what: str = "input") -> TensorSpec:
    if argument.type not in _TYPES:
        raise ModelError(f"{what} {argument.name!r} is a {argument.type}; only plain tensors are supported")
    # An axis without a name is free on its own: no other axis has to agree with it.
    shape = [d if isinstance(d, int | str) else f"{argument.name}:{i}" for i, d in enumerate(argument.shape)]
    return TensorSpec(argument.name, _TYPES[argument.type], shape)


def _name(model: ModelSource) -> str:
    return f"the model {model.graph.name!r}" if isinstance(model, ir.Model) else os.fspath(model)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
