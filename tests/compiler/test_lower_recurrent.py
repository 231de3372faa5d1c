"""Recurrent networks against ONNX Runtime: every variant of every cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler.bundle import Bundle

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


def layer(
    b: Bundle,
    kind: str,
    *,
    seq: int = 4,
    batch: int = 2,
    inner: int = 5,
    hidden: int = 7,
    directions: int = 1,
    optional: str = "",
    runtime: bool = False,
    free: str = "",
    **attributes: Any,
) -> None:
    """Add a layer with the optional inputs among b(ias), l(engths), h, c, p(eepholes), and all its outputs."""
    g = GATES[kind]
    make = (lambda a: b.input(*a.shape, values=a)) if runtime else b.const
    x = b.input(seq, batch, inner, free=free)
    given = [
        make(b.normal(directions, g * hidden, inner, scale=0.5)),
        make(b.normal(directions, g * hidden, hidden, scale=0.3)),
        make(b.normal(directions, 2 * g * hidden)) if "b" in optional else "",
        b.const(np.array([seq, max(seq - 2, 1)], "int32")[:batch]) if "l" in optional else "",
        b.input(directions, batch, hidden) if "h" in optional else "",
    ]
    if kind == "LSTM":
        given += [
            b.input(directions, batch, hidden) if "c" in optional else "",
            make(b.normal(directions, 3 * hidden)) if "p" in optional else "",
        ]
    words = {1: attributes.pop("direction", "forward"), 2: "bidirectional"}
    count = 3 if kind == "LSTM" else 2
    outputs = b.op(kind, x, *given, outputs=count, hidden_size=hidden, direction=words[directions], **attributes)
    for name, value in zip(["Y", "Y_h", "Y_c"], outputs, strict=False):
        b.case(value, f"{kind} {optional} {words[directions]} {attributes} {name}")


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_variants(kind: str) -> None:
    b = Bundle()
    full = "blhcp" if kind == "LSTM" else "blh"
    layer(b, kind)
    layer(b, kind, optional=full, hidden=16)
    layer(b, kind, optional=full, direction="reverse", hidden=33)
    layer(b, kind, optional=full, directions=2)
    layer(b, kind, optional="b", directions=2, runtime=True)
    layer(b, kind, optional="b", clip=0.4)
    layer(b, kind, optional="b", seq=3, free="time")
    if kind == "LSTM":
        layer(b, kind, optional=full, input_forget=1)
    if kind == "GRU":
        layer(b, kind, optional=full, linear_before_reset=1)
        layer(b, kind, linear_before_reset=1)
    b.check()


def test_activations() -> None:
    b = Bundle()
    for name, alpha, beta in [
        ("Relu", None, None),
        ("Sigmoid", None, None),
        ("Affine", 0.5, 0.1),
        ("LeakyRelu", 0.2, None),
        ("ThresholdedRelu", 0.3, None),
        ("ScaledTanh", 1.5, 0.7),
        ("HardSigmoid", 0.3, 0.4),
        ("Elu", 0.8, None),
        ("Softsign", None, None),
        ("Softplus", None, None),
    ]:
        alphas, betas = ([v] if v is not None else None for v in (alpha, beta))
        layer(b, "RNN", seq=3, activations=[name], activation_alpha=alphas, activation_beta=betas)
    layer(b, "LSTM", optional="b", activations=["HardSigmoid", "Softsign", "Relu"], seq=3)
    layer(b, "GRU", optional="b", activations=["HardSigmoid", "Relu"], seq=3)
    b.check()


def test_batch_first_is_the_same_transposed() -> None:
    """ONNX Runtime has no layout 1: both layouts are compared here, and layout 0 with it."""
    from tests.compiler.bundle import run

    b = Bundle()
    x = b.input(4, 3, 5)
    w, r = b.const(b.normal(2, 28, 5)), b.const(b.normal(2, 28, 7, scale=0.3))
    h, c = b.input(2, 3, 7), b.input(2, 3, 7)
    plain = b.op("LSTM", x, w, r, "", "", h, c, outputs=3, hidden_size=7, direction="bidirectional")
    moved = [b.op("Transpose", v, perm=[1, 0, 2]) for v in (x, h, c)]
    first = b.op(
        "LSTM", moved[0], w, r, "", "", *moved[1:], outputs=3, hidden_size=7, direction="bidirectional", layout=1
    )
    for value in (*plain, *first):
        b.case(value, "state")
    built = b.build()
    found = run(built, [b.feeds[i.name] for i in built.inputs])
    np.testing.assert_allclose(found[3], found[0].transpose(2, 0, 1, 3), rtol=1e-5)
    for a, z in zip(found[4:], found[1:3], strict=True):
        np.testing.assert_allclose(a, z.transpose(1, 0, 2), rtol=1e-5)
