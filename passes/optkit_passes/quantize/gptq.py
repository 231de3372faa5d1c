"""GPTQ: round one input's weights after the other, and let those that are left make up for the error.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022, arXiv
2210.17323), algorithm 1. Minimized is |X W - X Q|^2 over calibration inputs X, of which H = X'X is all that counts.
"""

from __future__ import annotations

import numpy as np

from optkit_passes.quantize.grids import Grid, GroupedCodes

_BLOCK = 128
"""Rows that are rounded before what is left is updated at once (the paper's section 3.3, step 2)."""
_MORE_DAMPING = 10.0
_ATTEMPTS = 6


class Hessian:
    """H = X'X of the rows of a matrix product's input, summed sample by sample: K x K numbers, however many samples.

    Attributes:
        sums: float64 (K, K).
        rows: how many were seen.
    """

    def __init__(self, depth: int) -> None:
        self.sums = np.zeros((depth, depth))
        self.rows = 0

    def observe(self, x: np.ndarray) -> None:
        """Add an input of (..., K)."""
        rows = np.ascontiguousarray(x, np.float32).reshape(-1, x.shape[-1])
        self.sums += rows.T @ rows
        self.rows += len(rows)


def gptq(
    w: np.ndarray, sums: np.ndarray, grid: Grid, group: int, damping: float = 0.01, act_order: bool = False
) -> GroupedCodes:
    """Codes for a weight of (K, N).

    Args:
        w: finite, float32 or float64.
        sums: (K, K), X'X. Inputs that were always zero have no say: their weights are rounded to the nearest.
        group: rows that share a scale, fitted when their turn comes, to what they are by then.
        damping: of the mean of the diagonal, added to it (the paper's section 3.3, step 3); more where H is singular.
        act_order: rows with the largest diagonal first. Groups stay those of neighbours, fitted beforehand.

    Raises:
        np.linalg.LinAlgError: H is not finite.
    """
    depth, columns = w.shape
    left = w.astype(np.float64)
    h = sums.astype(np.float64)
    dead = np.diag(h) <= 0
    h[dead, dead] = 1.0
    order = np.argsort(-np.diag(h), kind="stable") if act_order else np.arange(depth)
    upper = _inverse_factor(h[np.ix_(order, order)], damping)
    left = left[order]
    groups = -(-depth // group)
    scale, zero = np.ones((groups, columns), np.float32), np.zeros((groups, columns), np.int64)
    if act_order:
        for at in range(groups):
            scale[at], zero[at] = grid.fit(w[at * group : (at + 1) * group].astype(np.float64))
    codes = np.zeros((depth, columns), np.uint8)
    for start in range(0, depth, _BLOCK):
        end = min(start + _BLOCK, depth)
        errors = np.zeros((end - start, columns))
        for i in range(start, end):
            row = order[i]
            at = row // group
            if not act_order and i % group == 0:
                if i + group > end:  # what this block owes to the rows behind it
                    late = left[end : i + group] - upper[start:i, end : i + group].T @ errors[: i - start]
                    scale[at], zero[at] = grid.fit(np.concatenate([left[i:end], late]))
                else:
                    scale[at], zero[at] = grid.fit(left[i : i + group])
            codes[row] = grid.codes(left[i], scale[at], zero[at])
            error = (left[i] - grid.real(codes[row], scale[at], zero[at])) / upper[i, i]
            if not dead[row]:
                left[i + 1 : end] -= np.outer(upper[i, i + 1 : end], error)
                errors[i - start] = error
        left[end:] -= upper[start:end, end:].T @ errors
    return GroupedCodes(codes, scale, zero.astype(np.uint8), group)


def _inverse_factor(h: np.ndarray, damping: float) -> np.ndarray:
    """U of H^-1 = U'U, upper triangular, H damped until that exists."""
    mean = float(np.diag(h).mean())
    for attempt in range(_ATTEMPTS):
        damped = h + np.eye(len(h)) * mean * damping * _MORE_DAMPING**attempt
        try:
            lower = np.linalg.cholesky(damped)
            half = np.linalg.solve(lower, np.eye(len(h)))
            found: np.ndarray = np.linalg.cholesky(half.T @ half).T
        except np.linalg.LinAlgError:
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        return found
    raise AssertionError
