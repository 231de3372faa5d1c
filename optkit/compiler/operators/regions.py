"""Pooling over regions of interest: RoiAlign and MaxRoiPool, on (N, H, W, C) so that channels are contiguous."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.exact import product
from optkit.compiler.operators.interpolation import Tir
from optkit.compiler.operators.loops import T, cell, independent, loops, when

_MOST = 65536.0
"""Samples a bin has at most along one axis; a region of NaNs has none."""
_SHARE = 2
"""Channels of a thread; for more, ptxas spills some of what they share."""


def roi_align(
    data: te.Tensor,
    rois: te.Tensor,
    batch: te.Tensor,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    maximum: bool,
    half_pixel: bool,
    spread: bool = False,
) -> te.Tensor:
    """RoiAlign (He et al., "Mask R-CNN", 2017, section 3) -> (R, PH, PW, C) float32.

    Args:
        data: (N, H, W, C).
        rois: (R, 4): x1, y1, x2, y2.
        batch: (R,) of integers.
        size: height and width of the result.
        ratio: samples a bin along each axis; 0: as many as pixels of the region fall into it.
        maximum: of the four weighted pixels of every sample, as ONNX defines it, or their mean.
        half_pixel: corners are shifted by half a pixel, and small regions stay small.
        spread: whether each bin's channels are threads of their own, neighbours side by side, rather than each region.

    Every product is rounded and sums run from the first corner of the first sample on, as in ONNX Runtime's kernel:
    what is quantized behind it becomes the same integers.
    """
    channels, regions = static(data.shape)[3], static(rois.shape)[0]
    pooling = _Pooling(tuple(static(data.shape)[:3]), size, scale, ratio, maximum, half_pixel)

    def whole(inputs: list[Any], outputs: list[Any]) -> None:
        (x, boxes, images_of), (out,) = inputs, outputs
        with T.parallel(0, regions) as r:
            region = pooling.region(boxes, images_of, r)
            with T.serial(0, size[0]) as ph, T.serial(0, size[1]) as pw:

                def each(use: Callable[[Any, _Place], None], r: Any = r, ph: Any = ph, pw: Any = pw) -> None:
                    with T.serial(0, channels) as c:
                        use(c, _Place(out, (r, ph, pw, c)))

                pooling.pool(x, region, ph, pw, each)

    # Some channels a thread, which share the work of finding the pixels.
    share = _SHARE if isinstance(channels, int) and channels % _SHARE == 0 else 1
    apart = channels // share

    def bins(inputs: list[Any], outputs: list[Any]) -> None:
        (x, boxes, images_of), (out,) = inputs, outputs
        with (
            T.parallel(0, regions) as r,
            independent(size[0]) as ph,
            independent(size[1]) as pw,
            independent(apart) as first,
        ):
            sums = T.buffer_proxy(T.decl_buffer([share], "float32", scope="local"))

            def each(use: Callable[[Any, _Place], None]) -> None:
                for n in range(share):
                    use(first + n * apart, _Place(sums, (n,)))

            pooling.pool(x, pooling.region(boxes, images_of, r), ph, pw, each)
            for n in range(share):
                out[r, ph, pw, first + n * apart] = sums[n]

    body = bins if spread else whole
    return loops([(regions, *size, channels)], ["float32"], [data, rois, batch], body, "roi_align")


class _Place:
    """Where a result is kept while it is computed."""

    def __init__(self, buffer: Any, index: tuple[Any, ...]) -> None:
        self.buffer, self.index = buffer, index

    @property
    def value(self) -> Any:
        return self.buffer[self.index]

    @value.setter
    def value(self, value: Any) -> None:
        self.buffer[self.index] = value


@dataclass(frozen=True)
class _Region:
    """Cells: of both axes where the region starts, a bin's extent and its samples; and the image."""

    starts: list[Any]
    bins: list[Any]
    counts: list[Any]
    image: Any
    count: Any


@dataclass(frozen=True)
class _Pooling:
    """What RoiAlign does with a region and with a bin; arguments of `roi_align`, and images, height and width."""

    extents: tuple[Any, ...]
    size: tuple[int, int]
    scale: float
    ratio: int
    maximum: bool
    half_pixel: bool

    def region(self, boxes: Any, images_of: Any, r: Any) -> _Region:
        """What all bins of a region share."""
        one, zero, half = (const(v, "float32") for v in (1, 0, 0.5))
        starts, bins, counts = [], [], []
        for d in range(2):
            low, high = (product(boxes[r, i].astype("float32"), const(self.scale, "float32")) for i in (1 - d, 3 - d))
            if self.half_pixel:
                low, high = low - half, high - half
            start = cell("float32", low)
            span = cell("float32", high - low if self.half_pixel else tirx.max(high - low, one))
            bins.append(cell("float32", span[0] / const(self.size[d], "float32")))
            starts.append(start)
            adaptive = tirx.min(tirx.max(tirx.ceil(bins[d][0]), zero), const(_MOST, "float32")).astype("int32")
            counts.append(cell("int32", tirx.const(self.ratio, "int32") if self.ratio > 0 else adaptive))
        image = cell("int32", tirx.max(tirx.min(Tir.whole(images_of[r]), Tir.whole(self.extents[0]) - 1), 0))
        count = cell("float32", tirx.max(counts[0][0] * counts[1][0], 1).astype("float32"))
        return _Region(starts, bins, counts, image, count)

    def pool(
        self, x: Any, region: _Region, ph: Any, pw: Any, each: Callable[[Callable[[Any, _Place], None]], None]
    ) -> None:
        """A bin of the channels that `each` goes through."""
        one, zero, half = (const(v, "float32") for v in (1, 0, 0.5))
        extents = self.extents[1:]
        lengths = [Tir.real(extent) for extent in extents]

        def clear(_: Any, place: _Place) -> None:
            place.value = zero

        each(clear)
        with T.serial(0, region.counts[0][0]) as iy, T.serial(0, region.counts[1][0]) as ix:
            lows, highs, parts, inside = [], [], [], []
            for d, (bin_, step) in enumerate(((ph, iy), (pw, ix))):
                width = region.bins[d][0]
                along = product(step.astype("float32") + half, width) / region.counts[d][0].astype("float32")
                at = cell("float32", region.starts[d][0] + product(bin_.astype("float32"), width) + along)
                inside.append(tirx.all(at[0] >= -one, at[0] <= lengths[d]))
                clamped = tirx.min(tirx.max(at[0], zero), lengths[d] - one)
                low = cell("int32", clamped.astype("int32"))
                lows.append(low)
                highs.append(cell("int32", tirx.min(low[0] + 1, Tir.whole(extents[d]) - 1)))
                parts.append(cell("float32", clamped - low[0].astype("float32")))
            valid = cell("float32", tirx.Select(tirx.all(*inside), one, zero))
            corners = []
            for v, u in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (parts[0][0] if v else one - parts[0][0]) * (parts[1][0] if u else one - parts[1][0])
                at2 = (highs[0] if v else lows[0])[0], (highs[1] if u else lows[1])[0]
                corners.append((cell("float32", weight * valid[0]), at2))

            def add(c: Any, place: _Place, iy: Any = iy, ix: Any = ix, corners: Any = corners) -> None:
                values = [product(x[(region.image[0], *at, c)].astype("float32"), w[0]) for w, at in corners]
                if self.maximum:
                    best = tirx.max(tirx.max(values[0], values[1]), tirx.max(values[2], values[3]))
                    place.value = tirx.Select(tirx.all(iy == 0, ix == 0), best, tirx.max(place.value, best))
                else:
                    place.value = place.value + (values[0] + values[1] + values[2] + values[3])

            each(add)

        def divide(_: Any, place: _Place) -> None:
            place.value = place.value / region.count[0]

        if not self.maximum:
            each(divide)


def max_roi_pool(
    data: te.Tensor, rois: te.Tensor, size: tuple[int, int], scale: float, spread: bool = False
) -> te.Tensor:
    """MaxRoiPool (Girshick, "Fast R-CNN", 2015, section 2.1) -> (R, PH, PW, C); empty bins are 0.

    Regions are (R, 5): image, x1, y1, x2, y2, both corners included after rounding. `spread`: see `roi_align`, with one
    channel a thread.
    """
    images, height, width, channels = static(data.shape)
    regions = static(rois.shape)[0]
    dtype = str(data.dtype)
    extents = height, width
    half = const(0.5, "float32")

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        (x, boxes), (out,) = inputs, outputs

        def corner(r: Any, i: int) -> Any:
            value = boxes[r, i].astype("float32") * const(scale, "float32")
            away = tirx.Select(value >= const(0, "float32"), tirx.floor(value + half), tirx.ceil(value - half))
            return away.astype("int32")

        with contextlib.ExitStack() as nest:
            enter = nest.enter_context
            r = enter(T.parallel(0, regions))
            if spread:
                ph, pw, c = (enter(independent(extent)) for extent in (*size, channels))
            image = cell("int32", tirx.max(tirx.min(Tir.whole(boxes[r, 0]), Tir.whole(images) - 1), 0))
            starts = [cell("int32", corner(r, i)) for i in (2, 1)]
            sizes = [cell("int32", tirx.max(corner(r, 4 - d) - starts[d][0] + 1, 1)) for d in range(2)]
            if not spread:
                ph, pw = (enter(T.serial(0, extent)) for extent in size)
            bounds = []
            for d, at in enumerate((ph, pw)):
                bin_ = sizes[d][0].astype("float32") / const(size[d], "float32")
                low = tirx.floor(at.astype("float32") * bin_).astype("int32") + starts[d][0]
                high = tirx.ceil((at + 1).astype("float32") * bin_).astype("int32") + starts[d][0]
                last = Tir.whole(extents[d])
                bounds += [cell("int32", tirx.max(tirx.min(e, last), 0)) for e in (low, high)]
            y0, y1, x0, x1 = bounds
            if not spread:
                c = enter(T.serial(0, channels))
            empty = tirx.any(y1[0] <= y0[0], x1[0] <= x0[0])
            best = cell(dtype, tirx.Select(empty, const(0, dtype), tirx.min_value(dtype)))
            with T.serial(y0[0], y1[0]) as y, T.serial(x0[0], x1[0]) as z:
                value = x[image[0], y, z, c]
                when(value > best[0], lambda: best.__setitem__(0, value))
            out[r, ph, pw, c] = best[0]

    return loops([(regions, *size, channels)], [dtype], [data, rois], body, "max_roi_pool")


__all__ = ["max_roi_pool", "roi_align"]
