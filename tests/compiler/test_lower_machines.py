"""Support vector machines against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import pytest

from optkit.errors import UnsupportedError
from tests.compiler.bundle import Bundle

ML = "ai.onnx.ml"
KERNELS = {"LINEAR": [0.0, 0.0, 0.0], "POLY": [0.3, 0.5, 3.0], "RBF": [0.4, 0.0, 0.0], "SIGMOID": [0.2, 0.1, 0.0]}


def _floats(b: Bundle, *shape: int) -> list[float]:
    return [float(v) for v in b.normal(*shape).ravel()]


def _machine(b: Bundle, sizes: list[int], kernel: str, features: int = 3) -> dict[str, Any]:
    classes, count = len(sizes), sum(sizes)
    return {
        "kernel_type": kernel,
        "kernel_params": KERNELS[kernel],
        "vectors_per_class": sizes,
        "support_vectors": _floats(b, count, features),
        "coefficients": _floats(b, classes - 1, count),
        "rho": _floats(b, classes * (classes - 1) // 2),
        "classlabels_ints": [int(v) for v in b.generator.permutation(9)[:classes]],
    }


def test_regressors() -> None:
    b = Bundle()
    for kernel, params in KERNELS.items():
        for one_class in (0, 1):
            how = {"kernel_type": kernel, "kernel_params": params, "one_class": one_class, "n_supports": 5}
            given = {"support_vectors": _floats(b, 5, 3), "coefficients": _floats(b, 5), "rho": _floats(b, 1)}
            y = b.op("SVMRegressor", b.input(6, 3, free="n"), domain=ML, **how, **given)
            b.case(y, f"{kernel} {one_class}", "float32", ("n", 1))
    given = {"coefficients": _floats(b, 3), "rho": _floats(b, 1), "kernel_params": KERNELS["LINEAR"], "n_supports": 0}
    b.case(b.op("SVMRegressor", b.input(6, 3), domain=ML, **given), "no vectors", "float32", (6, 1))
    b.check()


@pytest.mark.parametrize("sizes", [[3, 4], [2, 3, 1, 4]])
def test_classifiers(sizes: list[int]) -> None:
    b = Bundle()
    width = max(2, len(sizes) * (len(sizes) - 1) // 2)
    cases = [(kernel, "NONE") for kernel in KERNELS] + [("RBF", after) for after in ("LOGISTIC", "SOFTMAX")]
    for kernel, after in cases:
        how = _machine(b, sizes, kernel)
        x = b.input(9, 3, free="n")
        label, scores = b.op("SVMClassifier", x, domain=ML, outputs=2, post_transform=after, **how)
        b.case(label, f"label {kernel} {after}", "int64", ("n",))
        b.case(scores, f"scores {kernel} {after}", "float32", ("n", width))
    b.check()


def test_calibrated_probabilities_are_refused() -> None:
    b = Bundle()
    how = {**_machine(b, [2, 2], "RBF"), "prob_a": [1.0], "prob_b": [0.0]}
    b.case(b.op("SVMClassifier", b.input(4, 3), domain=ML, outputs=2, **how)[1], "scores", "float32", (4, 2))
    with pytest.raises(UnsupportedError, match="probability=False"):
        b.build()
