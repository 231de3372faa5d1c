"""Col2Im and MaxUnpool: putting pieces of an image back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.loops import T, cell, independent, loops, when


def col2im(
    data: te.Tensor,
    block: te.Tensor | Sequence[int],
    image: Sequence[Any],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    channels: Any,
) -> te.Tensor:
    """Col2Im: every pixel is the sum of the columns that hold it -> (N, C, *image).

    Args:
        data: (N, C * prod(block), L).
        block: extents of the sliding block, numbers or a tensor read when the model runs.
        pads: begins, then ends.
    """
    rank = len(image)
    n, rows, _ = static(data.shape)
    dtype = str(data.dtype)
    kind = dtype if dtype in ("float64", "int32", "int64") else "float32"
    per = rows // channels
    k = te.reduce_axis((0, per), "k")

    def extent(d: int) -> Any:
        return block[d].astype("int32") if isinstance(block, te.Tensor) else block[d]

    def element(*i: Any) -> Any:
        batch, channel, *place = i
        inside: list[Any] = []
        offset: Any = k
        steps: list[Any] = [None] * rank
        for d in reversed(range(rank)):
            steps[d] = tirx.floormod(offset, extent(d))
            offset = tirx.floordiv(offset, extent(d))
        column: Any = 0
        for d in range(rank):
            reach = image[d] + pads[d] + pads[d + rank] - dilations[d] * (extent(d) - 1) - 1
            count = tirx.floordiv(reach, strides[d]) + 1
            origin = place[d] + pads[d] - steps[d] * dilations[d]
            at = tirx.floordiv(origin, strides[d])
            inside += [origin >= 0, at < count]
            if strides[d] > 1:
                inside.append(tirx.floormod(origin, strides[d]) == 0)
            column = column * count + at
        read = data[batch, channel * per + k, column].astype(kind)
        return te.sum(te.if_then_else(tirx.all(*inside), read, const(0, kind)), axis=k)

    total = te.compute((n, channels, *image), element, name="col2im")
    return total if dtype == kind else te.compute(total.shape, lambda *i: total(*i).astype(dtype), name="cast")


def max_unpool(data: te.Tensor, indices: te.Tensor, plane: Sequence[Any], out: Sequence[Any]) -> te.Tensor:
    """MaxUnpool: values back at the positions they were the maxima of, zeros elsewhere -> `out`.

    Args:
        indices: flat positions in a tensor of shape `plane`, which lies in the first corner of the result.
    """
    dtype = str(data.dtype)

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        (x, where), (y,) = inputs, outputs

        def each(shape: Sequence[Any], apart: int, do: Callable[[tuple[Any, ...]], None]) -> None:
            """In order, but for the first axes, `apart` of them."""

            def step(index: tuple[Any, ...]) -> None:
                if len(index) == len(shape):
                    do(index)
                    return
                extent = shape[len(index)]
                loop = T.parallel(0, extent) if not index else independent(extent)
                with loop if len(index) < apart else T.serial(0, extent) as i:
                    step((*index, i))

            step(())

        def clear(index: tuple[Any, ...]) -> None:
            y[index] = const(0, dtype)

        def put(index: tuple[Any, ...]) -> None:
            flat = cell("int64", where[index])
            place: list[Any] = [None] * len(plane)
            rest: Any = flat[0]
            for d in reversed(range(1, len(plane))):
                place[d] = tirx.floormod(rest, plane[d])
                rest = tirx.floordiv(rest, plane[d])
            place[0] = rest
            inside = [e < o for e, o in zip(place, out, strict=True)]

            def store() -> None:
                y[tuple(place)] = x[index]

            when(tirx.all(flat[0] >= tirx.const(0, "int64"), *inside), store)

        each(out, len(out), clear)
        # Of several values for one position the last stays.
        each(static(data.shape), 2, put)

    return loops([tuple(out)], [dtype], [data, indices], body, "max_unpool")


def blocks_to_space(data: te.Tensor, block: int, depth_first: bool) -> te.Tensor:
    """DepthToSpace: (N, C * b * b, H, W) -> (N, C, H * b, W * b); blocks (DCR) or channels (CRD) outermost."""
    n, channels, h, w = static(data.shape)
    depth = channels // (block * block)

    def element(i: Any, c: Any, y: Any, x: Any) -> Any:
        place = y % block * block + x % block
        channel = place * depth + c if depth_first else c * (block * block) + place
        return data[i, channel, y // block, x // block]

    return te.compute((n, depth, h * block, w * block), element, name="depth_to_space")


def space_to_blocks(data: te.Tensor, block: int, depth_first: bool) -> te.Tensor:
    """SpaceToDepth, the inverse of `blocks_to_space`."""
    n, channels, h, w = static(data.shape)

    def element(i: Any, c: Any, y: Any, x: Any) -> Any:
        place, channel = (c // channels, c % channels) if depth_first else (c % (block * block), c // (block * block))
        return data[i, channel, y * block + place // block, x * block + place % block]

    shape = (n, channels * block * block, h // block, w // block)
    return te.compute(shape, element, name="space_to_depth")


__all__ = ["blocks_to_space", "col2im", "max_unpool", "space_to_blocks"]
