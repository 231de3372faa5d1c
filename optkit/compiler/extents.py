"""Extents a kernel is given by name: `n` instead of `((w - 1) // 2 + 1 - 5) // 8 + 1`.

Shapes of open models grow with every layer that divides one. A schedule reasons about a kernel's extents, and of a
quotient it does not know that it is positive: it then covers both signs, and a buffer that should hold one tile gets
another size. A kernel reads its extents from the tensors it is called with, so one name for each says the same.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import sym, tirx

_ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul)
_QUOTIENTS = (tirx.FloorDiv, tirx.Div)
"""Models compute shapes by quotients that are cut off, which of extents are the same."""
_ROUNDING = (*_QUOTIENTS, tirx.FloorMod, tirx.Mod, tirx.Min, tirx.Max, tirx.Select)


def name_extents(func: Any) -> Any:
    """The same function with a fresh variable for every extent of a parameter that is a quotient or a product.

    What is made is counted by variables, and what is read by these and a number, rather than the other way round: of
    8 (l - 2) iterations that threads share, TVM leaves out none that are too many, nor can it tell rows from columns.
    """
    shapes = [param.ty.shape for param in func.params if hasattr(param.ty, "shape")]
    extents = [d for shape in shapes for d in shape if not isinstance(d, (tirx.IntImm, tirx.Var))]
    if not extents:
        return func
    analyzer = sym.Analyzer()
    func = _shifted(func, analyzer)
    shapes = [param.ty.shape for param in func.params if hasattr(param.ty, "shape")]
    extents = [d for shape in shapes for d in shape if not isinstance(d, (tirx.IntImm, tirx.Var))]
    bare = [d for shape in shapes for d in shape if isinstance(d, tirx.Var)]
    names = _names(extents, bare, analyzer)
    return _renamed(func, names, analyzer) if names else func


def name_sums(func: Any) -> Any:
    """The same function with a fresh variable for every extent of its result that is a sum.

    For a function of one block, where nothing is to be proved of what it reads: TVM takes positions in an image of
    2 n - 1 columns for no positions at all where they are halved.
    """
    analyzer = sym.Analyzer()
    sums = [whole for d in func.params[-1].ty.shape if isinstance(whole := analyzer.simplify(d), (tirx.Add, tirx.Sub))]
    keys = {tvm_ffi.StructuralKey(whole): whole.ty.dtype for whole in sums}
    names = {key: tirx.Var(f"s{i}", dtype) for i, (key, dtype) in enumerate(keys.items())}
    return _renamed(func, names, analyzer) if names else func


def _renamed(func: Any, names: dict[Any, Any], analyzer: Any) -> Any:
    """The function with others in the place of expressions, which are found by their structure."""

    def simplified(value: Any, mutator: Any) -> Any:
        if not str(value.ty.dtype).startswith("int"):
            return mutator.default_mutate(value)
        named = names.get(tvm_ffi.StructuralKey(analyzer.simplify(value)))
        if named is not None:
            return named
        result = mutator.default_mutate(value)
        return result if result.same_as(value) else analyzer.simplify(result)

    changed = tvm_ffi.structural_mutate(func, [((*_ARITHMETIC, *_QUOTIENTS), simplified)])
    # Made anew, because a function's own type is not among what is mutated.
    return tirx.PrimFunc(changed.params, changed.body, changed.ret_type, changed.attrs)


def _sum(extent: Any) -> tuple[Any, int] | None:
    """The variable and the number that make an extent, None for others."""
    if isinstance(extent, tirx.Var):
        return extent, 0
    if not isinstance(extent, (tirx.Add, tirx.Sub)) or not isinstance(extent.a, tirx.Var):
        return None
    if not isinstance(extent.b, tirx.IntImm):
        return None
    return extent.a, int(extent.b) if isinstance(extent, tirx.Add) else -int(extent.b)


def _shifted(func: Any, analyzer: Any) -> Any:
    """The function with every extent that is a variable and a number counted by one of its own.

    That is the result's, else the least: l is m + 2 everywhere, where l - 2 rows are made.
    """
    shapes = [param.ty.shape for param in func.params if hasattr(param.ty, "shape")]
    sums = [found for shape in reversed(shapes) for d in shape if (found := _sum(analyzer.simplify(d))) is not None]
    made = [found for d in shapes[-1] if (found := _sum(analyzer.simplify(d))) is not None]
    least: list[tuple[Any, int]] = []
    for var, _ in sums:
        if any(var.same_as(known) for known, _ in least):
            continue
        own = [number for other, number in made if other.same_as(var)]
        least.append((var, own[0] if own else min(number for other, number in sums if other.same_as(var))))
    least = [(var, number) for var, number in least if number]
    if not least:
        return func
    instead = [(var, tirx.Var(f"m{i}", var.ty.dtype) - number) for i, (var, number) in enumerate(least)]

    def shifted(node: Any) -> Any:
        return next((expr for var, expr in instead if var.same_as(node)), node)

    def simplified(value: Any, mutator: Any) -> Any:
        result = mutator.default_mutate(value)
        return analyzer.simplify(result) if str(value.ty.dtype).startswith("int") else result

    # A number that the function is given, and reads no more.
    given = [param if shifted(param) is param else tirx.Var(f"{param.name}_", param.ty.dtype) for param in func.params]
    changed = tirx.PrimFunc(given, func.body, func.ret_type, func.attrs)
    changed = tvm_ffi.structural_map(changed, [(tirx.Var, shifted)])
    changed = tvm_ffi.structural_mutate(changed, [((*_ARITHMETIC, *_QUOTIENTS), simplified)])
    return tirx.PrimFunc(changed.params, changed.body, changed.ret_type, changed.attrs)


def _names(extents: list[Any], bare: list[Any], analyzer: Any) -> dict[Any, Any]:
    """What to write instead of each extent, and of the quotient in it, by structure."""
    smallest: dict[Any, int] = {}
    parts: list[tuple[Any, Any, int]] = []
    for extent in extents:
        whole = analyzer.simplify(extent)
        if isinstance(whole, (tirx.IntImm, tirx.Var)) or _known(whole, bare):
            continue
        base, offset = _split(whole, analyzer)
        if base is None:
            alone = isinstance(whole, tirx.Add) and not any(_related(whole, other) for other in (*extents, *bare))
            if not alone:
                continue
            base, offset = whole, 0
        key = tvm_ffi.StructuralKey(base)
        parts.append((key, whole, offset))
        smallest[key] = min(offset, smallest.get(key, offset))
    fresh = {key: tirx.Var(f"n{i}", key.key.ty.dtype) for i, key in enumerate(smallest)}
    names: dict[Any, Any] = {}
    for key, whole, offset in parts:
        names[tvm_ffi.StructuralKey(whole)] = fresh[key] + (offset - smallest[key])
        names[key] = fresh[key] - smallest[key]
    return names


def _related(whole: Any, other: Any) -> bool:
    """Whether something else is computed of the same variables."""
    mine: list[Any] = []
    theirs: list[Any] = []
    for extent, found in ((whole, mine), (other, theirs)):
        tvm_ffi.structural_walk(extent, (tirx.Var, found.append))
    same = any(a.same_as(b) for a in mine for b in theirs)
    return same and not tvm_ffi.structural_equal(whole, sym.Analyzer().simplify(other))


def _known(extent: Any, bare: list[Any]) -> bool:
    """Whether its sign follows from extents that are variables already: 2 * h where some tensor has h."""
    free: list[Any] = []
    rounds: list[Any] = []
    tvm_ffi.structural_walk(extent, [(tirx.Var, free.append), (_ROUNDING, rounds.append)])
    return not rounds and all(any(v.same_as(b) for b in bare) for v in free)


def _split(whole: Any, analyzer: Any) -> tuple[Any, int]:
    """(quotient, constant) of a quotient plus a constant, else the extent itself and 0; none for k * quotient.

    A multiple of a quotient counts whole tiles: as one variable it would lose that. With a number behind it, where no
    other extent has to do with it, it counts nothing.
    """
    quotients: list[Any] = []
    tvm_ffi.structural_walk(whole, [(_QUOTIENTS, quotients.append)])
    for quotient in quotients:
        rest = analyzer.simplify(whole - quotient)
        if isinstance(rest, tirx.IntImm):
            return quotient, int(rest)
    terms = whole.a if isinstance(whole, tirx.Add) and isinstance(whole.b, tirx.IntImm) else whole
    if isinstance(terms, tirx.Mul) and isinstance(terms.b, tirx.IntImm):
        return None, 0
    return whole, 0
