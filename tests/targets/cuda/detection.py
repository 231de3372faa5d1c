"""What detectors have behind their convolutions: boxes chosen and sorted, regions and points read from images."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.graphs import build, weights


def boxes() -> ir.Model:
    """Suppression over 3 classes of 700 boxes, of which some are above a score; sorting, with ties, along two axes."""
    return build(
        """
        scores = Sigmoid(s)
        kept = NonMaxSuppression(b, scores, most, overlap, least)
        all = NonMaxSuppression<center_point_box=1>(b, scores, few, overlap)
        r = Round(s)
        v, i = TopK<axis=2>(r, hundred)
        o = NonZero(r)
        t = CumSum(s, two)
        w, j = TopK<axis=1, largest=0>(q, two)
        """,
        inputs="float[2,700,4] b, float[2,3,700] s, int64[2,37,5] q",
        outputs="int64[n,3] kept, int64[m,3] all, float[2,3,100] v, int64[2,3,100] i, int64[2,2,5] w, int64[2,2,5] j,"
        " int64[3,k] o, float[2,3,700] t",
        most=np.array([40], np.int64),
        few=np.array([25], np.int64),
        overlap=np.array([0.3], np.float32),
        least=np.array([0.6], np.float32),
        hundred=np.array([100], np.int64),
        two=np.array([2], np.int64),
    )


def regions() -> ir.Model:
    """Loops written by hand that are threads side by side: features of regions, sampled images, maxima put back."""
    return build(
        """
        y = RoiAlign<output_height=3, output_width=3, sampling_ratio=2>(f, b, of)
        z = RoiAlign<output_height=2, output_width=5, mode="max">(g, b, of)
        p = MaxRoiPool<pooled_shape=[2, 3], spatial_scale=0.5>(f, c)
        s = GridSample<mode="bicubic", padding_mode="reflection">(f, grid)
        v, i = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(f)
        u = MaxUnpool<kernel_shape=[2, 2], strides=[2, 2]>(v, i)
        d = DeformConv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(f, k, shift)
        """,
        inputs="float[2,4,12,10] f, float[2,3,12,10] g, float[2,6,5,2] grid, float[2,18,12,10] shift",
        outputs="float[37,4,3,3] y, float[37,3,2,5] z, float[9,4,2,3] p, float[2,4,6,5] s, float[2,4,12,10] u,"
        " float[2,5,12,10] d",
        of=np.arange(37, dtype=np.int64) % 2,
        b=np.cumsum(np.abs(weights(37, 2, 2, seed=1, scale=4)), 1).reshape(37, 4),
        c=np.concatenate([np.arange(9)[:, None] % 2, weights(9, 4, seed=2, scale=9) + 4], 1).astype(np.float32),
        k=weights(5, 4, 3, 3, seed=0, scale=0.3),
        opset=19,
    )


def nothing() -> ir.Model:
    """What follows where nothing is found: rows, products and regions of none."""
    return build(
        """
        far = Greater(x, most)
        o = NonZero(far)
        at = Transpose(o)
        v = GatherND(x, at)
        c = Unsqueeze(v, one)
        wide = Mul(c, row)
        m = MatMul(wide, w)
        n = LayerNormalization(m, scale)
        p = Softmax(n)
        q = ReduceMax<keepdims=0>(p, one)
        s = ReduceSum<keepdims=0>(p, none)
        b = Slice(p, none, four, one)
        zeros = CastLike(v, at)
        of = Mul(zeros, none)
        r = RoiAlign<output_height=7, output_width=7>(f, b, of)
        flat = Flatten(r)
        d = Gemm(flat, k)
        h = Relu(d)
        kept = NonMaxSuppression(boxes, scores, twenty, overlap, never)
        """,
        inputs="float[9,7] x, float[1,16,12,10] f, float[1,40,4] boxes, float[1,2,40] scores",
        outputs="int64[2,a] o, float[a,64] p, float[a] q, float[64] s, float[a,16,7,7] r, float[a,32] h,"
        " int64[g,3] kept",
        most=np.array(1e6, np.float32),
        never=np.array([1e6], np.float32),
        overlap=np.array([0.3], np.float32),
        twenty=np.array([20], np.int64),
        one=np.array([1], np.int64),
        none=np.array([0], np.int64),
        four=np.array([4], np.int64),
        row=weights(1, 256, seed=0),
        w=weights(256, 64, seed=1, scale=0.1),
        k=weights(784, 32, seed=2, scale=0.1),
        scale=np.ones(64, np.float32),
        opset=18,
    )


def levels() -> ir.Model:
    """Rows that one of several maps has, as a number of each says: one condition for whole vectors."""
    return build(
        """
        level = Floor(s)
        first = Equal(level, zero)
        second = Equal(level, one)
        d = Mul(b, b)
        r = Where(second, b, d)
        y = Where(first, a, r)
        """,
        inputs="float[37,1] s, float[37,24] a, float[37,24] b",
        outputs="float[37,24] y",
        zero=np.array([0], np.float32),
        one=np.array([-1], np.float32),
    )


def halves() -> ir.Model:
    """Channels that are shuffled and parted, one part wider than the other; and what is wanted on the way."""
    return build(
        """
        c = Concat<axis=1>(a, b)
        r = Reshape(c, apart)
        t = Transpose<perm=[0, 2, 1, 3, 4]>(r)
        s = Reshape(t, together)
        p, q, k = Split<axis=1>(s, sizes)
        y = Relu(p)
        z = Conv(q, w)
        e = Exp(k)
        f = Add(e, k)
        """,
        inputs="float[1,12,5,7] a, float[1,12,5,7] b",
        outputs="float[1,12,5,7] y, float[1,6,5,7] z, float[1,4,5,7] e, float[1,4,5,7] f",
        apart=np.array([1, 2, 12, 5, 7], np.int64),
        together=np.array([1, 24, 5, 7], np.int64),
        sizes=np.array([12, 8, 4], np.int64),
        w=weights(6, 8, 1, 1, seed=0, scale=0.3),
        opset=18,
    )
