"""optkit as an ONNX backend: `prepare` compiles a model, `run` runs the artifact.

    import optkit.backend
    outputs = optkit.backend.prepare(model).run([x])

The interface is `onnx.backend.base.Backend`, so ONNX's own test suite can be run against it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, Device, DeviceType

from optkit.api import compile, load
from optkit.errors import UnsupportedError, UsageError
from optkit.issues import check_issues
from optkit.runtime import Runner
from optkit.source import open_source
from optkit.steps import choose_target

__all__ = ["OptkitBackend", "PreparedModel", "is_compatible", "prepare", "run_model", "supports_device"]


class PreparedModel(BackendRep):
    """A compiled and loaded model.

    Attributes:
        runner: what runs it; see `optkit.load`.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def run(self, inputs: Any, **kwargs: Any) -> tuple[np.ndarray, ...]:
        """Run the model.

        Args:
            inputs: arrays in the order of the model's inputs, a mapping from names to arrays, or one array.

        Returns:
            Outputs in the model's order.
        """
        if isinstance(inputs, Mapping):
            found = self.runner.run(inputs)
        else:
            found = self.runner(*(inputs if isinstance(inputs, Sequence) else [inputs]))
        return tuple(found[spec.name] for spec in self.runner.outputs)


class OptkitBackend(Backend):
    """Compiles for the CPU of this machine."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether every operator of the model can be compiled."""
        with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
            try:
                check_issues(open_source(model, None, Path(folder)).model, choose_target("cpu", 1))
            except UnsupportedError:
                return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        """Compile and load a model.

        Args:
            kwargs: of `optkit.compile`; its verification is off by default, for the caller has inputs of its own.

        Raises:
            OptkitError: as `optkit.compile` does; UnsupportedError names the operator and the reason.
        """
        if not cls.supports_device(device):
            raise UsageError(f"device {device!r} is not supported; use 'CPU'")
        options = {"verify": False, "target": "cpu", **kwargs}
        with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
            artifact = compile(model, output=Path(folder) / "model.optk", **options)
            return PreparedModel(load(artifact.path))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Prepare a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Run one operator of the newest operator set on arrays."""
        arrays = [np.asarray(x) for x in inputs]
        named = [name for name in node.input if name]
        values = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(named, arrays, strict=True)
        ]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "node", values, outputs)
        opset = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        return cls.run_model(onnx.shape_inference.infer_shapes(model), arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models run on the device; only "CPU" does."""
        return bool(Device(device).type == DeviceType.CPU)


is_compatible = OptkitBackend.is_compatible
prepare = OptkitBackend.prepare
run_model = OptkitBackend.run_model
run_node = OptkitBackend.run_node
supports_device = OptkitBackend.supports_device
