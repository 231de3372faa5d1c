"""Every scheduled kernel against its unscheduled self, on this machine.

A wrong schedule does not announce itself: it compiles, runs and answers something. So both forms of every
fused function are compiled and run on the same arguments: the model's own weights where the function is
called with weights, seeded random numbers of the right type elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import tvm
from tvm import relax, tirx
from tvm.sym import Analyzer

from optkit.compiler.build import Prepared, prepare, tvm_target
from optkit.compiler.operators.common import BITS, PAIR
from optkit.compiler.schedule import schedule_module
from optkit.compiler.stack import pipeline
from optkit.errors import CompileError
from optkit.target import Target

FREE_EXTENT = 3
"""What symbolic extents are bound to: odd, so that it is no multiple of any tile."""
TOLERANCE = {"float64": 1e-6, "float32": 2e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
"""Limit of |difference| / (|value| + root mean square) by type: float sums may be associated differently."""


@dataclass(frozen=True)
class Mismatch:
    """A tensor that two forms of one kernel disagree about."""

    kernel: str
    rule: str
    argument: int
    reason: str

    def __str__(self) -> str:
        return f"{self.kernel} ({self.rule}), argument {self.argument}: {self.reason}"


def check_kernels(model: ir.Model, target: Target, seed: int = 0) -> list[Mismatch]:
    """Compare every kernel of a model with its unscheduled self.

    Args:
        target: one whose code runs on this machine (for others, see `optkit.compiler.host.host_variant`).

    Returns:
        what differs: integers must be equal, floats within `TOLERANCE`.

    Raises:
        CompileError: the target's code does not run here, or a kernel does not compile.
    """
    reason = target.runs_here()
    if reason is not None:
        raise CompileError(f"kernels can only be compared where they run: {reason}")
    return check_prepared(prepare(model, target), target, seed)


def check_prepared(ready: Prepared, target: Target, seed: int = 0) -> list[Mismatch]:
    """The same for a model that was lowered and fused already."""
    machine = tvm_target(target)
    with machine:
        scheduled, kernels = schedule_module(ready.module, target, place=False)
    rules = {k.name: f"{k.rule}/{k.template}" for k in kernels}
    functions = {str(v.name_hint): f for v, f in ready.module.functions.items() if isinstance(f, tirx.PrimFunc)}
    plain, tuned = _compile(ready.module, machine), _compile(scheduled, machine)
    weights = _constant_arguments(ready)
    generator = np.random.default_rng(seed)
    found = []
    for name, func in functions.items():
        given = _arguments(func, weights.get(name, {}), generator)
        # Outputs are arguments too; both forms start from the same content, so that elements which only one
        # of them writes differ.
        first, second = ([tvm.runtime.tensor(a) if isinstance(a, np.ndarray) else a for a in given] for _ in "ab")
        plain[name](*first)
        tuned[name](*second)
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            if isinstance(given[i], np.ndarray):
                difference = compare(a.numpy(), b.numpy())
                if difference:
                    found.append(Mismatch(name, rules[name], i, difference))
    return found


def compare(expected: np.ndarray, found: np.ndarray) -> str:
    """How two tensors differ; empty where they agree."""
    if expected.dtype == BITS:
        expected, found = expected.view(ml_dtypes.bfloat16), found.view(ml_dtypes.bfloat16)
    if not np.issubdtype(expected.dtype, np.inexact) and str(expected.dtype) not in TOLERANCE:
        wrong = int((expected != found).sum())
        if not wrong:
            return ""
        at = tuple(int(i) for i in np.argwhere(expected != found)[0])
        return f"{wrong} of {expected.size} integers differ, first at {at}: {found[at]} for {expected[at]}"
    limit = TOLERANCE[str(expected.dtype)]
    a, b = expected.astype("float64"), found.astype("float64")
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    mean = float(np.sqrt(np.mean(a[finite] ** 2))) if finite.any() else 0.0
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.where(finite, np.abs(a - b) / (np.abs(a) + mean + 1e-30), np.inf))
    if error.size == 0 or error.max() <= limit:
        return ""
    at = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    return f"relative difference {error.max():.1e} over {limit:.0e}, worst at {at}: {b[at]:.6g} for {a[at]:.6g}"


def _compile(module: Any, machine: Any) -> Any:
    functions = {
        str(v.name_hint): f.with_attr("global_symbol", str(v.name_hint))
        for v, f in module.functions.items()
        if isinstance(f, tirx.PrimFunc)
    }
    return tvm.compile(tvm.IRModule(functions), machine, tir_pipeline=pipeline())


def _constant_arguments(ready: Prepared) -> dict[str, dict[int, np.ndarray]]:
    """Weights by kernel and position, from the kernel's first call."""
    main = ready.module["main"]
    values = dict(ready.weights)
    known = {v: values[str(v.name)] for v in main.params if str(v.name) in values}
    found: dict[str, dict[int, np.ndarray]] = {}
    call_tir = tvm.ir.Op.get("relax.call_tir")
    for block in main.body.blocks:
        for binding in block.bindings:
            call = getattr(binding, "value", None)
            if not isinstance(call, relax.Call) or call.op != call_tir:
                continue
            fields = call.args[1].fields if isinstance(call.args[1], relax.Tuple) else [call.args[1]]
            constants = {}
            for i, argument in enumerate(fields):
                if isinstance(argument, tvm.ir.GenericConst):
                    constants[i] = argument.value.numpy()
                elif argument in known:
                    constants[i] = known[argument]
            found.setdefault(str(call.args[0].name_hint), constants)
    return found


def _arguments(func: Any, constants: Mapping[int, np.ndarray], generator: np.random.Generator) -> list[Any]:
    """Arguments in call order: arrays, and numbers for symbolic extents passed on their own."""
    result: list[Any] = []
    for i, parameter in enumerate(func.params):
        if not hasattr(parameter.ty, "shape") or parameter.ty.shape is None:
            result.append(FREE_EXTENT)
        elif i in constants:
            result.append(constants[i])
        else:
            result.append(_random(_extents(parameter.shape), str(parameter.dtype), generator))
    return result


def _extents(shape: Any) -> tuple[int, ...]:
    """A shape with its free variables bound."""
    extents = []
    for size in shape:
        if not isinstance(size, (int, tirx.IntImm)):
            known = Analyzer()
            for var in tirx.analysis.undefined_vars(size):
                known.bind(var, tirx.const(FREE_EXTENT, "int64"))
            size = known.simplify(size)
        extents.append(int(size))
    return tuple(extents)


def _random(shape: tuple[int, ...], dtype: str, generator: np.random.Generator) -> np.ndarray:
    """Numbers like those a model has at such a place."""
    if dtype == "uint8":
        return generator.integers(0, 256, shape, dtype)
    if dtype == "int8":
        return generator.integers(-127, 128, shape, dtype)
    if dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if dtype == PAIR:
        return _random((*shape, 2), BITS, generator).view(PAIR)[..., 0]
    if dtype == BITS:
        return generator.standard_normal(shape, "float32").astype(ml_dtypes.bfloat16).view(BITS)
    if "int" in dtype:
        # Indices, or accumulators: small enough to be the former.
        return generator.integers(0, 2, shape).astype(dtype)
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    return generator.standard_normal(shape, "float32").astype(kind)


__all__ = ["FREE_EXTENT", "TOLERANCE", "Mismatch", "check_kernels", "check_prepared", "compare"]
