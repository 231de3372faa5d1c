"""Attention on tensor cores: one kernel, its scores never in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import tirx

from optkit.compiler.operator import ATTENTION, OPERATOR, Operator
from optkit.compiler.operators.common import static, unflatten
from optkit.compiler.operators.half_attention import FIRST, SCALE, SEATS, heads_of, seated
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, annotation, inline_rest, look
from optkit_targets.cuda.kernels.device_code import SHORT, Call, Sums, use_device_code
from optkit_targets.cuda.kernels.tensor import from_outside
from optkit_targets.cuda.kernels.tiles import SLICE, scope

ROWS = 64
"""Queries of a thread block."""
_KINDS = {"float16": "OptkitHalves", "bfloat16": "OptkitBfloats"}
_MARKS = {"scores", "logits", "weighted", "half_attention", "crop"}


class TensorAttentionRule:
    """Takes `optkit.compiler.operators.half_attention`, and what is element by element behind it."""

    name = "cuda.tensor_attention"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `keys` keys at a time."""
        view = look(func)
        if set(view.ops) != _MARKS or not target.has("half_attention"):
            return None
        operator = Operator.parse(str(annotation(view.sch, view.ops["half_attention"], OPERATOR)))
        if operator.kind != ATTENTION:
            return None
        operands = _operands(view)
        if operator.compute not in _KINDS or any(str(buffer.dtype) != operator.compute for buffer in operands[:3]):
            return None
        if not all(from_outside(view, buffer) for buffer in operands if buffer is not None):
            return None

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), operator, chosen["keys"], target)

        *_, depth, wide = operator.sizes
        params = {"keys": 64 if max(depth, wide) <= 64 else 32}
        space = {"keys": (32, 64, 128)}
        macs = operator.macs()
        return [Choice(self.name, "flash_attention", 1, params, space, apply, macs, operator.compute)]


def _operands(view: View) -> tuple[Any, Any, Any, Any]:
    """Query, key, value and mask, which may be None."""
    scores, logits, weighted = (
        [read.source for read in view.sch.get(view.ops[mark]).reads] for mark in ("scores", "logits", "weighted")
    )
    # Query and key may be parts of one tensor, which a block then reads once.
    return scores[0], scores[-1], weighted[1], logits[1] if len(logits) > 1 else None


def _stages(view: View, block: Any) -> list[Any]:
    """The block, and those that make what it reads; what is fused behind may read what others make before it."""
    read = [region.source for region in view.sch.get(block).reads]
    before = [
        other
        for other in view.blocks
        if any(region.source.same_as(buffer) for region in view.sch.get(other).writes for buffer in read)
    ]
    return [block, *(stage for other in before for stage in _stages(view, other))]


def schedule(view: View, operator: Operator, keys: int, target: Target) -> Any:
    """Apply the template; ValueError where the operands do not fit a multiprocessor's shared memory."""
    sch = view.sch
    *_, depth, wide = operator.sizes
    query, key, value, mask = _operands(view)
    count = planes(keys, depth, wide)
    size = count * (ROWS + 1) * 16
    if size > target.cache[0] - 1024:
        raise ValueError(f"{size} bytes of shared memory do not fit")
    seats = str(annotation(sch, view.ops["half_attention"], SEATS))
    first = [int(head) for head in str(annotation(sch, view.ops["half_attention"], FIRST)).split()]
    *lead, rows, _ = seated(static(query.shape), seats[0])
    columns = seated(static(value.shape), seats[2])[-2]
    lead[-1] = heads_of(str(operator), lead)
    masking, at = [0, 0, 0], None
    scale = float(str(annotation(sch, view.ops["logits"], SCALE)))
    if mask is not None:
        extents = static(mask.shape)
        one = [isinstance(e, int) and e == 1 for e in extents]
        last = extents[-1] if isinstance(extents[-1], int) else -1  # as many as there are columns
        masking = [1, 0 if one[-2] else last, 0 if one[-1] else 1]
        at = [not alone for alone in one[:-2]]

    def operands(loops: Sequence[Any]) -> list[tuple[Any, Sequence[Any]]]:
        place = unflatten(loops[0], lead)
        masked = (query, []) if at is None else (mask, [p if has else 0 for p, has in zip(place, at, strict=True)])
        heads = [
            (buffer, seated([*place[:-1], place[-1] + head, 0, 0], seat))
            for buffer, seat, head in zip((query, key, value), seats, first, strict=False)
        ]
        return [*heads, masked]

    apart = [
        math.prod(static(buffer.shape)[-2 if seat == "i" else -1 :])
        for buffer, seat in zip((query, key, value), seats, strict=False)
    ]
    known = [isinstance(n, int) for n in (rows, columns)]
    given = [n if known[0] and known[1] else 0 for n in (rows, columns)]
    numbers = _KINDS[operator.compute], keys, count, *given, depth, wide, *apart, *masking
    name = f"OptkitAttention<{', '.join(map(str, numbers))}>::run"
    last_numbers = () if all(known) else (rows, columns)
    factor = tirx.FloatImm("float32", scale)
    call = Call(name, ROWS, wide, count, SLICE, scope(size), operands, lambda _: (factor,), last_numbers)
    inline_rest(view, _stages(view, view.ops["half_attention"]))
    *outer, m, e = seated(sch.get_loops(view.last), seats[3])
    sch.reorder(*outer, m, e)
    down, mi = sch.split(m, [None, ROWS])
    across, ci, v = sch.split(e, [None, wide // SHORT, SHORT])
    sch.reorder(*outer, across, down, mi, ci, v)
    # All on the one axis of a grid that has room for any batch, tiles that read the same keys side by side; of an open
    # number of rows apart, since TVM reasons about no quotient by it.
    if known[0]:
        tile = inner = sch.fuse(*outer, across, down)
    else:
        tile, inner = sch.fuse(*outer, across), down
        sch.bind(down, "blockIdx.y")
    sch.bind(tile, "blockIdx.x")
    block = view.ops["half_attention"]
    sch.compute_at(block, inner, preserve_unit_loops=True)
    sch.set_scope(block, 0, "shared")
    _, thread = sch.split(sch.fuse(mi, ci), [None, SLICE])
    sch.bind(thread, "threadIdx.x")
    sch.vectorize(v)
    number, turn = sch.get(tile).loop_var, sch.get(inner).loop_var
    around = [sch.get(loop).loop_var for loop in sch.get_loops(block)]
    place = next(i for i, variable in enumerate(around) if variable.same_as(turn))
    tiles = -(-rows // ROWS) if known[0] else 1
    column, row = tirx.const(0, number.ty.dtype), number % tiles if known[0] else turn
    sums = Sums(call, around[place + 1], column, row, lambda i: (i[-2], i[-3], i[-1]), (number // tiles,))
    return use_device_code(sch, sums)


def planes(keys: int, depth: int, wide: int) -> int:
    """Of (ROWS + 1) x 4 words: for queries, and keys and values twice; later for the result."""
    key, value = (-(-d // 16) * 8 + 4 for d in (depth, wide))
    return max(wide // SHORT, -(-(ROWS * key + 2 * keys * (key + value)) // (4 * (ROWS + 1))))
