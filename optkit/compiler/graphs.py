"""CUDA graphs: what a model launches between its first and its last kernels is captured once and replayed.

TVM finds the regions (`RewriteCUDAGraph`): calls on memory that was planned, and on weights. What reads the caller's
inputs or writes outputs runs outside, so that neither is copied. Every entry also stays as it was, under another name:
where calls are looked at one by one, a graph is one.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from optkit.artifact.manifest import WITHOUT_GRAPH

INPUTS = "num_input"
"""TVM's attribute of a function: how many of its parameters differ from call to call."""


def note_inputs(module: Any, count: int) -> Any:
    """The module with `main` saying that its parameters from `count` on are weights."""
    for var, function in module.functions.items():
        if var.name_hint == "main":
            module.update_func(var, function.with_attr(INPUTS, count))
    return module


def capture_graphs(module: Any) -> Any:
    """The module, its memory planned, with its static regions captured.

    Only where every Relax function is an entry: branches and bodies of loops run with what is around them.
    """
    entries = {v: f for v, f in module.functions.items() if isinstance(f, relax.Function)}
    if not entries or not all(INPUTS in (f.attrs or {}) for f in entries.values()):
        return module
    with tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": True}):
        captured = relax.transform.RewriteCUDAGraph()(module)
    functions = dict(captured.functions.items())
    if len(functions) == len(module.functions):
        return module
    for var, function in entries.items():
        name = f"{var.name_hint}{WITHOUT_GRAPH}"
        plain = tvm.ir.GlobalVar(name)
        relax.expr._update_type(plain, var.ty)
        functions[plain] = function.with_attr("global_symbol", name)
    return tvm.IRModule(functions)
