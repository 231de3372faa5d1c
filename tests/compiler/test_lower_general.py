"""Element-wise operators on the types that the layout-keeping converters do not know."""

from __future__ import annotations

import numpy as np

from tests.compiler.bundle import Bundle, run

UNARY = ["Abs", "Neg", "Sign", "Relu"]
FLOAT = ["Exp", "Log", "Sqrt", "Sin", "Tanh", "Sigmoid", "Floor", "Ceil", "Round", "Reciprocal"]


def whole(b: Bundle, dtype: str, *shape: int, low: int = -6, high: int = 7) -> str:
    """An input of small integers."""
    lowest = 0 if dtype[0] == "u" else low
    return b.input(*shape, dtype=dtype, values=b.generator.integers(lowest, high, shape))


def test_integers() -> None:
    """Signs, quotients towards zero, remainders of both kinds, extremes of several operands."""
    b = Bundle()
    for dtype in ("int8", "int32", "int64", "uint8", "uint64"):
        x, y = whole(b, dtype, 4, 5), whole(b, dtype, 5)
        positive = b.op("Max", y, b.const(np.array([2], dtype)))
        b.case(b.op("Div", x, positive), f"{dtype} Div")
        for fmod in (0, 1):
            b.case(b.op("Mod", x, positive, fmod=fmod), f"{dtype} Mod {fmod}")
        b.case(b.op("Max", x, y, x), f"{dtype} Max")
        b.case(b.op("Clip", x, b.const(np.array(1, dtype)), b.const(np.array(3, dtype))), f"{dtype} Clip")
        if dtype in ("int32", "int64"):
            b.case(b.op("Div", x, b.op("Sub", b.const(np.array([-2], dtype)), positive)), f"{dtype} Div by negative")
            b.case(b.op("Mod", x, b.op("Sub", b.const(np.array([-2], dtype)), positive)), f"{dtype} Mod by negative")
            b.case(b.op("Pow", x, positive), f"{dtype} Pow")
            b.case(b.op("Pow", x, b.const(np.array(3, "float32"))), f"{dtype} Pow of a float")
        for name in UNARY if dtype[0] == "i" else ():
            if name != "Relu" or dtype == "int32":  # ONNX Runtime has Relu on int32 only
                b.case(b.op(name, x), f"{dtype} {name}")
    b.case(b.op("Pow", b.input(4, 5), whole(b, "int64", 5)), "float32 Pow of an integer")
    b.check()


def test_division_by_zero_does_not_trap() -> None:
    """Undefined by ONNX; a process that dies is not an answer."""
    b = Bundle()
    x = b.input(3, dtype="int32", values=np.array([5, -7, np.iinfo("int32").min]))
    y = b.input(3, dtype="int32", values=np.array([0, 0, -1]))
    b.case(b.op("Div", x, y), "Div")
    b.case(b.op("Mod", x, y), "Mod")
    built = b.build()
    found = run(built, [b.feeds[i.name] for i in built.inputs])
    assert found[0].tolist() == [0, 0, np.iinfo("int32").min]
    assert found[1].tolist() == [0, 0, 0]


def test_shifts() -> None:
    b = Bundle()
    for dtype in ("uint8", "uint64"):
        x, y = whole(b, dtype, 3, 4, high=200), whole(b, dtype, 4, high=7)
        for direction in ("LEFT", "RIGHT"):
            b.case(b.op("BitShift", x, y, direction=direction), f"{dtype} {direction}")
    b.check()


def test_float64() -> None:
    """Computed in float64, not in float32."""
    b = Bundle()
    x = b.input(3, 7, dtype="float64", values=np.abs(b.normal(3, 7)) + 0.25)
    for name in FLOAT:
        b.case(b.op(name, x), name)
    b.case(b.op("Mul", x, b.op("Div", x, b.const(np.array(3.0)))), "Mul")
    b.case(b.op("Min", x, b.const(np.array([0.5]))), "Min")
    b.check(limit=1e-11)


def test_special_numbers() -> None:
    b = Bundle()
    x = b.input(6, values=np.array([np.nan, np.inf, -np.inf, -100.0, 0.0, 100.0]))
    y = b.input(6, values=np.array([1.0, 3.0, 3.0, np.nan, -0.0, -np.inf]))
    for positive, negative in [(1, 1), (0, 1), (1, 0)]:
        b.case(b.op("IsInf", x, detect_positive=positive, detect_negative=negative), f"IsInf {positive} {negative}")
    b.case(b.op("IsNaN", x), "IsNaN")
    b.case(b.op("Softplus", b.input(3, values=np.array([-50.0, 0.0, 200.0]))), "Softplus")
    b.case(b.op("Mod", y, b.input(1, values=np.array([2.5])), fmod=1), "Mod of floats")
    for name in ("Sinh", "Cosh", "Asinh"):
        b.case(b.op(name, b.input(4, values=np.array([-1000.0, -1e-4, 1e-4, 5.0]))), name)
    b.case(b.op("Atanh", b.input(3, values=np.array([-0.5, 1e-5, 0.99]))), "Atanh")
    b.check()


def test_clip_bounds_are_inputs() -> None:
    b = Bundle()
    x, low, high = b.input(3, 5), b.input(values=np.array(-0.5)), b.input(values=np.array(0.7))
    b.case(b.op("Clip", x, low, high), "both")
    b.case(b.op("Clip", x, "", high), "upper")
    b.case(b.op("Clip", x, high, low), "crossed")
    b.check()


def test_floats_to_their_ends() -> None:
    """NaNs go through Max and Min, and e^x is infinite only where float32 ends."""
    b = Bundle()
    x, y = b.input(3, values=np.array([np.nan, 1.0, 2.0])), b.input(3, values=np.array([0.0, np.nan, 3.0]))
    b.case(b.op("Max", x, y), "Max")
    b.case(b.op("Min", x, b.const(np.float32(1.5))), "Min with a number")
    b.case(b.op("Exp", b.input(5, values=np.array([-200.0, 88.1, 88.6, 89.0, np.inf]))), "Exp")
    flags = [b.op("Greater", b.input(4, 5), b.const(np.float32(0))) for _ in range(2)]
    b.case(b.op("Equal", *flags), "Equal of booleans")
    b.check()


def test_half() -> None:
    b = Bundle()
    x = b.input(3, 7, dtype="float16")
    for name in ("Elu", "Softplus", "Softsign", "Sin", "Floor", "Sign"):
        b.case(b.op("Cast", b.op(name, x), to=1), name)
    b.check(limit=3e-3)
