"""Who computes what of a recurrent layer on a GPU, and how its weights lie for that; see `device_recurrent`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

_THREADS = 512
_REGISTERS, _OTHERS, _HELD = 65536, 48, 160
"""Registers of a multiprocessor, and those of a thread that hold no weights, or weights at most."""
_PARTS = (1, 2, 4, 8)
_EXAMPLES = (1, 2, 4, 8)
_SOME = 4
"""Examples of an open batch that go together."""
_SHARED = 47 * 1024
"""Bytes of shared memory, of the 48 KB that every GPU gives."""


@dataclass(frozen=True)
class Layout:
    """Who computes what.

    Attributes:
        directions: 1 or 2.
        gates: of a unit.
        parts: thread blocks that divide the units among themselves.
        units: of one of them.
        slices: threads that share a sum.
        quads: fours of terms that one of these adds up.
        examples: that go through time together.
        threads: of a block.
        holds: whether weights are kept in registers.
    """

    directions: int
    gates: int
    parts: int
    units: int
    slices: int
    quads: int
    examples: int
    threads: int
    holds: bool

    @property
    def columns(self) -> int:
        """Sums of an example in one block."""
        return self.gates * self.units

    @property
    def terms(self) -> int:
        """Of a sum: the units, and zeros behind them."""
        return 4 * self.slices * self.quads

    @property
    def column_turns(self) -> int:
        """Sums that a thread takes its part of, one after the other."""
        return -(-self.columns * self.slices // self.threads)

    @property
    def unit_turns(self) -> int:
        """Units whose gates a thread computes."""
        return -(-self.examples * self.units // self.threads)

    @property
    def shared(self) -> int:
        """Bytes of shared memory: parts of sums, and three states."""
        return 4 * self.examples * (self.slices * self.columns + 3 * self.terms)


def find_layout(
    hidden: int, gates: int, directions: int, batch: int | None, clusters: bool, multiprocessors: int
) -> Layout | None:
    """As few blocks as hold their weights in registers, else as many as there may be; None where nothing fits.

    Args:
        batch: None where it is open.
        clusters: whether blocks can reach each other's shared memory.
    """
    found = [_divided(hidden, gates, directions, parts) for parts in (_PARTS if clusters else (1,))]
    layout = next((each for each in found if each.holds), found[-1])
    allowed = [n for n in _EXAMPLES if n <= (_SOME if batch is None else max(1, batch))]
    fitting = [each for each in (replace(layout, examples=n) for n in allowed) if each.shared <= _SHARED]
    if not fitting or batch is None:
        return fitting[-1] if fitting else None
    # One more example is one more sum a thread; one more wave of blocks is the whole time once more.
    blocks = directions * layout.parts
    return next((each for each in fitting if blocks * -(-batch // each.examples) <= multiprocessors), fitting[-1])


def _divided(hidden: int, gates: int, directions: int, parts: int) -> Layout:
    units = -(-hidden // parts)
    columns, terms = gates * units, -(-hidden // 4)
    slices = 1
    while 2 * slices * columns <= _THREADS and 2 * slices <= terms:
        slices *= 2
    quads = -(-terms // slices)
    threads = min(_THREADS, -(-slices * columns // 32) * 32)
    made = Layout(directions, gates, parts, units, slices, quads, 1, threads, False)
    held = min(_HELD, _REGISTERS // threads - _OTHERS)
    return replace(made, holds=4 * quads * made.column_turns <= held)


def pack(weights: np.ndarray, layout: Layout) -> np.ndarray:
    """(directions, gates * hidden, hidden) to (directions, parts, quads, columns, 4), with zeros in what is left."""
    hidden = weights.shape[2]
    split = weights.reshape(layout.directions, layout.gates, hidden, hidden)
    whole = (0, layout.parts * layout.units - hidden), (0, layout.terms - hidden)
    full = np.pad(split, [(0, 0), (0, 0), *whole])
    parted = full.reshape(layout.directions, layout.gates, layout.parts, layout.units, layout.terms // 4, 4)
    moved = parted.transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(moved.reshape(*moved.shape[:3], layout.columns, 4))


__all__ = ["Layout", "find_layout", "pack"]
