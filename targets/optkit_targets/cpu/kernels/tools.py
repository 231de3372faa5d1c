"""Looking at a PrimFunc and the schedule steps templates share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule, ScheduleError

from optkit.compiler.operators.common import BITS, PAIR

SPATIAL, REDUCE = 0, 2
PARALLEL_ELEMENTS = 16384
"""Work below which waking another thread costs more than it saves."""


@dataclass
class View:
    """A schedule with its blocks by operator annotation."""

    sch: Schedule
    blocks: list[Any]
    ops: dict[str, Any]

    @property
    def last(self) -> Any:
        """The block that writes the output."""
        return self.blocks[-1]


def look(func: Any) -> View:
    """A fresh schedule of `func` and its blocks; none where the function is loops written by hand."""
    sch = Schedule(func)
    try:
        root = sch.get_sblock("root")
    except ScheduleError:
        return View(sch, [], {})
    blocks = list(sch.get_child_blocks(root))
    ops: dict[str, Any] = {}
    for block in blocks:
        kind = annotation(sch, block, "optkit.op")
        if kind is not None:
            ops[str(kind)] = block
    return View(sch, blocks, ops)


def annotation(sch: Schedule, block: Any, key: str) -> Any:
    """A block annotation or None."""
    annotations = sch.get(block).annotations
    return annotations.get(key)


def number(sch: Schedule, block: Any, key: str) -> int:
    """A whole number that annotates a block; 0 where there is none."""
    return int(annotation(sch, block, key) or 0)


def extent(sch: Schedule, loop: Any) -> int | None:
    """A loop's extent, None where it is symbolic."""
    size = sch.get(loop).extent
    return int(size) if isinstance(size, (int, tirx.IntImm)) else None


def read_dtype(sch: Schedule, block: Any) -> str:
    """Element type of the first tensor a block reads; bfloat16 where any is, for padded copies are float32."""
    types = [str(read.source.dtype) for read in sch.get(block).reads]
    return "bfloat16" if "bfloat16" in types else types[0] if types else ""


def arithmetic(sch: Schedule, block: Any) -> str:
    """The type a product of the block multiplies in, as users name it."""
    dtype = read_dtype(sch, block)
    return {"uint8": "int8", "int32": "int8", BITS: "bfloat16", PAIR: "bfloat16"}.get(dtype, dtype)


def write_dtype(sch: Schedule, block: Any) -> str:
    """Element type of what a block writes."""
    return str(sch.get(block).writes[0].source.dtype)


def same(sch: Schedule, a: Any, b: Any) -> bool:
    """Whether two block references are one block."""
    return bool(sch.get(a).same_as(sch.get(b)))


def inline_rest(view: View, keep: list[Any]) -> None:
    """Inline every block that is neither kept nor the output."""
    for block in view.blocks[:-1]:
        if not any(same(view.sch, block, k) for k in keep):
            view.sch.compute_inline(block)


def kinds(sch: Schedule, block: Any) -> tuple[list[Any], list[Any]]:
    """Spatial and reduction loops around a block that has not been transformed yet; none where they do not match."""
    loops, axes = sch.get_loops(block), sch.get(block).iter_vars
    if len(loops) != len(axes):
        return [], []
    pairs = list(zip(loops, axes, strict=True))
    return (
        [loop for loop, axis in pairs if axis.iter_type == SPATIAL],
        [loop for loop, axis in pairs if axis.iter_type == REDUCE],
    )


def finish(sch: Schedule) -> Any:
    """The scheduled PrimFunc."""
    return sch.mod["main"]


def parallel(sch: Schedule, *loops: Any) -> Any:
    """Fuse adjacent loops into one parallel loop and return it.

    A symbolic loop stays outside, serial: fused into the others it would make the index of every buffer a
    quotient that TVM's buffer compaction cannot bound, and accumulators would live in memory.
    """
    loops = tuple(loops)
    while len(loops) > 1 and extent(sch, loops[0]) is None:
        loops = loops[1:]
    fused = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    sch.parallel(fused)
    return fused


def schedule_pad(sch: Schedule, block: Any) -> None:
    """Parallel over rows of padded data, vectors over channels."""
    loops = sch.get_loops(block)
    *outer, x, v = loops
    if (extent(sch, v) or 0) >= 4:
        sch.vectorize(v)
    else:
        del x
    parallel(sch, *outer)


Body = Callable[[Any, Mapping[str, int]], Any]


def divisors(n: int, most: int) -> tuple[int, ...]:
    """Divisors of n up to `most`.

    >>> divisors(12, 6)
    (1, 2, 3, 4, 6)
    """
    return tuple(d for d in range(1, min(n, most) + 1) if n % d == 0)
