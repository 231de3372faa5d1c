"""What scikit-learn's exporter puts around a model: preparation of features, and linear models."""

from __future__ import annotations

import numpy as np
import pytest

from optkit.errors import UnsupportedError
from tests.compiler.bundle import Bundle

ML = "ai.onnx.ml"
NUMBERS = ("float32", "float64", "int32", "int64")


def _numbers(b: Bundle, dtype: str, *shape: int) -> np.ndarray:
    return (b.normal(*shape, scale=3.0)).astype(dtype)


def test_scaling_and_norms() -> None:
    b = Bundle()
    offset, scale = ([float(v) for v in b.normal(4)] for _ in range(2))
    for dtype in NUMBERS:
        values = _numbers(b, dtype, 5, 4)
        values[2] = 0
        x = b.input(5, 4, dtype=dtype, free="n", values=values)
        b.case(b.op("Scaler", x, domain=ML, offset=offset, scale=scale), f"each {dtype}", "float32", ("n", 4))
        b.case(b.op("Scaler", x, domain=ML, offset=[0.5], scale=[2.0]), f"one {dtype}", "float32", ("n", 4))
        for norm in ("MAX", "L1", "L2"):
            b.case(b.op("Normalizer", x, domain=ML, norm=norm), f"{norm} {dtype}", "float32", ("n", 4))
        b.case(b.op("Normalizer", b.input(6), domain=ML, norm="L2"), "vector", "float32", (6,))
    b.check()


def test_missing_values() -> None:
    b = Bundle()
    holes = np.where(b.generator.random((5, 3)) < 0.4, np.nan, b.normal(5, 3))
    x = b.input(5, 3, values=holes)
    for old in (float("nan"), 0.0):
        for new in ([1.5], [1.0, 2.0, 3.0]):
            y = b.op("Imputer", x, domain=ML, imputed_value_floats=new, replaced_value_float=old)
            b.case(y, f"{old} by {new}", "float32", (5, 3))
    n = b.input(5, 3, dtype="int64", values=b.generator.integers(0, 3, (5, 3)))
    y = b.op("Imputer", n, domain=ML, imputed_value_int64s=[7, 8, 9], replaced_value_int64=1)
    b.case(y, "integers", "int64", (5, 3))
    keys = {"keys_floats": [0.0, 1.0, float("nan")], "values_floats": [5.0, 6.0, 7.0], "default_float": -1.0}
    b.ml = 4
    b.case(b.op("LabelEncoder", x, domain=ML, **keys), "labels, NaN among them", "float32", (5, 3))
    b.check()


def test_columns() -> None:
    b = Bundle()
    for dtype in NUMBERS:
        parts = [b.input(4, 2, dtype=dtype, free="n", values=_numbers(b, dtype, 4, 2)) for _ in range(3)]
        y = b.op("FeatureVectorizer", *parts, domain=ML, inputdimensions=[2, 1, 3])
        b.case(y, f"cut and filled {dtype}", "float32", ("n", 6))
    for dtype in ("float32", "int64"):
        x = b.input(4, 3, dtype=dtype, values=b.generator.integers(0, 6, (4, 3)))
        y = b.op("OneHotEncoder", x, domain=ML, cats_int64s=[1, 4, 2, 5])
        b.case(y, f"categories {dtype}", "float32", (4, 3, 4))
    x = b.input(4, 3)
    chosen = b.op("ArrayFeatureExtractor", x, b.const(np.array([2, 0])), domain=ML)
    b.case(chosen, "chosen columns", "float32", (4, 2))
    b.case(b.op("Binarizer", x, domain=ML, threshold=0.2), "threshold", "float32", (4, 3))
    b.check()


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_linear_classifiers(classes: int) -> None:
    b = Bundle(seed=classes)
    labels = [4, 2, 7][: max(classes, 2)]
    for after in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"):
        if after == "PROBIT" and classes == 1:
            continue
        small = after == "PROBIT"  # of probabilities
        weights = [float(v) for v in b.normal(classes * 3, scale=0.05 if small else 1.0)]
        bias = [0.2] * classes if small else [float(v) for v in b.normal(classes)]
        how = {"coefficients": weights, "intercepts": bias, "post_transform": after, "classlabels_ints": labels}
        for dtype in NUMBERS if after == "NONE" else NUMBERS[:1]:
            x = b.input(6, 3, dtype=dtype, free="n", values=_numbers(b, dtype, 6, 3))
            label, scores = b.op("LinearClassifier", x, domain=ML, outputs=2, **how)
            b.case(label, f"label {after} {dtype}", "int64", ("n",))
            b.case(scores, f"scores {after} {dtype}", "float32", ("n", len(labels)))
    b.check()


def test_linear_regressors() -> None:
    b = Bundle()
    for targets in (1, 3):
        for after in ("NONE", "SOFTMAX", "LOGISTIC"):
            for bias in (None, [float(v) for v in b.normal(targets)]):
                how = {"coefficients": [float(v) for v in b.normal(targets * 4)], "intercepts": bias}
                y = b.op("LinearRegressor", b.input(5, 4), domain=ML, targets=targets, post_transform=after, **how)
                b.case(y, f"{targets} {after} {bias}", "float32", (5, targets))
    b.check()


def test_what_has_no_place_in_a_kernel_is_refused() -> None:
    for op, given, why in [
        ("OneHotEncoder", {"cats_int64s": [1, 2], "zeros": 0}, "zeros=1"),
        ("Imputer", {"imputed_value_int64s": [1], "replaced_value_int64": 0}, "imputed_value_floats"),
        ("Scaler", {"offset": [1.0, 2.0], "scale": [1.0, 2.0]}, "2 numbers in offset for 3 features"),
    ]:
        b = Bundle()
        shape = (2, 3, 2) if op == "OneHotEncoder" else (2, 3)
        b.case(b.op(op, b.input(2, 3), domain=ML, **given), op, "float32", shape)
        with pytest.raises(UnsupportedError, match=why):
            b.build()
    b = Bundle()
    names = {"classlabels_strings": ["no", "yes"], "coefficients": [1.0, 2.0, 3.0], "intercepts": [0.0]}
    b.case(b.op("LinearClassifier", b.input(2, 3), domain=ML, outputs=2, **names)[1], "strings", "float32", (2, 2))
    with pytest.raises(UnsupportedError, match="strings"):
        b.build()
