"""Operators of classical machine learning on numbers: of ai.onnx.ml, and TfIdfVectorizer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from optkit.compiler.converters import features, forests, linear, machines, trees
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.values import OPAQUE, Value
from optkit.errors import UnsupportedError


def array_feature_extractor(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """ArrayFeatureExtractor: columns by number; a vector gives one row."""
    x, columns = inputs[0], inputs[1]
    if x is None or columns is None:
        return None
    expr = low.tensor(x)
    if len(x.shape) == 1:
        expr = low.bind(relax.op.expand_dims(expr, 0))
    index = low.bind(relax.op.reshape(low.tensor(columns), (-1,)))
    return low.wrap(relax.op.take(expr, index, axis=-1, mode="clip"))


def binarizer(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Binarizer: 1 above the threshold, else 0."""
    x = inputs[0]
    if x is None:
        return None
    limit = relax.const(node.get("threshold", 0.0), x.dtype)
    return low.wrap(relax.op.astype(low.bind(relax.op.greater(low.tensor(x), limit)), x.dtype))


def label_encoder(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """LabelEncoder between numbers: the value of the key that an element equals, or a default.

    NaN equals NaN since version 4.
    """
    x = inputs[0]
    if x is None:
        return None
    keys = _numbers(node, "keys")
    values, default = _numbers(node, "values"), node.get("default_tensor")
    if keys is None or values is None or len(keys) != len(values):
        raise UnsupportedError("it maps strings, which have no place in a kernel; do this step outside the model")
    if default is None:
        default = node.get("default_int64", -1) if values.dtype.kind == "i" else node.get("default_float", -0.0)
    last = np.asarray(default).reshape(-1)[:1]
    table = np.concatenate([values, last.astype(values.dtype)])
    args = [low.tensor(x), relax.const(keys.astype(x.dtype), x.dtype), relax.const(table, table.dtype.name)]
    graph = node.source.graph
    equal = graph is None or graph.opset_imports.get(node.domain, 4) >= 4
    return low.wrap(low.emit(_encode, *args, equal, name="label_encoder", kind=OPAQUE))


def _numbers(node: Node, what: str) -> np.ndarray | None:
    for suffix, dtype in (("int64s", np.int64), ("floats", np.float32)):
        if node.get(f"{what}_{suffix}") is not None:
            return np.array(list(node.get(f"{what}_{suffix}")), dtype)
    given = node.get(f"{what}_tensor")
    array = None if given is None else np.asarray(given).reshape(-1)
    return array if array is not None and array.dtype.kind in "if" else None


def _encode(x: te.Tensor, keys: te.Tensor, table: te.Tensor, equal_nan: bool) -> te.Tensor:
    count = keys.shape[0]
    k = te.reduce_axis((0, count), name="k")
    real = equal_nan and str(x.dtype).startswith("float")

    def place(*at: Any) -> Any:
        value, key = x(*at), keys(k)
        hit = value.equal(key)
        if real:
            hit = tirx.any(hit, tirx.all(tirx.isnan(value), tirx.isnan(key)))
        return te.min(tirx.Select(hit, k.astype("int32"), count.astype("int32")), axis=k)

    found = te.compute(x.shape, place, name="place")
    return te.compute(x.shape, lambda *at: table(found(*at)), name="label")


def tfidf(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """TfIdfVectorizer over integers: how often each n-gram of the pool occurs, with up to max_skip_count skips."""
    x = inputs[0]
    pool = node.get("pool_int64s")
    if x is None or pool is None or "int" not in x.dtype or len(x.shape) not in (1, 2):
        raise UnsupportedError("it counts strings, which have no place in a kernel; do this step outside the model")
    starts = [*node.get("ngram_counts"), len(pool)]
    indexes, mode = [int(i) for i in node.get("ngram_indexes")], node.get("mode")
    least, most = int(node.get("min_gram_length")), int(node.get("max_gram_length"))
    skips = int(node.get("max_skip_count"))
    expr = low.tensor(x) if len(x.shape) == 2 else low.bind(relax.op.expand_dims(low.tensor(x), 0))
    counts, columns = [], []
    first = 0
    for n, (begin, end) in enumerate(itertools.pairwise(starts), 1):
        grams = np.array(pool[begin:end], np.int64).reshape(-1, n)
        places, first = indexes[first : first + len(grams)], first + len(grams)
        if len(grams) and least <= n <= most:
            steps = 1 if n == 1 else skips + 1
            args = [expr, relax.const(grams, "int64")]
            counts.append(low.emit(_occurrences, *args, n, steps, name="ngrams", kind=OPAQUE))
            columns.extend(places)
    width = max(indexes) + 1
    if not counts:
        raise UnsupportedError("its pool holds no n-gram of the lengths it counts")
    table = counts[0] if len(counts) == 1 else low.bind(relax.op.concat(counts, 1))
    source = np.full(width, -1, np.int32)
    source[columns] = np.arange(len(columns))
    weights = np.ones(width, np.float32)
    if node.get("weights") is not None:
        weights[indexes] = np.array(list(node.get("weights")), np.float32)
    args = [table, relax.const(source, "int32"), relax.const(weights, "float32")]
    result = low.emit(_weigh, *args, mode, name="tfidf", kind=OPAQUE)
    return low.wrap(result if len(x.shape) == 2 else low.bind(relax.op.squeeze(result, [0])))


def _occurrences(x: te.Tensor, grams: te.Tensor, n: int, steps: int) -> te.Tensor:
    """(rows, n-grams): at how many places, with how many skips, each n-gram stands."""
    rows, length = x.shape
    step, begin = te.reduce_axis((1, steps + 1), name="step"), te.reduce_axis((0, length), name="begin")

    def element(row: Any, gram: Any) -> Any:
        ends = begin + (n - 1) * step < length
        same = [x(row, te.min(begin + k * step, length - 1)).astype("int64").equal(grams(gram, k)) for k in range(n)]
        return te.sum(tirx.all(ends, *same).astype("float32"), axis=[step, begin])

    return te.compute((rows, grams.shape[0]), element, name="occurrences")


def _weigh(counts: te.Tensor, source: te.Tensor, weights: te.Tensor, mode: str) -> te.Tensor:
    """TF: counts. IDF: the weight of what occurs. TFIDF: counts times weights."""

    def element(row: Any, column: Any) -> Any:
        at = source(column)
        count = tirx.Select(at >= 0, counts(row, te.max(at, 0)), tirx.const(0.0, "float32"))
        if mode == "TF":
            return count
        return (te.min(count, 1.0) if mode == "IDF" else count) * weights(column)

    return te.compute((counts.shape[0], source.shape[0]), element, name="weigh")


CONVERTERS: dict[str, Converter] = {
    **features.CONVERTERS,
    **forests.CONVERTERS,
    **linear.CONVERTERS,
    **machines.CONVERTERS,
    **trees.CONVERTERS,
    "ArrayFeatureExtractor": array_feature_extractor,
    "Binarizer": binarizer,
    "LabelEncoder": label_encoder,
    "TfIdfVectorizer": tfidf,
}
