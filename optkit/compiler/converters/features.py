"""ai.onnx.ml's preparation of features: Scaler, Normalizer, Imputer, FeatureVectorizer, OneHotEncoder."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from optkit.compiler.converters.dynamic import same_shape
from optkit.compiler.converters.scores import floats, table
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators.common import const
from optkit.compiler.values import INJECTIVE, OPAQUE, Value
from optkit.errors import UnsupportedError


def _real(low: Lowering, x: Value) -> Any:
    expr = low.tensor(x)
    return expr if x.dtype == "float32" else low.bind(relax.op.astype(expr, "float32"))


def _columns(x: Value, numbers: np.ndarray, what: str) -> np.ndarray:
    """A number for all columns or one for each; refuses other counts."""
    width = x.shape[-1] if x.shape else 1
    if len(numbers) != 1 and len(numbers) != width:
        raise UnsupportedError(f"it has {len(numbers)} numbers in {what} for {width} features")
    return numbers


def scaler(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Scaler: (x - offset) * scale."""
    x = inputs[0]
    assert x is not None
    # float64 is narrowed at the end, integers before.
    dtype = "float64" if x.dtype == "float64" else "float32"
    offset, scale = (_columns(x, floats(node, name), name).astype(dtype) for name in ("offset", "scale"))
    expr = low.tensor(x) if x.dtype == dtype else _real(low, x)
    result = low.bind(relax.op.subtract(expr, table(offset)))
    result = low.bind(relax.op.multiply(result, table(scale)))
    return low.wrap(result if dtype == "float32" else relax.op.astype(result, "float32"))


def _norm(x: te.Tensor, how: str) -> te.Tensor:
    """Rows divided by their largest element, the sum of their magnitudes, or their length; rows of norm 0 stay."""
    rows, columns = x.shape
    k = te.reduce_axis((0, columns), name="k")

    def term(i: Any) -> Any:
        value = x(i, k)
        if how == "MAX":
            return te.max(value, axis=k)
        return te.sum(tirx.abs(value) if how == "L1" else value * value, axis=k)

    norm = te.compute((rows,), term, name="norm")

    def element(i: Any, j: Any) -> Any:
        value, by = x(i, j), norm(i)
        zero = const(0.0, "float32")
        if how == "L2":
            root = tirx.sqrt(value * value / by)
            scaled = tirx.Select(value < zero, -root, root)
        else:
            scaled = value / by
        return tirx.Select(by.equal(zero), value, scaled)

    return te.compute((rows, columns), element, name="normalizer")


def normalizer(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Normalizer: each row by its norm, MAX, L1 or L2."""
    x, how = inputs[0], str(node.get("norm", "MAX"))
    assert x is not None
    if how not in ("MAX", "L1", "L2"):
        raise UnsupportedError(f"norm {how!r} is unknown; MAX, L1 or L2 is meant")
    if len(x.shape) not in (1, 2):
        raise UnsupportedError("its input must be a vector or a matrix; reshape it")
    expr = _real(low, x)
    if len(x.shape) == 2:
        return low.wrap(low.emit(_norm, expr, how, name="normalizer", kind=OPAQUE))
    row = low.bind(relax.op.expand_dims(expr, 0))
    return low.wrap(relax.op.squeeze(low.emit(_norm, row, how, name="normalizer", kind=OPAQUE), [0]))


def imputer(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Imputer: a value, or a value a column, where an element is the one to replace, which may be NaN."""
    x = inputs[0]
    assert x is not None
    real = x.dtype.startswith("float")
    name, key = ("imputed_value_floats", "replaced_value_float") if real else ("imputed_value_int64s", "")
    values = np.array(node.get(name) or [], x.dtype)
    if not len(values):
        raise UnsupportedError(f"it has no {name} for an input of {x.dtype}")
    old = node.get(key or "replaced_value_int64", 0)
    width = x.shape[-1] if x.shape else 1
    each = len(values) == width  # else the first of them goes everywhere

    def body(data: te.Tensor, new: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            value = data(*at)
            gone = tirx.isnan(value) if real and math.isnan(old) else value.equal(const(old, data.dtype))
            return tirx.Select(gone, new(at[-1] if each and at else 0), value)

        return te.compute(data.shape, element, name="imputer")

    return low.wrap(low.emit(body, low.tensor(x), table(values), name="imputer", kind=INJECTIVE))


def feature_vectorizer(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """FeatureVectorizer: columns of several inputs side by side, each cut or filled with zeros to its size."""
    sizes = [int(n) for n in node.get("inputdimensions") or []]
    given = [x for x in inputs if x is not None]
    if len(sizes) != len(given):
        raise UnsupportedError(f"it has {len(sizes)} inputdimensions for {len(given)} inputs")
    parts: list[Any] = []
    for x, size in zip(given, sizes, strict=True):
        width = math.prod(x.shape[1:]) if len(x.shape) > 1 else x.shape[0]
        if not isinstance(width, int):
            raise UnsupportedError("how many features an input has is known only at run time; fix it by --input-shape")
        expr = _real(low, x)
        if len(x.shape) != 2:
            expr = low.bind(relax.op.reshape(expr, (1 if len(x.shape) == 1 else x.shape[0], width)))
        if width > size:
            expr = low.bind(relax.op.strided_slice(expr, [1], [0], [size]))
        elif width < size:
            expr = low.bind(relax.op.nn.pad(expr, [0, 0, 0, size - width]))
        if parts and not same_shape(expr.ty.shape.values[:1], parts[0].ty.shape.values[:1]):
            raise UnsupportedError("its inputs are not known to have equally many rows; give their first axes one name")
        parts.append(expr)
    return low.wrap(parts[0] if len(parts) == 1 else relax.op.concat(parts, 1))


def one_hot_encoder(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """OneHotEncoder over integers; an element of no category gives zeros, and is refused with zeros=0."""
    x, categories = inputs[0], node.get("cats_int64s")
    assert x is not None
    if not categories:
        raise UnsupportedError("its categories are strings, which have no place in a kernel; number them outside")
    if not node.get("zeros", 1):
        raise UnsupportedError("zeros=0 is an error at run time for unknown categories; export it with zeros=1")
    last = {int(c): i for i, c in enumerate(categories)}  # the last of equal categories
    kept = [last[int(c)] == i for i, c in enumerate(categories)]
    count = len(categories)

    def body(data: te.Tensor, keys: te.Tensor, valid: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            hit = data(*at[:-1]).astype("int64").equal(keys(at[-1]))
            return tirx.Select(hit, valid(at[-1]), const(0.0, "float32"))

        return te.compute((*data.shape, count), element, name="one_hot_encoder")

    tables = [table(np.array(categories, np.int64)), table(np.array(kept, np.float32))]
    return low.wrap(low.emit(body, low.tensor(x), *tables, name="one_hot_encoder", kind=INJECTIVE))


CONVERTERS: dict[str, Converter] = {
    "Scaler": scaler,
    "Normalizer": normalizer,
    "Imputer": imputer,
    "FeatureVectorizer": feature_vectorizer,
    "OneHotEncoder": one_hot_encoder,
}
