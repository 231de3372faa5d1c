"""Attention and what is around it, at sizes that are no multiple of any tile."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.graphs import build, weights


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


def beside(batch: str = "2") -> ir.Model:
    """Attention with what is element by element behind it: residuals that are inputs, or made before or behind it."""
    lines = ["f = Sigmoid(r)", "g = Mul(f, r)"]
    for i in range(3):
        lines += [f"{part}{i} = MatMul(x, w{part}{i})" for part in "qkv"]
        lines += [f"t{i} = Transpose<perm=[0,2,1]>(k{i})", f"s{i} = MatMul(q{i}, t{i})"]
        lines += [f"p{i} = Softmax<axis=-1>(s{i})", f"a{i} = MatMul(p{i}, v{i})"]
    lines += ["b0 = Add(a0, r)", "b1 = Add(a1, g)", "h = Tanh(r)", "c2 = Mul(a2, h)", "b2 = Sigmoid(c2)"]
    lines += [f"y{i} = MatMul(b{i}, w)" for i in range(3)]
    names = ["w", *(f"w{part}{i}" for part in "qkv" for i in range(3))]
    return build(
        "\n".join(lines),
        inputs=f"float[{batch},70,32] x, float[{batch},70,32] r",
        outputs=", ".join(f"float[{batch},70,32] y{i}" for i in range(3)),
        **{name: weights(32, 32, seed=i, scale=0.2) for i, name in enumerate(names)},
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
