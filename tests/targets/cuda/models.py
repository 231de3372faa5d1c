"""Models with a kernel of every kind, at sizes that are no multiple of any tile."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.graphs import build, weights


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
        inputs="float[1,96,64,63] x, float[1,2046,128] t",
        outputs="float[1,252,64,63] y, float[1,2046,508] z",
        w0=weights(252, 96, 1, 1, seed=0, scale=0.1),
        b0=weights(252, seed=1),
        w1=weights(128, 508, seed=2, scale=0.1),
        b1=weights(508, seed=3),
    )


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


def tokens(batch: str = "2") -> ir.Model:
    """Products for tensor cores: 19 tokens a sample of 48 channels, with a bias and a function or a sum behind."""
    return build(
        """
        m = MatMul(x, w0)
        a = Add(m, b0)
        g = Relu(a)
        h = MatMul(g, w1)
        y = Add(h, x)
        """,
        inputs=f"float[{batch},19,48] x",
        outputs=f"float[{batch},19,48] y",
        w0=weights(48, 80, seed=0, scale=0.2),
        b0=weights(80, seed=1),
        w1=weights(80, 48, seed=2, scale=0.2),
    )


def attention(batch: str = "1") -> ir.Model:
    """One head pair of self-attention with normalization and GELU over 5 tokens of 22 channels."""
    return build(
        """
        n = LayerNormalization(x, gain, shift)
        q1 = MatMul(n, wq)
        k1 = MatMul(n, wk)
        v1 = MatMul(n, wv)
        q2 = Reshape(q1, heads)
        k2 = Reshape(k1, heads)
        v2 = Reshape(v1, heads)
        q = Transpose<perm=[0,2,1,3]>(q2)
        k = Transpose<perm=[0,2,3,1]>(k2)
        v = Transpose<perm=[0,2,1,3]>(v2)
        s = MatMul(q, k)
        t = Mul(s, scale)
        p = Softmax<axis=-1>(t)
        o = MatMul(p, v)
        r = Transpose<perm=[0,2,1,3]>(o)
        j = Reshape(r, joined)
        z = Add(j, x)
        h = MatMul(z, w1)
        g = Gelu(h)
        u = MatMul(g, w2)
        y = Add(u, z)
        """,
        inputs=f"float[{batch},5,22] x",
        outputs=f"float[{batch},5,22] y",
        opset=20,
        gain=weights(22, seed=0),
        shift=weights(22, seed=1),
        wq=weights(22, 22, seed=2, scale=0.2),
        wk=weights(22, 22, seed=3, scale=0.2),
        wv=weights(22, 22, seed=4, scale=0.2),
        w1=weights(22, 46, seed=5, scale=0.2),
        w2=weights(46, 22, seed=6, scale=0.2),
        scale=np.float32(0.3),
        heads=np.array([0, 5, 2, 11], np.int64),
        joined=np.array([0, 5, 22], np.int64),
    )


def heads(batch: str = "2") -> ir.Model:
    """Two products of activations with a softmax between them, 3 heads of 72 and 83 tokens, masked; then one alone."""
    return build(
        """
        q2 = Reshape(x, shape)
        k2 = Reshape(z, others)
        q = Transpose<perm=[0,2,1,3]>(q2)
        k = Transpose<perm=[0,2,3,1]>(k2)
        v = Transpose<perm=[0,2,1,3]>(k2)
        s = MatMul(q, k)
        t = Div(s, scale)
        m = Add(t, mask)
        p = Softmax<axis=-1>(m)
        o = MatMul(p, v)
        r = Transpose<perm=[0,2,1,3]>(o)
        j = Reshape(r, joined)
        n = Transpose<perm=[0,2,1]>(j)
        y = MatMul(j, n)
        """,
        inputs=f"float[{batch},72,72] x, float[{batch},83,72] z, float[{batch},1,1,83] mask",
        outputs=f"float[{batch},72,72] y",
        scale=np.float32(4.9),
        shape=np.array([0, 72, 3, 24], np.int64),
        others=np.array([0, 83, 3, 24], np.int64),
        joined=np.array([0, 72, 72], np.int64),
    )


def head_sizes(batch: str = "2") -> ir.Model:
    """Attention at the usual depths of heads, masked."""
    sizes, counts = (32, 64, 80, 128), {"x": 70, "y": 90}
    lines = "".join(
        f"""
        k{d} = Transpose<perm=[0,1,3,2]>(y{d})
        s{d} = MatMul(x{d}, k{d})
        t{d} = Mul(s{d}, scale)
        m{d} = Add(t{d}, mask)
        p{d} = Softmax<axis=-1>(m{d})
        z{d} = MatMul(p{d}, y{d})
        """
        for d in sizes
    )
    pairs = (f"float[{batch},3,{n},{d}] {x}{d}" for d in sizes for x, n in counts.items())
    return build(
        lines,
        inputs=", ".join([f"float[{batch},1,70,90] mask", *pairs]),
        outputs=", ".join(f"float[{batch},3,70,{d}] z{d}" for d in sizes),
        scale=np.float32(0.2),
    )


def encoder(batch: str = "1") -> ir.Model:
    """A transformer's layer at sizes for tensor cores: 3 heads of 16 channels, 19 tokens; queries are scaled."""
    return build(
        """
        e = Add(x, places)
        n = LayerNormalization(e, gain, shift)
        q0 = MatMul(n, wq)
        k0 = MatMul(n, wk)
        v0 = MatMul(n, wv)
        q1 = Add(q0, bq)
        q2 = Reshape(q1, heads)
        k2 = Reshape(k0, heads)
        v2 = Reshape(v0, heads)
        q3 = Transpose<perm=[0,2,1,3]>(q2)
        k3 = Transpose<perm=[0,2,1,3]>(k2)
        q = Mul(q3, scale)
        k = Transpose<perm=[0,1,3,2]>(k3)
        v = Transpose<perm=[0,2,1,3]>(v2)
        t = MatMul(q, k)
        p = Softmax<axis=-1>(t)
        o = MatMul(p, v)
        r = Transpose<perm=[0,2,1,3]>(o)
        j = Reshape(r, joined)
        a = MatMul(j, wo)
        z = Add(a, e)
        m = LayerNormalization(z, gain, shift)
        h = MatMul(m, w1)
        i = Add(h, b1)
        g = Gelu(i)
        u = MatMul(g, w2)
        y = Add(u, z)
        """,
        inputs=f"float[{batch},19,48] x",
        outputs=f"float[{batch},19,48] y",
        opset=20,
        places=weights(1, 19, 48, seed=10),
        gain=weights(48, seed=0),
        shift=weights(48, seed=1),
        wq=weights(48, 48, seed=2, scale=0.15),
        wk=weights(48, 48, seed=3, scale=0.15),
        wv=weights(48, 48, seed=4, scale=0.15),
        bq=weights(48, seed=5),
        wo=weights(48, 48, seed=6, scale=0.15),
        w1=weights(48, 96, seed=7, scale=0.15),
        b1=weights(96, seed=8),
        w2=weights(96, 48, seed=9, scale=0.1),
        scale=np.float32(0.25),
        heads=np.array([0, 19, 3, 16], np.int64),
        joined=np.array([0, 19, 48], np.int64),
    )


def memory() -> ir.Model:
    """Queries of 70 rows, keys and values of 37 others: 2 heads of 64."""
    return build(
        """
        q0 = MatMul(x, wq)
        q1 = Add(q0, bq)
        q2 = Reshape(q1, rows)
        q = Transpose<perm=[0,2,1,3]>(q2)
        k0 = MatMul(z, wk)
        k2 = Reshape(k0, others)
        k = Transpose<perm=[0,2,3,1]>(k2)
        v0 = MatMul(z, wv)
        v1 = Add(v0, bv)
        v2 = Reshape(v1, others)
        v = Transpose<perm=[0,2,1,3]>(v2)
        s = MatMul(q, k)
        t = Mul(s, scale)
        p = Softmax<axis=-1>(t)
        o = MatMul(p, v)
        r = Transpose<perm=[0,2,1,3]>(o)
        y = Reshape(r, joined)
        """,
        inputs="float[1,70,48] x, float[1,37,48] z",
        outputs="float[1,70,128] y",
        wq=weights(48, 128, seed=0, scale=0.15),
        wk=weights(48, 128, seed=1, scale=0.15),
        wv=weights(48, 128, seed=2, scale=0.15),
        bq=weights(128, seed=3),
        bv=weights(128, seed=4),
        scale=np.float32(0.125),
        rows=np.array([1, 70, 2, 64], np.int64),
        others=np.array([1, 37, 2, 64], np.int64),
        joined=np.array([1, 70, 128], np.int64),
    )


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


def boxes() -> ir.Model:
    """Suppression over 3 classes of 700 boxes, of which some are above a score; sorting, with ties, along two axes."""
    return build(
        """
        scores = Sigmoid(s)
        kept = NonMaxSuppression(b, scores, most, overlap, least)
        all = NonMaxSuppression<center_point_box=1>(b, scores, few, overlap)
        r = Round(s)
        v, i = TopK<axis=2>(r, hundred)
        w, j = TopK<axis=1, largest=0>(q, two)
        """,
        inputs="float[2,700,4] b, float[2,3,700] s, int64[2,37,5] q",
        outputs="int64[n,3] kept, int64[m,3] all, float[2,3,100] v, int64[2,3,100] i, int64[2,2,5] w, int64[2,2,5] j",
        most=np.array([40], np.int64),
        few=np.array([25], np.int64),
        overlap=np.array([0.3], np.float32),
        least=np.array([0.6], np.float32),
        hundred=np.array([100], np.int64),
        two=np.array([2], np.int64),
    )


def regions() -> ir.Model:
    """Loops written by hand: a recurrent network over a batch of 3, and features of 37 regions."""
    return build(
        """
        h, last = GRU<hidden_size=6>(x, w, r)
        y = RoiAlign<output_height=3, output_width=3, sampling_ratio=2>(f, b, of)
        """,
        inputs="float[5,3,4] x, float[2,4,11,9] f, float[37,4] b",
        outputs="float[5,1,3,6] h, float[1,3,6] last, float[37,4,3,3] y",
        w=weights(1, 18, 4, seed=0, scale=0.5),
        r=weights(1, 18, 6, seed=1, scale=0.5),
        of=np.arange(37, dtype=np.int64) % 2,
    )
