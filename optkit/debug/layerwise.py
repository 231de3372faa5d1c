"""`optkit.debug.accuracy`: from the original to the artifact, what every layer lost and where."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from optkit.debug.account import Layer, Report, StageReport
from optkit.debug.advice import advise
from optkit.debug.floats import strip_activations
from optkit.debug.judge import Judge, Outputs
from optkit.debug.kernels import Kernel, Shown, compare_kernels, compiled
from optkit.debug.local import Local, local_errors
from optkit.debug.ranking import HALF_KERNEL_DB, KERNEL_DB, rank
from optkit.debug.stages import ARTIFACT, Stage, choose_data, run_stages
from optkit.debug.structure import (
    PRODUCTS,
    QUANTIZE,
    delivery,
    grid_of,
    is_quantized,
    label,
    quantized_layers,
)
from optkit.debug.tensors import OpenSamples, Pair, compare, same_names, tensor_names
from optkit.debug.trial import try_advice
from optkit.errors import OptkitError, UsageError
from optkit.pipeline import Pipeline
from optkit.plan import PassesLike, choose_pipeline
from optkit.precision import holds_halves, precision_of
from optkit.source import ModelLike, Source, open_source
from optkit.steps import Progress, choose_target, pass_context, pass_options, silent
from optkit.target import Target
from optkit.transform import PassContext

DEFAULT_SAMPLES = 16
DELIVERED = " as read"
"""Marks, in the figures of a stage, the tensor as its readers get it: quantized and dequantized."""
_SAME_DB = 100.0
"""From here on two float tensors count as equal."""


def accuracy(
    model: ModelLike,
    *,
    passes: PassesLike = None,
    target: str | Target = "cpu",
    calib_data: object = None,
    preprocess: str | None = None,
    calib_method: str | None = None,
    calib_samples: int | None = None,
    calib_cache: str | os.PathLike[str] | None = None,
    exclude_nodes: Sequence[str] = (),
    exclude_op_types: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    samples: int | None = None,
    data: object = None,
    atol: float | None = None,
    rtol: float | None = None,
    trials: int = 0,
    artifact: bool = True,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Compare every layer of a model, from the original through each pass to the artifact.

    Args:
        model, passes, target, calib_data, preprocess, calib_method, calib_samples, calib_cache, exclude_nodes,
            exclude_op_types, input_shapes, seed, progress: as for `optkit.compile`.
        samples: how many to compare on, the first of `data`; 16 by default, 3 where they are random.
        data: what to compare on, read as `calib_data` is, with the same preprocessing; by default the calibration
            data itself, without that random inputs.
        atol, rtol: tolerances of the outputs instead of the precision's own; see `optkit.compile`.
        trials: of so many layers, the worst, run the pipeline with each advice and note what it gives.
        artifact: also compile the model and compare its tensors.

    Raises:
        UsageError, ModelError, DataError, PassError, CompileError: as `optkit.compile` does; an artifact that cannot
            be compared for a lesser reason is a note of the report.
    """
    machine = choose_target(target, None)
    pipeline = choose_pipeline(passes, pass_options(calib_method, exclude_nodes, exclude_op_types))
    if calib_data is None and data is None and preprocess is not None:
        raise UsageError("--preprocess needs --calib-data or --data")
    with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
        source = open_source(model, input_shapes, Path(folder))
        shared = None if calib_data is None else preprocess
        context = pass_context(source, machine, calib_data, shared, calib_samples, seed, progress, calib_cache)
        given = calib_data if data is None else data
        opened = choose_data(source, given, preprocess, samples, DEFAULT_SAMPLES, seed)
        work = _Work(source, pipeline, machine, context, opened, Judge(source, opened, atol, rtol), progress)
        layers = work.run(artifact)
        if trials:
            layers = try_advice(work.trial, layers, trials, progress)
        named = os.fspath(given) if isinstance(given, (str, os.PathLike)) else "arrays"
        return Report(
            model=source.stem,
            pipeline=str(pipeline),
            target=machine.name,
            samples=sum(1 for _ in opened()),
            source="random" if given is None else named,
            reference=work.reference,
            stages=tuple(work.stages),
            layers=tuple(layers),
            notes=tuple(work.notes),
        )


@dataclass
class _Work:
    """One comparison under way."""

    source: Source
    pipeline: Pipeline
    target: Target
    context: PassContext
    samples: OpenSamples
    judge: Judge
    progress: Progress
    stages: list[StageReport] = field(default_factory=list)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reference: str = ""

    def run(self, artifact: bool) -> list[Layer]:
        """All stages, then the layers of the last one, worst first."""
        faithful, floats, final = self._passes()
        if is_quantized(final) and floats is None:
            floats = strip_activations(final)
            self.reference = "the given Q/DQ model with float activations; what its weights lost cannot be known"
            self._compare(floats, Stage(self.stages[-1].label, "", final, True))
        elif floats is None:
            floats = faithful
            self.reference = "the original"
        else:
            self.reference = "the float model that was quantized"
        quantized = {layer.name: layer for layer in quantized_layers(final)}
        nodes = [n for n in final.graph if label(n) in quantized or n.op_type in PRODUCTS]
        nodes = nodes or [n for n in final.graph if n.outputs[0].name in set(tensor_names(final))]
        kernels = self._artifact(final, floats, nodes) if artifact else {}
        local = local_errors(floats, final, list(quantized.values()), self.samples, self.progress)
        layers = [self._layer(depth, node, kernels, local) for depth, node in enumerate(nodes)]
        before = {layer.name: self._came_in(node) for layer, node in zip(layers, nodes, strict=True)}
        ranked = rank(layers, before, HALF_KERNEL_DB if holds_halves(final) else KERNEL_DB)
        last = len(layers) - 1
        return [layer.with_advice(advise(layer, self.pipeline, layer.depth in (0, last))) for layer in ranked]

    def trial(self, pipeline: Pipeline, names: Sequence[str]) -> tuple[float | None, dict[str, float]]:
        """Output SQNR of another pipeline, and the own SQNR of these layers in it."""
        context = replace(self.context, progress=silent, unquantized=None, ran=())
        floats, final = None, self.source.model
        for stage in run_stages(self.source, pipeline, context):
            floats, final = (floats if is_quantized(stage.model) else stage.model), stage.model
        outputs = self.judge.compare(final)
        layers = [layer for layer in quantized_layers(final) if layer.name in names]
        local = local_errors(floats or final, final, layers, self.samples, silent, effects=False)
        return outputs.sqnr_db(), {name: error.parts.own for name, error in local.items()}

    def _passes(self) -> tuple[ir.Model, ir.Model | None, ir.Model]:
        """Run and judge the passes: the last faithful float model, what was quantized if anything, and the end."""
        faithful, floats, final = self.source.model, None, self.source.model
        for stage in run_stages(self.source, self.pipeline, replace(self.context)):
            if not is_quantized(stage.model):
                floats = stage.model
            final = stage.model
            against = floats if is_quantized(final) and floats is not None else faithful
            report = self._compare(against, stage)
            self.stages.append(report)
            if report.within and report.precision == "fp32":
                faithful = stage.model
        return faithful, (floats if is_quantized(final) else None), final

    def _compare(self, against: ir.Model, stage: Stage) -> StageReport:
        """Outputs with the original's, tensors with those of `against`."""
        precision = precision_of(stage.model)
        if not stage.modified and self.stages:
            self.figures[stage.label] = self.figures[self.stages[-1].label]
            return replace(self.stages[-1], label=stage.label, text=stage.text, modified=False, changed=0, worst=None)
        outputs = self.judge.compare(stage.model)
        reason = self.judge.reason(outputs, precision)
        pairs = [*same_names(against), *_delivered(stage.model)]
        found = compare(against, stage.model, pairs, self.samples, self.progress, f"after {stage.label}")
        figures = {key: sums.figures().sqnr_db for key, sums in found.items()}
        self.figures[stage.label] = figures
        named = {key: db for key, db in figures.items() if not key.endswith(DELIVERED)}
        changed = {key: db for key, db in named.items() if db < _SAME_DB}
        worst = min(changed.items(), key=lambda item: item[1]) if changed else None
        return StageReport(
            stage.label,
            stage.text,
            stage.modified,
            precision,
            outputs.figures(),
            outputs.sqnr_db(),
            not reason,
            reason,
            len(named),
            len(changed),
            worst,
        )

    def _artifact(self, final: ir.Model, floats: ir.Model, nodes: Sequence[ir.Node]) -> dict[str, Kernel]:
        """Compile: as it is, for the outputs, and with the layers' tensors shown."""
        reason = self.target.runs_here()
        if reason is not None:
            self.notes.append(f"the artifact was not compared: {reason}")
            return {}
        self.progress("compile", 0, None)
        precision = precision_of(final)
        with compiled(final, self.target) as runner:
            outputs = self.judge.compare(runner)
        why = self.judge.reason(outputs, precision)
        text = f"compiled for {self.target.name}"
        report = StageReport(ARTIFACT, text, True, precision, outputs.figures(), outputs.sqnr_db(), not why, why)
        shown = list({s.name: s for s in (_shown(node) for node in nodes)}.values())
        try:
            self.progress("compile with tensors shown", 0, None)
            kernels, against = compare_kernels(final, shown, floats, self.target, self.samples, self.progress)
        except OptkitError as error:
            self.notes.append(f"the artifact's tensors cannot be shown: {error}")
            self.stages.append(report)
            return {}
        figures = {key: sums.figures().sqnr_db for key, sums in against.items()}
        self.figures[ARTIFACT] = figures
        self._say_if_other(outputs, final, kernels)
        off = {name: k.figures.sqnr_db for name, k in kernels.items() if k.figures.sqnr_db < _SAME_DB}
        worst = min(off.items(), key=lambda item: item[1]) if off else None
        self.stages.append(replace(report, compared=len(kernels), changed=len(off), worst=worst))
        return kernels

    def _say_if_other(self, outputs: Outputs, final: ir.Model, kernels: Mapping[str, Kernel]) -> None:
        """A note where showing tensors, which keeps kernels from being fused over them, changed the outputs."""
        compared = self.judge.compare(final)
        for name, figures in compared.figures().items():
            if name not in kernels or name not in outputs.figures():
                continue
            alone, shown = outputs.figures()[name].sqnr_db, kernels[name].figures.sqnr_db
            if abs(alone - figures.sqnr_db) > 1 and shown > _SAME_DB:
                self.notes.append(
                    f"output {name!r} of the artifact is off only where its inner tensors are not shown: a fused "
                    "kernel is to blame; run `optkit debug bisect`"
                )

    def _layer(
        self,
        depth: int,
        node: ir.Node,
        kernels: Mapping[str, Kernel],
        local: Mapping[str, Local],
    ) -> Layer:
        shown = _shown(node)
        output = node.outputs[0].name or ""
        stages = {}
        for name, figures in self.figures.items():
            db = figures.get(shown.pair.key, figures.get(shown.pair.first, figures.get(output)))
            if db is not None:
                stages[name] = db
        kernel = kernels.get(shown.name)
        known = local.get(label(node))
        last = [s.label for s in self.stages if s.label != ARTIFACT][-1]
        return Layer(
            name=label(node),
            op_type=node.op_type,
            depth=depth,
            tensor=shown.pair.first,
            stages=stages,
            parts=None if known is None else known.parts,
            effect=None if known is None else known.effect,
            gain=None if known is None else known.gain,
            accumulated=self.figures[last].get(output),
            kernel=None if kernel is None else kernel.figures.sqnr_db,
            kernel_steps=kernel.steps if kernel is not None and kernel.integers else None,
            cause="" if known is None else known.cause,
        )

    def _came_in(self, node: ir.Node) -> float | None:
        """SQNR, dB, of the worst tensor that a layer reads, at the last stage that shows it."""
        found = []
        for value in node.inputs:
            for figures in reversed(self.figures.values()):
                if value is not None and value.name in figures:
                    found.append(figures[value.name])
                    break
        return min(found, default=None)


def _delivered(model: ir.Model) -> list[Pair]:
    """Quantized activations with the float tensors that they stand for."""
    pairs = []
    for node in model.graph:
        source = node.inputs[0] if node.op_type == QUANTIZE else None
        grid = grid_of(node) if source is not None else None
        if source is None or grid is None or source.name is None or node.outputs[0].name is None:
            continue
        pairs.append(Pair(source.name + DELIVERED, source.name, node.outputs[0].name, grid.real))
    return pairs


def _shown(node: ir.Node) -> Shown:
    """What to look at behind a layer: the integers that the next layers read, else its own output.

    The compiler computes up to those integers in one kernel; showing anything before would take it apart.
    """
    quantize = delivery(node) if node.op_type != "DequantizeLinear" else None
    grid = None if quantize is None else grid_of(quantize)
    source = None if quantize is None else quantize.inputs[0]
    if quantize is None or grid is None or source is None or source.name is None or quantize.outputs[0].name is None:
        name = node.outputs[0].name or ""
        return Shown(name, Pair(name, name, name))
    made = quantize.outputs[0].name
    return Shown(made, Pair(source.name + DELIVERED, source.name, made, grid.real))
