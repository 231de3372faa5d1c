"""GPU kernels on a CPU: threads become loops, and device functions the arithmetic they stand for.

Of tensor cores that is the sum over all channels and taps; `test_tensor_core.py` runs their device code itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import tvm
import tvm_ffi
from optkit_targets.cuda.kernels.device_code import BLOCK
from optkit_targets.cuda.kernels.intrinsics import DP4A, FMA
from tvm import relax, s_tir, tirx

from optkit.compiler.build import generate, prepare, tvm_target
from optkit.compiler.operators.common import static, unflatten
from optkit.compiler.schedule import Kernel, schedule_module
from optkit.kernel import Choice, KernelRule
from optkit.registry import find_target
from optkit.target import Target


def serial(func: Any) -> Any:
    """A scheduled GPU function as one that a CPU runs, thread after thread.

    Right for schedules whose threads meet only between the stages of a block, which block-level TIR says by
    giving every stage loops of its own.
    """

    def loop(node: Any) -> Any:
        if node.kind != tirx.ForKind.THREAD_BINDING:
            return node
        block = node.body.block if isinstance(node.body, s_tir.SBlockRealize) else None
        if block is not None and block.name_hint == BLOCK:
            return _tensor_core(block)
        if node.thread_binding.thread_tag.startswith("cluster"):
            return node.body
        return tirx.For(node.loop_var, node.min, node.extent, tirx.ForKind.SERIAL, node.body)

    def call(node: Any) -> Any:
        if not isinstance(node.op, tvm.ir.Op) or node.op.name != "tirx.call_pure_extern":
            return node
        name = node.args[0].value
        if name == DP4A:
            return _dp4a(*node.args[1:])
        return node.args[1] * node.args[2] + node.args[3] if name == FMA else node

    return func.with_body(tvm_ffi.structural_map(func.body, [(tirx.For, loop), (tvm.ir.Call, call)]))


def _tensor_core(block: Any) -> Any:
    """What device code leaves in a tile, once for all threads."""
    name, *arguments = block.body.value.args
    words = re.findall(r"-?\w+", name.value)[:-1]
    clusters = words[0] == "OptkitCluster"
    function, *words = words[clusters:]
    addresses = [argument for argument in arguments if isinstance(argument, tvm.ir.Call)]
    tensors = [address.args[0] for address in addresses]
    numbers = [int(word.rstrip("u")) for word in words if not word.startswith("Optkit")]
    buffers, scalars = [], [argument for argument in arguments if not isinstance(argument, tvm.ir.Call)]
    if function == "OptkitAttention":
        body = _attention(*tensors, numbers, *scalars, buffers)
    else:
        if clusters:  # all of the sums in every block, as they are once its neighbours have been asked
            scalars[0] = tirx.const(numbers[5] - 1, "int32")
        if function.startswith("OptkitBulk"):
            numbers.pop(7)  # blocks of a cluster
        more = [numbers.pop(7) for _ in range(3)] if function in ("OptkitStripConv", "OptkitBulkConv") else []
        simulated = _SIMULATED[re.sub("Wide|Strip|Bulk", "", function)]
        body = simulated(*tensors[:3], numbers, *scalars, *more)
    whole = s_tir.SBlock([], block.reads, block.writes, block.name_hint, body, None, buffers)
    return s_tir.SBlockRealize([], tirx.const(True, "bool"), whole)


def _nest(loops: Mapping[Any, int], body: Any) -> Any:
    """Serial loops around a statement, the first outermost."""
    for variable, extent in reversed(loops.items()):
        body = tirx.For(variable, 0, extent, tirx.ForKind.SERIAL, body)
    return body


def _sums(tile: Any, numbers: list[int], inside: Any, terms: Mapping[Any, int], value: Any, i: list[Any]) -> Any:
    """Zero in the whole tile, and sums where `inside` says that the result is; all in the last part."""
    add = tirx.BufferStore(tile.source, tirx.BufferLoad(tile.source, i) + value, i)
    zero = tirx.BufferStore(tile.source, tirx.const(0, str(tile.source.dtype)), i)
    rows, columns = numbers[:2]
    over = dict(zip(i, (columns // 4, rows, 4), strict=True))
    return _nest(over, tirx.SeqStmt([zero, tirx.IfThenElse(inside, _nest(terms, add), None)]))


def _variables(letters: str) -> list[Any]:
    return [tirx.Var(letter, "int32") for letter in letters]


def _conv(tile: Any, data: Any, weights: Any, numbers: list[int], part: Any, column: Any, row: Any, *cut: int) -> Any:
    """Of plain lists of positions; or of strips, by their columns, positions a line and lines."""
    _, fours, depth, outs, blocks, span, per_in, per_out, images, *geometry = numbers[7:]
    h, w, oh, ow, ky, kx, *rest = geometry
    place = o, m, v = _variables("omv")
    k, y, x, r = _variables("kyxr")
    position, out, kind = row + m, column // 4 + o, str(tile.source.dtype)
    there = [position < images * oh * ow]
    if cut:
        width, pitch, lines = cut
        count, strip = -(-ow // width), position // (pitch * lines)
        across, down = position % pitch, position // pitch % lines
        there = [across < width, across + strip % count * width < ow, down < oh, strip < images * count]
        position = strip // count * (oh * ow) + down * ow + strip % count * width + across
    image = position // (oh * ow) if images > 1 else data.indices[0]
    lanes = int(data.source.shape[-1])
    first = tirx.min(out * 4 // span * span // per_out * per_in // lanes, blocks - depth)
    term = first + k, y, x, r
    value = _element(data, image, term, position % (oh * ow), [h, w, ow, *rest]).astype(kind)
    lanes = int(weights.source.shape[-1])
    weight = tirx.BufferLoad(weights.source, [out // fours, k, y, x, 0, out % fours * 4 + v, r]).astype(kind)
    inside = tirx.all(part == numbers[5] - 1, out < outs, *there)
    return _sums(tile, numbers, inside, {k: depth, y: ky, x: kx, r: lanes}, value * weight, place)


def _matmul(
    tile: Any, data: Any, weights: Any, numbers: list[int], part: Any, column: Any, row: Any, count: Any = 0
) -> Any:
    _, fours, depth, outs, known = numbers[7:]
    rows = known or count
    place = o, m, v = _variables("omv")
    (k,) = _variables("k")
    position, out, kind = row + m, column // 4 + o, str(tile.source.dtype)
    indices = unflatten(position, static(data.source.shape)[:-1])
    group = int(weights.source.shape[-1])
    weight = tirx.BufferLoad(weights.source, [out // fours, k // group, out % fours * 4 + v, k % group]).astype(kind)
    value = tirx.BufferLoad(data.source, [*indices, k]).astype(kind)
    inside = tirx.all(part == numbers[5] - 1, out < outs, position < rows)
    return _sums(tile, numbers, inside, {k: depth * group}, value * weight, place)


def _product(tile: Any, left: Any, right: Any, numbers: list[int], part: Any, column: Any, row: Any) -> Any:
    depth, columns, rows, transposed = numbers[7:]
    place = o, m, v = _variables("omv")
    (k,) = _variables("k")
    position, out = row + m, column + o * 4 + v
    second = [out, k] if transposed else [k, out]
    value, other = (
        tirx.BufferLoad(t.source, [*t.indices[:-2], *at]).astype("float32")
        for t, at in ((left, [position, k]), (right, second))
    )
    inside = tirx.all(part == numbers[5] - 1, out < columns, position < rows)
    return _sums(tile, numbers, inside, {k: depth * 4}, value * other, place)


def _attention(
    tile: Any,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    numbers: list[int],
    scale: Any,
    _column: Any,
    row: Any,
    buffers: list[Any],
) -> Any:
    """A row after the other: its scores, their maximum and sum, and the weighted values."""
    _, _, rows, columns, depth, wide, apart_q, apart_k, apart_v, masked, down, across = numbers
    scores = tirx.decl_buffer((columns,), "float32", "scores")
    top, total = (tirx.decl_buffer((1,), "float32", name) for name in ("top", "total"))
    buffers += [scores, top, total]
    m, n, k, c, e, t = _variables("mnkcet")
    position, kind = row + m, "float32"

    def read(tensor: Any, place: Any) -> Any:
        """An element so many behind the one that the pointer is of; memory is flat."""
        return tirx.BufferLoad(tensor.source, [*tensor.indices[:-1], place]).astype(kind)

    def add(buffer: Any, at: Any, term: Any) -> Any:
        return tirx.BufferStore(buffer, tirx.BufferLoad(buffer, [at]) + term, [at])

    def of(buffer: Any, at: Any = 0) -> Any:
        return tirx.BufferLoad(buffer, [at])

    product = _nest({k: depth}, add(scores, n, read(query, position * apart_q + k) * read(key, n * apart_k + k)))
    scaled = of(scores, n) * scale
    if masked:
        scaled = scaled + read(mask, position * down + n * across)
    lowest = tirx.BufferStore(top, tirx.min_value(kind), [0])
    highest = tirx.BufferStore(top, tirx.max(of(top), of(scores, n)), [0])
    score = [tirx.BufferStore(scores, tirx.const(0.0, kind), [n]), product, tirx.BufferStore(scores, scaled, [n])]
    power = tirx.BufferStore(scores, tirx.exp(of(scores, t) - of(top)), [t])
    place = [e // 4, m, e % 4]
    weigh = tirx.BufferStore(
        tile.source,
        tirx.BufferLoad(tile.source, place) + of(scores, c) * read(value, c * apart_v + e) / of(total),
        place,
    )
    zero = tirx.BufferStore(tile.source, tirx.const(0.0, kind), place)
    whole = [
        lowest,
        tirx.BufferStore(total, tirx.const(0.0, kind), [0]),
        _nest({n: columns}, tirx.SeqStmt([*score, highest])),
        _nest({t: columns}, tirx.SeqStmt([power, add(total, 0, of(scores, t))])),
        _nest({e: wide}, tirx.SeqStmt([zero, _nest({c: columns}, weigh)])),
    ]
    return _nest({m: 64}, tirx.IfThenElse(position < rows, tirx.SeqStmt(whole), None))


_SIMULATED = {"OptkitConv": _conv, "OptkitMatmul": _matmul, "OptkitProduct": _product}


def _element(data: Any, image: Any, term: tuple[Any, ...], position: Any, numbers: list[int]) -> Any:
    """What a convolution multiplies, or the padding."""
    h, w, ow, sy, sx, dy, dx, top, left, fill = numbers
    block, ky, kx, lane = term
    y = position // ow * sy - top + ky * dy
    x = position % ow * sx - left + kx * dx
    read = tirx.BufferLoad(data.source, [image, block, y, x, lane])
    inside = tirx.all(y >= 0, y < h, x >= 0, x < w)
    return tirx.if_then_else(inside, read, tirx.const(fill & 255, str(data.source.dtype)))


def _dp4a(data: Any, weight: Any, total: Any) -> Any:
    """The four products, from vectors of four bytes."""
    for lane in range(4):
        a, b = (_lane(v, lane).astype("int32") for v in (data, weight))
        total = total + a * b
    return total


def _lane(vector: Any, lane: int) -> Any:
    *lead, ramp = vector.indices
    return tirx.BufferLoad(vector.source, [*lead, ramp.base + lane])


@dataclass(frozen=True)
class Simulated(Target):
    """A CUDA target whose kernels run here."""

    real: Target | None = field(default=None, compare=False)
    largest: bool = False

    def rules(self) -> tuple[KernelRule, ...]:
        """The GPU's rules, their schedules made serial."""
        assert self.real is not None
        return tuple(_Serial(rule, self.real, self.largest) for rule in self.real.rules())


@dataclass(frozen=True)
class _Serial:
    rule: KernelRule
    real: Target
    largest: bool

    @property
    def name(self) -> str:
        return self.rule.name

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        found = self.rule.choices(func, self.real)
        return found and [self._serial(choice) for choice in found]

    def _serial(self, choice: Choice) -> Choice:
        def apply(func: Any, params: Mapping[str, int]) -> Any:
            scheduled = choice.apply(func, params)
            if not self.largest:
                return _simulate(scheduled)
            for name, values in choice.space.items():
                try:
                    params = {**params, name: max(values)}
                    scheduled = choice.apply(func, params)
                except ValueError:  # too large together with those before
                    params = {**params, name: min(values)}
            return _simulate(scheduled)

        return replace(choice, apply=apply)


def _simulate(scheduled: Any) -> Any:
    """The function as the CPU runs it; what cannot be simulated is no reason to take another rule's schedule."""
    try:
        return serial(scheduled)
    except (RuntimeError, ValueError, IndexError, KeyError) as error:
        raise AssertionError(f"cannot simulate this kernel: {error!r}") from error


def simulated(real: Target, largest: bool = False) -> Target:
    """`real` with its layouts and schedules, and code for any CPU of this machine's architecture.

    With `largest`, every parameter takes the largest value of its space that still fits and not the model's choice,
    which for small tensors is the smallest.

    Not for this very CPU: LLVM 22 miscompiles scalar float16 loops that it vectorizes for AVX-512 itself.
    """
    triple = find_target("cpu").tvm["mtriple"]
    values = {f.name: getattr(real, f.name) for f in fields(Target)}
    here = {"tvm": {"kind": "llvm", "mtriple": triple}, "tvm_host": {}}
    return Simulated(**{**values, **here, "real": real, "largest": largest})


def feeds(model: ir.Model) -> dict[str, np.ndarray]:
    """Seeded float32 inputs of a model of known extents."""
    rng = np.random.default_rng(7)
    shapes = {value.name or "": list(value.shape or ()) for value in model.graph.inputs}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def computed(model: ir.Model, name: str = "cuda:sm_80") -> tuple[list[np.ndarray], list[Kernel]]:
    """A model's outputs for `feeds`, by its simulated kernels, and these."""
    target = replace(simulated(find_target(name)), device="cpu")
    ready = prepare(model, target)
    with tvm_target(target) as machine:
        module, made = schedule_module(ready.module, target, ready.labels)
        executable = generate(module, machine)
    arguments = [*feeds(model).values(), *(array for _, array in ready.weights)]
    found = relax.VirtualMachine(executable, tvm.cpu())["main"](*map(tvm.runtime.tensor, arguments))
    return [output.numpy() for output in found], made
