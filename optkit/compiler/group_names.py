"""What groups of fused kernels compute, where no weight tells: the node of the kernel that the others joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax

from optkit.compiler.values import OUT_FUSABLE


def name_groups(nodes: Mapping[str, str], found: dict[str, str]) -> Any:
    """A pass behind FuseOps that changes nothing, and notes of which node the results of groups are.

    A group of several calls computes several nodes, and has the names of one.

    Args:
        nodes: by the names of variables that they were lowered to.
        found: gets nodes by the names of variables of `main`.
    """

    def name(module: Any, _context: Any) -> Any:
        bindings = [
            b for block in module["main"].body.blocks for b in block.bindings if isinstance(b.value, relax.Call)
        ]
        calls = Counter(b.value.op for b in bindings if isinstance(b.value.op, tvm.ir.GlobalVar))
        for binding in bindings:
            if calls[binding.value.op] == 1:
                anchors = (nodes.get(str(var.name)) for var in _anchors(module, module[binding.value.op]))
                found.update({str(binding.var.name): node for node in anchors if node is not None})
        return module

    return tvm.transform.module_pass(name, opt_level=0, name="optkit.name_groups")


def _anchors(module: Any, group: Any) -> list[Any]:
    """Variables of what ordinary kernels can be fused to, in a group."""
    inside = [b for block in group.body.blocks for b in block.bindings if isinstance(b.value, relax.Call)]
    made = [(b.var, module[b.value.args[0]]) for b in inside if isinstance(b.value.args[0], tvm.ir.GlobalVar)]
    return [var for var, kernel in made if int((kernel.attrs or {}).get("op_pattern", -1)) == OUT_FUSABLE]
