"""GPU kernels on a CPU: threads become loops, and device functions the arithmetic they stand for.

Of tensor cores that is the sum over all channels and taps; `test_tensor_core.py` runs their device code itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import tvm
import tvm_ffi
from optkit_targets.cuda.kernels.intrinsics import DP4A, FMA
from optkit_targets.cuda.kernels.tensor import BLOCK
from tvm import s_tir, tirx

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
    """The sums of a tile, once for all threads."""
    name, *pointers, column, row = block.body.value.args
    tile, data, weights = (pointer.args[0] for pointer in pointers)
    function, _, *words = re.findall(r"\w+", name.value)
    rows, columns, depth, outs, *numbers = (int(word.rstrip("u")) for word in words[:-1])
    convolution = function == "OptkitConv"
    ky, kx = numbers[4:6] if convolution else (1, 1)
    kind = str(tile.source.dtype)
    extents = {"o": columns // 4, "m": rows, "v": 4, "k": depth, "ky": ky, "kx": kx, "r": 4}
    i = {letter: tirx.Var(letter, "int32") for letter in extents}
    position, place = row + i["m"], [i["o"], i["m"], i["v"]]
    if convolution:
        limit = numbers[2] * numbers[3]
        value = _element(data, i, position, numbers).astype(kind)
    else:
        (limit,) = numbers
        lead = data.source.shape[1:-1]
        indices = [position // math.prod(map(int, lead)), *([position % int(lead[0])] if lead else [])]
        value = tirx.BufferLoad(data.source, [*indices, i["k"] * 4 + i["r"]]).astype(kind)
    group, word = int(weights.source.shape[-1]), i["k"] * 4 + i["r"]
    inner = [i["k"], i["ky"], i["kx"], i["r"] // group] if convolution else [word // group]
    weight = tirx.BufferLoad(weights.source, [column + i["o"], *inner, i["v"], i["r"] % group]).astype(kind)
    body: Any = tirx.BufferStore(tile.source, tirx.BufferLoad(tile.source, place) + value * weight, place)
    for letter in ("r", "kx", "ky", "k"):
        body = tirx.For(i[letter], 0, extents[letter], tirx.ForKind.SERIAL, body)
    body = tirx.IfThenElse(tirx.all(column + i["o"] < outs, position < limit), body, None)
    body = tirx.SeqStmt([tirx.BufferStore(tile.source, tirx.const(0, kind), place), body])
    for letter in ("v", "m", "o"):
        body = tirx.For(i[letter], 0, extents[letter], tirx.ForKind.SERIAL, body)
    whole = s_tir.SBlock([], block.reads, block.writes, block.name_hint, body)
    return s_tir.SBlockRealize([], tirx.const(True, "bool"), whole)


def _element(data: Any, i: Mapping[str, Any], position: Any, numbers: list[int]) -> Any:
    """What a convolution multiplies, or the padding."""
    h, w, _, ow, _, _, sy, sx, dy, dx, top, left, fill = numbers
    y = position // ow * sy - top + i["ky"] * dy
    x = position % ow * sx - left + i["kx"] * dx
    read = tirx.BufferLoad(data.source, [data.indices[0], i["k"], y, x, i["r"]])
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
            return serial(choice.apply(func, params))

        corner = {name: max(values) for name, values in choice.space.items()}
        return replace(choice, apply=apply, params={**choice.params, **corner} if self.largest else choice.params)


def simulated(real: Target, largest: bool = False) -> Target:
    """`real` with its layouts and schedules, and code for any CPU of this machine's architecture.

    With `largest`, every parameter takes the largest value of its space and not the model's choice, which for
    small tensors is the smallest.

    Not for this very CPU: LLVM 22 miscompiles scalar float16 loops that it vectorizes for AVX-512 itself.
    """
    triple = find_target("cpu").tvm["mtriple"]
    values = {f.name: getattr(real, f.name) for f in fields(Target)}
    here = {"tvm": {"kind": "llvm", "mtriple": triple}, "tvm_host": {}}
    return Simulated(**{**values, **here, "real": real, "largest": largest})
