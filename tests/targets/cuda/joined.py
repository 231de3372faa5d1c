"""Models of which kernels read and write parts of larger tensors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.graphs import build, weights


def blocks(batch: str = "2") -> ir.Model:
    """YOLO's C2f: two halves, the second one and what is made of it read and concatenated; a pool of all of it."""
    return build(
        """
        a = Conv(x, w0, b0)
        ar = Relu(a)
        first, second = Split<axis=1, num_outputs=2>(ar)
        p = Conv<pads=[1,1,1,1]>(second, w1)
        pr = Relu(p)
        q = Conv<pads=[1,1,1,1]>(pr, w2)
        s = Add(q, second)
        t = Conv<pads=[1,1,1,1]>(s, w3)
        c = Concat<axis=1>(first, second, s, t)
        m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)
        d = Concat<axis=1>(c, m)
        y = Conv(d, w4)
        """,
        inputs=f"float[{batch},32,7,9] x",
        outputs=f"float[{batch},24,7,9] y",
        w0=weights(64, 32, 1, 1, seed=0, scale=0.2),
        b0=weights(64, seed=1),
        w1=weights(32, 32, 3, 3, seed=2, scale=0.1),
        w2=weights(32, 32, 3, 3, seed=3, scale=0.1),
        w3=weights(32, 32, 3, 3, seed=4, scale=0.1),
        w4=weights(24, 256, 1, 1, seed=5, scale=0.1),
    )


def skip(batch: str = "3") -> ir.Model:
    """U-Net's skip, pooled, and concatenated with what comes back by a transposed convolution."""
    return build(
        """
        a = Conv<pads=[1,1,1,1]>(x, w0)
        ar = Relu(a)
        m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(ar)
        b = Conv<pads=[1,1,1,1]>(m, w1)
        br = Relu(b)
        u = ConvTranspose<strides=[2,2]>(br, w2)
        c = Concat<axis=1>(u, ar)
        y = Conv<pads=[1,1,1,1]>(c, w3)
        """,
        inputs=f"float[{batch},16,10,6] x",
        outputs=f"float[{batch},16,10,6] y",
        w0=weights(32, 16, 3, 3, seed=0, scale=0.2),
        w1=weights(48, 32, 3, 3, seed=1, scale=0.1),
        w2=weights(48, 32, 2, 2, seed=2, scale=0.2),
        w3=weights(16, 64, 3, 3, seed=3, scale=0.1),
    )


def cropped() -> ir.Model:
    """A transposed convolution without its first pixels, all others in their places."""
    return build(
        "y = ConvTranspose<strides=[2,2], pads=[2,2,0,0]>(x, w)",
        inputs="float[2,24,6,5] x",
        outputs="float[2,16,10,8] y",
        w=weights(24, 16, 2, 2, seed=0, scale=0.2),
    )


def shuffled() -> ir.Model:
    """ShuffleNetV2's unit, twice: half of the channels, no whole blocks, pass by; then all are shuffled."""
    shape = {"divided": np.array([2, 2, 29, 7, 5]), "whole": np.array([2, 58, 7, 5])}
    steps = [
        f"""
        a{i}, b{i} = Split<axis=1, num_outputs=2>(x{i})
        c{i} = Conv<pads=[1,1,1,1], group=29>(b{i}, v{i})
        d{i} = Conv(c{i}, w{i})
        e{i} = Relu(d{i})
        f{i} = Concat<axis=1>(a{i}, e{i})
        g{i} = Reshape(f{i}, divided)
        h{i} = Transpose<perm=[0,2,1,3,4]>(g{i})
        x{i + 1} = Reshape(h{i}, whole)
        """
        for i in range(2)
    ]
    return build(
        "\n".join(["x0 = Conv(x, w)", *steps, "y = Conv(x2, u)"]),
        inputs="float[2,16,7,5] x",
        outputs="float[2,24,7,5] y",
        w=weights(58, 16, 1, 1, seed=0, scale=0.3),
        u=weights(24, 58, 1, 1, seed=1, scale=0.2),
        **{f"v{i}": weights(29, 1, 3, 3, seed=2 + i, scale=0.3) for i in range(2)},
        **{f"w{i}": weights(29, 29, 1, 1, seed=4 + i, scale=0.2) for i in range(2)},
        **shape,
    )
