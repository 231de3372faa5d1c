"""Concatenations and splits that nobody computes: kernels write and read parts of larger tensors instead.

Before fusion it is decided which concatenations are worth it; what makes their parts is then kept apart from them. When
kernels are scheduled, each gets its places (`optkit.compiler.places`), and calls are given the tensor around.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, s_tir

from optkit.compiler.joins import Joins, arguments, extents, find
from optkit.compiler.kept import keep
from optkit.compiler.places import moved
from optkit.compiler.rebinding import with_bindings
from optkit.compiler.values import INJECTIVE

Range = tuple[int, int, int]
"""A parameter of a kernel that lies in another tensor: which, its first block, and blocks of the other tensor."""


def keep_joins(device_code: bool) -> Any:
    """A pass over kernels that are annotated with their kinds, before FuseOps.

    Args:
        device_code: whether products may be computed by device code.
    """

    def kept(func: Any, module: Any, _context: Any) -> Any:
        if not isinstance(func.body, relax.SeqExpr):
            return func
        found = find(func, module, device_code)
        joined = [var for var in found.joined if _needed(found, var)]
        parts = [part for var in joined for part in arguments(found.made[var])]
        return keep(func, {var for var in (*joined, *parts, *found.parts) if var in found.made})

    return relax.transform.function_pass(kept, opt_level=0, name="optkit.keep_joins")


def _needed(found: Joins, var: Any) -> bool:
    """Whether a kernel would have to write the concatenation: else it becomes part of what reads it."""
    kinds = [found.kind(call) for call in found.readers.get(var, [])]
    return any(kind is None or kind > INJECTIVE for kind in kinds)


@dataclass
class Joining:
    """A module of kernels, and where what they read and write lies.

    Attributes:
        module: as it computes before anything is placed; every kernel is called with the same places everywhere.
        plans: of its Relax functions, where anything is to be placed.
        places: of kernels, by name.
        gone: names of kernels that nothing calls when all is placed.
    """

    module: Any
    plans: dict[Any, Joins] = field(default_factory=dict)
    places: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def move(self, name: str, func: Any) -> Any:
        """A scheduled kernel with its places.

        Raises:
            CompileError: the schedule looks at a whole parameter, which the kernel before did not; none of ours does.
        """
        places = self.places.get(name)
        return moved(func, {index: (first, total) for index, first, total in places}) if places else func

    def rewrite(self, functions: Mapping[Any, Any]) -> dict[Any, Any]:
        """The functions of the module, its kernels with their places, and calls that go with them."""
        kernels = {var: _typed(var, func) for var, func in functions.items() if var.name_hint in self.places}
        return {
            kernels.get(var, var): _Placed(self.plans[var], kernels).function(func) if var in self.plans else func
            for var, func in functions.items()
        }


def join(module: Any, device_code: bool) -> Joining:
    """Decide what lies where, and give every combination of a kernel and its places a function of its own.

    Args:
        device_code: whether products may be computed by device code.
    """
    plans = {}
    for var, func in _relax_functions(module):
        plan = find(func, module, device_code)
        if plan.places:
            plans[var] = plan
    if not plans:
        return Joining(module)
    apart = _Apart(dict(module.functions.items()))
    for var, func in _relax_functions(module):
        plan = plans.get(var) or find(func, module, device_code)
        apart.functions[var] = with_bindings(func, functools.partial(apart.binding, plan=plan))
    places = {name: ranges for name, ranges in apart.places.items() if ranges}
    return Joining(tvm.IRModule(apart.functions, attrs=module.attrs), plans, places, apart.virtual - set(apart.places))


def _relax_functions(module: Any) -> Iterator[tuple[Any, Any]]:
    for var, func in module.functions.items():
        if isinstance(func, relax.Function) and isinstance(func.body, relax.SeqExpr):
            yield var, func


@dataclass
class _Apart:
    """Gives calls of one kernel with several sets of places several kernels.

    Attributes:
        functions: of the module, to which kernels are added.
        places: of kernels that are called so far, by name.
        virtual: names of kernels that are called where nothing is computed when all is placed.
    """

    functions: dict[Any, Any]
    places: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    virtual: set[str] = field(default_factory=set)
    _kernels: dict[tuple[str, tuple[Range, ...]], Any] = field(default_factory=dict)

    def binding(self, binding: Any, plan: Joins) -> list[Any]:
        """The binding with a call of the kernel that has its places."""
        if binding.var not in plan.made:
            return [binding]
        call = plan.made[binding.var]
        if plan.virtual(binding.var):
            self.virtual.add(str(call.args[0].name_hint))
            return [binding]
        kernel = self._kernel(call.args[0], _ranges(plan, binding.var))
        if kernel.same_as(call.args[0]):
            return [binding]
        plan.made[binding.var] = changed = _call(call, kernel, call.args[1])
        return [relax.VarBinding(binding.var, changed)]

    def _kernel(self, var: Any, places: tuple[Range, ...]) -> Any:
        name = str(var.name_hint)
        key = name, places
        if key not in self._kernels:
            if name in self.places:  # called with other places already
                var = self._another(var)
            self.places[str(var.name_hint)] = places
            self._kernels[key] = var
        return self._kernels[key]

    def _another(self, var: Any) -> Any:
        taken = {str(each.name_hint) for each in self.functions}
        number = 1
        while f"{var.name_hint}_place{number}" in taken:
            number += 1
        made = tvm.ir.GlobalVar(f"{var.name_hint}_place{number}")
        relax.expr._update_type(made, var.ty)
        # Variables of its own: where two functions share those that extents are made of, TVM renames some of them only.
        self.functions[made] = s_tir.renew_defs(self.functions[var])
        return made


def _ranges(plan: Joins, var: Any) -> tuple[Range, ...]:
    """Where what a call reads lies, and what it makes."""
    found = []
    for index, value in enumerate((*arguments(plan.made[var]), var)):
        at = plan.place(value)
        if not at.root.same_as(value):
            shape = extents(at.root)
            assert shape is not None
            found.append((index, at.first, shape[1]))
    return tuple(found)


def _call(call: Any, kernel: Any, given: Any) -> Any:
    """A call like another one, of a kernel that computes the same, and of other values."""
    changed = relax.Call(call.op, [kernel, given, *call.args[2:]], call.attrs, call.ty_args, call.span)
    relax.expr._update_type(changed, call.ty)
    return changed


def _typed(var: Any, func: Any) -> Any:
    """The variable of a kernel whose parameters are of other extents than they were."""
    made = tvm.ir.GlobalVar(var.name_hint)
    params = [_param_type(param) for param in func.params]
    relax.expr._update_type(made, relax.FuncType(params, var.ty.ret, var.ty.purity))
    return made


def _param_type(param: Any) -> Any:
    return relax.TensorType(list(param.shape), str(param.dtype)) if hasattr(param.ty, "shape") else param.ty


@dataclass
class _Placed:
    """Rewrites a function's calls for kernels with places.

    Attributes:
        kernels: with places, by their variables before.
        now: roots that are being written, as they are after the last write.
    """

    plan: Joins
    kernels: Mapping[Any, Any]
    builder: Any = field(default_factory=relax.BlockBuilder)
    now: dict[Any, Any] = field(default_factory=dict)

    def function(self, func: Any) -> Any:
        """The function whose values are at their places."""
        return with_bindings(func, self._bindings)

    def _bindings(self, binding: Any) -> Iterator[Any]:
        var, plan = binding.var, self.plan
        if var not in plan.made:
            yield binding
            return
        if plan.virtual(var):
            return
        call = plan.made[var]
        given = [self._root(value) for value in arguments(call)]
        kernel = self.kernels.get(call.args[0], call.args[0])
        root = plan.place(var).root
        if root.same_as(var):
            yield relax.VarBinding(var, _call(call, kernel, self.builder.normalize(relax.Tuple(given))))
            return
        if root not in self.now:
            yield (allocation := self._allocation(root))
            self.now[root] = allocation.var
        given.append(self.now[root])
        changed = relax.op.call_tir_inplace(kernel, relax.Tuple(given), len(given) - 1, root.ty)
        self.now[root] = relax.Var(str(var.name), root.ty)
        yield relax.VarBinding(self.now[root], self.builder.normalize(changed))

    def _root(self, value: Any) -> Any:
        root = self.plan.place(value).root
        return self.now.get(root, root)

    def _allocation(self, root: Any) -> Any:
        made = relax.op.builtin.alloc_tensor(root.ty.shape, str(root.ty.dtype), 0, "global")
        return relax.VarBinding(relax.Var(f"{root.name}_room", root.ty), self.builder.normalize(made))


__all__ = ["Joining", "join", "keep_joins"]
