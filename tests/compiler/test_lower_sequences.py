"""Sequences and optionals, and the operators of classical machine learning, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from optkit.errors import UnsupportedError
from tests.compiler.bundle import Bundle
from tests.compiler.test_lower_control import check, compiled, numbers

OPERATIONS = {
    "insert and take": """
        s = SequenceConstruct(x, x)  one = Constant<value = int64 {1}>()  last = Constant<value = int64 {-1}>()
        n = Neg(x)  t = SequenceInsert(s, n, one)  u = SequenceErase(t, last)  y = SequenceAt(u, last)""",
    "from an empty one": "e = SequenceEmpty()  s = SequenceInsert(e, x)  zero = Constant<value = int64 {0}>()  "
    "y = SequenceAt(s, zero)",
    "split unevenly": "k = Constant<value = int64 {4}>()  s = SplitToSequence<axis = 0>(x, k)  "
    "one = Constant<value = int64 {1}>()  y = SequenceAt(s, one)",
    "split without the axis": "s = SplitToSequence<axis = -1, keepdims = 0>(x)  "
    "y = ConcatFromSequence<axis = 0, new_axis = 1>(s)",
    "concatenate": "n = Neg(x)  s = SequenceConstruct(x, n)  y = ConcatFromSequence<axis = 1>(s)",
    "stack": "n = Neg(x)  s = SequenceConstruct(x, n, x)  y = ConcatFromSequence<axis = -1, new_axis = 1>(s)",
    "length": "s = SplitToSequence<axis = 0>(x)  l = SequenceLength(s)  f = Cast<to = 1>(l)  y = Mul(x, f)",
    "map": "s = SplitToSequence<axis = 0>(x)  m = SequenceMap (s, x) <body = b (float[1,3] a, float[6,3] c) "
    "=> (float[6,3] r) { r = Add(a, c) }>  y = ConcatFromSequence<axis = 0>(m)",
    "optional": "o = Optional(x)  h = OptionalHasElement(o)  g = OptionalGetElement(o)  f = Cast<to = 1>(h)  "
    "y = Mul(g, f)",
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_sequences_of_known_length(name: str) -> None:
    check(f"g (float[6,3] x) => {_declared(name)} {{ {OPERATIONS[name]} }}", {"x": numbers(6, 3)})


def _declared(name: str) -> str:
    shape = {
        "split unevenly": "2,3",
        "split without the axis": "3,6",
        "concatenate": "6,6",
        "stack": "6,3,3",
        "map": "36,3",
    }.get(name, "6,3")
    return f"(float[{shape}] y)"


def test_pieces_of_computed_lengths() -> None:
    text = """g (float[6,2] x, int64[3] k) => (float[a,2] y, float[b,2] z) {
      s = SplitToSequence<axis = 0>(x, k)
      zero = Constant<value = int64 {0}>()  two = Constant<value = int64 {2}>()
      y = SequenceAt(s, two)  z = SequenceAt(s, zero)
    }"""
    feeds = [{"x": numbers(6, 2), "k": np.array(k)} for k in ((1, 2, 3), (4, 1, 1))]
    check(text, *feeds)


def test_a_position_found_when_the_model_runs() -> None:
    text = """g (float[4,2] x, int64 i) => (float[1,2] y) {
      s = SplitToSequence<axis = 0>(x)
      y = SequenceAt(s, i)
    }"""
    check(text, *({"x": numbers(4, 2), "i": np.array(i)} for i in (0, 3, -1)))


def test_a_sequence_that_a_constant_loop_builds() -> None:
    text = """g (float[2] x) => (float[10] y) {
      m = Constant<value = int64 {5}>()
      e = SequenceEmpty()
      s = Loop (m, , e) <body = b (int64 i, bool go, seq(float[2]) a) => (bool on, seq(float[2]) r) {
        f = Cast<to = 1>(i)
        v = Add(x, f)
        r = SequenceInsert(a, v)
        on = Identity(go) }>
      y = ConcatFromSequence<axis = 0>(s)
    }"""
    check(text, {"x": numbers(2)})


def test_a_sequence_that_grows_for_a_time_nobody_knows_is_refused() -> None:
    text = """g (float[2] x, int64 m) => (float[n] y) {
      e = SequenceEmpty()
      s = Loop (m, , e) <body = b (int64 i, bool go, seq(float[2]) a) => (bool on, seq(float[2]) r) {
        r = SequenceInsert(a, x)
        on = Identity(go) }>
      y = ConcatFromSequence<axis = 0>(s)
    }"""
    with pytest.raises(UnsupportedError, match=r"node 'Loop_0' \(Loop\): it carries a sequence"):
        compiled(text)


def test_n_grams_are_counted() -> None:
    bundle = Bundle()
    words = bundle.generator.integers(0, 6, (3, 9)).astype("int32")
    for mode in ("TF", "IDF", "TFIDF"):
        for skips in (0, 3):
            x = bundle.input(3, 9, dtype="int32", values=words)
            y = bundle.op(
                "TfIdfVectorizer",
                x,
                mode=mode,
                max_skip_count=skips,
                min_gram_length=1,
                max_gram_length=2,
                ngram_counts=[0, 4],
                ngram_indexes=[3, 1, 0, 2, 6, 5, 4],
                pool_int64s=[2, 3, 5, 4, 5, 3, 1, 2, 3, 3],
                weights=[0.5, 1.0, 2.0, 3.0, 1.5, 0.25, 4.0],
            )
            bundle.case(y, f"{mode}, {skips} skips")
    bundle.check()


def test_positions_beyond_a_sequence_are_refused() -> None:
    text = """g (float[2] x) => (float[2] y) {
      s = SequenceConstruct(x)
      five = Constant<value = int64 {5}>()
      y = SequenceAt(s, five)
    }"""
    with pytest.raises(UnsupportedError, match="position 5 lies outside a sequence of 1"):
        compiled(text)
