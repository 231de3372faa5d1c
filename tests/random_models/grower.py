"""A model that grows node by node, its shapes known at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LARGEST = 20_000
"""Elements of a value at most: what goes wrong goes wrong in small ones too."""
OPSET = 21

Item = TypeVar("Item")


@dataclass(frozen=True)
class Extent:
    """An axis whose size is known only when the model runs.

    Attributes:
        name: how it comes of the inputs' open axes; of two axes with one name the sizes are the same.
        size: the least it can be.
    """

    name: str
    size: int


Dim = int | Extent


def size(dim: Dim) -> int:
    """Of an axis, the least where it is open."""
    return dim if isinstance(dim, int) else dim.size


@dataclass(frozen=True)
class Tensor:
    """A float32 value of the model."""

    name: str
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        """Axes."""
        return len(self.shape)

    @property
    def fixed(self) -> bool:
        """No axis is open."""
        return all(isinstance(dim, int) for dim in self.shape)

    def axes(self, longer: int = 0) -> list[int]:
        """Those of a known extent that is more than `longer`."""
        return [i for i, d in enumerate(self.shape) if isinstance(d, int) and d > longer]

    @property
    def elements(self) -> int:
        """As many as it has, at least."""
        return math.prod(map(size, self.shape))


@dataclass
class Grower:
    """Nodes, weights and values so far; everything random comes of one generator."""

    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    def chance(self, probability: float) -> bool:
        """True that often."""
        return bool(self.random.random() < probability)

    def among(self, *items: Item) -> Item:
        """One of them."""
        return items[int(self.random.integers(len(items)))]

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self.random.integers(low, high + 1))

    def pick(self, *, rank: int = 0, fixed: bool = False) -> Tensor | None:
        """A value of that rank (0: of any), late ones and ones that nothing reads rather than others."""
        fits = [v for v in self.values if (not rank or v.rank == rank) and (v.fixed or not fixed)]
        if not fits:
            return None
        odds = np.array([(1 + i) * (1 if v.name in self.read else 4) for i, v in enumerate(fits)], float)
        return fits[int(self.random.choice(len(fits), p=odds / odds.sum()))]

    def weight(self, *shape: int, scale: float = 1.0, offset: float = 0.0) -> str:
        """The name of new normal numbers."""
        return self.constant((scale * self.random.standard_normal(shape) + offset).astype("f4"))

    def constant(self, array: np.ndarray) -> str:
        """The name of a new initializer."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def whole(self, *numbers: int) -> str:
        """The name of a new initializer of int64."""
        return self.constant(np.array(numbers, "i8"))

    def emit(self, op: str, inputs: list[str], *shapes: tuple[Dim, ...], **attributes: object) -> list[Tensor]:
        """Add a node whose outputs have these shapes."""
        made = [Tensor(f"v{len(self.nodes)}_{i}", shape) for i, shape in enumerate(shapes)]
        self.nodes.append(helper.make_node(op, inputs, [v.name for v in made], f"n{len(self.nodes)}", **attributes))
        self.read.update(inputs)
        return made

    def keep(self, op: str, inputs: list[str], *shapes: tuple[Dim, ...], **attributes: object) -> bool:
        """`emit`, its outputs for others to read; False where one of them is empty or too large."""
        sizes = [math.prod(map(size, shape)) for shape in shapes]
        if min(sizes) < 1 or max(sizes) > LARGEST:
            return False
        self.values += self.emit(op, inputs, *shapes, **attributes)
        return True

    def start(self, shape: tuple[Dim, ...]) -> None:
        """Add an input."""
        made = Tensor(f"x{len(self.inputs)}", shape)
        self.inputs.append(made)
        self.values.append(made)

    def model(self) -> onnx.ModelProto:
        """All of it; outputs are what nothing reads, and now and then a value that something does read."""
        given = {v.name for v in self.inputs}
        ends = [v for v in self.values if v.name not in given and (v.name not in self.read or self.chance(0.05))]
        shapes = {v.name: [d if isinstance(d, int) else d.name for d in v.shape] for v in (*self.inputs, *ends)}

        def info(v: Tensor) -> onnx.ValueInfoProto:
            shape = [d if isinstance(d, int) or v.name in given else None for d in shapes[v.name]]
            return helper.make_tensor_value_info(v.name, TensorProto.FLOAT, shape)

        used = {name for node in self.nodes for name in node.input}
        weights = [w for w in self.weights if w.name in used]
        graph = helper.make_graph(
            self.nodes, "random", [info(v) for v in self.inputs], [info(v) for v in ends], weights
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
