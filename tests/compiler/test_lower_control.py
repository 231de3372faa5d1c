"""If, Loop and Scan against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser
from tvm import relax

from optkit.compiler.build import Built, build
from optkit.errors import UnsupportedError
from optkit.registry import find_target
from optkit.tidy import check_model, infer_shapes, name_nodes
from tests.compiler.bundle import run
from tests.graphs import session


def compiled(text: str) -> tuple[onnx.ModelProto, Built]:
    proto = parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    model = ir.from_proto(proto)
    name_nodes(model)
    infer_shapes(model)
    check_model(model)
    return proto, build(model, find_target("cpu"))


def check(text: str, *feeds: dict[str, np.ndarray]) -> Built:
    """Every feed gives ONNX Runtime's outputs."""
    proto, built = compiled(text)
    reference = session(proto)
    for feed in feeds:
        found = run(built, [feed[i.name] for i in built.inputs])
        for expected, got in zip(reference.run(None, feed), found, strict=True):
            assert expected.dtype == got.dtype
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    return built


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def truth(value: bool) -> np.ndarray:
    return np.array(value)


BRANCHES = """g (bool c, float[2,3] x, float[1,3] w) => (float[a,3] y, float[2,3] z) {
  big = Exp(x)
  y, z = If (c) <
    then_branch = g1 () => (float[4,3] p, float[2,3] q) { p = Concat<axis=0>(x, big)  q = Identity(x) },
    else_branch = g2 () => (float[1,3] p, float[2,3] q) { p = Neg(w)  q = Add(big, w) }>
}"""


def test_if_with_branches_of_other_shapes() -> None:
    x, w = numbers(2, 3), numbers(1, 3, seed=1)
    check(BRANCHES, {"c": truth(True), "x": x, "w": w}, {"c": truth(False), "x": x, "w": w})


def test_nested_if_reads_values_of_both_scopes() -> None:
    text = """g (bool a, bool b, float[n,3] x) => (float[n,3] y) {
      two = Constant<value = float {2.0}>()
      u = Mul(x, two)
      y = If (a) <
        then_branch = g1 () => (float[n,3] p) {
          v = Add(u, x)
          p = If (b) < then_branch = h1 () => (float[n,3] r) { r = Mul(v, u) },
                       else_branch = h2 () => (float[n,3] s) { s = Sub(v, two) }> },
        else_branch = g2 () => (float[n,3] q) { q = Identity(u) }>
    }"""
    feeds = [{"a": truth(a), "b": truth(b), "x": numbers(n, 3)} for a, b, n in ((1, 1, 2), (1, 0, 3), (0, 1, 5))]
    check(text, *({**f, "a": f["a"].astype(bool), "b": f["b"].astype(bool)} for f in feeds))


def test_a_branch_that_returns_an_outer_value_does_not_lose_it() -> None:
    # The storage of `u` must not be used again while `y` may still be `u` itself.
    text = """g (bool c, float[8] x) => (float[8] z) {
      u = Softmax(x)
      y = If (c) < then_branch = g1 () => (float[8] p) { p = Identity(u) },
                   else_branch = g2 () => (float[8] q) { q = Neg(u) }>
      a = Softmax(y)
      b = Softmax(a)
      d = Softmax(b)
      z = Sum(a, b, d, y)
    }"""
    check(text, {"c": truth(True), "x": numbers(8)}, {"c": truth(False), "x": numbers(8)})


def test_branches_of_other_ranks_are_refused_by_name() -> None:
    text = """g (bool c, float[2,3] x) => (float y) {
      y = If (c) < then_branch = g1 () => (float[6] p) { s = Constant<value = int64[1] {6}>() p = Reshape(x, s) },
                   else_branch = g2 () => (float[2,3] q) { q = Neg(x) }>
    }"""
    model = ir.from_proto(parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text))
    name_nodes(model)
    with pytest.raises(UnsupportedError, match=r"node 'If_0' \(If\).* 1 and 2 dimensions"):
        build(model, find_target("cpu"))


LOOP = """g (int64 m, bool c, float[3] x, float[3] w) => (float[3] y, float[k,3] rows) {{
  y, rows = Loop ({trips}, {start}, x) <
    body = b (int64 i, bool go, float[3] s) => (bool on, float[3] t, float[3] row) {{
    f = Cast<to=1>(i)
    h = Mul(s, w)
    t = Add(h, f)
    row = Neg(t)
    total = ReduceSum<keepdims=0>(t)
    hundred = Constant<value = float {{100.0}}>()
    {condition}
  }}>
}}"""


@pytest.mark.parametrize(
    ("trips", "start", "condition"),
    [("m", "", "on = Identity(go)"), ("m", "c", "on = Less(total, hundred)"), ("", "c", "on = Less(total, hundred)")],
)
def test_loop_by_count_and_by_condition(trips: str, start: str, condition: str) -> None:
    text = LOOP.format(trips=trips, start=start, condition=condition)
    w = np.array([1.1, 0.9, 1.0], "float32")
    counts = (0, 1, 7, 20) if trips else (1,)
    feeds = [{"m": np.array(m), "c": truth(c), "x": numbers(3), "w": w} for m in counts for c in (True, False)]
    check(text, *feeds)


def test_thousands_of_iterations() -> None:
    # A call an iteration would overflow the stack.
    text = """g (int64 m, float[2] x) => (float[2] y) {
      y = Loop (m, , x) <body = b (int64 i, bool go, float[2] s) => (bool on, float[2] t) {
        half = Constant<value = float {0.5}>()
        t = Add(s, half)
        on = Identity(go) }>
    }"""
    _, built = compiled(text)
    (found,) = run(built, [np.array(50_000), np.zeros(2, "float32")])
    assert found.tolist() == [25_000.0, 25_000.0]


def test_a_carried_value_that_grows() -> None:
    text = """g (int64 m, float[1,2] x) => (float[n,2] y) {
      y = Loop (m, , x) <body = b (int64 i, bool go, float[k,2] s) => (bool on, float[j,2] t) {
        d = Mul(s, s)
        t = Concat<axis=0>(s, d)
        on = Identity(go) }>
    }"""
    check(text, *({"m": np.array(m), "x": numbers(1, 2) / 2} for m in (0, 1, 2, 5)))


def test_short_constant_loops_are_unrolled() -> None:
    text = """g (float[2] x) => (float[2] y, float[4,2] rows) {
      m = Constant<value = int64 {4}>()
      y, rows = Loop (m, , x) <body = b (int64 i, bool go, float[2] s) => (bool on, float[2] t, float[2] row) {
        f = Cast<to=1>(i)
        t = Add(s, f)
        row = Mul(t, t)
        on = Identity(go) }>
    }"""
    built = check(text, {"x": numbers(2)})
    functions = [f for f in built.module.functions.values() if isinstance(f, relax.Function)]
    assert len(functions) == 1


SCAN = """g (float[2] s, float[{n},2] x, float[2,{n}] z, float[2] w)
=> (float[2] e, float[{n},2] ys, float[2,{n}] zs) {{
  e, ys, zs = Scan <num_scan_inputs = 2, scan_input_axes = [0, 1], scan_input_directions = [0, 1],
                    scan_output_axes = [0, 1], scan_output_directions = [1, 0],
    body = b (float[2] a, float[2] p, float[2] q) => (float[2] o, float[2] u, float[2] v) {{
      c = Mul(a, w)  o = Add(c, p)  u = Sub(o, q)  v = Identity(o) }}> (s, x, z)
}}"""


@pytest.mark.parametrize(("declared", "lengths"), [("3", (3,)), ("40", (40,)), ("n", (1, 5, 33))])
def test_scan(declared: str, lengths: tuple[int, ...]) -> None:
    feeds = [{"s": numbers(2), "x": numbers(n, 2), "z": numbers(2, n), "w": numbers(2, seed=3) / 3} for n in lengths]
    check(SCAN.format(n=declared), *feeds)


def test_an_if_inside_a_loop() -> None:
    text = """g (int64 m, float[2] x) => (float[2] y) {
      four = Constant<value = int64 {4}>()
      y = Loop (m, , x) <body = b (int64 i, bool go, float[2] s) => (bool on, float[2] t) {
        late = Less(four, i)
        t = If (late) < then_branch = h1 () => (float[2] p) { p = Neg(s) },
                        else_branch = h2 () => (float[2] q) { q = Add(s, x) }>
        on = Identity(go) }>
    }"""
    check(text, *({"m": np.array(m), "x": numbers(2)} for m in (0, 3, 9)))
