"""The zoo's NonMaxSuppression and RoiAlign answer as the ONNX operators do in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.graphs import session

pytestmark = pytest.mark.needs_torch


def _run(node: onnx.NodeProto, feed: dict[str, np.ndarray], kind: int) -> np.ndarray:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feed.items()
    ]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info(node.output[0], kind, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    answer: np.ndarray = session(model).run(None, feed)[0]
    return answer


def _boxes(generator: np.random.Generator, *shape: int) -> np.ndarray:
    low = generator.uniform(0, 20, (*shape, 2))
    return np.concatenate([low, low + generator.uniform(1, 12, (*shape, 2))], -1).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_nms_is_onnx(seed: int) -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.zoo.detection import nms

    generator = np.random.default_rng(seed)
    boxes, scores = _boxes(generator, 2, 30), generator.random((2, 3, 30), dtype=np.float32)
    limit, overlap, least = 1 + 3 * seed, 0.1 * (seed + 1), 0.2
    got = nms(torch.from_numpy(boxes), torch.from_numpy(scores), limit, overlap, least).numpy()
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "limit", "overlap", "least"], ["kept"])
    feed: dict[str, Any] = {"boxes": boxes, "scores": scores, "limit": np.array([limit])}
    feed |= {name: np.array([value], np.float32) for name, value in (("overlap", overlap), ("least", least))}
    expected = _run(node, feed, TensorProto.INT64)
    assert len(expected) > 0 and np.array_equal(got, expected)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_roi_align_is_onnx(scale: float) -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.zoo.detection import roi_align

    generator = np.random.default_rng(0)
    features = generator.standard_normal((1, 3, 12, 10), dtype=np.float32)
    rois = _boxes(generator, 7) / scale - 4  # some lie partly outside
    got = roi_align(torch.from_numpy(features), torch.from_numpy(rois), 7, scale).numpy()
    node = helper.make_node(
        "RoiAlign",
        ["features", "rois", "batches"],
        ["y"],
        coordinate_transformation_mode="half_pixel",
        output_height=7,
        output_width=7,
        sampling_ratio=2,
        spatial_scale=scale,
    )
    feed = {"features": features, "rois": rois, "batches": np.zeros(7, np.int64)}
    np.testing.assert_allclose(got, _run(node, feed, TensorProto.FLOAT), rtol=1e-4, atol=1e-5)
