"""The cheapest labels, against trying all of them; and what runs on whose account."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from optkit.latency.mincut import cheapest
from optkit.latency.regions import crossings, regions
from tests.graphs import build

COST = st.integers(0, 50)


def total(
    labels: dict[str, bool],
    first: dict[str, float],
    second: dict[str, float],
    between: dict[tuple[str, str], tuple[float, float]],
) -> float:
    """What an assignment costs; True is the second label."""
    own = sum(second[n] if late else first[n] for n, late in labels.items())
    for (a, b), (forth, back) in between.items():
        if labels[a] != labels[b]:
            own += back if labels[a] else forth
    return own


@given(st.data())
def test_no_assignment_is_cheaper(data: st.DataObject) -> None:
    names = [chr(ord("a") + i) for i in range(data.draw(st.integers(1, 7)))]
    first, second = ({name: float(data.draw(COST)) for name in names} for _ in range(2))
    pairs = [pair for pair in itertools.combinations(names, 2) if data.draw(st.booleans())]
    between = {pair: (float(data.draw(COST)), float(data.draw(COST))) for pair in pairs}
    late = cheapest(first, second, between)
    found = total({name: name in late for name in names}, first, second, between)
    every = itertools.product([False, True], repeat=len(names))
    assert found == min(total(dict(zip(names, labels, strict=True)), first, second, between) for labels in every)


def test_nodes_run_on_the_account_of_the_layer_before_them() -> None:
    """Of several, the last; what stands before any layer goes to the first after it."""
    graph = build(
        """a = Neg (x)
        b = MatMul (a, a)
        c = Relu (b)
        d = MatMul (c, a)
        e = Add (c, d)
        f = MatMul (e, b)
        y = Relu (f)
        z = Neg (x)""",
        inputs="float[4,4] x",
        outputs="float[4,4] y, float[4,4] z",
    ).graph
    for node in graph:
        node.name = node.outputs[0].name
    layers = {"b", "d", "f"}
    account = regions(graph, layers)
    assert account == {"a": "b", "b": "b", "c": "b", "d": "d", "e": "d", "f": "f", "y": "f"}
    for node in graph:
        for value in node.outputs:
            value.shape, value.dtype = graph.inputs[0].shape, graph.inputs[0].dtype
    # from b's region d reads a and c, and its sum reads c again; f reads the sum of d's region, and b
    assert crossings(graph, account) == {("b", "d"): 32, ("b", "f"): 16, ("d", "f"): 16}
