"""A loop as recursion of bounded depth.

Relax has no loop, and its virtual machine runs a call of a Relax function on the C stack, so a function that
calls itself once an iteration dies after some ten thousand. Here `run(level)` makes up to 2^level iterations:

    run(0)     = one iteration
    run(level) = run(level - 1), then, if the loop goes on, run(level - 1) again

so that the depth is the logarithm of the trip count. Outputs that collect one row an iteration come out of the
same halving: the rows of both halves are concatenated. That moves each row log2(n) times, and needs neither
the trip count in advance nor a buffer that is written in place behind Relax's back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax, te, tirx

from optkit.compiler.lowering import Lowering
from optkit.compiler.subgraphs import Function, call, define, equal, scalar, tensor_value
from optkit.compiler.values import Value, dims
from optkit.errors import UnsupportedError

_LEVELS = 48
"""Of a loop whose trip count is no constant: more iterations than any machine makes."""
_ROUNDS = 16
_INDEX = relax.TensorType((), "int64")

Iterate = Callable[[Value, list[Value], list[Any]], "tuple[Value | None, list[Value], list[Value]]"]
"""One iteration: index, state and captured parameters to condition (None: it is true), state and rows."""


class Loop:
    """The functions of a loop.

    Args:
        name: of the functions.
        state: carried from one iteration to the next.
        limit: trip count, an int or a scalar tensor of int64; None where only the condition ends the loop.
        arguments: variables that every iteration reads.
        vary: called when an iteration changes the extents of the state, before it is lowered again.
    """

    def __init__(
        self,
        low: Lowering,
        name: str,
        state: Sequence[Value],
        limit: Any,
        arguments: Sequence[Any],
        iterate: Iterate,
        vary: Callable[[], None] = lambda: None,
    ) -> None:
        self.low, self.name, self.iterate, self.vary = low, name, iterate, vary
        self.limit = limit if limit is None or isinstance(limit, int) else None
        self.bound = [] if limit is None or isinstance(limit, int) else [limit]
        self.initial = [low.tensor(value) for value in state]
        self.kinds = [
            str(e.ty.dtype) if v.dtype == "shape" else v.dtype for v, e in zip(state, self.initial, strict=True)
        ]
        self.shapes = [list(dims(e.ty.shape.values)) for e in self.initial]
        self.free: list[set[int]] = [set() for _ in state]
        self.arguments = list(arguments)
        self.rows: list[Value] = []
        self.conditional = False

    def emit(self, start: Any | None) -> list[Any]:
        """Call the loop: final state and collected rows, as variables.

        Args:
            start: a scalar tensor that says whether there is a first iteration; None: there is one.
        """
        low = self.low
        run = self._recursion(self._body())
        levels = _LEVELS if self.limit is None else max(self.limit - 1, 0).bit_length()
        level = tirx.const(levels, "int64")
        arguments = [relax.const(0, "int64"), *self.bound, *self.initial, *self.arguments]
        if start is None:
            found = low.bind(run.call([level, *arguments]))
        else:
            found = low.bind(self._guarded(run, level, [start, *arguments]))
        return [low.bind(relax.TupleGetItem(found, i)) for i in range(2, 2 + len(self.initial) + len(self.rows))]

    def row_shape(self, row: Value) -> list[Any]:
        """Extents of a row, None where only an iteration finds them out."""
        return [d if isinstance(d, int) else None for d in row.shape]

    def _state_types(self) -> list[Any]:
        return [relax.TensorType(s, e.ty.dtype) for s, e in zip(self.shapes, self.initial, strict=True)]

    def _types(self) -> list[Any]:
        """Of index, limit where it is a tensor, state, and what every iteration reads."""
        return [_INDEX, *[_INDEX for _ in self.bound], *self._state_types(), *[a.ty for a in self.arguments]]

    def _split(self, params: list[Any]) -> tuple[Any, list[Any], list[Any], list[Any]]:
        """Index, limit, state and the rest of parameters laid out as `_types`."""
        at = 1 + len(self.bound)
        to = at + len(self.initial)
        return params[0], params[1:at], params[at:to], params[to:]

    def _body(self) -> Function:
        """One iteration; lowered again with more open extents until its types hold for every iteration."""
        for _ in range(_ROUNDS):
            records = len(self.low.records)
            ends: list[Value] = []

            def body(params: list[Any], ends: list[Value] = ends) -> Any:
                return self._iteration(params, ends)

            function = define(self.low, f"{self.name}_body", self._types(), body, dataflow=True)
            if not self._widen(ends):
                return function
            del self.low.records[records:]
            self.vary()
        raise UnsupportedError("the shapes of its loop-carried values do not settle")

    def _iteration(self, params: list[Any], ends: list[Value]) -> Any:
        low = self.low
        index, bound, state, captured = self._split(params)
        values = [tensor_value(low, var, kind) for var, kind in zip(state, self.kinds, strict=True)]
        condition, after, self.rows = self.iterate(tensor_value(low, index), values, captured)
        self.conditional = condition is not None
        following = low.bind(relax.op.add(index, relax.const(1, "int64")))
        flag = None if condition is None else scalar(low, condition)
        limit = bound[0] if bound else self.limit
        goes_on = low.emit(_goes_on, following, limit, flag, name="goes_on")
        ends.extend(after)
        rows = [low.bind(relax.op.expand_dims(low.tensor(row), 0)) for row in self.rows]
        return relax.Tuple([goes_on, following, *[low.tensor(v) for v in after], *rows])

    def _widen(self, ends: Sequence[Value]) -> bool:
        """Make extents open that an iteration changes; returns whether there were any."""
        changed = False
        for i, (shape, end) in enumerate(zip(self.shapes, ends, strict=True)):
            what = f"loop-carried value {i}"
            dtype, found = ("int64", end.plain().ty.ndim) if end.dtype == "shape" else (end.dtype, len(end.shape))
            if dtype != self.kinds[i]:
                raise UnsupportedError(f"{what} is {self.kinds[i]} before an iteration, and {dtype} after it")
            now = [found] if end.dtype == "shape" else list(end.shape)
            if len(now) != len(shape):
                raise UnsupportedError(
                    f"{what} has {len(shape)} dimensions before an iteration, and {len(now)} after it"
                )
            for axis, extent in enumerate(now):
                if axis not in self.free[i] and not equal(extent, shape[axis]):
                    self.free[i].add(axis)
                    shape[axis] = tirx.Var(f"s{i}_{axis}", "int64")
                    changed = True
        return changed

    def _result(self) -> Any:
        """Type of (goes on, index, state, rows); a caller does not know open extents."""
        states = [
            relax.TensorType(dtype=t.dtype, ndim=t.ndim) if free else t
            for t, free in zip(self._state_types(), self.free, strict=True)
        ]
        rows = [relax.TensorType(dtype=t.dtype, ndim=t.ndim) for t in self._row_types()]
        return tvm.ir.TupleType([relax.TensorType((), "bool"), _INDEX, *states, *rows])

    def _row_types(self, tag: str = "") -> list[Any]:
        """Of the rows so far: any number of them."""
        types = []
        for i, row in enumerate(self.rows):
            inner = [
                tirx.Var(f"r{i}_{axis}{tag}", "int64") if d is None else d for axis, d in enumerate(self.row_shape(row))
            ]
            types.append(relax.TensorType([tirx.Var(f"r{i}{tag}", "int64"), *inner], storage_type(row)))
        return types

    def _recursion(self, body: Function) -> Function:
        """run(level, ...), which makes up to 2^level iterations."""
        low, bb = self.low, self.low.bb
        types = [tvm.ir.PrimType("int64"), *self._types()]
        own = {var for shape in self.shapes for var in shape if isinstance(var, tirx.Var)}
        own -= {d for e in self.initial for d in _variables([e.ty])}
        extents = list(dict.fromkeys([*body.extents, *(v for v in _variables(types) if v not in own)]))
        shape = [relax.Var("extents", relax.ShapeType(extents))] if extents else []
        params = [*shape, *(relax.Var(f"p{i}", t) for i, t in enumerate(types))]
        run = bb.add_func(relax.Function.create_empty(params, self._result()), f"{self.name}_run")
        states, width = 2 + len(self.initial), 2 + len(self.initial) + len(self.rows)
        row_types = self._row_types()

        def fields(result: Any) -> list[Any]:
            return [bb.emit(relax.TupleGetItem(result, i)) for i in range(width)]

        def rest(given: list[Any]) -> Any:
            cut = len(given) - len(row_types)
            parts = fields(bb.emit(call(run, extents, given[:cut])))
            inner = [t.shape.values[1:] for t in row_types]
            joined = []
            for before, row, sizes in zip(given[cut:], parts[states:], inner, strict=True):
                kind = relax.TensorType([tirx.Var("more", "int64"), *sizes], before.ty.dtype)
                joined.append(bb.emit(relax.op.concat([before, bb.match_cast(row, kind)], 0)))
            return relax.Tuple([*parts[:states], *joined])

        after = define(low, f"{self.name}_rest", [*types, *row_types], rest, extents=extents)

        def twice(given: list[Any]) -> Any:
            level = given[0] - tirx.const(1, "int64")
            _, bound, _, captured = self._split(given[1:])
            first = bb.emit(call(run, extents, [level, *given[1:]]))
            parts = fields(first)
            rows = parts[states:]
            return relax.If(parts[0], after.call([level, parts[1], *bound, *parts[2:states], *captured, *rows]), first)

        both = define(low, f"{self.name}_twice", types, twice, extents=extents)

        def choose(given: list[Any]) -> Any:
            return relax.If(given[0].equal(tirx.const(0, "int64")), body.call(given[1:]), both.call(given))

        chosen = define(low, f"{self.name}_level", types, choose, extents=extents)
        bb.update_func(run, relax.utils.copy_with_new_vars(bb.get()[chosen.var]))
        return Function(run, tuple(extents))

    def _guarded(self, run: Function, level: Any, arguments: list[Any]) -> Any:
        """A call of `run`, or of nothing where the loop makes no iteration."""

        def body(params: list[Any]) -> Any:
            index, _, state, _ = self._split(params[1:])
            rows = [
                self.low.bind(relax.op.zeros([0, *[d or 0 for d in self.row_shape(row)]], storage_type(row)))
                for row in self.rows
            ]
            nothing = self.low.bind(relax.Tuple([params[0], index, *state, *rows]))
            return relax.If(params[0], run.call([level, *params[1:]]), nothing)

        return define(self.low, self.name, [a.ty for a in arguments], body).call(arguments)


def storage_type(value: Value) -> str:
    """The element type that kernels see."""
    from optkit.artifact.spec import storage

    return "int64" if value.dtype == "shape" else storage(value.dtype)


def _goes_on(following: Any, limit: Any, flag: Any) -> Any:
    def formula() -> Any:
        tests = [] if flag is None else [flag()]
        if limit is not None:
            tests.append(following() < (limit if isinstance(limit, int) else limit()))
        return tirx.all(*tests) if len(tests) > 1 else tests[0] if tests else tirx.const(True, "bool")

    return te.compute((), formula, name="goes_on")


def _variables(types: Sequence[Any]) -> list[Any]:
    """Symbols in tensor types, in order."""
    found: dict[Any, None] = {}
    for kind in types:
        for extent in getattr(getattr(kind, "shape", None), "values", None) or ():
            found.update((v, None) for v in tirx.analysis.undefined_vars(extent))
    return list(found)


__all__ = ["Iterate", "Loop"]
