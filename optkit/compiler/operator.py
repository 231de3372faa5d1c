"""An operator as tuning knows it: what is computed on which extents; and a plan, one way to compute it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

OPERATOR = "optkit.operator"
"""Block annotation: the text of the operator that a kernel computes."""
NOMINAL = "optkit.nominal_operator"
"""Block annotation: where extents are open, the text of the operator that it would be at usual ones."""

CONV, DEPTHWISE, MATMUL, BATCH_MATMUL = "conv2d", "depthwise", "matmul", "batch_matmul"
ATTENTION, GROUPED = "attention", "grouped_matmul"
TENSOR_FLOAT = "tensorfloat32"
"""Arithmetic of tensor cores on float32 numbers, of which they take the first eleven bits of the mantissa."""
TENSOR_CORE = ("float16", "bfloat16", TENSOR_FLOAT)
"""What tensor cores multiply besides bytes."""
SIZES = {
    # b: channels of an input block, fewer than a vector where a network's first layer reads planes
    CONV: ("n", "c", "h", "w", "o", "kh", "kw", "sh", "sw", "dh", "dw", "pt", "pl", "pb", "pr", "groups", "b"),
    DEPTHWISE: ("n", "c", "h", "w", "kh", "kw", "sh", "sw", "dh", "dw", "pt", "pl", "pb", "pr"),
    MATMUL: ("m", "k", "n"),
    BATCH_MATMUL: ("batch", "m", "k", "n"),
    # rows and columns of the scores, 0 where open, depth of either product's other side; not tuned
    ATTENTION: ("batch", "m", "n", "k", "d"),
    # weights of so many bits in groups of so many rows; not tuned
    GROUPED: ("m", "k", "n", "group", "bits"),
}
"""Extents by kind of operator, in the order of the text form."""


@dataclass(frozen=True)
class Operator:
    """A product with static extents, whatever is fused to it.

    Attributes:
        kind: a key of `SIZES`.
        compute: arithmetic type, "float32", "int8", "bfloat16", "float16" or "tensorfloat32".
        sizes: extents in the order of `SIZES`.

    >>> operator = Operator("matmul", "float32", (197, 768, 3072))
    >>> str(operator)
    'matmul float32 m=197 k=768 n=3072'
    >>> Operator.parse(str(operator)) == operator
    True
    """

    kind: str
    compute: str
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        words = (f"{name}={size}" for name, size in zip(SIZES[self.kind], self.sizes, strict=True))
        return f"{self.kind} {self.compute} {' '.join(words)}"

    @classmethod
    def parse(cls, text: str) -> Operator:
        """The operator of a text form; ValueError for any other text."""
        kind, compute, *words = text.split(" ")
        pairs = [word.split("=") for word in words]
        if kind not in SIZES or tuple(name for name, *_ in pairs) != SIZES[kind]:
            raise ValueError(f"{text!r} is no operator")
        return cls(kind, compute, tuple(int(size) for _, size in pairs))

    def named(self) -> dict[str, int]:
        """Extents by name."""
        return dict(zip(SIZES[self.kind], self.sizes, strict=True))

    def output(self) -> tuple[int, int]:
        """Height and width of a convolution's output."""
        s = self.named()
        down = (s["h"] + s["pt"] + s["pb"] - (s["kh"] - 1) * s["dh"] - 1) // s["sh"] + 1
        across = (s["w"] + s["pl"] + s["pr"] - (s["kw"] - 1) * s["dw"] - 1) // s["sw"] + 1
        return down, across

    def pointwise(self) -> bool:
        """Whether a convolution is a matrix product over positions."""
        s = self.named()
        ones = all(s[name] == 1 for name in ("kh", "kw", "sh", "sw"))
        return self.kind == CONV and ones and not any(s[name] for name in ("pt", "pl", "pb", "pr"))

    def macs(self) -> int:
        """Multiply-accumulates of the direct form."""
        s = self.named()
        if self.kind in (MATMUL, BATCH_MATMUL):
            return math.prod(self.sizes)
        if self.kind == GROUPED:
            return s["m"] * s["k"] * s["n"]
        if self.kind == ATTENTION:
            return s["batch"] * s["m"] * s["n"] * (s["k"] + s["d"])
        window = s["kh"] * s["kw"] * math.prod(self.output()) * s["n"]
        return window * (s["c"] if self.kind == DEPTHWISE else s["o"] * s["c"] // s["groups"])


@dataclass(frozen=True)
class Plan:
    """One way to compute an operator: a template and its parameters."""

    template: str
    params: Mapping[str, int] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.template, tuple(sorted(self.params.items()))))

    def __str__(self) -> str:
        return " ".join([self.template, *(f"{name}={value}" for name, value in self.params.items())])
