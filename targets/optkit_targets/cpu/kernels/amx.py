"""The instructions of AMX as functions that kernels import: products of tiles of sixteen rows of 64 bytes.

Eight tile registers: four of sums, the others of data and of weights. A step of a sum takes 64 bytes of each row of
the data, four bytes or two bfloat16 numbers of them together (Intel SDM, TDPBUSD and TDPBF16PS). The shapes of tiles
are set once a task (LDTILECFG takes as long as ten products) and given back at its end: with tiles in use the kernel
moves eight kilobytes more whenever it switches threads.

Linux lets a process use tiles that has asked for them (arch_prctl, ARCH_REQ_XCOMP_PERM); its first task does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from optkit.compiler.matrix_tiles import BYTES, SUMS

TILES = 8
"""Registers; the first `SUMS` of them hold sums."""
PRODUCTS = {"int8": "tdpbusd", "bfloat16": "tdpbf16ps"}
"""Instruction by arithmetic."""
PREFIX = "llvm.x86."
"""Of the names of instructions."""
INSTRUCTIONS = {
    "ldtilecfg": "ptr",
    "tilerelease": "",
    "tilezero": "i8",
    "tileloadd64": "i8, ptr, i64",
    "tilestored64": "i8, ptr, i64",
    "tdpbusd": "i8, i8, i8",
    "tdpbf16ps": "i8, i8, i8",
}
"""Types of their operands; i8 is the number of a tile."""
ASK = """
declare void @llvm.prefetch.p0(ptr, i32 immarg, i32 immarg, i32 immarg)
@optkit_amx_asked = linkonce_odr global i32 0
define linkonce_odr void @optkit_amx_ask() noinline {
  %r = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},~{rcx},~{r11},~{memory}"(i64 158, i64 4131, i64 18)
  store i32 1, ptr @optkit_amx_asked
  ret void
}
"""
"""A process asks for tiles once, ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA; loaders told already if it may not."""


@dataclass(frozen=True)
class Tiling:
    """How tiles of sums lie in memory, all in bytes.

    Attributes:
        compute: "int8" or "bfloat16".
        rows: of a tile of data and of sums.
        width: bytes of a row of data.
        data: from one row to the next, and where the tiles begin, one below the other.
        weights: from the terms of four bytes to the next ones, and where the tiles begin, side by side.
        ahead: from the weights of a tile's columns to those of the next ones.
        lines: of 64 bytes of the latter that a step asks for; 0 where it does not.
        sums: from one row to the next, and where the tiles begin, row by row of tiles.
    """

    compute: str
    rows: int
    width: int
    data: tuple[int, tuple[int, ...]]
    weights: tuple[int, tuple[int, ...]]
    sums: tuple[int, tuple[int, ...]]
    ahead: int = 0
    lines: int = 0

    @property
    def name(self) -> str:
        """The same for the same tiling alone."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def functions(tiling: Tiling) -> str:
    """`optkit_amx_begin`, `_zero`, `_step`, `_store` and `_end` of a tiling, in LLVM's language.

    begin() and end() are called around a task; step(data, weights) adds 64 bytes of each row, store(sums, its last
    element) writes. Where weights are asked for ahead, a step is told where those of these columns begin, and its
    number among all that read them.
    """
    (data_row, data), (weight_row, weights), (sum_row, sums) = tiling.data, tiling.weights, tiling.sums
    tall, wide = len(data), len(weights)
    # Of data and weights, the fewer tiles keep their registers for a step, and the others take turns in the rest.
    rest = SUMS + min(tall, wide)
    kept, turns = range(SUMS, rest), [rest + i % (TILES - rest) for i in range(max(tall, wide))]
    rows, columns = (kept, turns) if tall <= wide else (turns, kept)
    # Palette 1; bytes of a row of each tile; rows of each: those of weights have four bytes of a row of data.
    counts = [tiling.rows if i < SUMS or i in rows else tiling.width // 4 for i in range(TILES)]
    widths = [tiling.width if i in rows else BYTES for i in range(TILES)]
    raw = [1, *[0] * 15, *[byte for width in widths for byte in (width, 0)], *[0] * 16, *counts, *[0] * 8]
    shapes = f"@optkit_amx_tiles_{tiling.name}"
    constant = "".join(f"\\{byte:02x}" for byte in raw)
    text = "".join(f"declare void @{PREFIX}{name}({types})\n" for name, types in INSTRUCTIONS.items())
    text += f'{ASK}{shapes} = linkonce_odr constant [64 x i8] c"{constant}", align 64\n'
    begin = [
        "  %asked = load i32, ptr @optkit_amx_asked",
        "  %first = icmp eq i32 %asked, 0",
        "  br i1 %first, label %ask, label %go",
        "ask:",
        "  call void @optkit_amx_ask()",
        "  br label %go",
        "go:",
        f"  call void @{PREFIX}ldtilecfg(ptr {shapes})",
    ]
    zero = [f"  call void @{PREFIX}tilezero(i8 {i})" for i in range(tall * wide)]
    store = _each("store", "%c", range(tall * wide), sums, sum_row)
    loads = {
        "data": [_each("load", "%a", [tile], [data[m]], data_row, m) for m, tile in enumerate(rows)],
        "weights": [_each("load", "%b", [tile], [weights[n]], weight_row, n) for n, tile in enumerate(columns)],
    }
    first, second = ("data", "weights") if tall <= wide else ("weights", "data")
    step = _prefetch(tiling.ahead, tiling.lines)
    step += [line for lines in loads[first] for line in lines]
    for i, lines in enumerate(loads[second]):
        step += lines
        pairs = [(m, i) for m in range(tall)] if second == "weights" else [(i, n) for n in range(wide)]
        step += [
            f"  call void @{PREFIX}{PRODUCTS[tiling.compute]}(i8 {m * wide + n}, i8 {rows[m]}, i8 {columns[n]})"
            for m, n in pairs
        ]
    bodies = {
        "begin": ("", begin),
        "zero": ("", zero),
        "step": ("ptr %a, ptr %b, ptr %w, i32 %turn" if tiling.lines else "ptr %a, ptr %b", step),
        "store": ("ptr %c, ptr %last", store),
        "end": ("", [f"  call void @{PREFIX}tilerelease()"]),
    }
    for kind, (arguments, lines) in bodies.items():
        body = "\n".join(lines)
        text += (
            f"define linkonce_odr void @optkit_amx_{kind}_{tiling.name}({arguments}) alwaysinline {{\n"
            f"{body}\n  ret void\n}}\n"
        )
    return text


def _prefetch(ahead: int, lines: int) -> list[str]:
    """Ask for lines of the next columns' weights, to the second cache: what lies in the first one stays there."""
    if not lines:
        return []
    found = [
        f"  %part = mul i32 %turn, {lines * BYTES}",
        f"  %from = add i32 %part, {ahead}",
        "  %next = getelementptr i8, ptr %w, i32 %from",
    ]
    for i in range(lines):
        found += [
            f"  %next{i} = getelementptr i8, ptr %next, i64 {i * BYTES}",
            f"  call void @llvm.prefetch.p0(ptr %next{i}, i32 0, i32 2, i32 1)",
        ]
    return found


def _each(
    kind: str, pointer: str, tiles: Sequence[int], offsets: Sequence[int], row: int, number: int = 0
) -> list[str]:
    """Loads or stores of tiles at offsets from a pointer."""
    instruction = {"load": "tileloadd64", "store": "tilestored64"}[kind]
    lines = []
    for i, (tile, offset) in enumerate(zip(tiles, offsets, strict=True), number):
        lines += [
            f"  {pointer}{i} = getelementptr i8, ptr {pointer}, i64 {offset}",
            f"  call void @{PREFIX}{instruction}(i8 {tile}, ptr {pointer}{i}, i64 {row})",
        ]
    return lines
