"""Where tensors lie inside others: parts of a concatenation, and of a split, that nobody has to copy.

A concatenation of whole blocks of channels is there as soon as what makes its parts writes them to their places in it,
and a part of a split is read where it lies. A value is at a place in one other, its root: so of several concatenations
that a value is in, one has it, and the others copy it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.sym import Analyzer

from optkit.compiler.places import movable
from optkit.compiler.reshapes import reshapes
from optkit.compiler.values import INJECTIVE, dims

JOIN, PART = "optkit.join", "optkit.part"
"""Attributes of kernels: a concatenation of its arguments, in this order, all of whole blocks of channels; a copy of
blocks of its argument, from this one on."""
_FAR = 2**31
CALL = tvm.ir.Op.get("relax.call_tir")


@dataclass(frozen=True)
class Place:
    """Where a value lies: from block `first` on in another one, its root."""

    root: Any
    first: int


@dataclass
class Joins:
    """What a function's values are made by and read by, and which of them lie in others.

    Attributes:
        device_code: whether products may be computed by device code.
        made: the call of a kernel that makes a variable, for those that one makes.
        readers: the calls that read it.
        elsewhere: variables that anything else reads: a result of the function, an argument of no kernel.
        order: of all bindings.
        places: of the variables that lie in others; a root may lie in a root itself.
        joined, parts: concatenations, and parts of splits, that no kernel computes.
        movable: whether a kernel can have a parameter at a place in another tensor, by kernel, parameter and images.
    """

    module: Any
    device_code: bool = False
    made: dict[Any, Any] = field(default_factory=dict)
    readers: dict[Any, list[Any]] = field(default_factory=dict)
    elsewhere: set[Any] = field(default_factory=set)
    order: dict[Any, int] = field(default_factory=dict)
    places: dict[Any, Place] = field(default_factory=dict)
    joined: set[Any] = field(default_factory=set)
    parts: set[Any] = field(default_factory=set)
    movable: dict[tuple[Any, int, int], bool] = field(default_factory=dict)

    def callee(self, var: Any) -> Any:
        """The kernel that makes a variable, None where another thing does."""
        call = self.made.get(var)
        return None if call is None else self.module[call.args[0]]

    def mark(self, var: Any, name: str) -> int | None:
        """A number among the attributes of the kernel that makes a variable."""
        func = self.callee(var)
        value = None if func is None or not func.attrs else func.attrs.get(name)
        return None if value is None else int(value)

    def kind(self, call: Any) -> int | None:
        """TVM's kind of the kernel that is called."""
        value = (self.module[call.args[0]].attrs or {}).get("op_pattern")
        return None if value is None else int(value)

    def virtual(self, var: Any) -> bool:
        """Whether no kernel computes it."""
        return var in self.joined or var in self.parts

    def place(self, var: Any) -> Place:
        """Where a value lies, in one that lies nowhere else; itself from its first block on, perhaps."""
        at = Place(var, 0)
        while (outer := self.places.get(at.root)) is not None:
            at = Place(outer.root, outer.first + at.first)
        return at


def arguments(call: Any) -> list[Any]:
    """What a call of a kernel reads."""
    given = call.args[1]
    return list(given.fields) if isinstance(given, relax.Tuple) else [given]


def tensors(call: Any) -> list[Any]:
    """The tensors among what a call of a kernel reads, which may be told extents too."""
    return [given for given in arguments(call) if isinstance(given.ty, relax.TensorType)]


def extents(var: Any) -> tuple[Any, ...] | None:
    """Those of one tensor in blocks of channels, whose number is known; the others may be open."""
    ty = var.ty
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return None
    found = dims(ty.shape.values)
    return found if len(found) > 1 and isinstance(found[1], int) else None


def examine(func: Any, module: Any, device_code: bool) -> Joins:
    """The function's kernels and values; nothing is placed yet."""
    found = Joins(module, device_code)
    results = func.body.body
    found.elsewhere.update(relax.analysis.free_vars(results))
    for block in func.body.blocks:
        for binding in block.bindings:
            found.order[binding.var] = len(found.order)
            value = getattr(binding, "value", None)
            if isinstance(binding, relax.VarBinding) and isinstance(value, relax.Call) and value.op == CALL:
                found.made[binding.var] = value
                for read in arguments(value):
                    found.readers.setdefault(read, []).append(value)
                continue
            if isinstance(binding, relax.VarBinding) and isinstance(value, relax.Var):
                found.elsewhere.add(binding.var)  # an output of the block under another name
            found.elsewhere.update(relax.analysis.free_vars(value))
    return found


def find(func: Any, module: Any, device_code: bool) -> Joins:
    """What may lie in what, of a function of kernels."""
    found = examine(func, module, device_code)
    for var in found.made:
        if found.mark(var, PART) is not None:
            _part(found, var)
    for var in sorted(found.made, key=found.order.__getitem__):
        if found.mark(var, JOIN) is not None:
            _join(found, var)
    return found


def _near(shape: tuple[Any, ...] | None) -> bool:
    """Whether places in a tensor are 32-bit numbers, as those in an image of its own are; of open extents none are."""
    return shape is not None and (any(not isinstance(n, int) for n in shape) or math.prod(shape) < _FAR)


def _equal(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether extents are the same."""
    same = Analyzer().can_prove_equal
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))


def _part(found: Joins, var: Any) -> None:
    """Read a part of a split where it lies, if all its readers can."""
    source = arguments(found.made[var])[0]
    if isinstance(source, relax.Var) and _near(extents(source)) and _movable(found, var):
        found.places[var] = Place(source, int(found.callee(var).attrs[PART]))
        found.parts.add(var)


def _join(found: Joins, var: Any) -> None:
    """Make a concatenation by making its parts there, if that takes no more kernels."""
    parts, whole = tensors(found.made[var]), extents(var)
    if not whole or not _near(whole) or var in found.elsewhere:
        return
    spans = list(_spans(found, parts))
    if spans[-1].end != whole[1]:
        return
    roots = {span.at.root: span.offset for span in spans}
    if any(span.offset != roots[span.at.root] for span in spans):
        return  # twice in it: as itself and as a part of a larger one, for example
    if not all(_fits(found, span, spans, var) for span in spans):
        return
    if sum(_absorbed(found, root) for root in roots) <= 1:
        found.places |= {root: Place(var, first) for root, first in roots.items()}
        found.joined.add(var)


@dataclass(frozen=True)
class _Span:
    """A part's blocks in a concatenation, and where it lies."""

    start: int
    end: int
    at: Place

    @property
    def offset(self) -> int:
        """Where the part's root has to begin in the concatenation."""
        return self.start - self.at.first


def _spans(found: Joins, parts: Sequence[Any]) -> Iterator[_Span]:
    start = 0
    for part in parts:
        shape = extents(part)
        end = start + (shape[1] if shape else 0)
        yield _Span(start, end, found.place(part))
        start = end


def _fits(found: Joins, span: _Span, spans: Sequence[_Span], var: Any) -> bool:
    """Whether all of the root that a part lies in can lie in the concatenation, so that the part is in its place."""
    root, first = span.at.root, span.offset
    shape, whole = extents(root), extents(var)
    if not isinstance(root, relax.Var) or shape is None or whole is None or root.ty.dtype != var.ty.dtype:
        return False
    if root not in found.made or not (root in found.joined or _writable(found, root)) or not _movable(found, root):
        return False
    if not _equal((shape[0], *shape[2:]), (whole[0], *whole[2:])) or first < 0 or first + shape[1] > whole[1]:
        return False
    beside = [s for s in spans if s.start < first + shape[1] and s.end > first]
    return all(s.at.root.same_as(root) for s in beside)


def _absorbed(found: Joins, var: Any) -> bool:
    """Whether what makes a value would be part of the kernel that concatenates, and now is one of its own.

    Of one such kernel nothing is lost: the concatenation is none.
    """
    kind = found.mark(var, "op_pattern")
    if var in found.joined or var in found.places or kind is None or len(found.readers[var]) > 1:
        return False
    if kind >= INJECTIVE:
        return kind == INJECTIVE
    # Element by element: part of the product before it, if there is one.
    sources = [read for read in arguments(found.made[var]) if read in found.made]
    return all(_absorbed(found, source) or len(found.readers[source]) > 1 for source in sources)


def _writable(found: Joins, var: Any) -> bool:
    """Whether the kernel that makes a value can write it to a place in another one."""
    return _takes(found, found.made[var], len(found.callee(var).params) - 1, extents(var))


def _movable(found: Joins, var: Any) -> bool:
    """Whether all readers of a value can read it at a place in another one."""
    return var not in found.elsewhere and all(
        _takes(found, call, index, extents(var))
        for call in found.readers.get(var, [])
        for index, read in enumerate(arguments(call))
        if read.same_as(var)
    )


def _takes(found: Joins, call: Any, index: int, shape: tuple[Any, ...] | None) -> bool:
    """Whether a call's kernel can have a tensor as part of another one."""
    if shape is None or len(call.args) > 2:
        return False  # of extents that are found at run time
    images = shape[0] if isinstance(shape[0], int) else 0
    key = call.args[0], index, images
    if key not in found.movable:
        func = found.module[call.args[0]]
        found.movable[key] = not _reshapes(func) and movable(func, index, images, found.device_code)
    return found.movable[key]


def _reshapes(func: Any) -> bool:
    """Whether all that a kernel does is to give a tensor another shape."""
    ends = [list(param.shape) for param in (func.params[0], func.params[-1]) if hasattr(param, "shape")]
    known = all(isinstance(extent, int | tirx.IntImm) for shape in ends for extent in shape)
    sizes = {math.prod(map(int, shape)) for shape in ends} if known else set()
    return len(sizes) < 2 and reshapes(func)
