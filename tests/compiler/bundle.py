"""Many small cases in one model: a build costs a second, a case in it a few milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import tvm
from hypothesis import HealthCheck, Phase, settings
from onnx import helper, numpy_helper
from tvm import relax

from optkit.compiler.build import Built, build
from optkit.exact import DOMAIN, VERSION, definition
from optkit.registry import find_target
from optkit.target import Target
from optkit.tidy import check_model, infer_shapes, name_nodes
from tests.graphs import session

TYPES = {"float64": 1e-12, "float32": 1e-5, "float16": 3e-3}
"""Limit of the relative error's norm by type."""


BUNDLED = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    # A failure names its case; shrinking a bundle would build hundreds of models.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
"""Settings of tests whose every example is a bundle of cases."""


def run(built: Built, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of a build in this process."""
    machine = relax.VirtualMachine(built.executable, tvm.cpu())
    arguments = [tvm.runtime.tensor(a) for a in (*inputs, *(array for _, array in built.weights))]
    return [o.numpy() for o in machine["main"](*arguments)]


def relative(expected: np.ndarray, found: np.ndarray) -> float:
    """Norm of the relative error; infinite where one has a NaN or an infinity that the other has not."""
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], found[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return float("inf")
    x, y = expected[finite], found[finite]
    return float(np.linalg.norm(x - y) / (np.linalg.norm(x) + 1e-30))


class Bundle:
    """A model of many cases; every output is one of them and carries its label."""

    def __init__(self, opset: int = 20, seed: int = 0, ml: int = 1) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.feeds: dict[str, np.ndarray] = {}
        self.labels: dict[str, str] = {}
        self.declared: dict[str, onnx.ValueInfoProto] = {}
        self.opset, self.ml = opset, ml
        self.generator = np.random.default_rng(seed)

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self.nodes) + len(self.constants) + len(self.inputs)}"

    def normal(self, *shape: int, scale: float = 1.0, dtype: str = "float32") -> np.ndarray:
        """Seeded normal numbers."""
        return (scale * self.generator.standard_normal(shape)).astype(dtype)

    def input(self, *shape: int, dtype: str = "float32", free: str = "", values: np.ndarray | None = None) -> str:
        """A graph input fed with normal numbers or the given ones; with `free`, its first axis is symbolic."""
        name = self._name("x")
        declared: list[int | str] = [free, *shape[1:]] if free else list(shape)
        array = self.normal(*shape) if values is None else values
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, declared))
        self.feeds[name] = array.astype(dtype)
        return name

    def const(self, array: np.ndarray) -> str:
        """An initializer."""
        name = self._name("w")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, op_type: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a node; its output's name, or names."""
        names = [f"{self._name('v')}_{i}" for i in range(outputs)]
        given = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(helper.make_node(op_type, list(inputs), names, domain=domain, **given))
        return names[0] if outputs == 1 else names

    def case(self, value: str, label: str, dtype: str = "", shape: Sequence[int] | None = None) -> None:
        """Make a value an output under a label; the Identity keeps it distinct.

        A type and a shape are declared behind operators that onnx has no inference for.
        """
        name = f"y{len(self.labels)}"
        if dtype:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            for end in (value, name):
                self.declared[end] = helper.make_tensor_value_info(end, kind, shape)
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.labels[name] = label

    def proto(self) -> onnx.ModelProto:
        """The model, checked."""
        outputs = [self.declared.get(n) or helper.make_empty_tensor_value_info(n) for n in self.labels]
        known = [info for name, info in self.declared.items() if name not in self.labels]
        graph = helper.make_graph(self.nodes, "bundle", self.inputs, outputs, self.constants, value_info=known)
        called = sorted({node.op_type for node in self.nodes if node.domain == DOMAIN})
        model = helper.make_model(
            graph,
            opset_imports=[
                helper.make_opsetid("", self.opset),
                helper.make_opsetid(DOMAIN, VERSION),
                *[helper.make_opsetid(d, self.ml) for d in sorted({n.domain for n in self.nodes} - {"", DOMAIN})],
            ],
            ir_version=10,
            functions=[ir.to_proto(definition(name, self.opset)) for name in called],
        )
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
        return model

    def model(self) -> ir.Model:
        """The model as the compiler takes it."""
        model = ir.from_proto(self.proto())
        name_nodes(model)
        infer_shapes(model)
        check_model(model)
        return model

    def reference(self) -> list[np.ndarray]:
        """ONNX Runtime's outputs, its optimizations off."""
        return list(session(self.proto()).run(None, self.feeds))

    def build(self, target: str | Target = "cpu") -> Built:
        """Compile it."""
        return build(self.model(), find_target(target) if isinstance(target, str) else target)

    def check(self, target: str | Target = "cpu", limit: float | None = None) -> Built:
        """Assert that every case gives ONNX Runtime's numbers: shape, type, and norm of the relative error."""
        built = self.build(target)
        found = run(built, [self.feeds[i.name] for i in built.inputs])
        problems = []
        for label, a, b in zip(self.labels.values(), self.reference(), found, strict=True):
            if a.dtype != b.dtype or a.shape != b.shape:
                problems.append(f"{label}: {b.dtype}{b.shape} for {a.dtype}{a.shape}")
            elif np.issubdtype(a.dtype, np.floating):
                most = limit or TYPES[str(a.dtype)]
                error = relative(a.astype("float64"), b.astype("float64"))
                if not error <= most:
                    problems.append(f"{label}: relative error {error:.2e} over {most:.0e}")
            elif not np.array_equal(a, b):
                problems.append(f"{label}: {int((a != b).sum())} of {a.size} differ")
        assert not problems, "\n".join(problems)
        return built

    def check_bits(self, target: str | Target = "cpu") -> Built:
        """Assert that every case gives ONNX Runtime's numbers to the bit."""
        built = self.build(target)
        found = run(built, [self.feeds[i.name] for i in built.inputs])
        cases = zip(self.labels.values(), self.reference(), found, strict=True)
        problems = [
            f"{label}: {int((a != b).sum())} of {a.size} differ, by up to {np.abs(a - b).max():.1e}"
            for label, a, b in cases
            if not np.array_equal(a, b)
        ]
        assert not problems, "\n".join(problems)
        return built

    def check_steps(self, target: str | Target = "cpu", rare: float = 1e-3) -> Built:
        """Assert that quantized outputs are ONNX Runtime's, but for one step at a `rare` fraction of elements."""
        built = self.build(target)
        found = run(built, [self.feeds[i.name] for i in built.inputs])
        problems = []
        for label, a, b in zip(self.labels.values(), self.reference(), found, strict=True):
            if a.dtype != b.dtype or a.shape != b.shape:
                problems.append(f"{label}: {b.dtype}{b.shape} for {a.dtype}{a.shape}")
                continue
            steps = np.abs(a.astype("int64") - b.astype("int64"))
            if steps.max() > 1 or (steps > 0).sum() > max(1, rare * steps.size):
                problems.append(f"{label}: {int((steps > 0).sum())} of {a.size} differ, by up to {steps.max()}")
            if a.size > 8 and a.min() == a.max():
                problems.append(f"{label}: the case saturates and proves nothing")
        assert not problems, "\n".join(problems)
        return built
