"""Accumulators in registers: what TVM and LLVM have to be told for that.

TVM takes local buffers, but for the smallest, from a workspace pool: a tile of accumulators then lives in memory, and
pays for an allocation besides. The mark that spares a buffer from that is set here, between TVM's own passes.

LLVM unrolls a short reduction as a whole and then computes one accumulator after the other, with every operand spilled
in between. A loop marked `ROLLED` gets an extent that LLVM cannot know, and stays a loop.
"""

from __future__ import annotations

import functools
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx import compilation_pipeline

from optkit.compiler import rounding
from optkit.compiler.conditions import ask_once
from optkit.compiler.launches import skip_empty
from optkit.compiler.quotients import Extents, cut_quotients, note_extents

PIPELINE = "optkit"
STACK_BYTES = 4096
"""Largest buffer that is kept on the stack."""
_MARK = "disable_lower_builtin"  # TVM: tirx/transform.h, kDisableLowerTVMBuiltin
ROLLED = "optkit.rolled"
"""Annotation of a loop that LLVM is to keep."""
_OPAQUE = """
define linkonce_odr i32 @optkit_opaque(i32 %x) alwaysinline {
  %r = call i32 asm "", "=r,0"(i32 %x)
  ret i32 %r
}
"""


def _small(buffer: Any) -> bool:
    """Whether a buffer is of known size, and small."""
    size = 1
    for extent in buffer.shape:
        if not isinstance(extent, (int, tirx.IntImm)):
            return False
        size *= int(extent)
    dtype = tvm.DataType(str(buffer.dtype))
    return bool(buffer.scope() == "local" and 0 < size * dtype.itemsize <= STACK_BYTES)


def _marked(stmt: Any) -> Any:
    """The statement with its small buffers marked; itself where there are none."""
    if isinstance(stmt, tirx.AllocBuffer):
        if not _small(stmt.buffer):
            return stmt
        mark = tirx.const(1, "int32")
        return tirx.AllocBuffer(stmt.buffer, {**dict(stmt.annotations.items()), _MARK: mark}, stmt.span)
    if isinstance(stmt, tirx.SeqStmt):
        parts = [_marked(part) for part in stmt.seq]
        same = all(new.same_as(old) for new, old in zip(parts, stmt.seq, strict=True))
        return stmt if same else tirx.SeqStmt(parts, stmt.span)
    if isinstance(stmt, tirx.IfThenElse):
        then = _marked(stmt.then_case)
        other = None if stmt.else_case is None else _marked(stmt.else_case)
        same = then.same_as(stmt.then_case) and (other is None or other.same_as(stmt.else_case))
        return stmt if same else tirx.IfThenElse(stmt.condition, then, other, stmt.span)
    if not isinstance(stmt, (tirx.For, tirx.While, tirx.AttrStmt)):
        return stmt
    body = _marked(stmt.body)
    if isinstance(stmt, tirx.For) and ROLLED in stmt.annotations:
        known = tirx.call_extern("int32", "optkit_opaque", stmt.extent.astype("int32"))
        return _loop(stmt, known.astype(str(stmt.extent.ty.dtype)), body)
    if body.same_as(stmt.body):
        return stmt
    if isinstance(stmt, tirx.While):
        return tirx.While(stmt.condition, body, stmt.span)
    if isinstance(stmt, tirx.AttrStmt):
        return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, body, stmt.span)
    return _loop(stmt, stmt.extent, body)


def _loop(stmt: Any, extent: Any, body: Any) -> Any:
    """A loop with another extent and body."""
    rest = (stmt.thread_binding, stmt.annotations, stmt.step, stmt.span)
    return tirx.For(stmt.loop_var, stmt.min, extent, stmt.kind, body, *rest)


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def keep_on_stack(func: Any, _module: Any, _context: Any) -> Any:
    """Mark the small local buffers of a lowered function."""
    body = _marked(func.body)
    text = str(body)
    for name, functions in (("optkit_opaque", _OPAQUE), (rounding.NAME, rounding.FUNCTIONS)):
        if name in text:
            body = tirx.AttrStmt(tvm.ir.StringImm("optkit"), "pragma_import_llvm", tvm.ir.StringImm(functions), body)
    return func.with_body(body)


@functools.cache
def pipeline() -> str:
    """The name of TVM's pipeline with passes of our own in it, registered once."""

    def make() -> tuple[Any, Any, Any]:
        lower, host, device = compilation_pipeline.get_tir_pipeline("s_tir")
        together = tvm.transform.Sequential
        extents: Extents = {}
        return (
            together([note_extents(extents), lower]),
            lambda: together([keep_on_stack, skip_empty, host()]),
            lambda: together([cut_quotients(extents), ask_once, device()]),
        )

    compilation_pipeline.register_tir_pipeline(PIPELINE, make)
    return PIPELINE
