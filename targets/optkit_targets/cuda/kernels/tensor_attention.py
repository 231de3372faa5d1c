"""Attention on tensor cores: one kernel, its scores never in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import tirx

from optkit.compiler.operator import ATTENTION, OPERATOR, Operator
from optkit.compiler.operators.half_attention import FIRST, SCALE, SEATS, heads_of, seated
from optkit.compiler.operators.matmul import unflatten
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, annotation, look
from optkit_targets.cuda.kernels.tensor import LARGEST_GRID, SHORT, Call, compute_tiles, from_outside, shape
from optkit_targets.cuda.kernels.tiles import SLICE, scope

ROWS = 64
"""Queries of a thread block."""
_MARKS = {"scores", "logits", "weighted", "half_attention", "crop"}


class TensorAttentionRule:
    """Takes `optkit.compiler.operators.half_attention` with nothing fused to it."""

    name = "cuda.tensor_attention"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `keys` keys at a time."""
        view = look(func)
        if set(view.ops) != _MARKS or not target.has("half_attention"):
            return None
        operator = Operator.parse(str(annotation(view.sch, view.ops["half_attention"], OPERATOR)))
        if operator.kind != ATTENTION or operator.sizes[0] > LARGEST_GRID:
            return None
        if not all(from_outside(view, buffer) for buffer in _operands(view) if buffer is not None):
            return None

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), operator, chosen["keys"], target)

        *_, depth, wide = operator.sizes
        params = {"keys": 64 if max(depth, wide) <= 64 else 32}
        space = {"keys": (32, 64, 128)}
        macs = operator.macs()
        return [Choice(self.name, "flash_attention", 1, params, space, apply, macs, "float16")]


def _operands(view: View) -> tuple[Any, Any, Any, Any]:
    """Query, key, value and mask, which may be None."""
    scores, logits, weighted = (
        [read.source for read in view.sch.get(view.ops[mark]).reads] for mark in ("scores", "logits", "weighted")
    )
    return scores[0], scores[1], weighted[1], logits[1] if len(logits) > 1 else None


def schedule(view: View, operator: Operator, keys: int, target: Target) -> Any:
    """Apply the template; ValueError where the operands do not fit a multiprocessor's shared memory."""
    sch = view.sch
    _, rows, columns, depth, wide = operator.sizes
    query, key, value, mask = _operands(view)
    count = planes(keys, depth, wide)
    size = count * (ROWS + 1) * 16
    if size > target.cache[0] - 1024:
        raise ValueError(f"{size} bytes of shared memory do not fit")
    seats = str(annotation(sch, view.ops["half_attention"], SEATS))
    first = [int(head) for head in str(annotation(sch, view.ops["half_attention"], FIRST)).split()]
    *lead, _, _ = seated(shape(query) or [], seats[0])
    lead[-1] = heads_of(str(operator), lead)
    masking, at = [0, 0, 0], None
    scale = float(str(annotation(sch, view.ops["logits"], SCALE)))
    if mask is not None:
        extents = shape(mask) or []
        steps = [0 if e == 1 else math.prod(extents[i + 1 :]) for i, e in enumerate(extents)]
        masking, at = [1, *steps[-2:]], [e != 1 for e in extents[:-2]]

    def operands(loops: Sequence[Any]) -> list[tuple[Any, Sequence[Any]]]:
        place = unflatten(loops[0], lead)
        masked = (query, []) if at is None else (mask, [p if has else 0 for p, has in zip(place, at, strict=True)])
        heads = [
            (buffer, seated([*place[:-1], place[-1] + head, 0, 0], seat))
            for buffer, seat, head in zip((query, key, value), seats, first, strict=False)
        ]
        return [*heads, masked]

    apart = [
        math.prod((shape(buffer) or [])[-2 if seat == "i" else -1 :])
        for buffer, seat in zip((query, key, value), seats, strict=False)
    ]
    numbers = keys, count, rows, columns, depth, wide, *apart, *masking
    name = f"OptkitAttention<{', '.join(map(str, numbers))}>::run"
    call = Call(name, ROWS, wide, count, SLICE, scope(size), operands, (tirx.FloatImm("float32", scale),))
    *outer, m, e = seated(sch.get_loops(view.last), seats[3])
    sch.reorder(*outer, m, e)
    image = sch.fuse(*outer) if len(outer) > 1 else outer[0]
    down, mi = sch.split(m, [None, ROWS])
    across, ci, v = sch.split(e, [None, wide // SHORT, SHORT])
    sch.reorder(image, across, down, mi, ci, v)
    sch.bind(image, "blockIdx.z")
    loops = (across, down, mi, ci, v)
    return compute_tiles(sch, view.ops["half_attention"], call, loops, lambda i: (i[-2], i[-3], i[-1]), (image,))


def planes(keys: int, depth: int, wide: int) -> int:
    """Of (ROWS + 1) x 4 words: for queries, and keys and values twice; later for the result."""
    key, value = (-(-d // 16) * 8 + 4 for d in (depth, wide))
    return max(wide // SHORT, -(-(ROWS * key + 2 * keys * (key + value)) // (4 * (ROWS + 1))))
