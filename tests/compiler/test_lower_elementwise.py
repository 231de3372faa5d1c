"""Element-wise operators, in plain and blocked layouts, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler.bundle import Bundle, run
from tests.compiler.test_lower_conv import conv

ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("Relu", {}),
    ("LeakyRelu", {}),
    ("LeakyRelu", {"alpha": 0.3}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("HardSwish", {}),
    ("HardSigmoid", {}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.1}),
    ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}),
    ("Erf", {}),
    ("Exp", {}),
    ("Abs", {}),
    ("Neg", {}),
    ("Elu", {}),
    ("Selu", {}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Mish", {}),
    ("ThresholdedRelu", {}),
    ("Sin", {}),
    ("Floor", {}),
    ("Sign", {}),
]


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_activations(target: str) -> None:
    """Plain over the whole range of each, and blocked behind and before a convolution of odd channels."""
    b = Bundle()
    wide = b.input(1, 1, 1, 257, values=np.linspace(-12, 12, 257).reshape(1, 1, 1, 257))
    image = b.input(2, 3, 9, 7)
    stem = conv(b, image, 3, 19, (3, 3))
    for name, attributes in ACTIVATIONS:
        label = f"{name} {attributes or ''}"
        b.case(b.op(name, wide, **attributes), f"{label}, plain")
        b.case(conv(b, b.op(name, stem, **attributes), 19, 4, (1, 1)), f"{label}, blocked")
    for low, high in [(-1.0, 1.5), (0.0, 6.0), (None, 0.5), (-0.5, None)]:
        bounds = ["" if v is None else b.const(np.float32(v)) for v in (low, high)]
        b.case(b.op("Clip", wide, *bounds), f"Clip {low} {high}, plain")
        b.case(conv(b, b.op("Clip", stem, *bounds), 19, 4, (1, 1)), f"Clip {low} {high}, blocked")
    for shape in [(19, 1, 1), (1,), (1, 19, 1, 1)]:
        slope = b.const(np.abs(b.normal(*shape)))
        b.case(conv(b, b.op("PRelu", stem, slope), 19, 4, (1, 1)), f"PRelu {shape}")
    b.case(conv(b, b.op("Sqrt", b.op("Relu", stem)), 19, 4, (1, 1)), "Sqrt of what is not negative")
    b.check(target)


def test_extremes() -> None:
    """Saturation, zeros and infinities, element by element."""
    b = Bundle()
    edge = np.array([-np.inf, -200, -104, -88, -1e-8, 0.0, 1e-8, 88, 200, np.inf], "float32")
    x = b.input(10, values=edge)
    for name in ("Sigmoid", "Tanh", "Erf", "Relu", "HardSigmoid"):
        b.case(b.op(name, x), name)
    b.case(b.op("Exp", b.op("Clip", x, b.const(np.float32(-80)), b.const(np.float32(80)))), "Exp")
    b.check()


def test_erf_ends_at_one() -> None:
    """And not beside it: roots of 1 - erf are numbers, GELU ends at zero, and a NaN goes through."""
    b = Bundle()
    ends = np.array([[3.4, 3.69, 3.7, 3.71, 6, 1e6, 3e38, -3.7, -6, -100, -1e6, np.nan]], "float32")
    x = b.input(1, 12, values=ends)
    erf = b.op("Erf", x)
    b.case(erf, "erf")
    b.case(b.op("Sqrt", b.op("Sub", b.const(np.float32(1)), b.op("Abs", erf))), "root")
    half = b.op("Mul", x, b.const(np.float32(0.5)))
    b.case(b.op("Mul", half, b.op("Add", erf, b.const(np.float32(1)))), "gelu")
    b.case(b.op("Exp", b.input(1, 3, values=np.array([[np.nan, -3e38, 1]], "float32"))), "exp")
    row = np.linspace(-1, 1, 40)
    row[7] = np.nan
    b.case(b.op("Softmax", b.input(1, 40, values=row[None].astype("float32"))), "softmax of a row with a NaN")
    built = b.build()
    found = dict(zip(b.labels.values(), run(built, [b.feeds[i.name] for i in built.inputs]), strict=True))
    assert np.isnan(found["erf"][0, -1]) and np.abs(found["erf"][0, :-1]).max() == 1.0
    assert np.isnan(found["root"]).sum() == 1
    assert np.abs(found["gelu"][0, 7:11]).max() <= 1e-6 and (found["gelu"][0, 8:11] == 0).all()
    assert np.isnan(found["exp"]).tolist() == [[True, False, False]]
    assert np.isnan(found["softmax of a row with a NaN"]).all()


def test_a_number_of_higher_rank_adds_axes() -> None:
    b = Bundle()
    x = b.input(2, 8, 8)
    for name in ("Mul", "Add", "Sub", "Div"):
        b.case(b.op(name, x, b.const(np.full((1, 1, 1, 1), 2, np.float32))), name)
    b.check()


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_broadcasts(target: str) -> None:
    """Operands of every shape against a blocked image whose channels do not fill blocks."""
    b = Bundle()
    x = b.input(2, 3, 9, 7)
    stem = conv(b, x, 3, 19, (3, 3), pads=[1, 1, 1, 1])
    other = conv(b, x, 3, 19, (1, 1))
    one = conv(b, x, 3, 1, (1, 1))
    pooled = b.op("GlobalAveragePool", stem)
    squeeze = b.op("Relu", conv(b, pooled, 19, 5, (1, 1)))
    gate = b.op("Sigmoid", conv(b, squeeze, 5, 19, (1, 1)))
    operands = {
        "squeeze and excite, (N, C, 1, 1)": gate,
        "spatial gate, (N, 1, H, W)": b.op("ReduceMean", stem, b.const([1])),
        "one channel from a convolution": one,
        "another convolution": other,
        "a plain image": b.input(2, 19, 9, 7),
        "a plain row": b.input(7),
        "a plain column": b.input(9, 1),
        "a plain batch of one": b.input(1, 19, 9, 7),
        "a scalar": b.input(1),
        "a constant per channel": b.const(b.normal(19, 1, 1)),
        "a constant image": b.const(b.normal(1, 19, 9, 7)),
        "a constant row": b.const(b.normal(7)),
        "a constant number": b.const(np.float32(0.7)),
    }
    for label, operand in operands.items():
        b.case(conv(b, b.op("Mul", stem, operand), 19, 3, (1, 1)), f"Mul, {label}")
        b.case(b.op("Sub", operand, stem), f"Sub from, {label}")
    b.case(b.op("Max", stem, other, operands["a plain row"]), "Max of three")
    b.case(b.op("Sum", stem, one), "Sum")
    b.case(b.op("Min", stem, b.const(np.float32(0.1))), "Min")
    b.case(b.op("Mul", b.op("Mul", one, one), one), "one channel with itself")
    b.case(b.op("Pow", stem, b.const(np.float32(2))), "Pow")
    b.check(target)


def test_division_never_divides_by_padded_lanes() -> None:
    """0 / 0 in a lane that no channel fills would reach every channel of the next convolution."""
    b = Bundle()
    x = b.input(2, 3, 6, 7)

    def image() -> str:
        """A blocked value of its own for each case: none has a plain form that an earlier case asked for."""
        return conv(b, x, 3, 19, (1, 1))

    def positive() -> str:
        return str(b.op("Add", b.op("Abs", image()), b.const(np.float32(1))))

    divisors = {
        "blocked": b.op("Exp", image()),
        "blocked, plus one": positive(),
        "plain": b.input(2, 19, 6, 7, values=1 + np.abs(b.normal(2, 19, 6, 7))),
        "pooled": b.op("GlobalAveragePool", positive()),
        "one channel": b.op("ReduceMean", positive(), b.const([1])),
        "constant": b.const(1 + np.abs(b.normal(19, 1, 1))),
        "max with a constant": b.op("Max", image(), b.const(0.5 + np.abs(b.normal(1, 19, 1, 1)))),
    }
    for label, divisor in divisors.items():
        b.case(conv(b, b.op("Div", image(), divisor), 19, 4, (1, 1)), label)
    b.case(conv(b, b.op("Div", b.const(np.float32(2)), positive()), 19, 4, (1, 1)), "a number by a tensor")
    shifted = b.op("Add", b.op("Abs", image()), b.const(np.ones((1, 19, 1, 1), "float32")))
    root = b.op("Sqrt", b.op("Sub", shifted, b.const(np.float32(0.9))))
    b.case(conv(b, root, 19, 4, (1, 1)), "root")
    for name in ("Reciprocal", "Log"):
        b.case(conv(b, b.op(name, positive()), 19, 4, (1, 1)), name)
    b.case(conv(b, b.op("Pow", positive(), b.const(np.float32(-1))), 19, 4, (1, 1)), "Pow")
    b.check()


def test_batch_normalization() -> None:
    b = Bundle()
    stem = conv(b, b.input(2, 3, 6, 7), 3, 19, (1, 1))
    parameters = [b.const(b.normal(19)) for _ in range(3)] + [b.const(np.abs(b.normal(19)) + 0.1)]
    normal = b.op("BatchNormalization", stem, *parameters, epsilon=1e-3)
    b.case(normal, "blocked")
    b.case(conv(b, normal, 19, 4, (1, 1)), "before a convolution")
    b.case(b.op("BatchNormalization", b.input(3, 19), *parameters), "matrix")
    b.case(b.op("BatchNormalization", b.input(3, 19, 5), *parameters), "sequence")
    b.check()


def test_casts_and_integers() -> None:
    b = Bundle()
    stem = conv(b, b.input(2, 3, 6, 7), 3, 19, (1, 1))
    b.case(b.op("Cast", stem, to=10), "to float16")
    b.case(conv(b, b.op("Cast", b.op("Cast", stem, to=10), to=1), 19, 4, (1, 1)), "there and back")
    b.case(b.op("Cast", b.op("Mul", stem, b.const(np.float32(20))), to=6), "to int32")
    b.case(b.op("Cast", b.op("Greater", stem, b.const(np.float32(0))), to=1), "from bool")
    whole = b.input(3, 4, dtype="int64", values=np.arange(12).reshape(3, 4))
    b.case(b.op("Add", whole, b.const(np.int64([[1], [2], [3]]))), "integers")
    b.case(b.op("Cast", whole, to=1), "int64 to float32")
    b.case(b.op("Where", b.op("Greater", stem, b.const(np.float32(0))), stem, b.const(np.float32(-1))), "Where")
    b.check()
