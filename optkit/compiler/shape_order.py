"""Shape functions whose stores come in one order: TVM's order depends on where objects lie in memory.

Relax's VMShapeLower collects the shape expressions of a model with free dimensions in a hash map over
expressions whose hash, for a free variable, is its address. The slots are numbered in order of occurrence,
but the stores into them come in the map's order, so that about one build in five of the same model gave
another library. The stores of one shape function write distinct slots and read slots of variables only,
which none of them writes: any order is right, and ascending slots is the one taken. Where two functions of a module
compute the same shapes, TVM sees their shape functions to be equal only where the orders agreed; so they are merged.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx

_NAME = "shape_func"


def _order(mod: Any, _context: Any) -> Any:
    for variable, func in list(mod.functions.items()):
        if isinstance(func, tirx.PrimFunc) and variable.name_hint.startswith(_NAME):
            body = _sorted(func.body)
            if body is not None:
                mod.update_func(variable, func.with_body(body))
    return _merged(mod)


def _merged(mod: Any) -> Any:
    """The module with one of shape functions that are equal, that of the lowest number."""
    kept: list[tuple[Any, Any]] = []
    instead: dict[str, Any] = {}
    shapes = [
        (v, f) for v, f in mod.functions.items() if v.name_hint.startswith(_NAME) and isinstance(f, tirx.PrimFunc)
    ]
    for variable, func in sorted(shapes, key=lambda item: (len(item[0].name_hint), str(item[0].name_hint))):
        same = next((other for other, known in kept if tvm_ffi.structural_equal(known, func)), None)
        if same is None:
            kept.append((variable, func))
        else:
            instead[str(variable.name_hint)] = same
    if not instead:
        return mod
    changed = {
        variable: _Shared(instead).visit_expr(func) if isinstance(func, relax.Function) else func
        for variable, func in mod.functions.items()
        if variable.name_hint not in instead
    }
    return tvm.IRModule(changed, attrs=mod.attrs)


@relax.expr_functor.mutator
class _Shared(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, instead: dict[str, Any]) -> None:
        super().__init__()
        self.instead = instead

    def visit_global_var_(self, var: Any) -> Any:
        return self.instead.get(str(var.name_hint), var)


def _sorted(body: Any) -> Any | None:
    """The sequence of stores in ascending order; None for anything but plain stores to distinct slots."""
    if not isinstance(body, tirx.SeqStmt):
        return None
    slots = []
    for store in body.seq:
        if not isinstance(store, tirx.BufferStore) or not isinstance(store.indices[0], tirx.IntImm):
            return None
        slots.append(int(store.indices[0].value))
    if len(set(slots)) != len(slots) or any(_reads(store.value) & set(slots) for store in body.seq):
        return None
    order = sorted(range(len(slots)), key=slots.__getitem__)
    return tirx.SeqStmt([body.seq[i] for i in order])


def _reads(value: Any) -> set[int]:
    """Slots that an expression loads."""
    found: set[int] = set()

    def visit(load: Any) -> None:
        index = load.indices[0]
        if not isinstance(index, tirx.IntImm):
            raise TypeError(f"a shape function loads from {index}")
        found.add(int(index.value))

    tvm_ffi.structural_walk(value, (tvm.ir.TensorLoad, visit))
    return found


order_shape_stores: Any = tvm.transform.module_pass(_order, opt_level=0, name="optkit.order_shape_stores")
"""A pass to run after VMShapeLower: sorts the stores of every shape function by slot."""
