"""Rows that values choose are compared as a set where they do not agree as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from optkit.measure.reference import Reference
from optkit.measure.verify import verify
from tests.measure.onnx_models import model, save
from tests.measure.test_verify import Altered


def _found(path: Path) -> Path:
    """Values above 0.3, twice that, and where they lie; and the first values, however many are above."""
    io = [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.FLOAT, ["a"]), ("at", TensorProto.INT64, ["a"])]
    nodes = [
        helper.make_node("Greater", ["x", "limit"], ["k"]),
        helper.make_node("Compress", ["x", "k"], ["above"]),
        helper.make_node("Add", ["above", "above"], ["y"]),
        helper.make_node("NonZero", ["k"], ["indices"]),
        helper.make_node("Squeeze", ["indices"], ["at"]),
    ]
    return save(model(nodes, *io, [numpy_helper.from_array(np.float32(0.3), "limit")]), path)


class Chosen:
    """The reference's rows in another order, some of them missing."""

    def __init__(self, source: Path, order: Sequence[int], factor: float = 1.0) -> None:
        self.reference, self.order, self.factor = Reference(source), list(order), factor

    def run(self, feed: Mapping[str, Any]) -> dict[str, np.ndarray]:
        found = self.reference.run(feed)
        return {"y": found["y"][self.order] * np.float32(self.factor), "at": found["at"][self.order]}


@pytest.mark.parametrize(
    ("rows", "order", "factor", "reason"),
    [
        (40, [*range(20, 0, -1), *range(21, 40)], 1.001, ""),
        (40, [1, 0, *range(2, 40)], 1.0, ""),
        (40, range(37), 1.0, "output 'y': 3 of 40 rows have no counterpart, 2 may"),
        (40, range(39), 1.5, "output 'y': 40 of 40 rows have no counterpart, 2 may"),
        (40, [*range(39), 0], 1.0, ""),
        (10, range(9), 1.0, ""),
        (9, range(8), 1.0, "output 'y': 1 of 9 rows have no counterpart, 0 may"),
    ],
    ids=["one less", "order", "too few", "other rows", "twice", "of ten", "of nine"],
)
def test_rows_that_come_and_go(rows: int, order: Sequence[int], factor: float, reason: str, tmp_path: Path) -> None:
    """Boxes at a threshold: nearly all have to be there, in whatever order; their parts stay together."""
    source = _found(tmp_path / "found.onnx")
    feed = {"x": np.linspace(1, 3, rows, dtype=np.float32)}
    outcome = verify(source, None, Chosen(source, order, factor), [feed], "fp16")
    assert outcome.reason == reason
    assert [check.rows_alone for check in outcome.outputs] == [rows - len(set(order)) if factor < 1.1 else rows] * 2
    assert {"relative", "rows_alone"} == set(outcome.outputs[0].limits)


def test_rows_that_agree_are_compared_as_they_are(tmp_path: Path) -> None:
    source = _found(tmp_path / "found.onnx")
    outcome = verify(source, None, Chosen(source, range(40)), [{"x": np.linspace(1, 3, 40, dtype=np.float32)}], "fp32")
    assert outcome.passed
    assert [check.rows_alone for check in outcome.outputs] == [None, None]


def test_rows_keep_their_parts(tmp_path: Path) -> None:
    """Values and places that both are the reference's, but of other rows."""

    class Crossed(Chosen):
        def run(self, feed: Mapping[str, Any]) -> dict[str, np.ndarray]:
            found = self.reference.run(feed)
            return {**found, "at": found["at"][::-1]}

    source = _found(tmp_path / "found.onnx")
    outcome = verify(source, None, Crossed(source, []), [{"x": np.linspace(1, 3, 40, dtype=np.float32)}], "fp16")
    assert "40 of 40 rows have no counterpart" in outcome.reason


def test_rows_that_no_value_chooses(tmp_path: Path) -> None:
    """What a shape says must be so."""
    io = [("x", TensorProto.FLOAT, [40])], [("y", TensorProto.FLOAT, [None])]
    plain = save(model([helper.make_node("Identity", ["x"], ["y"])], *io, []), tmp_path / "plain.onnx")
    assert "has shape (39,)" in verify(plain, None, Altered(plain, lambda y: y[1:]), None, "fp16").reason
