"""ONNX model to machine code, top to bottom."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import tvm
from tvm import relax

from optkit.artifact.spec import Partition
from optkit.compiler.binding_order import order_bindings
from optkit.compiler.constants import lift_constants
from optkit.compiler.epilogues import end_products
from optkit.compiler.extent_order import order_fused_extents
from optkit.compiler.forks import fork_rows
from optkit.compiler.graphs import capture_graphs, note_inputs
from optkit.compiler.group_names import name_groups
from optkit.compiler.joining import keep_joins
from optkit.compiler.lower import Lowered, lower
from optkit.compiler.lowering import NodeRecord, Sites
from optkit.compiler.operator import Operator
from optkit.compiler.planning import Records
from optkit.compiler.reshapes import legalize_reshape, merge_reshapes, name_unclear, view_reshapes
from optkit.compiler.residuals import keep_residuals
from optkit.compiler.schedule import Kernel, Labels, schedule_module
from optkit.compiler.shape_order import order_shape_stores
from optkit.compiler.stack import pipeline
from optkit.compiler.widenings import widen_per_use
from optkit.compiler.workspaces import plan_workspaces
from optkit.errors import CompileError, OptkitError
from optkit.shape_ranges import Least
from optkit.target import Target
from optkit.tidy import one_line

_SOURCE = "TVM_COMPILE_FORCE_FALLBACK"


@dataclass(frozen=True)
class TensorInfo:
    """Name, element type and shape of a model input or output; symbolic axes are names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass
class Built:
    """What came out of the compiler.

    Attributes:
        executable: TVM's VM executable; `main` takes the inputs in order, then the weights.
        weights: name and value of every weight, in call order.
        kernels: the scheduled functions, with rule, parameters and how often each is called.
        nodes: arithmetic of every convolution and matrix product.
        entry_weights: how many of the weights, from the first, `main` takes; None: all.
        partitions, members: the parts of a model that is not of one piece, and the files of those left elsewhere.
        operators: the products of static extents, and how each is computed.
        least: what open axes have to be at least, by name.
        relax_text, tir_text: the module after fusion, and its scheduled kernels.
        assembly: the host's assembly text, made when asked.
    """

    executable: Any
    weights: list[tuple[str, np.ndarray]]
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    kernels: list[Kernel]
    nodes: list[NodeRecord]
    module: Any
    target: Target
    entry_weights: int | None = None
    partitions: tuple[Partition, ...] = ()
    members: Mapping[str, bytes] = field(default_factory=dict)
    operators: Mapping[Operator, Sites] = field(default_factory=dict)
    least: Mapping[str, Least] = field(default_factory=dict)

    def tuned_records(self) -> list[dict[str, Any]]:
        """The plans that came from tuning records, in a fixed order."""
        planned = [
            {"operator": str(operator), "template": sites.plan.template, "params": dict(sites.plan.params)}
            for operator, sites in sorted(self.operators.items(), key=lambda item: str(item[0]))
            if sites.tuned
        ]
        scheduled = {
            k.operator: {"operator": k.operator, "template": k.template, "params": k.params}
            for k in self.kernels
            if k.tuned
        }
        return planned + [scheduled[operator] for operator in sorted(scheduled)]

    @property
    def reads_values(self) -> bool:
        """Whether values of tensors are looked at between kernels: extents found at run time, and conditions."""
        found = False

        def look(expr: Any) -> None:
            nonlocal found
            extern = isinstance(expr, relax.ExternFunc) and expr.global_symbol == "vm.builtin.tensor_to_shape"
            found = found or extern or isinstance(expr, relax.If)

        for function in self.module.functions.values():
            if isinstance(function, relax.Function):
                relax.analysis.post_order_visit(function, look)
        return found

    @property
    def relax_text(self) -> str:
        """The Relax functions after fusion."""
        functions = {v: f for v, f in self.module.functions.items() if isinstance(f, relax.Function)}
        return str(tvm.IRModule(functions).script(show_meta=False))

    @property
    def tir_text(self) -> str:
        """The scheduled kernels."""
        return str(self.module.script(show_meta=False))

    def assembly(self) -> str:
        """Assembly of the kernels for the target's host."""
        for module in self.executable.mod.imports:
            if module.kind == "llvm":
                return str(module.inspect_source("asm"))
        raise CompileError("no module of this build can print assembly")


def legalize(module: Any) -> Any:
    """Relax operators to PrimFuncs."""
    t = relax.transform
    return tvm.transform.Sequential(
        [
            t.CanonicalizeBindings(),
            t.EliminateCommonSubexpr(),
            widen_per_use,
            t.DecomposeOpsForInference(),
            t.FoldConstant(),
            # Sorts and running sums that GPU threads share; a CPU's are LegalizeOps' own.
            relax.backend.DispatchSortScan(),
            merge_reshapes,
            t.LegalizeOps({"relax.reshape": legalize_reshape}),
            # Constants that legalization made from constants, e.g. a transposed table.
            t.FoldConstant(),
            t.DeadCodeElimination(),
        ]
    )(module)


def fuse(module: Any, target: Target, nodes: Mapping[str, str], found: dict[str, str]) -> Any:
    """Fuse element-wise neighbours into the operators that feed them.

    Args:
        nodes, found: those of `name_groups`.
    """
    t = relax.transform
    return tvm.transform.Sequential(
        [
            t.AnnotateTIROpPattern(),
            end_products,
            t.DeadCodeElimination(),
            keep_residuals,
            keep_joins(target.has("async_copy")),
            t.FuseOps(),
            name_groups(nodes, found),
            *([fork_rows] if target.device == "cuda" else []),
            order_bindings,
            t.FuseTIR(),
            order_fused_extents,
            # Conversions that every reader had for itself, and that fused with none.
            t.EliminateCommonSubexpr(),
            # Before kernels are scheduled: TVM knows a reshape by its loops.
            view_reshapes,
            name_unclear,
            t.RewriteDataflowReshape(),
            t.DeadCodeElimination(),
        ]
    )(module)


def generate(module: Any, target: Any) -> Any:
    """Scheduled kernels and the Relax function around them to an executable with a static memory plan."""
    t = relax.transform
    on_gpu = target.kind.name == "cuda"
    planned = tvm.transform.Sequential(
        [
            t.ToNonDataflow(),
            t.RemovePurityChecking(),
            t.CallTIRRewrite(),
            *([plan_workspaces] if on_gpu else []),
            t.StaticPlanBlockMemory(),
        ]
    )(module)
    lowered = tvm.transform.Sequential(
        [
            t.LowerAllocTensor(),
            t.KillAfterLastUse(),
            t.LowerRuntimeBuiltin(),
            t.ComputePrimValue(),
            t.VMShapeLower(),
            order_shape_stores,
            t.AttachGlobalSymbol(),
        ]
    )(capture_graphs(planned))
    with source_of_devices():
        return relax.build(lowered, target, relax_pipeline=None, tir_pipeline=pipeline())


@contextlib.contextmanager
def source_of_devices() -> Iterator[None]:
    """TVM leaves the source of device code as it is, also where it could compile it: the target's family does that."""
    before = os.environ.get(_SOURCE)
    os.environ[_SOURCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SOURCE]
        else:
            os.environ[_SOURCE] = before


@dataclass
class Prepared:
    """A model as fused kernels without schedules: what the kernel rules are given."""

    lowered: Lowered
    module: Any
    weights: list[tuple[str, np.ndarray]]
    labels: Labels


def prepare(model: ir.Model, target: Target, tuned: Records | None = None) -> Prepared:
    """Everything before schedules: lower, legalize, lift the weights out, fuse."""
    lowered = lower(model, target, tuned)
    with tvm_target(target), stage("its operators cannot be turned into kernels"):
        lifted = lift_constants(legalize(lowered.module))
        groups: dict[str, str] = {}
        fused = fuse(lifted.module, target, lowered.names, groups)
        labels = Labels(groups | lowered.names, {w: lowered.names.get(v, v) for w, v in lifted.owners.items()})
        if target.device == "cuda":
            fused = note_inputs(fused, len(lowered.input_names))
        return Prepared(lowered, fused, lifted.weights, labels)


@contextlib.contextmanager
def stage(problem: str) -> Iterator[None]:
    """What TVM raises in the block is an error of the compiler, in one line."""
    try:
        yield
    except OptkitError:
        raise
    except Exception as error:
        raise CompileError(f"{problem}: {one_line(error)}") from error


def scheduled(ready: Prepared, target: Target, tuned: Records | None) -> tuple[Any, list[Kernel]]:
    """The kernels with their schedules, and what is said of each; in the context of TVM's target."""
    with stage("its kernels cannot be scheduled"):
        return schedule_module(ready.module, target, ready.labels, tuned)


def packaged(module: Any, target: Target) -> Any:
    """The executable of scheduled kernels."""
    with stage("no code can be generated for it"):
        return target.package(generate(module, tvm_target(target)))


def build(model: ir.Model, target: Target, tuned: Records | None = None) -> Built:
    """Compile a model for a target.

    Args:
        model: what the last pass left, FP32, FP16 or with Q/DQ nodes.
        target: the machine.
        tuned: plans that were measured; the analytical model's elsewhere.

    Raises:
        UnsupportedError, CompileError: naming the node or the kernel.
    """
    ready = prepare(model, target, tuned)
    with tvm_target(target):
        module, kernels = scheduled(ready, target, tuned)
        executable = packaged(module, target)
    lowered = ready.lowered
    return Built(
        executable,
        ready.weights,
        *interface(ready),
        kernels,
        lowered.records,
        module,
        target,
        operators=lowered.operators,
        least=lowered.least,
    )


def interface(ready: Prepared) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """The model's inputs and outputs."""
    main, lowered = ready.module["main"], ready.lowered
    inputs = [_info(n, v.ty, lowered) for n, v in zip(lowered.input_names, main.params, strict=False)]
    # The function's own return type forgets extents that are found at run time; the type of what it returns does not.
    results = main.body.body.ty.fields
    outputs = [_info(n, ty, lowered) for n, ty in zip(lowered.output_names, results, strict=True)]
    return inputs, outputs


def _info(name: str, ty: Any, lowered: Lowered) -> TensorInfo:
    if ty.shape is None:  # found while the model runs, by names that the function's callers do not see
        shape: tuple[int | str, ...] = tuple(f"{name}_{i}" for i in range(ty.ndim))
    else:
        shape = tuple(int(d) if isinstance(d, (int, tvm.tirx.IntImm)) else str(d) for d in ty.shape.values)
    return TensorInfo(name, lowered.narrow.get(name, str(ty.dtype)), shape)


def tvm_target(target: Target) -> Any:
    """TVM's form of a target."""
    return tvm.target.Target(dict(target.tvm), host=dict(target.tvm_host) or None)
