"""`python -m benchmarks.cuda_tiles`: tiles of the tensor-core kernels, timed by themselves beside the model's cycles.

    python -m benchmarks.cuda_tiles build PROGRAM ARTIFACT...   # anywhere with nvcc: the operators of artifacts
    python -m benchmarks.cuda_tiles run PROGRAM [--output JSON] # on a GPU, which needs a second for some fifty kernels

What `Tile.cycles` is fitted to. A kernel is the device code and a plain epilogue; its results are compared with those
of the operator's first one. Of every operator there are the model's best tiles of each kind.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from optkit_targets.cuda import nvcc
from optkit_targets.cuda.kernels.tensor import WORD, Tiled, depth_of, work_of
from optkit_targets.cuda.kernels.tensor_conv import conv_numbers
from optkit_targets.cuda.kernels.tiles import Tile, ranked

from optkit.compiler.operator import CONV, MATMUL, Operator
from optkit.files import write_whole
from optkit.measure.environment import environment
from optkit.registry import find_target

_KINDS: tuple[tuple[Callable[[dict[str, int]], bool], int], ...] = (
    (lambda p: not p["wide"] and p["parts"] == 1, 1),
    (lambda p: not p["wide"] and p["parts"] > 1, 2),
    *(
        (lambda p, strips=strips, parts=parts: plain(p, strips) and p["parts"] == parts, 1)
        for strips in (False, True)
        for parts in (1, 2, 4, 8)
    ),
    (lambda p: plain(p, False), 2),
    (lambda p: plain(p, True), 3),
    *((lambda p, cast=cast: p["cast"] == cast, 2) for cast in (1, 2, 4)),
)
"""Kinds of tiles, and how many of each are timed."""


def plain(params: dict[str, int], strips: bool) -> bool:
    """Whether warpgroups sum such a tile, of strips or of a list, whose weights threads copy."""
    return bool(params["wide"] and not params["cast"] and bool(params["strip"]) == strips)


def chosen(operator: Operator, arch: str) -> Iterator[Tile]:
    """Tiles of every kind, the model's best of each."""
    target = find_target(f"cuda:{arch}")
    work = work_of(operator, target)
    found: list[dict[str, int]] = []
    for fits, count in _KINDS:
        new = [params for params in ranked(work, target) if fits(params) and params not in found]
        found += new[:count]
    return (Tile.of(params, work, target) for params in found)


def _numbers(operator: Operator, fours: int) -> tuple[object, ...]:
    """What device code is made for, behind the tile's numbers."""
    s, terms = operator.named(), WORD[operator.compute]
    if operator.kind == MATMUL:
        return 4, fours, s["k"] // (4 * terms), s["n"] // 4, s["m"]
    return conv_numbers(operator, fours, s["n"])


def _kernel(operator: Operator, tile: Tile, fours: int, number: int) -> tuple[str, str]:
    """A kernel, and its line of the table."""
    s = operator.named()
    function = "OptkitConv" if operator.kind == CONV else "OptkitMatmul"
    call = Tiled(operator, function, _numbers(operator, fours), clusters=True).call(tile)
    rows, columns = _extents(operator)
    if tile.cut:
        width, pitch, lines, count = tile.cut.width, tile.cut.pitch, tile.cut.lines, tile.cut.count
        height, across = operator.output()
        positions = tile.cut.positions(s["n"])
        where = f"""
    const int line = p / {pitch}, strip = line / {lines}, y = line % {lines};
    const int inner = p % {pitch}, x = inner + strip % {count} * {width};
    const bool inside = inner < {width} && x < {across} && y < {height} && strip < {s["n"] * count};
    const long place = (strip / {count}) * {height * across}L + y * {across} + x;"""
    else:
        positions = rows
        where = f"const bool inside = p < {rows}; const long place = p;"
    share, part = tile.columns // 4 // tile.parts, "blockIdx.z" if tile.parts > 1 else "0"
    word = "int" if operator.compute == "int8" else "float"
    crowd = ", 1" if tile.threads > 256 else ""
    source = f"""
extern "C" __global__ void __launch_bounds__({tile.threads}{crowd})
kernel{number}(float* out, const void* a, const void* b) {{
  extern __shared__ __align__(128) char memory[];
  {word}* tile = reinterpret_cast<{word}*>(memory);
  optkit_follow();
  {call}(tile, a, b, {part}, blockIdx.y * {tile.columns}, blockIdx.x * {tile.rows});
  for (int i = threadIdx.x; i < {share * tile.rows}; i += {tile.threads}) {{
    const int row = i % {tile.rows}, four = i / {tile.rows} + {share} * {part}, p = blockIdx.x * {tile.rows} + row;
    const int column = blockIdx.y * {tile.columns} + four * 4;
    {where}
    const {word}* from = tile + (four * {tile.rows + 1} + row) * 4;
    if (inside && column < {columns}) for (int v = 0; v < 4; ++v) out[(column + v) * {rows}L + place] = from[v];
  }}
}}
"""
    down = -(-positions // tile.rows)
    down += -down % max(1, tile.cast)
    sizes = (down, -(-columns // tile.columns), tile.parts, max(1, tile.cast), tile.threads, tile.shared)
    params = json.dumps(tile.params).replace('"', '\\"')
    return source, f'{{"{params}", (const void*)kernel{number}, {", ".join(map(str, sizes))}}}'


def _extents(operator: Operator) -> tuple[int, int]:
    """Rows and columns of the result."""
    s = operator.named()
    if operator.kind == MATMUL:
        return s["m"], s["n"]
    return s["n"] * math.prod(operator.output()), s["o"]


def source_of(operators: Sequence[Operator], arch: str) -> str:
    """The program that times tiles of these operators."""
    kernels: list[str] = []
    table: list[str] = []
    target = find_target(f"cuda:{arch}")
    for operator in operators:
        s, size = operator.named(), 4 // WORD[operator.compute]
        fours = work_of(operator, target).fours
        lines = []
        for tile in chosen(operator, arch):
            kernel, line = _kernel(operator, tile, fours, len(kernels))
            kernels.append(kernel)
            lines.append(line)
        rows, columns = _extents(operator)
        left = s["m"] * s["k"] if operator.kind == MATMUL else s["n"] * -(-s["c"] // s["b"]) * s["b"] * s["h"] * s["w"]
        depth = s["k"] if operator.kind == MATMUL else depth_of(operator) * s["b"] * s["kh"] * s["kw"]
        table.append(
            f'{{"{operator}", {left * size}, {-(-columns // 16) * 16 * depth * size}, {rows * columns}L, '
            f"{{{', '.join(lines)}}}}}"
        )
    host = (Path(__file__).parent / "cuda_tiles.cuh").read_text()
    structs = """
struct Tile { const char* params; const void* kernel; int down, across, parts, cast, threads, shared; };
struct Operator { const char* text; long left, right, results; std::vector<Tile> tiles; };
"""
    listed = f"static std::vector<Operator> operators() {{ return {{{', '.join(table)}}}; }}\n"
    return f"#include <vector>\n{nvcc.with_device_code(''.join(kernels))}{structs}{listed}{host}"


def operators_of(artifacts: Sequence[Path]) -> list[Operator]:
    """Convolutions and products with weights that tensor cores compute in these artifacts, each once."""
    texts: dict[str, None] = {}
    for path in artifacts:
        with zipfile.ZipFile(path) as archive:
            kernels = json.loads(archive.read("kernels.json"))
        texts |= {k["operator"]: None for k in kernels if k["rule"] in ("cuda.tensor_conv", "cuda.tensor_matmul")}
    return [Operator.parse(text) for text in texts]


def build(program: Path, artifacts: Sequence[Path], arch: str) -> None:
    """Write and compile the program."""
    exact = nvcc.WARPGROUPS.get(arch, arch).removeprefix("sm_")
    with tempfile.TemporaryDirectory(prefix="optkit-tiles-") as folder:
        source = Path(folder) / "tiles.cu"
        source.write_text(source_of(operators_of(artifacts), arch))
        generate = ["-gencode", f"arch=compute_{exact},code=sm_{exact}"]
        subprocess.run([nvcc.find_nvcc(), *nvcc.FLAGS, *generate, "-o", str(program), str(source)], check=True)


def run(program: Path, arch: str) -> list[dict[str, object]]:
    """What the program says, and the model's cycles beside it."""
    target = find_target(f"cuda:{arch}")
    done = subprocess.run([str(program.resolve())], capture_output=True, text=True, check=False)
    if done.returncode:
        print(
            f"after {len(done.stdout.splitlines())} lines: {done.stdout[-200:]} {done.stderr[-200:]}", file=sys.stderr
        )
    rows: list[dict[str, object]] = []
    for line in done.stdout.splitlines():
        if line.count("|") != 4:
            continue
        text, params, alone, early, error = line.split("|")
        work = work_of(Operator.parse(text), target)
        cycles = Tile.of(json.loads(params), work, target).cycles(work, target)
        times = {"microseconds": float(alone), "microseconds_early": float(early), "error": float(error)}
        rows.append({"operator": text, "params": json.loads(params), "cycles": cycles, **times})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.cuda_tiles", description=__doc__)
    parser.add_argument("verb", choices=["build", "run"])
    parser.add_argument("program", type=Path)
    parser.add_argument("artifacts", nargs="*", type=Path)
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/cuda_tiles.json"))
    options = parser.parse_args()
    if options.verb == "build":
        build(options.program, options.artifacts, options.arch)
        return 0
    rows = run(options.program, options.arch)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.output, json.dumps({"environment": environment(), "tiles": rows}, indent=1).encode() + b"\n")
    for row in rows:
        print(f"{row['microseconds']:8.2f} us {row['cycles']:9.0f} cycles, error {row['error']:.1e}: {row['operator']}")
        print(f"         {row['params']}")
    return int(not rows)


if __name__ == "__main__":
    sys.exit(main())
