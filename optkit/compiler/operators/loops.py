"""Loops written by hand, for algorithms that are sequential: sorting, suppression, scattering.

    def body(inputs, outputs):
        total = cell("int32", 0)
        with T.serial(0, n) as i:
            when(inputs[0][i] > 0, lambda: add(total, 1))
        outputs[0][0] = total[0]

    count = loops([(1,)], ["int32"], [data], body, "count")

Such a kernel carries its schedule itself (`T.parallel`, `T.vectorized`); the kernel rules leave it alone. On GPUs the
iterations of a parallel loop, and of `independent` ones right in it, are threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812  the name TVM's scripts give it

Body = Callable[[list[Any], list[Any]], None]


INDEPENDENT = "optkit.independent"
"""Annotation of loops whose iterations could run at once."""


def independent(extent: Any) -> Any:
    """A loop right inside of a parallel one, or of another of this kind, with nothing beside it."""
    return T.serial(0, extent, annotations={INDEPENDENT: True})


def loops(
    shapes: Sequence[Sequence[Any]], dtypes: Sequence[str], tensors: Sequence[te.Tensor], body: Body, name: str
) -> Any:
    """The tensors (a list if there are several) that `body(inputs, outputs)` writes."""

    def build(ins: Sequence[Any], outs: Sequence[Any]) -> Any:
        with IRBuilder() as builder:
            with T.seq_scope():
                body([T.buffer_proxy(b) for b in ins], [T.buffer_proxy(b) for b in outs])
            made = builder.get()
        # The scope only joins statements; left where it is, code generation would warn of it on stderr.
        return made.body if isinstance(made, tirx.AttrStmt) else made

    return te.extern([tuple(s) for s in shapes], list(tensors), build, dtype=list(dtypes), name=name)


def cell(dtype: str, value: Any) -> Any:
    """A local variable, read and written as `cell[0]`."""
    variable = T.buffer_proxy(T.decl_buffer([1], dtype, scope="local"))
    variable[0] = tirx.const(value, dtype) if isinstance(value, (int, float)) else value
    return variable


def when(condition: Any, then: Callable[[], None], otherwise: Callable[[], None] | None = None) -> None:
    """if condition: then() else: otherwise()."""
    with T.If(condition):
        with T.Then():
            then()
        if otherwise is not None:
            with T.Else():
                otherwise()


__all__ = ["INDEPENDENT", "Body", "T", "cell", "independent", "loops", "when"]
