"""What is computed along axes: norms, softmax and reductions, of lengths known and open."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.graphs import build, weights


def lengths(batch: str = "3") -> ir.Model:
    """Rows from one element to more than a thread block keeps in registers: maxima, sums, and both with vectors."""
    return build(
        """
        a = Softmax<axis=-1>(x1)
        b = Softmax<axis=-1>(x10)
        c = LogSoftmax<axis=-1>(x197)
        d = LayerNormalization(x768, gain, shift)
        e = Softmax<axis=-1>(x1000)
        f = LpNormalization<p=1>(x4100)
        g = Hardmax<axis=-1>(x37)
        h = Softmax<axis=1>(x37)
        i = Softmax<axis=-1>(x5)
        """,
        inputs=f"float[{batch},1] x1, float[{batch},29,10] x10, float[{batch},2,197] x197, float[{batch},5,768] x768,"
        f" float[{batch},1000] x1000, float[{batch},4100] x4100, float[{batch},2,37] x37, float[{batch},8,7,5] x5",
        outputs=f"float[{batch},1] a, float[{batch},29,10] b, float[{batch},2,197] c, float[{batch},5,768] d,"
        f" float[{batch},1000] e, float[{batch},4100] f, float[{batch},2,37] g, float[{batch},2,37] h,"
        f" float[{batch},8,7,5] i",
        gain=weights(768, seed=0),
        shift=weights(768, seed=1),
    )


def twice() -> ir.Model:
    """Products between two normalizations, of which the second is also a residual, as before pre-normalization."""
    return build(
        """
        e = Add(x, places)
        n = LayerNormalization(e, gain, shift)
        m = MatMul(n, w0)
        z = Add(m, n)
        o = LayerNormalization(z, gain, shift)
        y = MatMul(o, w1)
        """,
        inputs="float[1,19,48] x",
        outputs="float[1,19,64] y",
        places=weights(1, 19, 48, seed=4),
        gain=weights(48, seed=0),
        shift=weights(48, seed=1),
        w0=weights(48, 48, seed=2, scale=0.2),
        w1=weights(48, 64, seed=3, scale=0.2),
    )


def forks(batch: str = "3") -> ir.Model:
    """Rows that are read as they are and as integers: of odd and even length, a warp's and those of several."""
    lines, inputs, outputs, constants = [], [], [], {}
    for size in (36, 64, 768, 4100):
        norm = f"n{size} = LayerNormalization(x{size}, gain{size}, shift{size})"
        lines += [norm, f"y{size} = MatMul(n{size}, w{size})", f"z{size} = Sigmoid(n{size})"]
        inputs.append(f"float[{batch},5,{size}] x{size}")
        outputs += [f"float[{batch},5,16] y{size}", f"float[{batch},5,{size}] z{size}"]
        constants[f"gain{size}"], constants[f"shift{size}"] = weights(size, seed=0), weights(size, seed=1)
        constants[f"w{size}"] = weights(size, 16, seed=2, scale=size**-0.5)
    lines += ["s = Softmax<axis=-1>(x64)", "ys = MatMul(s, w64)", "zs = Sigmoid(s)"]
    outputs += [f"float[{batch},5,16] ys", f"float[{batch},5,64] zs"]
    return build("\n".join(lines), inputs=", ".join(inputs), outputs=", ".join(outputs), **constants)


def reductions(batch: str = "3") -> ir.Model:
    """Rows that a warp shares, in one and in several strides, short ones, and results a thread each."""
    return build(
        """
        w = Abs(x)
        a = ReduceSum<keepdims=0>(x, middle)
        b = ReduceMax<keepdims=1>(w, last)
        c = ReduceMin<keepdims=0>(w, middle)
        d = ArgMax<axis=2, keepdims=0>(x)
        e = ArgMin<axis=1>(x)
        f = ReduceMean<keepdims=0>(x, last)
        g = ReduceProd<keepdims=0>(z, last)
        h = ReduceMax<keepdims=0>(z, last)
        i = ReduceMax<keepdims=0>(n, last)
        j = ReduceSum<keepdims=1>(v)
        """,
        inputs=f"float[{batch},5,133] x, float[{batch},6,16] z, int64[{batch},6,45] n, float[2,31,67] v",
        outputs=f"float[{batch},133] a, float[{batch},5,1] b, float[{batch},133] c, int64[{batch},5] d,"
        f" int64[{batch},1,133] e, float[{batch},5] f, float[{batch},6] g, float[{batch},6] h, int64[{batch},6] i,"
        " float[1,1,1] j",
        middle=np.array([1], np.int64),
        last=np.array([2], np.int64),
    )


def single() -> ir.Model:
    """Reductions to one number: of elements in one piece or not, few and many, and images of one channel."""
    return build(
        """
        p = ReduceSum<keepdims=0>(few, c)
        q = ReduceL2<keepdims=1>(many, c)
        r = ReduceMax<keepdims=1>(apart, wc)
        s = GlobalAveragePool(flat)
        """,
        inputs="float[1,16,1,1] few, float[1,700,1,1] many, float[1,16,1,9] apart, float[1,1,7,5] flat",
        outputs="float[1,1,1] p, float[1,1,1,1] q, float[1,1,1,1] r, float[1,1,1,1] s",
        c=np.array([1], np.int64),
        wc=np.array([1, 3], np.int64),
    )
