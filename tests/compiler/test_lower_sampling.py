"""GridSample, AffineGrid, RoiAlign, DeformConv and kin against ONNX Runtime."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from optkit.errors import UnsupportedError
from tests.compiler.bundle import Bundle
from tests.compiler.test_lower_conv import conv


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grids(mode: str) -> None:
    """Points inside, on the borders and far outside."""
    b = Bundle()
    for padding, align in itertools.product(("zeros", "border", "reflection"), (0, 1)):
        attributes = {"mode": mode, "padding_mode": padding, "align_corners": align}
        # ONNX Runtime interpolates cubically in two dimensions only.
        for space, points in (((5, 7), (4, 9)), ((3, 1, 5), (2, 3, 6)))[: 1 if mode == "cubic" else 2]:
            x = b.input(2, 3, *space)
            grid = b.input(2, *points, len(space), values=b.generator.uniform(-2.5, 2.5, (2, *points, len(space))))
            b.case(b.op("GridSample", x, grid, **attributes), f"{attributes} {space}")
    b.check(limit=2e-5)


def test_a_spatial_transformer() -> None:
    """A grid from a matrix, in two and three dimensions, and the image read through it."""
    b = Bundle()
    for align, space in itertools.product((0, 1), ((6, 5), (3, 4, 5))):
        rank = len(space)
        theta = b.input(2, rank, rank + 1, values=b.normal(2, rank, rank + 1, scale=0.5))
        grid = b.op("AffineGrid", theta, b.const(np.array([2, 3, *space])), align_corners=align)
        b.case(grid, f"{rank}-D grid, align_corners={align}")
        b.case(b.op("GridSample", b.input(2, 3, *space), grid), f"{rank}-D image, align_corners={align}")
    b.check()


def test_grid_of_a_symbolic_image() -> None:
    b = Bundle()
    x, grid = b.input(3, 2, 4, 5, free="n"), b.input(3, 6, 7, 2, free="n", values=b.normal(3, 6, 7, 2))
    b.case(b.op("GridSample", x, grid), "batch")
    b.check()


def regions(b: Bundle, count: int) -> np.ndarray:
    """Regions within, across and outside a 10 by 12 image, and one without extent."""
    first = b.generator.uniform(-3, 11, (count, 2))
    corners = np.concatenate([first, first + b.generator.uniform(0, 9, (count, 2))], 1)
    corners[0] = [4, 4, 4, 4]
    return corners


def test_regions() -> None:
    b = Bundle()
    images = b.generator.integers(0, 2, 9)
    for mode, transformation, ratio in itertools.product(("avg", "max"), ("half_pixel", "output_half_pixel"), (0, 2)):
        x = b.input(2, 5, 10, 12)
        y = b.op(
            "RoiAlign",
            *[x, b.input(9, 4, values=regions(b, 9)), b.input(9, dtype="int64", values=images)],
            output_height=3,
            output_width=4,
            mode=mode,
            coordinate_transformation_mode=transformation,
            sampling_ratio=ratio,
            spatial_scale=0.75,
        )
        b.case(y, f"{mode}, {transformation}, {ratio}")
    boxes = np.concatenate([images[:, None], regions(b, 9)], 1)
    y = b.op("MaxRoiPool", b.input(2, 5, 10, 12), b.input(9, 5, values=boxes), pooled_shape=[3, 2], spatial_scale=0.8)
    b.case(y, "MaxRoiPool")
    b.check_bits()


def test_any_number_of_regions() -> None:
    b = Bundle()
    rois = b.input(9, 4, free="boxes", values=regions(b, 9))
    batch = b.input(9, dtype="int64", free="boxes", values=np.zeros(9))
    stem = conv(b, b.input(1, 3, 10, 12), 3, 19, (3, 3), pads=[1, 1, 1, 1])
    y = b.op("RoiAlign", stem, rois, batch, output_height=2, output_width=2)
    b.case(b.op("Relu", y), "as many as there are")
    b.check()


def test_deformable_convolutions() -> None:
    b = Bundle()
    cases: list[tuple[str, int, int, int, int, dict[str, Any]]] = [
        ("plain", 4, 6, 1, 1, {}),
        ("padding, stride, dilation", 4, 6, 1, 1, {"pads": [1, 2, 1, 2], "strides": [2, 1], "dilations": [1, 2]}),
        ("groups", 4, 6, 2, 1, {"pads": [1, 1, 1, 1]}),
        ("offset groups", 4, 6, 1, 2, {"pads": [1, 1, 1, 1]}),
    ]
    for label, channels, out, group, offset_group, attributes in cases:
        for constant, masked in ((True, False), (False, True)):
            pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
            dilations = attributes.get("dilations", [1, 1])
            size = [(s + pads[i] + pads[i + 2] - 2 * dilations[i] - 1) // strides[i] + 1 for i, s in enumerate((7, 8))]
            weight = b.normal(out, channels // group, 3, 3, scale=0.2)
            given = [b.const(weight) if constant else b.input(*weight.shape, values=weight)]
            given.append(b.input(2, offset_group * 18, *size))
            if masked:
                given += [b.const(b.normal(out)), b.input(2, offset_group * 9, *size)]
            x = b.input(2, channels, 7, 8)
            y = b.op("DeformConv", x, *given, group=group, offset_group=offset_group, **attributes)
            b.case(y, f"{label}, {'constant' if constant else 'live'} weights")
    b.check()


def test_columns_to_images() -> None:
    b = Bundle()
    cases: list[tuple[list[int], list[int], dict[str, Any]]] = [
        ([5, 6], [2, 3], {}),
        ([7, 6], [2, 3], {"strides": [2, 1], "pads": [1, 0, 0, 2], "dilations": [1, 2]}),
        ([9], [3], {"strides": [3]}),
        ([4, 5, 6], [2, 1, 3], {"pads": [1, 0, 1, 1, 0, 1]}),
    ]
    for image, block, attributes in cases:
        rank = len(image)
        strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
        pads = attributes.get("pads", [0] * 2 * rank)
        counts = [
            (s + pads[i] + pads[i + rank] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
            for i, s in enumerate(image)
        ]
        x = b.input(2, 3 * int(np.prod(block)), int(np.prod(counts)))
        b.case(b.op("Col2Im", x, b.const(np.array(image)), b.const(np.array(block)), **attributes), f"{image} {block}")
    b.check()


def test_maxima_back_in_their_places() -> None:
    b = Bundle()
    for space in ((8,), (6, 8), (4, 6, 4)):
        rank = len(space)
        window = {"kernel_shape": [2] * rank, "strides": [2] * rank}
        values, indices = b.op("MaxPool", b.input(2, 3, *space), outputs=2, **window)
        b.case(values, f"{rank}-D maxima")
        b.case(b.op("MaxUnpool", values, indices, **window), f"{rank}-D maxima in their places")
    b.check()


def test_blocks_and_depth() -> None:
    b = Bundle()
    for mode in ("DCR", "CRD"):
        b.case(b.op("DepthToSpace", b.input(2, 18, 3, 4), blocksize=3, mode=mode), mode)
    b.case(b.op("SpaceToDepth", b.input(2, 3, 6, 8), blocksize=2), "SpaceToDepth")
    b.case(b.op("DepthToSpace", conv(b, b.input(1, 3, 5, 6), 3, 20, (1, 1)), blocksize=2), "after a convolution")
    b.check()


def test_an_image_of_unknown_shape_is_refused() -> None:
    b = Bundle()
    shape = b.input(2, dtype="int64", values=np.array([5, 6]))
    b.case(b.op("Col2Im", b.input(1, 6, 20), shape, b.const(np.array([2, 3]))), "unknown")
    with pytest.raises(UnsupportedError, match=r"Col2Im.*declare the output"):
        b.build()
