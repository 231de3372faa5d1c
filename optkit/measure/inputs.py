"""Seeded random inputs that any model can be run on."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from optkit.artifact.spec import TensorSpec

_BATCHES = (1, 3, 2)
"""Extents that a free leading dimension takes in turn, so that verification sees more than one."""


def random_sample(
    specs: Sequence[TensorSpec], seed: int, dims: Mapping[str, int] | None = None, batch: int = 1
) -> dict[str, np.ndarray]:
    """One input for every spec.

    Floats are standard normal, 8-bit integers cover their range, wider ones are 0 or 1 (they are indices
    more often than not, and those must exist), booleans are fair coins. The same seed gives the same
    values for an input whatever the others are.

    Args:
        dims: extents of free dimensions by name; a leading one not named takes `batch`, others 1.
    """
    known = dict(dims or {})
    for spec in specs:
        if spec.shape and isinstance(spec.shape[0], str):
            known.setdefault(spec.shape[0], batch)
    sample = {}
    for spec in specs:
        shape = tuple(known.get(d, 1) if isinstance(d, str) else d for d in spec.shape)
        rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
        sample[spec.name] = _draw(rng, shape, spec.numpy)
    return sample


def random_samples(
    specs: Sequence[TensorSpec], count: int, seed: int = 0, dims: Mapping[str, int] | None = None
) -> list[dict[str, np.ndarray]]:
    """Several samples; a free leading dimension that `dims` leaves open takes several extents."""
    return [random_sample(specs, seed + i, dims, _BATCHES[i % len(_BATCHES)]) for i in range(count)]


def _draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        low, high = (int(info.min), int(info.max)) if info.bits == 8 else (0, 1)
        return rng.integers(low, high, shape, endpoint=True).astype(dtype)
    return rng.standard_normal(shape).astype(np.float32).astype(dtype)
