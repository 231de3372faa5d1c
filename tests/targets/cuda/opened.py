"""Models whose extents are known only when they run, and the shapes that they are tried at: smallest and largest."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.graphs import build, weights

RANGES = {
    "images": {"x": ((1, 3, 9, 14), (2, 3, 37, 26))},
    "places": {"x": ((1, 3, 16, 27), (2, 3, 41, 36))},
    "sentences": {
        "x": ((1, 1, 48), (3, 70, 48)),
        "z": ((1, 1, 48), (3, 90, 48)),
        "own": ((1, 1, 1, 1), (3, 1, 1, 70)),
        "other": ((1, 1, 1, 1), (3, 1, 70, 90)),
    },
    "narrower": {"x": ((2, 3, 19, 14), (2, 3, 19, 37))},
    "tall": {"x": ((1, 4, 3, 1), (1, 4, 70000, 1))},
    "lines": {"x": ((1, 8, 7), (1, 8, 60))},
    "patches": {"x": ((1, 3, 8, 12), (2, 3, 41, 37))},
    "cached": {
        "x": ((1, 1, 48), (2, 7, 48)),
        "keys": ((1, 3, 1, 16), (2, 3, 70, 16)),
        "values": ((1, 3, 1, 16), (2, 3, 70, 16)),
    },
    "strangers": {
        "q": ((2, 3, 9, 16), (2, 3, 20, 16)),
        "k": ((2, 3, 16, 9), (2, 3, 16, 33)),
        "mask": ((1, 1, 1, 9), (1, 1, 1, 33)),
    },
    "samples": {"x": ((1, 24, 5), (3, 24, 40))},
}


def images() -> ir.Model:
    """Strided, dilated, grouped, depthwise and pointwise convolution of images of any size, with a residual."""
    return build(
        """
        a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0, b0)
        r = Relu(a)
        b = Conv<pads=[1,1,1,1]>(r, w1)
        s = Add(b, r)
        t = Relu(s)
        c = Conv(t, w2)
        d = Conv<pads=[2,2,2,2], dilations=[2,2], group=2>(c, w3)
        e = Conv<pads=[1,1,1,1], group=96>(d, w4)
        f = Sigmoid(e)
        y = Conv<pads=[0,0,1,2]>(f, w5)
        """,
        inputs="float[n,3,h,w] x",
        outputs="float[n,40,p,q] y",
        w0=weights(64, 3, 3, 3, seed=0, scale=0.2),
        b0=weights(64, seed=1),
        w1=weights(64, 64, 3, 3, seed=2, scale=0.05),
        w2=weights(96, 64, 1, 1, seed=3, scale=0.1),
        w3=weights(96, 48, 3, 3, seed=4, scale=0.05),
        w4=weights(96, 1, 3, 3, seed=5, scale=0.2),
        w5=weights(40, 96, 1, 1, seed=6, scale=0.1),
    )


def places() -> ir.Model:
    """Pools, a gate by the mean of an image, its halves up-sampled by transposed convolutions, and joined again."""
    return build(
        """
        a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0, b0)
        r = Relu(a)
        m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r)
        b = Conv<pads=[1,1,1,1]>(m, w1)
        q = AveragePool<kernel_shape=[2,2], strides=[2,2]>(b)
        g = GlobalAveragePool(q)
        s = Sigmoid(g)
        t = Mul(q, s)
        t0, t1 = Split<axis=1>(t, halves)
        u = ConvTranspose<strides=[2,2]>(t0, w2)
        k = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(t1, w3)
        v = Concat<axis=1>(u, k)
        y = Conv(v, w4)
        """,
        inputs="float[n,3,h,w] x",
        outputs="float[n,40,p,q] y",
        w0=weights(64, 3, 3, 3, seed=0, scale=0.2),
        b0=weights(64, seed=1),
        w1=weights(64, 64, 3, 3, seed=2, scale=0.05),
        w2=weights(32, 32, 2, 2, seed=3, scale=0.1),
        w3=weights(32, 32, 4, 4, seed=4, scale=0.05),
        halves=np.array([32, 32], np.int64),
        w4=weights(40, 64, 3, 3, seed=5, scale=0.05),
    )


def samples() -> ir.Model:
    """Convolutions in one dimension, of any length, and the largest of each channel."""
    return build(
        """
        a = Conv<pads=[1,1], strides=[2]>(x, w0, b0)
        r = Relu(a)
        b = Conv<pads=[2,2], dilations=[2]>(r, w1)
        c = Conv<auto_pad="SAME_UPPER">(b, w2)
        y = Add(c, r)
        z = GlobalMaxPool(y)
        """,
        inputs="float[n,24,l] x",
        outputs="float[n,64,m] y, float[n,64,1] z",
        w0=weights(64, 24, 3, seed=0, scale=0.2),
        b0=weights(64, seed=1),
        w1=weights(48, 64, 3, seed=2, scale=0.05),
        w2=weights(64, 48, 5, seed=3, scale=0.05),
    )


def sentences() -> ir.Model:
    """Self-attention of three heads, then attention to other tokens, both masked, of any number of tokens."""
    return build(
        """
        q0 = MatMul(x, wq)
        k0 = MatMul(x, wk)
        v0 = MatMul(x, wv)
        q1 = Add(q0, bq)
        q2 = Reshape(q1, heads)
        k2 = Reshape(k0, heads)
        v2 = Reshape(v0, heads)
        q = Transpose<perm=[0,2,1,3]>(q2)
        k = Transpose<perm=[0,2,3,1]>(k2)
        v = Transpose<perm=[0,2,1,3]>(v2)
        s = MatMul(q, k)
        t = Mul(s, scale)
        u = Add(t, own)
        p = Softmax<axis=-1>(u)
        o = MatMul(p, v)
        r = Transpose<perm=[0,2,1,3]>(o)
        j = Reshape(r, joined)
        a = Add(j, x)
        q4 = MatMul(a, wo)
        k4 = MatMul(z, wk)
        q5 = Reshape(q4, heads)
        k5 = Reshape(k4, heads)
        q6 = Transpose<perm=[0,2,1,3]>(q5)
        k6 = Transpose<perm=[0,2,3,1]>(k5)
        v6 = Transpose<perm=[0,2,1,3]>(k5)
        s6 = MatMul(q6, k6)
        t6 = Mul(s6, scale)
        u6 = Add(t6, other)
        p6 = Softmax<axis=-1>(u6)
        o6 = MatMul(p6, v6)
        r6 = Transpose<perm=[0,2,1,3]>(o6)
        j6 = Reshape(r6, joined)
        y = Add(j6, a)
        """,
        inputs="float[n,l,48] x, float[n,m,48] z, float[n,1,1,l] own, float[n,1,l,m] other",
        outputs="float[n,l,48] y",
        wq=weights(48, 48, seed=0, scale=0.2),
        wk=weights(48, 48, seed=1, scale=0.2),
        wv=weights(48, 48, seed=2, scale=0.2),
        wo=weights(48, 48, seed=3, scale=0.2),
        bq=weights(48, seed=4),
        scale=np.float32(0.25),
        heads=np.array([0, 0, 3, 16], np.int64),
        joined=np.array([0, 0, 48], np.int64),
    )


def patches() -> ir.Model:
    """One block of a vision transformer: the patches of images of any size, behind a token of no patch."""
    return build(
        """
        e = Conv<strides=[4,4]>(x, wp, bp)
        f = Reshape(e, rows)
        t = Transpose<perm=[0,2,1]>(f)
        n = Shape<end=1>(x)
        some = Concat<axis=0>(n, one)
        c = Expand(token, some)
        z = Concat<axis=1>(c, t)
        q0 = MatMul(z, wq)
        k0 = MatMul(z, wk)
        v0 = MatMul(z, wv)
        q1 = Reshape(q0, heads)
        k1 = Reshape(k0, heads)
        v1 = Reshape(v0, heads)
        q = Transpose<perm=[0,2,1,3]>(q1)
        k = Transpose<perm=[0,2,3,1]>(k1)
        v = Transpose<perm=[0,2,1,3]>(v1)
        s = MatMul(q, k)
        t2 = Mul(s, scale)
        p = Softmax<axis=-1>(t2)
        o = MatMul(p, v)
        r = Transpose<perm=[0,2,1,3]>(o)
        j = Reshape(r, joined)
        y = Add(j, z)
        """,
        inputs="float[n,3,h,w] x",
        outputs="float[n,l,48] y",
        wp=weights(48, 3, 4, 4, seed=0, scale=0.1),
        bp=weights(48, seed=1, scale=0.1),
        rows=np.array([0, 48, -1], np.int64),
        one=np.array([1, 48], np.int64),
        token=weights(1, 1, 48, seed=2),
        wq=weights(48, 48, seed=3, scale=0.2),
        wk=weights(48, 48, seed=4, scale=0.2),
        wv=weights(48, 48, seed=5, scale=0.2),
        heads=np.array([0, -1, 3, 16], np.int64),
        scale=np.float32(0.25),
        joined=np.array([0, -1, 48], np.int64),
    )


def cached() -> ir.Model:
    """Attention to the tokens so far, whose keys and values are given, and to those that come now."""
    return build(
        """
        q0 = MatMul(x, wq)
        k0 = MatMul(x, wk)
        v0 = MatMul(x, wv)
        q1 = Reshape(q0, heads)
        k1 = Reshape(k0, heads)
        v1 = Reshape(v0, heads)
        q = Transpose<perm=[0,2,1,3]>(q1)
        k2 = Transpose<perm=[0,2,1,3]>(k1)
        v2 = Transpose<perm=[0,2,1,3]>(v1)
        k = Concat<axis=2>(keys, k2)
        v = Concat<axis=2>(values, v2)
        kt = Transpose<perm=[0,1,3,2]>(k)
        s = MatMul(q, kt)
        t = Mul(s, scale)
        p = Softmax<axis=-1>(t)
        o = MatMul(p, v)
        r = Transpose<perm=[0,2,1,3]>(o)
        y = Reshape(r, joined)
        """,
        inputs="float[n,l,48] x, float[n,3,past,16] keys, float[n,3,past,16] values",
        outputs="float[n,l,48] y, float[n,3,t,16] k, float[n,3,t,16] v",
        wq=weights(48, 48, seed=0, scale=0.2),
        wk=weights(48, 48, seed=1, scale=0.2),
        wv=weights(48, 48, seed=2, scale=0.2),
        heads=np.array([0, -1, 3, 16], np.int64),
        scale=np.float32(0.25),
        joined=np.array([0, -1, 48], np.int64),
    )


def strangers() -> ir.Model:
    """Attention with a mask of which nothing says that it has a number a key: one for all of them is a mask too."""
    return build(
        """
        s = MatMul(q, k)
        t = Add(s, mask)
        p = Softmax<axis=-1>(t)
        v = Transpose<perm=[0,1,3,2]>(k)
        y = MatMul(p, v)
        """,
        inputs="float[2,3,l,16] q, float[2,3,16,m] k, float[1,1,1,o] mask",
        outputs="float[2,3,l,16] y",
    )


def narrower() -> ir.Model:
    """Two images of open width, which is less by a number behind some convolutions, and padded behind these."""
    return build(
        """
        a = Conv(x, w0)
        b = Conv<pads=[1,1,1,1]>(a, w1)
        c = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(b)
        d = Conv<pads=[1,1,1,1], group=32>(c, w2)
        y = Conv<pads=[0,1,0,1]>(d, w3)
        """,
        inputs="float[2,3,19,w] x",
        outputs="float[2,24,p,q] y",
        w0=weights(32, 3, 3, 3, seed=0, scale=0.2),
        w1=weights(32, 32, 3, 3, seed=1, scale=0.1),
        w2=weights(32, 1, 3, 3, seed=2, scale=0.3),
        w3=weights(24, 32, 3, 3, seed=3, scale=0.1),
    )


def tall() -> ir.Model:
    """More rows than a grid has thread blocks along all but one axis."""
    return build(
        "y = Conv<pads=[1,0,1,0]>(x, w)",
        inputs="float[1,4,t,1] x",
        outputs="float[1,4,t,1] y",
        w=weights(4, 4, 3, 1, seed=0, scale=0.3),
    )


def lines() -> ir.Model:
    """What is reduced to a number of rows that is another one's less something."""
    return build(
        """
        a = MaxPool<kernel_shape=[3]>(x)
        b = AveragePool<kernel_shape=[3]>(a)
        y = LpPool<kernel_shape=[2]>(b)
        """,
        inputs="float[1,8,l] x",
        outputs="float[1,8,m] y",
    )
