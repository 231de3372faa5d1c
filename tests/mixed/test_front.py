"""The hull of time and noise, against trying all assignments; what no other beats."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from optkit.mixed.candidates import Precisions
from optkit.mixed.front import Costs, Layer, hull, not_beaten, steps_between

SECONDS = st.integers(0, 40).map(lambda n: n * 1e-6)


@st.composite
def costs(draw: st.DrawFn) -> Costs:
    names = [chr(ord("a") + i) for i in range(draw(st.integers(1, 6)))]
    short = draw(st.booleans())
    layers = {
        name: Layer(
            draw(SECONDS),
            draw(SECONDS),
            draw(st.sampled_from([1e-6, 1e-4, 3e-3, 0.1, float("inf")])),
            draw(SECONDS) if short else None,
            draw(st.sampled_from([1e-7, 1e-5])) if short else 0.0,
        )
        for name in names
    }
    pairs = [pair for pair in itertools.combinations(names, 2) if draw(st.booleans())]
    return Costs(layers, {pair: (draw(SECONDS), draw(SECONDS)) for pair in pairs})


def every(found: Costs) -> list[Precisions]:
    names = list(found.layers)
    kinds = ("int8", "fp32", "bf16") if found.layers[names[0]].bf16 is not None else ("int8", "fp32")
    made = []
    for choice in itertools.product(kinds, repeat=len(names)):
        kept = frozenset(n for n, kind in zip(names, choice, strict=True) if kind != "int8")
        made.append(Precisions(kept, frozenset(n for n, k in zip(names, choice, strict=True) if k == "bf16")))
    return made


@given(costs())
def test_the_hull_is_monotone_and_nothing_dominates_it(found: Costs) -> None:
    points = hull(found)
    times, noises = [found.seconds(p) for p in points], [found.noise(p) for p in points]
    assert times == sorted(times) and noises == sorted(noises, reverse=True) and len(set(noises)) == len(noises)
    tried = every(found)
    for point in points[:-1]:
        better = [p for p in tried if found.noise(p) <= found.noise(point)]
        # the minimum cut counts in units of 1e-10 s
        assert found.seconds(point) <= min(map(found.seconds, better)) + 1e-8
    assert min(map(found.noise, tried)) == found.noise(Precisions(frozenset(found.layers))) or points
    assert not any(found.layers[n].noise == float("inf") for p in points for n in found.layers if n not in p.kept)


def test_a_fragile_layer_is_the_first_that_becomes_float() -> None:
    layers = {name: Layer(1e-5, 3e-5, 0.5 if name == "c" else 1e-4) for name in "abcde"}
    found = Costs(layers, dict.fromkeys(itertools.pairwise("abcde"), (1e-6, 1e-6)))
    points = hull(found)
    assert points[0] == Precisions() and points[1].kept == {"c"} and points[-1].kept == set("abcde")
    # between two corners of the hull single layers are tried, those with most noise a second first
    layers["b"] = Layer(1e-5, 3e-5, 3e-4)
    steps = steps_between(Precisions(frozenset("c")), Precisions(frozenset("bcd")), Costs(layers))
    assert [step.kept for step in steps] == [frozenset("bc")]
    assert steps_between(Precisions(frozenset("a")), Precisions(frozenset("bcd")), Costs(layers)) == []


def test_bfloat16_takes_the_place_of_float32_where_its_noise_is_worth_it() -> None:
    layers = {name: Layer(1e-5, 4e-5, 0.5, 2e-5, 1e-6) for name in "ab"}
    found = Costs(layers)
    assert Precisions(frozenset("ab"), frozenset("ab")) in hull(found)
    assert found.best(1e6).bf16 == frozenset()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_not_beaten(points: list[tuple[int, int]]) -> None:
    best = not_beaten(points, lambda p: p[0], lambda p: p[1])
    for a, b in itertools.pairwise(best):
        assert a[0] < b[0] and a[1] > b[1]
    for point in points:
        assert any(p[0] <= point[0] and p[1] <= point[1] for p in best)
