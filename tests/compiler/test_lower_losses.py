"""Losses against ONNX Runtime, or their definition where it has no kernel for a variant."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compiler.bundle import Bundle


@pytest.mark.parametrize("weighted", [False, True])
def test_losses(weighted: bool) -> None:
    b = Bundle()
    for shape in ((3, 5), (2, 5, 7), (2, 5, 3, 2)):
        scores = b.input(*shape)
        logs = b.op("LogSoftmax", scores, axis=1)
        labels = b.generator.integers(0, 5, (shape[0], *shape[2:]))
        target = b.input(*labels.shape, dtype="int64", values=labels)
        weight = [b.input(5, values=np.array([0.1, 0.5, 1.0, 2.0, 0.7]))] if weighted else []
        for reduction in ("none", "sum", "mean"):
            for ignored in (None, 1):
                given = {"reduction": reduction, "ignore_index": ignored}
                b.case(b.op("NegativeLogLikelihoodLoss", logs, target, *weight, **given), f"nll {shape} {given}")
        loss, probabilities = b.op("SoftmaxCrossEntropyLoss", scores, target, *weight, outputs=2)
        b.case(loss, f"cross entropy {shape}")
        b.case(probabilities, f"log probabilities {shape}")
    b.check()


def test_ignored_class_may_be_none_of_them() -> None:
    b = Bundle()
    labels = np.array([0, -1, 3, -1])
    target = b.input(4, dtype="int64", values=labels)
    logs = b.op("LogSoftmax", b.input(4, 5), axis=1)
    b.case(b.op("NegativeLogLikelihoodLoss", logs, target, ignore_index=-1), "ignored")
    b.check()
