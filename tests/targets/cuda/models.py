"""Models with a kernel of every kind, at sizes that are no multiple of any tile."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.graphs import build, weights


def grouped(
    groups: int, height: int | str = 9, width: int | str = 7, channels: int = 8, out: int | None = None
) -> ir.Model:
    """A convolution in groups of so many channels that make twice, or so, as many."""
    made = (out or 2 * channels) * groups
    return build(
        f"y = Conv<pads=[1,1,1,1], group={groups}>(x, w, b)",
        inputs=f"float[2,{channels * groups},{height},{width}] x",
        outputs=f"float[2,{made},{height},{width}] y",
        w=weights(made, channels, 3, 3, seed=0, scale=0.2),
        b=weights(made, seed=1),
    )


def pairs() -> ir.Model:
    """Two groups."""
    return grouped(2)


def groups() -> ir.Model:
    """Groups of which a tile of tensor cores takes two, and the last one what is left."""
    return grouped(13)


def cnn(batch: str = "1") -> ir.Model:
    """Padded, strided, dilated, grouped, pointwise and depthwise convolution, pools, concat, add, Gemm."""
    return build(
        """
        a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0, b0)
        ar = Relu(a)
        d = Conv<pads=[1,1,1,1], group=10>(ar, w1)
        dr = Clip(d, zero, six)
        p = Conv(dr, w2, b2)
        s = Add(p, a)
        g = Conv<pads=[2,2,2,2], dilations=[2,2], group=2>(s, w3)
        m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(g)
        e = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(s)
        er = Conv<strides=[1,1]>(e, w4)
        c = Concat<axis=1>(m, er)
        q = GlobalAveragePool(c)
        f = Flatten(q)
        y = Gemm<transB=1>(f, w5, b5)
        """,
        inputs=f"float[{batch},3,19,23] x",
        outputs=f"float[{batch},7] y",
        w0=weights(10, 3, 3, 3, seed=0, scale=0.3),
        b0=weights(10, seed=1),
        w1=weights(10, 1, 3, 3, seed=2, scale=0.4),
        zero=np.float32(0),
        six=np.float32(6),
        w2=weights(10, 10, 1, 1, seed=3, scale=0.4),
        b2=weights(10, seed=4),
        w3=weights(14, 5, 3, 3, seed=5, scale=0.2),
        w4=weights(9, 10, 1, 1, seed=6, scale=0.3),
        w5=weights(7, 23, seed=7, scale=0.3),
        b5=weights(7, seed=8),
    )


def deep(batch: str = "2") -> ir.Model:
    """Convolutions with enough channels for tensor cores: padded, strided, dilated, pointwise with a sum behind."""
    return build(
        """
        a = Conv<pads=[1,1,1,1]>(x, w0, b0)
        ar = Relu(a)
        b = Conv<pads=[0,1,1,1], strides=[2,2]>(ar, w1)
        br = Relu(b)
        c = Conv<dilations=[2,1]>(br, w2, b2)
        d = Conv(c, w3, b3)
        s = Add(d, c)
        y = Relu(s)
        """,
        inputs=f"float[{batch},36,13,11] x",
        outputs=f"float[{batch},70,2,4] y",
        w0=weights(40, 36, 3, 3, seed=0, scale=0.1),
        b0=weights(40, seed=1),
        w1=weights(34, 40, 3, 3, seed=2, scale=0.1),
        w2=weights(70, 34, 3, 3, seed=3, scale=0.1),
        b2=weights(70, seed=4),
        w3=weights(70, 70, 1, 1, seed=5, scale=0.2),
        b3=weights(70, seed=6),
    )


def mixed(batch: str = "1") -> ir.Model:
    """Blocks of 4, 8 and 16 channels that meet: SiLU, depthwise, grouped, transposed convolution, sum, concat, pool."""
    return build(
        """
        a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0, b0)
        g = Sigmoid(a)
        s = Mul(a, g)
        d = Conv<pads=[1,1,1,1], group=32>(s, w1)
        p = Conv(d, w2)
        q = Conv<pads=[1,1,1,1]>(s, w3)
        c = Concat<axis=1>(p, q)
        e = Conv<group=2>(c, w4)
        f = Conv(c, w5)
        r = Add(e, f)
        m = MaxPool<kernel_shape=[2,2], strides=[1,1]>(r)
        y = ConvTranspose<strides=[2,2]>(m, w6)
        """,
        inputs=f"float[{batch},3,18,23] x",
        outputs=f"float[{batch},12,16,22] y",
        w0=weights(32, 3, 3, 3, seed=0, scale=0.3),
        b0=weights(32, seed=1),
        w1=weights(32, 1, 3, 3, seed=2, scale=0.4),
        w2=weights(24, 32, 1, 1, seed=3, scale=0.2),
        w3=weights(48, 32, 3, 3, seed=4, scale=0.1),
        w4=weights(64, 36, 1, 1, seed=5, scale=0.2),
        w5=weights(64, 72, 1, 1, seed=6, scale=0.2),
        w6=weights(64, 12, 2, 2, seed=7, scale=0.2),
    )


def wide() -> ir.Model:
    """A convolution and a product large enough for the widest tiles, with a bias and a function behind."""
    return build(
        """
        a = Conv(x, w0, b0)
        y = Relu(a)
        m = MatMul(t, w1)
        n = Add(m, b1)
        z = Relu(n)
        """,
        inputs="float[1,192,64,63] x, float[1,2046,256] t",
        outputs="float[1,252,64,63] y, float[1,2046,508] z",
        w0=weights(252, 192, 1, 1, seed=0, scale=0.1),
        b0=weights(252, seed=1),
        w1=weights(256, 508, seed=2, scale=0.1),
        b1=weights(508, seed=3),
    )


def taps(batch: str = "2") -> ir.Model:
    """Convolutions whose taps share what they read, of two images; one with another sum behind."""
    return build(
        """
        a = Conv<pads=[1,1,1,1]>(x, w0, b0)
        r = Relu(a)
        c = Conv<pads=[1,1,1,1]>(r, w1)
        s = Add(c, a)
        y = Relu(s)
        """,
        inputs=f"float[{batch},128,26,23] x",
        outputs=f"float[{batch},120,26,23] y",
        w0=weights(120, 128, 3, 3, seed=0, scale=0.05),
        b0=weights(120, seed=1),
        w1=weights(120, 120, 3, 3, seed=2, scale=0.05),
    )


def open_taps() -> ir.Model:
    """The same for any number of images."""
    return taps("n")


def summed() -> ir.Model:
    """Sums so deep for so few results that thread blocks share a tile: convolutions and products, two things behind."""
    return build(
        """
        a = Conv<pads=[1,1,1,1]>(x, w0, b0)
        ar = Relu(a)
        b = Conv(ar, w1)
        c = Sigmoid(b)
        y = Mul(b, c)
        m = MatMul(t, w2)
        n = Add(m, b2)
        z = Relu(n)
        """,
        inputs="float[2,384,5,5] x, float[1,3,4096] t",
        outputs="float[2,70,5,5] y, float[1,3,52] z",
        w0=weights(384, 384, 3, 3, seed=0, scale=0.02),
        b0=weights(384, seed=1),
        w1=weights(70, 384, 1, 1, seed=2, scale=0.1),
        w2=weights(4096, 52, seed=3, scale=0.02),
        b2=weights(52, seed=4),
    )


def tokens(batch: str = "2", length: str = "19") -> ir.Model:
    """Products for tensor cores: 19 tokens a sample of 48 channels, with a bias and a function or a sum behind."""
    return build(
        """
        m = MatMul(x, w0)
        a = Add(m, b0)
        g = Relu(a)
        h = MatMul(g, w1)
        y = Add(h, x)
        """,
        inputs=f"float[{batch},{length},48] x",
        outputs=f"float[{batch},{length},48] y",
        w0=weights(48, 80, seed=0, scale=0.2),
        b0=weights(80, seed=1),
        w1=weights(80, 48, seed=2, scale=0.2),
    )


def projection() -> ir.Model:
    """A product with a residual behind it, of so few results that 512 threads sum a tile."""
    return build(
        """
        m = MatMul(x, w0)
        a = Add(m, b0)
        y = Add(a, z)
        """,
        inputs="float[1,16,2048] x, float[1,16,128] z",
        outputs="float[1,16,128] y",
        w0=weights(2048, 128, seed=0, scale=0.02),
        b0=weights(128, seed=1),
    )


def open_tokens() -> ir.Model:
    """The same for any number of samples of any length."""
    return tokens("n", "s")


def narrow() -> ir.Model:
    """One row by few columns, which no tensor core takes."""
    return build("y = MatMul(x, w)", inputs="float[1,96] x", outputs="float[1,10] y", w=weights(96, 10, seed=0))


def product() -> ir.Model:
    """The smallest product for tensor cores."""
    return build("y = MatMul(x, w)", inputs="float[5,16] x", outputs="float[5,8] y", w=weights(16, 8, seed=0))


def passing(batch: str = "n") -> ir.Model:
    """A product, a constant and an input passed through, of two inputs."""
    return build(
        """
        m = MatMul(x, w)
        y = Add(m, z)
        same = Identity(x)
        """,
        inputs=f"float[{batch},16] x, float[{batch},8] z",
        outputs=f"float[{batch},8] y, float[{batch},16] same",
        w=weights(16, 8, seed=0),
    )


def rows() -> ir.Model:
    """A product over 3 x 4 rows, which a tile of six straddles, and 9 columns."""
    return build(
        """
        m = MatMul(x, w)
        y = Add(m, b)
        """,
        inputs="float[3,4,10] x",
        outputs="float[3,4,9] y",
        w=weights(10, 9, seed=0),
        b=weights(9, seed=1),
    )


def far_apart() -> ir.Model:
    """More rows to sort, two numbers each, than a grid has thread blocks on its second axis."""
    return build(
        "v, i = TopK<axis=1>(x, one)",
        inputs="float[1,2,70000] x",
        outputs="float[1,1,70000] v, int64[1,1,70000] i",
        one=np.array([1], np.int64),
    )


def others() -> ir.Model:
    """What has no template of its own: reductions, arg max, transposes, gathers, running sums, sorting."""
    return build(
        """
        a = ReduceSum<keepdims=0>(x, axes)
        b = ReduceMax<keepdims=1>(x)
        c = ArgMax<axis=2, keepdims=0>(x)
        d = Transpose<perm=[2,0,1]>(x)
        e = Gather<axis=1>(x, picks)
        f = CumSum(x, last)
        g, h = TopK<axis=-1>(x, three)
        """,
        inputs="float[3,5,13] x",
        outputs="float[3,13] a, float[1,1,1] b, int64[3,5] c, float[13,3,5] d, float[3,2,13] e, float[3,5,13] f,"
        " float[3,5,3] g, int64[3,5,3] h",
        axes=np.array([1], np.int64),
        picks=np.array([4, 1], np.int64),
        last=np.array(2, np.int64),
        three=np.array([3], np.int64),
    )


def volumes() -> ir.Model:
    """Convolutions of three dimensions one after the other, a strided one, pooling and up-sampling."""
    return build(
        """
        a = Conv<pads=[1, 1, 1, 1, 1, 1]>(x, w0, b0)
        r = Relu(a)
        c = Conv<pads=[1, 1, 1, 1, 1, 1]>(r, w1)
        s = Relu(c)
        p = MaxPool<kernel_shape=[2, 2, 2], strides=[2, 2, 2]>(s)
        d = Conv<pads=[1, 0, 1, 1, 1, 0], strides=[2, 1, 1], dilations=[1, 2, 1]>(p, w2)
        u = ConvTranspose<kernel_shape=[2, 2, 2], strides=[2, 2, 2]>(p, w3)
        y = Concat<axis=1>(u, s)
        """,
        inputs="float[2,3,6,8,10] x",
        outputs="float[2,36,6,8,10] y, float[2,9,2,1,4] d",
        w0=weights(20, 3, 3, 3, 3, seed=0, scale=0.2),
        b0=weights(20, seed=1),
        w1=weights(20, 20, 3, 3, 3, seed=2, scale=0.1),
        w2=weights(9, 20, 3, 3, 3, seed=3, scale=0.1),
        w3=weights(20, 16, 2, 2, 2, seed=4, scale=0.2),
    )
