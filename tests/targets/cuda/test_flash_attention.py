"""The device code of attention, run on the CPU thread by thread, against NumPy."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from optkit_targets.cuda.kernels.tensor_attention import ROWS, planes

from tests.targets.cuda.host import NEEDS, host_library, pointers

KINDS = {"float16": "OptkitHalves", "bfloat16": "OptkitBfloats"}
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2}
"""Powers are rounded to the type before they are multiplied."""
TYPES = pytest.mark.parametrize("dtype", KINDS)
pytestmark = pytest.mark.needs_nvcc  # for the toolkit's headers


@dataclass(frozen=True)
class Heads:
    """The extents of `OptkitAttention`, in its order."""

    keys: int
    m: int
    n: int
    d: int
    e: int


CASES = {
    "one step": Heads(64, 20, 50, 64, 64),
    "steps, not full": Heads(32, 130, 83, 64, 64),
    "odd depths": Heads(32, 65, 70, 24, 40),
    "deep": Heads(32, 33, 40, 128, 128),
    "many keys at once": Heads(128, 64, 200, 32, 16),
}


def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, scale: float, mask: np.ndarray) -> np.ndarray:
    """(rows, values) by the definition, in float64."""
    scores = query.astype(np.float64) @ key.astype(np.float64).T * scale + mask
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers @ value.astype(np.float64) / powers.sum(axis=1, keepdims=True)


def run(folder: Path, h: Heads, operands: tuple[np.ndarray, ...], scale: float, mask: np.ndarray | None) -> np.ndarray:
    """(rows, values) of all thread blocks."""
    count = planes(h.keys, h.d, h.e)
    steps = (
        (0, 0, 0)
        if mask is None
        else (1, *(0 if e == 1 else s // 4 for e, s in zip(mask.shape, mask.strides, strict=True)))
    )
    numbers = ", ".join(
        map(str, (KINDS[operands[0].dtype.name], h.keys, count, *astuple(h)[1:], h.d, h.d, h.e, *steps))
    )
    down, kept = -(-h.m // ROWS), h.e * (ROWS + 1)
    library = host_library(
        folder,
        f"""
        extern "C" int run(const void* q, const void* k, const void* v, const void* mask, float* out) {{
          int bad = 0;
          for (int y = 0; y < {down}; ++y) {{
            alignas(16) static float tile[{count * (ROWS + 1) * 4} + 1];
            for (auto& value : tile) value = 77;
            auto thread = [&] {{ OptkitAttention<{numbers}>::run(tile, q, k, v, mask, {scale}f, 0, y * {ROWS}); }};
            bad |= emulator::run_threads(128, thread) || tile[{count * (ROWS + 1) * 4}] != 77;
            std::memcpy(out + y * {kept}, tile, {kept} * sizeof(float));
          }}
          return bad;
        }}""",
    )
    # One piece of memory, so that two bounds hold for all that is copied from.
    memory = np.concatenate([operand.reshape(-1) for operand in operands])
    out = np.empty((down, h.e // 4, ROWS + 1, 4), np.float32)
    starts = np.cumsum([0, *(operand.size for operand in operands)])
    parts = [memory[start:] for start in starts[:-1]]
    library.bounds(*pointers(memory), memory.nbytes, *pointers(memory), 0)
    whole = np.zeros(1, np.float32) if mask is None else mask
    assert library.run(*pointers(*parts, whole, out)) == 0
    return out[:, :, :-1].transpose(0, 2, 1, 3).reshape(down * ROWS, h.e)[: h.m]


def operands(h: Heads, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query, key and value."""
    rng = np.random.default_rng(0)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    shapes = ((h.m, h.d), (h.n, h.d), (h.n, h.e))
    query, key, value = (rng.standard_normal(shape).astype(kind) for shape in shapes)
    return query, key, value


@NEEDS
@TYPES
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_softmax_of_the_scores_times_the_values(name: str, dtype: str, tmp_path: Path) -> None:
    h = CASES[name]
    data = operands(h, dtype)
    found = run(tmp_path, h, data, 0.25, None)
    np.testing.assert_allclose(found, attend(*data, 0.25, np.zeros(1)), atol=TOLERANCE[dtype])


@NEEDS
def test_bfloat16_loses_no_more_than_separate_products_do(tmp_path: Path) -> None:
    h = Heads(32, 65, 150, 64, 64)
    query, key, value = data = operands(h, "bfloat16")
    exact = attend(*data, 0.125, np.zeros(1))
    weights = attend(query, key, np.eye(h.n, dtype=np.float32), 0.125, np.zeros(1)).astype(query.dtype)
    separate = weights.astype(np.float32) @ value.astype(np.float32)
    found = run(tmp_path, h, data, 0.125, None)
    assert 1e-5 < np.sqrt(np.mean((found - exact) ** 2)) < 1.2 * np.sqrt(np.mean((separate - exact) ** 2))


@NEEDS
@TYPES
@pytest.mark.parametrize("shape", ["row", "whole"])
def test_masked_keys_do_not_count(shape: str, dtype: str, tmp_path: Path) -> None:
    h = Heads(32, 70, 90, 32, 32)
    rng = np.random.default_rng(1)
    hidden = rng.random((1 if shape == "row" else h.m, h.n)) < 0.4
    hidden[:, :40] = True  # a whole step without a key
    mask = np.where(hidden, -np.inf, rng.standard_normal(hidden.shape)).astype(np.float32)
    if shape == "whole":
        mask[7] = -np.inf
    data = operands(h, dtype)
    want = attend(*data, 0.5, mask)
    found = run(tmp_path, h, data, 0.5, mask)
    assert np.isnan(want[7]).all() == (shape == "whole")
    np.testing.assert_allclose(found, want, atol=TOLERANCE[dtype])


@NEEDS
@TYPES
def test_what_is_not_a_number_stays_so(dtype: str, tmp_path: Path) -> None:
    h = Heads(32, 20, 40, 16, 16)
    query, key, value = operands(h, dtype)
    query[3, 5], query[4, 1] = np.nan, np.inf
    found = run(tmp_path, h, (query, key, value), 1.0, None)
    assert np.isnan(found[3]).all()
    assert np.isnan(found[4]).all()
    assert np.isfinite(np.delete(found, (3, 4), axis=0)).all()
