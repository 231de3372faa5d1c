"""Which plans an operator has, and what the analytical model thinks of each."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

from optkit.compiler.matrix_tiles import (
    BYTES,
    COLUMNS,
    Depth,
    choose_matrix_tile,
    flat_positions,
    matrix_tiles,
    tile_cycles,
)
from optkit.compiler.operator import BATCH_MATMUL, CONV, DEPTHWISE, MATMUL, Operator, Plan
from optkit.compiler.tiling import (
    TALL,
    WINOGRAD_TILES,
    WINOGRAD_USED,
    Tile,
    choose_tile,
    choose_winograd,
    kept,
    long_rows,
    tile_step,
    winograd_cycles,
    winograd_weights,
)
from optkit.kernel import TunableRule
from optkit.target import Target

BY_ROWS = "by_rows"
"""Parameter of a Winograd plan: a row of tiles at a time."""
DIRECT, POINTWISE, PACKED, ROWS = "direct", "pointwise", "packed", "depthwise"
TILES = "tiles"
"""The template of products in tile registers."""
_TILES = {"int8": "int8_tiles", "bfloat16": "bf16_tiles"}
"""Capability of a target that has them, by arithmetic."""
WINOGRAD = {2: "winograd2x3", 4: "winograd4x3"}
_SIDES = {name: side for side, name in WINOGRAD.items()}
_SPARE, _SPILLS = 2, 1.3
"""Registers that any tile leaves to the operands; and what a tile costs that LLVM may not keep in registers."""


class Records(Protocol):
    """Where plans come from that were measured."""

    def best(self, operator: Operator, target: Target, templates: Collection[str]) -> Plan | None:
        """The fastest plan of these templates that was measured on such a machine, or None."""
        ...


def templates(operator: Operator, side: int = 0) -> tuple[str, ...]:
    """Templates that compute an operator, the direct one first.

    Args:
        side: largest side of Winograd's tiles that is allowed, 0, 2 or 4.
    """
    if operator.kind == CONV:
        direct = POINTWISE if operator.pointwise() else DIRECT
        return (direct, *(name for m, name in WINOGRAD.items() if m <= side))
    return (ROWS,) if operator.kind == DEPTHWISE else (PACKED,)


def in_tiles(compute: str, target: Target) -> bool:
    """Whether a target has tile registers for products in an arithmetic."""
    return target.has(_TILES.get(compute, ""))


def winograd_side(plan: Plan) -> int:
    """Side of the tiles of a Winograd plan, 0 for any other."""
    return _SIDES.get(plan.template, 0)


def tiled(operator: Operator, template: str, lanes: int) -> tuple[int, int]:
    """The extent that a template's register tile divides, and the vectors of output channels."""
    s = operator.named()
    if operator.kind in (MATMUL, BATCH_MATMUL):
        return s["m"], math.ceil(s["n"] / lanes)
    height, width = operator.output()
    if operator.kind == DEPTHWISE:
        return width, 1
    blocks = math.ceil(s["o"] / lanes)
    if template in _SIDES:
        m = _SIDES[template]
        return s["n"] * math.ceil(height / m) * math.ceil(width / m), blocks
    if template == TILES:
        return _flat(operator) or width, blocks
    return (height * width if template == POINTWISE else width), blocks


def _flat(operator: Operator) -> int:
    """Positions of a convolution that tile registers walk as one axis; 0 where they go line by line."""
    s = operator.named()
    if s["b"] < COLUMNS:
        return 0  # pixels
    window = (s["kh"], s["kw"]), (s["sh"], s["sw"]), (s["dh"], s["dw"])
    return flat_positions(*window, operator.output())


def row_of_tiles(operator: Operator, template: str) -> int:
    """Tiles of a row of an image where Winograd's algorithm may go row by row, else 0."""
    m, s = _SIDES.get(template, 0), operator.named()
    if not m or operator.compute != "float32" or not long_rows(m, s["n"], operator.output()):
        return 0
    read = (m + 2) ** 2 * s["c"] * s["o"] * 4
    return math.ceil(operator.output()[1] / m) if read <= WINOGRAD_USED else 0


def row_tile(operator: Operator, template: str, target: Target) -> Tile:
    """The analytical model's register tile for Winograd's algorithm row by row, of rows of any length."""
    row = math.ceil(operator.output()[1] / _SIDES[template])
    tile = choose_tile(row, math.ceil(operator.named()["o"] / target.lanes), target.registers)
    return replace(tile, operator=str(operator), more=((BY_ROWS, 1),))


def make_tile(operator: Operator, plan: Plan, lanes: int) -> Tile:
    """The register tile of a plan."""
    extent, _ = tiled(operator, plan.template, lanes)
    rows = plan.params["rows"]
    more = {name: value for name, value in plan.params.items() if name not in ("rows", "blocks") and value}
    return Tile(rows, plan.params.get("blocks", 1), math.ceil(extent / rows) * rows, str(operator), tuple(more.items()))


def default_plan(operator: Operator, target: Target, allowed: Collection[str]) -> Plan:
    """The analytical model's choice."""
    lanes, s = target.lanes, operator.named()
    template = next(name for name in allowed if name not in _SIDES)
    if template == TILES:
        extent, blocks = tiled(operator, template, lanes)
        rows, tall, wide = choose_matrix_tile(extent, blocks, _read(operator, target))
        order = int(_outside(operator, target))
        return Plan(template, {"rows": rows * tall, TALL: tall, "blocks": wide, "order": order})
    sides = [_SIDES[name] for name in allowed if name in _SIDES]
    if sides:
        channels = (s["c"], s["o"])
        terms = instruction_terms(operator.compute, target)
        given = operator.macs(), s["n"], operator.output(), channels, lanes, max(sides), terms
        template = WINOGRAD.get(choose_winograd(*given, by_rows=operator.compute == "float32"), template)
    extent, blocks = tiled(operator, template, lanes)
    row = row_of_tiles(operator, template)
    tile = choose_tile(row or extent, blocks, target.registers)
    if operator.kind == DEPTHWISE:
        return Plan(template, {"rows": tile.rows, "band": _band(operator, target)})
    rest = {BY_ROWS: 1} if row else {} if template in _SIDES else {"order": 0}
    return Plan(template, {"rows": tile.rows, "blocks": tile.blocks} | rest)


def _read(operator: Operator, target: Target) -> Depth:
    """What a tile of sums reads."""
    s = operator.named()
    taps = s["kh"] * s["kw"] if operator.kind == CONV else 1
    return Depth(_depth(operator) * (1 if operator.compute == "int8" else 2), taps, target.cache[0])


def _outside(operator: Operator, target: Target) -> bool:
    """Whether all weights are walked for each tile of rows: they stay in the L2 cache, and the data would not."""
    s, size = operator.named(), 1 if operator.compute == "int8" else 2
    weights = _depth(operator) * s["o" if operator.kind == CONV else "n"] * size
    data = (s["n"] * s["h"] * s["w"] * s["c"] if operator.kind == CONV else s["m"] * s["k"]) * size
    return weights < data and data > target.cache[1] // 2


def band(height: int) -> int:
    """Rows of a band of a depthwise convolution: enough that re-reading the overlap is cheap, few enough for L1.

    >>> band(56)
    14
    """
    return max(d for d in range(1, min(height, 16) + 1) if height % d == 0)


def _band(operator: Operator, target: Target) -> int:
    """The largest band whose padded rows, float32, fit two thirds of L1, where few of them are in two bands.

    Measured for 3x3 at 112x112: a stride of two takes 86 us with one row and 112 with fourteen, a stride of one 65 with
    two and 55 with twenty-eight; for int8, which makes words of the rows, long bands are always best.
    """
    s, height = operator.named(), operator.output()[0]
    row = (s["w"] + s["pl"] + s["pr"]) * target.lanes * 4
    for size in sorted((d for d in range(1, height + 1) if height % d == 0), reverse=True):
        rows = (size - 1) * s["sh"] + (s["kh"] - 1) * s["dh"] + 1
        if rows * row <= target.cache[0] * 2 // 3:
            again = rows > 1.5 * size * s["sh"]
            return band(height) if again or operator.compute == "int8" else min(size, band(height))
    return band(height)


def predicted_cycles(operator: Operator, plan: Plan, target: Target) -> float:
    """Cycles of a plan on one core, by the model behind the default: products alone, data in L1."""
    s, lanes = operator.named(), target.lanes
    extent, blocks = tiled(operator, plan.template, lanes)
    if plan.template == TILES:
        return _matrix_cycles(operator, plan, target)
    side = winograd_side(plan)
    rows, columns = plan.params["rows"], plan.params.get("blocks", 1)
    spills = 1.0 if rows * columns <= kept(target.registers) else _SPILLS
    by_rows, row = bool(plan.params.get(BY_ROWS)), row_of_tiles(operator, plan.template)
    steps = extent // row * math.ceil(row / rows) if by_rows and row else math.ceil(extent / rows)
    tiles = steps * (blocks // columns) * spills
    if side:
        # F(4, 3) of bfloat16 is float32's.
        terms = instruction_terms(operator.compute, target) if side == 2 else 1
        places, depth = (side + 2) ** 2, math.ceil(s["c"] / lanes) * lanes // terms
        ideal = places * extent * blocks * depth / 2
        whole = winograd_cycles(side, s["n"], operator.output(), (s["c"], s["o"]), lanes, terms, by_rows)
        return whole - ideal + places * tiles * depth * tile_step(rows, columns)
    terms = 1 if operator.kind == DEPTHWISE else instruction_terms(operator.compute, target)
    depth = math.ceil(_depth(operator) / terms)
    return tiles * _repeats(operator, plan.template, lanes) * depth * tile_step(rows, columns)


def _matrix_cycles(operator: Operator, plan: Plan, target: Target) -> float:
    """Of a plan for tile registers: steps of its sums."""
    extent, blocks = tiled(operator, TILES, target.lanes)
    rows, tall, wide = (plan.params[name] for name in ("rows", TALL, "blocks"))
    depth = _read(operator, target)
    walked = math.ceil(extent / rows) * (blocks // wide) * _repeats(operator, TILES, target.lanes)
    return walked * math.ceil(depth.row / BYTES) * tile_cycles(rows // tall, tall, wide, depth)


def _depth(operator: Operator) -> int:
    """Terms of one sum."""
    s = operator.named()
    if operator.kind in (MATMUL, BATCH_MATMUL):
        return s["k"]
    return s["kh"] * s["kw"] * (1 if operator.kind == DEPTHWISE else s["c"] // s["groups"])


def instruction_terms(compute: str, target: Target) -> int:
    """Terms that one instruction adds to a sum."""
    if compute == "int8":
        return 4 if target.has("int8_dot") else 2
    # Not "bf16_vector": what stands in for a target where it cannot run has its plans.
    return 2 if compute == "bfloat16" and target.has("bf16_pairs") else 1


def predicted_seconds(operator: Operator, plan: Plan, target: Target, peak: float) -> float:
    """Seconds of a plan on one core that does `peak` operations a second in the operator's arithmetic."""
    if plan.template == TILES:  # a product of whole tiles takes sixteen cycles
        per_cycle = 2 * COLUMNS * BYTES // (1 if operator.compute == "int8" else 2)
        return predicted_cycles(operator, plan, target) * per_cycle / peak
    # A modelled cycle has two vectors of multiply-adds.
    per_cycle = 4 * target.lanes * (1 if operator.kind == DEPTHWISE else instruction_terms(operator.compute, target))
    return predicted_cycles(operator, plan, target) * per_cycle / peak


def _repeats(operator: Operator, template: str, lanes: int) -> int:
    """How often the tiled extent is walked."""
    s = operator.named()
    if operator.kind == MATMUL:
        return 1
    if operator.kind == BATCH_MATMUL:
        return s["batch"]
    height = 1 if template == POINTWISE or (template == TILES and _flat(operator)) else operator.output()[0]
    return s["n"] * height * (math.ceil(s["c"] / lanes) if operator.kind == DEPTHWISE else 1)


def candidates(operator: Operator, target: Target, allowed: Collection[str]) -> list[Plan]:
    """Every plan worth measuring: the default, then the others by predicted cycles.

    Tiles that waste more than half of the best one's cycles are left out, and forms of Winograd whose weights or
    tiles are larger than the default's limits.
    """
    for rule in target.rules():
        if isinstance(rule, TunableRule) and set(allowed) & set(rule.templates):
            return [plan for plan in rule.plans(operator, target) if plan.template in allowed]
    first = default_plan(operator, target, allowed)
    found: list[tuple[float, int, Plan]] = []
    for template in allowed:
        plans = [p for p in _plans(operator, template, target) if p != first]
        scored = [(predicted_cycles(operator, plan, target), i, plan) for i, plan in enumerate(plans)]
        best = min((cycles for cycles, _, _ in scored), default=0.0)
        found += [entry for entry in scored if entry[0] <= 1.5 * best and math.isfinite(entry[0])]
    return [first, *(plan for _, _, plan in sorted(found, key=lambda entry: (entry[0], entry[1])))]


def _plans(operator: Operator, template: str, target: Target) -> list[Plan]:
    extent, blocks = tiled(operator, template, target.lanes)
    if template == TILES:
        return [
            Plan(template, {"rows": rows * tall, TALL: tall, "blocks": wide, "order": order})
            for rows, tall, wide in matrix_tiles(extent, blocks)
            for order in (0, 1)
        ]
    limit = target.registers - _SPARE
    if operator.kind == DEPTHWISE:
        height = operator.output()[0]
        bands = [d for d in range(1, height + 1) if height % d == 0]
        sizes = [r for r in range(1, min(extent, limit) + 1) if _whole(extent, r)]
        return [Plan(template, {"rows": rows, "band": size}) for rows in sizes for size in bands]
    tiles = _tiles(extent, blocks, limit)
    if template in _SIDES:
        s, m = operator.named(), _SIDES[template]
        weights = (m + 2) ** 2 * math.ceil(s["c"] / target.lanes) * blocks * target.lanes**2 * 4
        tile_bytes = (m + 2) ** 2 * extent * (math.ceil(s["c"] / target.lanes) + blocks) * target.lanes * 4
        if m == 4 and weights > winograd_weights(s["n"], operator.output()):
            return []
        row = row_of_tiles(operator, template)
        by_rows = [Plan(template, {**tile, BY_ROWS: 1}) for tile in (_tiles(row, blocks, limit) if row else [])]
        return by_rows + [Plan(template, tile) for tile in tiles if tile_bytes <= WINOGRAD_TILES]
    orders = [(tile, order) for tile in tiles for order in ((0, 1) if _ordered(operator, tile, target.lanes) else (0,))]
    return [Plan(template, {**tile, "order": order}) for tile, order in orders]


def _tiles(extent: int, blocks: int, limit: int) -> list[dict[str, int]]:
    return [
        {"rows": rows, "blocks": columns}
        for columns in range(1, min(blocks, 8) + 1)
        if blocks % columns == 0
        for rows in range(1, min(extent, limit // columns) + 1)
        if _whole(extent, rows)
    ]


def _ordered(operator: Operator, tile: dict[str, int], lanes: int) -> bool:
    """Whether it makes a difference which loop over tiles is outside."""
    s = operator.named()
    if operator.kind == CONV:
        return True
    return s["m"] > tile["rows"] and s["n"] > lanes * tile["blocks"] and s["n"] % (lanes * tile["blocks"]) == 0


def _whole(extent: int, rows: int) -> bool:
    """Whether no smaller tile walks the extent in as many steps."""
    steps = math.ceil(extent / rows)
    return rows == 1 or math.ceil(extent / (rows - 1)) > steps
