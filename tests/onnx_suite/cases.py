"""The cases of ONNX's own backend suite, as models and arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
"""node, simple, pytorch-converted, pytorch-operator, and the "light" models instead of the downloaded ones."""


@dataclass(frozen=True)
class Case:
    """One case: a model, and pairs of inputs and expected outputs."""

    name: str
    kind: str
    source: Any

    def model(self) -> onnx.ModelProto:
        """The model; inputs are not looked at to make it."""
        if self.source.model is not None:
            return self.source.model
        return onnx.load(str(self._folder() / "model.onnx" if self.source.model_dir else self._light()))

    def data(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """Inputs and expected outputs, set by set."""
        if self.source.data_sets is not None:
            for inputs, outputs in self.source.data_sets:
                yield [_array(v) for v in inputs], [_array(v) for v in outputs]
            return
        model = self.model()
        if self.source.model_dir is None:
            yield self._light_data(model)
            return
        for folder in sorted(self._folder().glob("test_data_set_*")):
            sides = []
            for side, declared in (("input", model.graph.input), ("output", model.graph.output)):
                files = [folder / f"{side}_{i}.pb" for i in range(len(list(folder.glob(f"{side}_*.pb"))))]
                sides.append([_read(f, v.type) for f, v in zip(files, declared, strict=False)])
            yield sides[0], sides[1]

    def _light(self) -> Path:
        return Path(onnx.__file__).parent.parent / self.source.url

    def _light_data(self, model: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
        """Inputs as onnx's own runner makes them, and the outputs beside the model."""
        constants = {tensor.name for tensor in model.graph.initializer}
        fed = [value for value in model.graph.input if value.name not in constants]
        stem = self._light().with_suffix("")
        files = [stem.with_name(f"{stem.name}_output_{i}.pb") for i in range(len(model.graph.output))]
        outputs = [_read(f, v.type) for f, v in zip(files, model.graph.output, strict=True)]
        return [Runner.generate_dummy_data(value) for value in fed], outputs

    def _folder(self) -> Path:
        return Path(self.source.model_dir)


def _array(value: Any) -> Any:
    """Some cases bring messages instead of arrays."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _read(path: Path, kind: onnx.TypeProto) -> Any:
    content = path.read_bytes()
    match kind.WhichOneof("value"):
        case "sequence_type":
            return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
        case "optional_type":
            return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
        case _:
            return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def all_cases() -> dict[str, Case]:
    """Every case by name, in the suite's order."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in KINDS:
            for source in load_model_tests(kind=kind):
                found[source.name] = Case(source.name, kind, source)
    return found
