"""Recurrent models: both directions, what their units share, lengths, states that come in, and every option."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.graphs import build, weights


def states() -> ir.Model:
    """An LSTM whose weights lie in two thread blocks, three examples of different lengths, twice in a row."""
    return build(
        """
        a, ah, ac = LSTM<hidden_size=120, direction="bidirectional">(x, w, r, b, n, h, c, p)
        m = Transpose<perm=[0, 2, 1, 3]>(a)
        flat = Reshape(m, shape)
        d, dh, dc = LSTM<hidden_size=20, direction="reverse", input_forget=1, clip=0.8>(flat, v, s)
        """,
        inputs="float[7,3,10] x, float[2,3,120] h, float[2,3,120] c",
        outputs="float[7,2,3,120] a, float[2,3,120] ah, float[2,3,120] ac, float[7,1,3,20] d, float[1,3,20] dh,"
        " float[1,3,20] dc",
        **{name: weights(*shape, seed=i, scale=0.2) for i, (name, shape) in enumerate(_LSTM.items())},
        n=np.array([7, 1, 4], np.int32),
        shape=np.array([7, 3, 240], np.int64),
    )


_LSTM = {"w": (2, 480, 10), "r": (2, 480, 120), "b": (2, 960), "p": (2, 360), "v": (1, 80, 240), "s": (1, 80, 20)}


def gates(batch: str = "5", steps: str = "6") -> ir.Model:
    """GRUs with the reset gate before and behind the product, of four and two thread blocks, and a plain network."""
    return build(
        """
        a, ah = GRU<hidden_size=190, direction="bidirectional", linear_before_reset=1>(x, w, r, b)
        e, eh = GRU<hidden_size=130, direction="bidirectional">(y, u, q, k)
        f, fh = RNN<hidden_size=33, activations=["Relu"]>(x, t, s)
        """,
        inputs=f"float[{steps},{batch},12] x, float[4,{batch},7] y",
        outputs=f"float[{steps},2,{batch},190] a, float[2,{batch},190] ah, float[4,2,{batch},130] e,"
        f" float[2,{batch},130] eh, float[{steps},1,{batch},33] f, float[1,{batch},33] fh",
        **{name: weights(*shape, seed=i, scale=0.1) for i, (name, shape) in enumerate(_GRU.items())},
    )


_GRU = {
    "w": (2, 570, 12),
    "r": (2, 570, 190),
    "b": (2, 1140),
    "u": (2, 390, 7),
    "q": (2, 390, 130),
    "k": (2, 780),
    "t": (1, 33, 12),
    "s": (1, 33, 33),
}


def open_gates() -> ir.Model:
    """The same of any batch and length."""
    return gates("n", "t")


def batchwise(layout: int) -> ir.Model:
    """An LSTM with its states, examples first (1) or steps (0)."""
    x, y, state = ("3,5,4", "3,5,1,6", "3,1,6") if layout else ("5,3,4", "5,1,3,6", "1,3,6")
    return build(
        f"y, h, c = LSTM<hidden_size=6, layout={layout}>(x, w, r, b, n, s, t)",
        inputs=f"float[{x}] x, float[{state}] s, float[{state}] t",
        outputs=f"float[{y}] y, float[{state}] h, float[{state}] c",
        w=weights(1, 24, 4, seed=0, scale=0.5),
        r=weights(1, 24, 6, seed=1, scale=0.5),
        b=weights(1, 48, seed=2, scale=0.5),
        n=np.array([5, 2, 4], np.int32),
    )
