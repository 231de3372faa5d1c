"""Steps over images: convolutions, pools, resizing."""

from __future__ import annotations

import math

import numpy as np

from tests.random_models.grower import Dim, Extent, Grower, size


def slid(d: Dim, kernel: int, stride: int, dilation: int, pads: int, ceil: bool = False) -> Dim | None:
    """An axis after a window went over it; None where the window is larger than it."""
    reach = dilation * (kernel - 1) + 1

    def count(length: int) -> int:
        steps = (length + pads - reach) / stride
        return (math.ceil(steps) if ceil else math.floor(steps)) + 1

    if size(d) + pads < reach or reach > size(d) + 1:
        return None
    if isinstance(d, int):
        return count(d)
    if (stride, pads, ceil) == (1, reach - 1, ceil):
        return d
    return Extent(f"({d.name})s{kernel}.{stride}.{dilation}.{pads}.{ceil}", count(d.size))


def _window(g: Grower, spatial: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations and pads (all begins, then all ends)."""
    kernel = [g.among(1, 2, 3, 3, 3, 5, 7)] * spatial
    if g.chance(0.2):
        kernel = [g.among(1, 3, 4) for _ in range(spatial)]
    strides = [g.among(1, 1, 1, 2, 3)] * spatial
    if g.chance(0.1):
        strides = [g.among(1, 2) for _ in range(spatial)]
    dilations = [g.among(1, 1, 1, 1, 2)] * spatial
    same = [(d * (k - 1)) // 2 for d, k in zip(dilations, kernel, strict=True)]
    pads = g.among([*same, *same], [*same, *same], [0] * 2 * spatial)
    if g.chance(0.15):
        pads = [g.between(0, k - 1) for k in (*kernel, *kernel)]
    return kernel, strides, dilations, pads


def convolve(g: Grower) -> bool:
    """Conv: dense, grouped or depthwise, with or without a bias; now and then with a BatchNormalization after it."""
    rank = g.among(4, 4, 4, 4, 4, 3, 5)
    x = g.pick(rank=rank)
    if x is None or not isinstance(x.shape[1], int):
        return False
    n, c, *sizes = x.shape
    assert isinstance(c, int)
    kernel, strides, dilations, pads = _window(g, rank - 2)
    if g.chance(0.25):
        kernel, strides, dilations, pads = [1] * len(sizes), [1] * len(sizes), [1] * len(sizes), [0] * 2 * len(sizes)
    groups = g.among(1, 1, 1, c, *(k for k in (2, 4) if c % k == 0))
    out = g.among(1, 3, 8, 12, 16, 20, 32, 40)
    if groups > 1:
        out = groups * g.among(1, 1, 2, max(1, 16 // groups))
    if g.chance(0.3) and groups == 1:
        out = c
    k = len(sizes)
    ends = [slid(d, kernel[i], strides[i], dilations[i], pads[i] + pads[i + k]) for i, d in enumerate(sizes)]
    spatial = [d for d in ends if d is not None]
    if len(spatial) < k:
        return False
    inputs = [x.name, g.weight(out, c // groups, *kernel, scale=1 / math.sqrt(c // groups * math.prod(kernel)))]
    if g.chance(0.6):
        inputs.append(g.weight(out, scale=0.3))
    attributes = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads, "group": groups}
    shape = (n, out, *spatial)
    if not g.keep("Conv", inputs, shape, **attributes):
        return False
    return normalize(g, g.values[-1].name, shape) if g.chance(0.2) else True


def normalize(g: Grower, name: str, shape: tuple[Dim, ...]) -> bool:
    """BatchNormalization over that value."""
    c = int(size(shape[1]))
    scale, shift, mean = g.weight(c, scale=0.2, offset=1), g.weight(c, scale=0.3), g.weight(c, scale=0.3)
    variance = g.constant(g.random.uniform(0.5, 2, c).astype("f4"))
    return g.keep("BatchNormalization", [name, scale, shift, mean, variance], shape)


def batch_normalization(g: Grower) -> bool:
    """BatchNormalization that nothing may be folded into."""
    x = g.pick(rank=g.among(4, 4, 3, 2))
    return x is not None and isinstance(x.shape[1], int) and normalize(g, x.name, x.shape)


def transposed(g: Grower) -> bool:
    """ConvTranspose."""
    x = g.pick(rank=4)
    if x is None or not isinstance(x.shape[1], int):
        return False
    n, c, *sizes = x.shape
    assert isinstance(c, int)
    kernel, stride = g.among((2, 2), (4, 2), (3, 2), (3, 1))
    pad = g.between(0, kernel - 1)
    extra = g.between(0, stride - 1)
    groups = g.among(1, 1, 1, *([c] if c < 33 else []))
    out = groups * g.among(1, 2) if groups > 1 else g.among(3, 8, 16, 20)
    spatial: list[Dim] = []
    for d in sizes:
        end = stride * (size(d) - 1) + extra + kernel - 2 * pad
        if end < 1:
            return False
        spatial.append(end if isinstance(d, int) else Extent(f"({d.name})t{kernel}.{stride}.{pad}.{extra}", end))
    inputs = [x.name, g.weight(c, out // groups, kernel, kernel, scale=1 / math.sqrt(c // groups * kernel))]
    if g.chance(0.5):
        inputs.append(g.weight(out, scale=0.3))
    return g.keep(
        "ConvTranspose",
        inputs,
        (n, out, *spatial),
        strides=[stride] * 2,
        pads=[pad] * 4,
        output_padding=[extra] * 2,
        group=groups,
    )


def pool(g: Grower) -> bool:
    """MaxPool or AveragePool, with every way to treat borders."""
    rank = g.among(4, 4, 4, 3, 5)
    x = g.pick(rank=rank)
    if x is None:
        return False
    n, c, *sizes = x.shape
    op = g.among("MaxPool", "AveragePool")
    kernel = [g.among(2, 3, 3, 5)] * len(sizes)
    stride = g.among(1, 2, 2, 3)
    pads = g.among([0], [0], [(kernel[0] - 1) // 2]) * 2 * len(sizes)
    if g.chance(0.2):
        pads = [g.between(0, kernel[0] - 1) for _ in pads]
    ceil = g.chance(0.2)
    k = len(sizes)
    spatial: list[Dim] = []
    for i, d in enumerate(sizes):
        end = slid(d, kernel[i], stride, 1, pads[i] + pads[i + k], ceil)
        # A window that begins in the padding behind an image is not one: how many there are is a matter of dispute.
        if end is None or (ceil and (not isinstance(d, int) or (size(end) - 1) * stride >= d + pads[i])):
            return False
        spatial.append(end)
    attributes: dict[str, object] = {"kernel_shape": kernel, "strides": [stride] * k, "pads": pads}
    attributes["ceil_mode"] = int(ceil)
    if op == "AveragePool":
        attributes["count_include_pad"] = g.between(0, 1)
    return g.keep(op, [x.name], (n, c, *spatial), **attributes)


def global_pool(g: Grower) -> bool:
    """GlobalAveragePool or GlobalMaxPool."""
    x = g.pick(rank=g.among(4, 4, 3))
    if x is None:
        return False
    n, c, *sizes = x.shape
    return g.keep(
        g.among("GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool"), [x.name], (n, c, *[1] * len(sizes))
    )


def resize(g: Grower) -> bool:
    """Resize by factors or to sizes."""
    x = g.pick(rank=4)
    if x is None:
        return False
    n, c, *sizes = x.shape
    mode = g.among("nearest", "nearest", "linear", "linear", "cubic")
    where = g.among("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    attributes: dict[str, object] = {"mode": mode, "coordinate_transformation_mode": where}
    if mode == "nearest":
        attributes["nearest_mode"] = g.among("floor", "round_prefer_floor") if where != "asymmetric" else "floor"
    if all(isinstance(d, int) for d in (n, c, *sizes)) and g.chance(0.4):
        to = [g.between(1, 2 * size(d) + 1) for d in sizes]
        return g.keep("Resize", [x.name, "", "", g.whole(size(n), size(c), *to)], (n, c, *to), **attributes)
    factor = g.among(2, 2, 3)
    scales = g.constant(np.array([1, 1, factor, factor], "f4"))
    to_dims = [d * factor if isinstance(d, int) else Extent(f"({d.name})*{factor}", d.size * factor) for d in sizes]
    return g.keep("Resize", [x.name, "", scales], (n, c, *to_dims), **attributes)


def space(g: Grower) -> bool:
    """DepthToSpace and SpaceToDepth."""
    x = g.pick(rank=4, fixed=True)
    if x is None:
        return False
    n, c, h, w = map(size, x.shape)
    if c % 4 == 0 and g.chance(0.6):
        mode = g.among("DCR", "CRD")
        return g.keep("DepthToSpace", [x.name], (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=mode)
    if h % 2 or w % 2:
        return False
    return g.keep("SpaceToDepth", [x.name], (n, 4 * c, h // 2, w // 2), blocksize=2)


STEPS = [
    *[convolve] * 8,
    batch_normalization,
    transposed,
    *[pool] * 2,
    global_pool,
    resize,
    space,
]
