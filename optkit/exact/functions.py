"""The functions as ONNX: model-local functions whose bodies are standard operators.

ONNX Runtime inlines them. The compiler knows them by name and has a kernel for each, provided the body is
the one written here; any other body is inlined too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from optkit.exact.formulas import UNARY, exp

DOMAIN = "optkit.exact"
VERSION = 1
ROW_BITS = 20
"""Layer normalization: a row is rounded to integers of up to 2^20. Squares then have 40 bits, and float64 holds
a sum of 2^13 of them without rounding."""
LONGEST_ROW = 1 << (53 - 2 * ROW_BITS)
SOFTMAX_BITS = 22
"""Softmax: powers are rounded to multiples of 2^-22, and a row of them is summed in integers."""
LRN_BETAS = (0.5, 0.75, 1.0)
"""Exponents that square roots can make."""


class _Body:
    """Writes a function's nodes; implements `formulas.Arithmetic`."""

    def __init__(self, inputs: int) -> None:
        self.inputs = [ir.Value(name=f"x{i}") for i in range(inputs)]
        self.nodes: list[ir.Node] = []
        self.constants: dict[tuple[str, bytes], ir.Value] = {}

    def __call__(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        output = ir.Value(name=f"t{len(self.nodes)}")
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=[output], name=f"n{len(self.nodes)}"))
        return output

    def array(self, value: np.ndarray) -> ir.Value:
        key = (f"{value.dtype}{value.shape}", value.tobytes())
        if key not in self.constants:
            self.constants[key] = self("Constant", value=ir.tensor(value))
        return self.constants[key]

    def attribute(self, name: str) -> ir.Value:
        """A float attribute of the function."""
        output = ir.Value(name=f"t{len(self.nodes)}")
        refers = ir.RefAttr("value_float", name, ir.AttributeType.FLOAT)
        node = ir.Node("", "Constant", [], [refers], outputs=[output], name=f"n{len(self.nodes)}")
        self.nodes.append(node)
        return output

    def const(self, value: float) -> ir.Value:
        return self.array(np.asarray(value, np.float32))

    def wide(self, value: float) -> ir.Value:
        """A float64 constant."""
        return self.array(np.asarray(value, np.float64))

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self("Add", a, b)

    def sub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self("Sub", a, b)

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self("Mul", a, b)

    def div(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self("Div", a, b)

    def smaller(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self("Min", a, b)

    def larger(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self("Max", a, b)

    def rint(self, a: ir.Value) -> ir.Value:
        return self("Round", a)

    def power_of_two(self, n: ir.Value) -> ir.Value:
        table = self.array(np.exp2(np.arange(-126, 128)).astype(np.float32))
        return self("Gather", table, self("Cast", self("Add", n, self.const(126.0)), to=ir.DataType.INT64.value))

    def let(self, value: ir.Value, body: Callable[[ir.Value], ir.Value], name: str) -> ir.Value:
        return body(value)

    def double(self, value: ir.Value) -> ir.Value:
        return self("Cast", value, to=ir.DataType.DOUBLE.value)

    def single(self, value: ir.Value) -> ir.Value:
        return self("Cast", value, to=ir.DataType.FLOAT.value)

    def row(self, op_type: str, value: ir.Value) -> ir.Value:
        """A reduction over the last axis, which is kept."""
        return self(op_type, value, self.array(np.array([-1], np.int64)), keepdims=1)


def _softmax(o: _Body) -> ir.Value:
    """Absolute error below 1e-6, most of it from exp and from the rounding of the powers."""
    (x,) = o.inputs
    power = exp(o, o.sub(x, o.row("ReduceMax", x)))
    steps = o.rint(o.mul(power, o.const(2.0**SOFTMAX_BITS)))
    total = o.row("ReduceSum", o("Cast", steps, to=ir.DataType.INT64.value))
    return o.mul(steps, o.div(o.const(1.0), o.single(total)))


def _layer_normalization(o: _Body) -> ir.Value:
    """The row in units of its largest magnitude; statistics of those integers are exact in float64."""
    x, scale, shift = o.inputs
    top = o.larger(o.row("ReduceMax", o("Abs", x)), o.const(1e-30))
    steps = o.rint(o.mul(x, o.div(o.const(2.0**ROW_BITS), top)))
    wide, count = o.double(steps), o.double(o("Shape", x, start=-1))
    mean = o.div(o.row("ReduceSum", wide), count)
    squares = o.div(o.row("ReduceSum", o.mul(wide, wide)), count)
    unit = o.div(o.double(top), o.wide(2.0**ROW_BITS))
    epsilon = o.div(o.double(o.attribute("epsilon")), o.mul(unit, unit))
    variance = o.larger(o.sub(squares, o.mul(mean, mean)), o.wide(0.0))
    deviation = o("Sqrt", o.add(variance, epsilon))
    inverse = o.single(o.div(o.wide(1.0), deviation))
    return o.add(o.mul(o.mul(o.sub(steps, o.single(mean)), inverse), scale), shift)


def _lrn(o: _Body, size: int, beta: float) -> ir.Value:
    (x,) = o.inputs
    axes, (before, after) = o.array(np.array([1], np.int64)), ((size - 1) // 2, size // 2)
    squares = o("Pad", o.mul(x, x), o.array(np.array([before, after], np.int64)), o.const(0.0), axes)
    total: ir.Value | None = None
    for i in range(size):
        stop = i - size + 1 or np.iinfo(np.int64).max
        bounds = (o.array(np.array([at], np.int64)) for at in (i, stop))
        part = o("Slice", squares, *bounds, axes)
        total = part if total is None else o.add(total, part)
    assert total is not None
    share = o.div(o.attribute("alpha"), o.const(float(size)))
    base = o.add(o.mul(total, share), o.attribute("bias"))
    root = o("Sqrt", base)
    return o.div(x, {0.5: root, 0.75: o.mul(root, o("Sqrt", root)), 1.0: base}[beta])


@functools.cache
def _names() -> dict[str, tuple[Callable[[_Body], ir.Value], int, tuple[str, ...]]]:
    """Writer of the body, number of inputs and float attributes, by function name."""
    found: dict[str, tuple[Callable[[_Body], ir.Value], int, tuple[str, ...]]] = {
        name: (lambda o, f=f: f(o, o.inputs[0]), 1, ())  # type: ignore[misc]
        for name, f in UNARY.items()
    }
    found["Softmax"] = (_softmax, 1, ())
    found["LayerNormalization"] = (_layer_normalization, 3, ("epsilon",))
    for size in range(1, 16):
        for beta in LRN_BETAS:
            body = functools.partial(_lrn, size=size, beta=beta)
            found[lrn_name(size, beta)] = (body, 1, ("alpha", "bias"))
    return found


def lrn_name(size: int, beta: float) -> str:
    """The function for a window of `size` channels and an exponent of LRN_BETAS.

    >>> lrn_name(5, 0.75)
    'LRN_5_075'
    """
    return f"LRN_{size}_{round(100 * beta):03}"


def definition(name: str, opset: int) -> ir.Function:
    """The function of that name, its body in ONNX's operator set `opset` (18 or newer).

    Raises KeyError where there is none.
    """
    write, inputs, attributes = _names()[name]
    body = _Body(inputs)
    result = write(body)
    graph = ir.Graph(body.inputs, [result], nodes=body.nodes, opset_imports={"": opset})
    declared = [ir.Attr(a, ir.AttributeType.UNDEFINED, None) for a in attributes]
    return ir.Function(DOMAIN, name, graph=graph, attributes=declared)


def is_ours(function: ir.Function) -> bool:
    """Whether a model's function is the one defined here, node for node."""
    if function.domain != DOMAIN or function.name not in _names():
        return False
    return _shape_of(function) == _shape_of(definition(function.name, function.opset_imports.get("", 18)))


def _shape_of(function: ir.Function) -> list[object]:
    """The body without its names."""
    numbers = {value: i for i, value in enumerate(function.inputs)}
    found: list[object] = [len(function.inputs), sorted(function.attributes)]
    for node in function:
        reads = tuple(None if v is None else numbers.get(v) for v in node.inputs)
        numbers.update((v, len(numbers)) for v in node.outputs)
        attributes = sorted((a.name, a.ref_attr_name or "", _content(a)) for a in node.attributes.values())
        found.append((node.domain, node.op_type, reads, attributes))
    return [*found, tuple(numbers.get(v) for v in function.outputs)]


def _content(attribute: ir.Attr) -> str:
    if attribute.type == ir.AttributeType.TENSOR:
        array = attribute.value.numpy()
        return f"{array.dtype}{array.shape}{array.tobytes().hex()}"
    return repr(attribute.value)


def stand_in(node: ir.Node) -> tuple[str, list[ir.Value | None], dict[str, float]] | None:
    """The function that may take a standard operator's place: name, inputs and attributes; None: there is none."""
    x = node.inputs[0] if node.inputs else None
    if node.domain not in ("", "ai.onnx") or x is None or x.dtype != ir.DataType.FLOAT or x.shape is None:
        return None
    attributes = {a.name: a.value for a in node.attributes.values()}
    length = x.shape[-1] if len(x.shape) else None
    last = attributes.get("axis", -1) in (-1, len(x.shape) - 1)
    match node.op_type:
        case "Gelu":
            return ("GeluTanh" if attributes.get("approximate", "none") == "tanh" else "Gelu"), [x], {}
        case "HardSigmoid":
            slope = (attributes.get("alpha", 0.2), attributes.get("beta", 0.5))
            return ("HardSigmoid", [x], {}) if np.allclose(slope, (1 / 6, 0.5), rtol=1e-6) else None
        case "Softmax":
            return ("Softmax", [x], {}) if last and isinstance(length, int) else None
        case "LayerNormalization":
            if not last or not isinstance(length, int) or length > LONGEST_ROW or len(node.inputs) < 3:
                return None
            if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]) or node.inputs[2] is None:
                return None
            epsilon = float(attributes.get("epsilon", 1e-5))
            return "LayerNormalization", list(node.inputs[:3]), {"epsilon": epsilon}
        case "LRN":
            size, beta = int(attributes["size"]), float(attributes.get("beta", 0.75))
            if size > 15 or beta not in LRN_BETAS or len(x.shape) < 3:
                return None
            numbers = {"alpha": float(attributes.get("alpha", 1e-4)), "bias": float(attributes.get("bias", 1.0))}
            return lrn_name(size, beta), [x], numbers
        case name if name in UNARY:
            return name, [x], {}
    return None


def stands_for(node: ir.Node) -> tuple[str, dict[str, Any]]:
    """The standard operator in whose place a function stands, its inputs the same: name and attributes.

    Raises KeyError where the node is no such function.
    """
    _names()[node.op_type]
    given = {a.name: a.value for a in node.attributes.values()}
    match node.op_type:
        case "Gelu":
            return "Gelu", {"approximate": "none"}
        case "GeluTanh":
            return "Gelu", {"approximate": "tanh"}
        case "HardSigmoid":
            return "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}
        case "Softmax" | "LayerNormalization":
            return node.op_type, {"axis": -1, **given}
        case name if name.startswith("LRN_"):
            size, beta = next((s, b) for s in range(1, 16) for b in LRN_BETAS if lrn_name(s, b) == name)
            return "LRN", {"size": size, "beta": beta, **given}
    return node.op_type, {}


__all__ = [
    "DOMAIN",
    "LONGEST_ROW",
    "ROW_BITS",
    "SOFTMAX_BITS",
    "VERSION",
    "definition",
    "is_ours",
    "stand_in",
    "stands_for",
]
