"""Recurrent layers on GPUs: every unit has its threads, everything fits, and packed weights are the weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from optkit.compiler.operators.recurrent_layout import find_layout, pack

SHARED, REGISTERS = 48 * 1024, 65536


@given(
    hidden=st.integers(1, 1500),
    gates=st.sampled_from((1, 3, 4)),
    directions=st.sampled_from((1, 2)),
    batch=st.none() | st.integers(1, 600),
    clusters=st.booleans(),
)
@example(hidden=256, gates=4, directions=2, batch=64, clusters=True)
@example(hidden=1, gates=1, directions=1, batch=1, clusters=False)
def test_layouts_fit(hidden: int, gates: int, directions: int, batch: int | None, clusters: bool) -> None:
    made = find_layout(hidden, gates, directions, batch, clusters, 132)
    assert made is not None
    assert made.parts == 1 or clusters
    assert made.parts * made.units >= hidden
    assert made.terms >= hidden
    assert made.threads % 32 == 0
    assert made.threads * made.column_turns >= made.columns * made.slices
    assert made.threads * made.unit_turns >= made.units * made.examples
    assert made.shared <= SHARED
    if made.holds:
        assert made.threads * (4 * made.quads * made.column_turns + 2 * made.examples + 32) <= REGISTERS
    if batch is not None:
        assert made.examples <= batch


def test_weights_of_usual_sizes_are_held() -> None:
    for hidden, gates in ((64, 4), (128, 4), (256, 4), (256, 3), (300, 4)):
        made = find_layout(hidden, gates, 2, 1, True, 132)
        assert made is not None
        assert made.holds, (hidden, gates)
    assert find_layout(100_000, 4, 1, 1, True, 132) is None


@pytest.mark.parametrize("clusters", [False, True])
@given(hidden=st.integers(1, 150), gates=st.sampled_from((1, 3, 4)), seed=st.integers(0, 99))
def test_packed_weights_sum_to_the_product(clusters: bool, hidden: int, gates: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights, state = rng.standard_normal((2, gates * hidden, hidden)), rng.standard_normal(hidden)
    made = find_layout(hidden, gates, 2, 1, clusters, 132)
    assert made is not None
    packed = pack(weights, made)
    assert packed.shape == (2, made.parts, made.terms // 4, made.columns, 4)
    padded = np.pad(state, (0, made.terms - hidden)).reshape(-1, 4)
    sums = np.einsum("dpqcv,qv->dpc", packed, padded).reshape(2, made.parts, gates, made.units)
    found = sums.transpose(0, 2, 1, 3).reshape(2, gates, -1)[:, :, :hidden]
    np.testing.assert_allclose(found.reshape(2, -1), weights @ state, atol=1e-9)
