"""What optkit does, as functions: compile, quantize, load."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optkit.artifact.link import find_linker, link_library
from optkit.artifact.manifest import Manifest
from optkit.artifact.payload import BuildInfo, Payload
from optkit.artifact.writer import write_artifact
from optkit.emit import check_forms, parse_forms
from optkit.emit import emit as emit_forms
from optkit.errors import UsageError
from optkit.files import check_writable
from optkit.issues import check_issues, describe_issue
from optkit.latency import check_search, search_precisions
from optkit.mixed import confirm, make_request, search_mixed, write_picture
from optkit.mixed.user_metric import Evaluate
from optkit.pipeline import Pipeline, PipelineResult
from optkit.plan import PassesLike, choose_pipeline
from optkit.precision import precision_of
from optkit.proof import Prover, skipped
from optkit.report import build_report, compute_shares, write_report
from optkit.runtime import Runner, load
from optkit.shape_ranges import Shapes, shape_ranges
from optkit.source import ModelLike, model_stem, open_source
from optkit.steps import (
    Clock,
    Progress,
    build_model,
    check_fallback,
    choose_target,
    foreign_triple,
    make_payload,
    pass_options,
    run_passes,
    silent,
)
from optkit.target import Target
from optkit.tune.shipped import choose_records

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Artifact", "compile", "load", "quantize"]


@dataclass(frozen=True)
class Artifact:
    """A compiled model on disk.

    Attributes:
        path: the `*.optk` file.
        manifest: what it says about itself.
        report: what was done and measured, as JSON values; also in the file `report_path`.
        emitted: what was written beside it, by form ("onnx", "relax", "tir", "asm"; "pareto": a picture).
    """

    path: Path
    manifest: Manifest
    report: Mapping[str, Any]
    emitted: Mapping[str, Path] = field(default_factory=dict)

    @property
    def report_path(self) -> Path:
        """The report beside the artifact."""
        return report_path(self.path)

    def runner(self, threads: int | None = None) -> Runner:
        """Load it; see `optkit.load`."""
        return load(self.path, threads)


def report_path(output: Path) -> Path:
    """`x.report.json` for `x.optk`."""
    return output.with_name(f"{output.stem}.report.json")


def compile(
    model: ModelLike,
    *,
    target: str | Target = "cpu",
    passes: PassesLike = None,
    calib_data: object = None,
    preprocess: str | None = None,
    calib_method: str | None = None,
    calib_samples: int | None = None,
    calib_cache: str | os.PathLike[str] | None = None,
    exclude_nodes: Sequence[str] = (),
    exclude_op_types: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    min_shapes: Shapes | None = None,
    opt_shapes: Shapes | None = None,
    max_shapes: Shapes | None = None,
    fallback: str | None = None,
    output: str | os.PathLike[str] | None = None,
    emit: Iterable[str] = (),
    verify: bool = True,
    atol: float | None = None,
    rtol: float | None = None,
    threads: int | None = None,
    tuning_db: str | os.PathLike[str] | None = None,
    precision_search: str | None = None,
    max_drop: float | None = None,
    evaluate: str | Evaluate | None = None,
    eval_data: object = None,
    search_time: float | None = None,
    cc: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Artifact:
    """Compile a model into one artifact, verified against ONNX Runtime on the original.

    Args:
        model: path of an ONNX file, an `onnx_ir.Model` or an `onnx.ModelProto`; not changed.
        target: name of a target (`optkit targets`) or a Target.
        passes: a pipeline's name ("int8", "fp16", "int8-fp16", "bf16", "tf32"), its text or a Pipeline; None for
            float32.
        calib_data: path, "module:callable", or arrays; see `optkit.data.open_calibration`.
        preprocess: how images become inputs, in text form.
        calib_method, exclude_nodes, exclude_op_types: replace the pipeline's own options of that meaning.
        calib_samples: use at most so many.
        calib_cache: file that keeps what calibration measures of the model's tensors; used where model, passes and
            data are the same (without data: the model and passes), else made again with a warning.
        input_shapes: fixes open axes, by input.
        min_shapes, max_shapes: the range of open axes; a run outside it is an error.
        opt_shapes: the shapes the artifact is to be fastest at; it then holds code of its own for them.
        fallback: "onnxruntime": leave to it what cannot be compiled; the artifact then needs it where it runs.
        output: path of the artifact; by default the model's name with `.optk`, in the current folder.
        emit: forms to write beside it: "onnx", "relax", "tir", "asm", "all" of these; "cuda" for such a target.
        verify: compare with the reference, and write nothing if they disagree.
        atol, rtol: tolerances of that comparison; by default those of the precision.
        threads: threads the code is laid out for; by default the target's cores.
        tuning_db: records of `tune`, a database or JSON lines, to use before those that come with the target; "none":
            no records, the analytical model decides.
        precision_search: "latency": quantize a layer only where it is measured to be faster for it on this machine,
            conversions counted; the pipeline of the manifest names the others as excluded.
        max_drop: points of a metric that may be lost: the fastest mix of int8, bfloat16 (where the target has it) and
            float32 within it is sought, by measured latency. Without `passes` it starts from the int8 pipeline.
        evaluate: that metric, a function (or "module:function") of run(feed) -> outputs by name, which runs a
            candidate; returns points, of which more are better. Without one: agreement with the float model.
        eval_data: samples for the metric without labels, in the forms of `calib_data`; by default every fourth
            calibration sample, which is then held out of calibration.
        search_time: seconds after which the search starts nothing new.
        cc: linker by name or path, or "zig".
        seed: of random inputs and of everything random in passes.
        progress: called as progress(what, done, total).

    Raises:
        UsageError: an unknown name, an option that does not fit, an output that cannot be written.
        ModelError, UnsupportedError: the model is not valid, or holds what cannot be compiled.
        DataError: calibration data does not fit the model.
        PassError, CompileError: a pass or the compiler failed.
        VerificationError: the compiled model does not agree with the reference; no artifact is written.
    """
    clock = Clock()
    path = check_writable(output or f"{model_stem(model)}.optk")
    forms = parse_forms(emit)
    check_fallback(fallback, opt_shapes)
    machine = choose_target(target, threads)
    check_forms(forms, machine)
    passes = "int8" if passes is None and max_drop is not None else passes
    pipeline = choose_pipeline(passes, pass_options(calib_method, exclude_nodes, exclude_op_types))
    check_search(precision_search, pipeline, machine, fallback)
    others: dict[str, object] = {"--fallback": fallback, "--precision-search": precision_search}
    others |= {"--min-shape": min_shapes, "--opt-shape": opt_shapes, "--max-shape": max_shapes}
    request = make_request(max_drop, evaluate, eval_data, search_time, pipeline, machine, others)
    triple = foreign_triple(machine)
    find_linker(cc, triple)
    tuned = choose_records(tuning_db, machine)
    with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
        scratch = Path(folder)
        with clock("load"):
            source = open_source(model, input_shapes, scratch)
            ranges = shape_ranges(source.model, min_shapes, opt_shapes, max_shapes)
        with clock("preflight"):
            progress("preflight", 0, None)
            issues = check_issues(source.model, machine, fallback is not None)
        if precision_search is not None:

            def run(candidate: Pipeline) -> ir.Model:
                fresh = replace(source, model=source.model.clone())
                data = calib_data, preprocess, calib_samples
                return run_passes(fresh, candidate, machine, *data, seed, silent, calib_cache)[0].model

            with clock("precision search"):
                pipeline, searched = search_precisions(pipeline, run, machine, scratch, tuned, seed, progress)
        found = None
        if request is not None:
            given = calib_data, preprocess, calib_samples
            with clock("mixed precision"):
                found = search_mixed(request, pipeline, source.model, machine, scratch, given, tuned, seed, progress)
            pipeline = found.pipeline
        with clock("passes"):
            outcome, samples = run_passes(
                source, pipeline, machine, calib_data, preprocess, calib_samples, seed, progress, calib_cache
            )
        precision = precision_of(outcome.model)
        with clock("build"):
            progress("compile", 0, None)
            built, variants = build_model(outcome.model, machine, ranges, fallback is not None, tuned)
            ranges = ranges.fitted(built.least)
        with clock("link"):
            progress("link", 0, None)
            library = scratch / "lib.so"
            linker = link_library(built.executable, library, cc, triple)
        payload = make_payload(built, library, machine, variants, ranges)
        info = BuildInfo(
            source_sha256=source.sha256,
            pipeline=str(pipeline),
            options={
                "precision": precision,
                "threads": machine.cores,
                "seed": seed,
                "input_shapes": {name: list(shape) for name, shape in (input_shapes or {}).items()},
                "opt_shapes": {name: list(shape) for name, shape in ranges.optimum.items()},
                "calibrated": calib_data is not None or calib_cache is not None,
                **({} if fallback is None else {"fallback": fallback}),
                "macs": compute_shares(built)["by_compute"],
            },
            linker=linker,
            tuning_records=built.tuned_records(),
        )
        with clock("verify"):
            progress("verify", 0, None)
            prover = Prover(source, outcome.model, precision, machine, samples, atol, rtol, seed, ranges)

            def rebuild(other: Target, out: Path) -> Payload:
                other_built, other_variants = build_model(outcome.model, other, ranges, fallback is not None, tuned)
                link_library(other_built.executable, out)
                return make_payload(other_built, out, other, other_variants, ranges)

            proof = prover.prove(payload, info, rebuild) if verify else skipped()
            if found is not None and request is not None and request.untimed is None:
                write_artifact(scratch / "chosen.optk", payload, info, compress=False)
                found.account["artifact"] = confirm(found, scratch / "chosen.optk", machine.cores)
        with clock("write"):
            progress("write", 0, None)
            emitted = emit_forms(forms, path, outcome.model, precision, built)
            manifest = write_artifact(path, payload, replace(info, verification=proof.manifest))
    report = build_report(path, manifest, source, issues, outcome.reports, built, proof, clock.seconds)
    if precision_search is not None:
        report["precision_search"] = searched
    if found is not None:
        report["mixed_precision"] = found.account
        picture = write_picture(found.account, path.with_name(f"{path.stem}.pareto.png"))
        emitted = {**emitted, **({} if picture is None else {"pareto": picture})}
    write_report(report_path(path), report)
    return Artifact(path, manifest, report, emitted)


def quantize(
    model: ModelLike,
    *,
    passes: PassesLike = "int8",
    target: str | Target | None = None,
    calib_data: object = None,
    preprocess: str | None = None,
    calib_method: str | None = None,
    calib_samples: int | None = None,
    calib_cache: str | os.PathLike[str] | None = None,
    exclude_nodes: Sequence[str] = (),
    exclude_op_types: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> ir.Model:
    """The model after the int8 pipeline: standard ONNX with Q/DQ nodes, which ONNX Runtime runs too.

    Args and errors as for `compile`. Save the result with `optkit.model.save_model`.
    """
    return transform(
        model,
        choose_pipeline(passes, pass_options(calib_method, exclude_nodes, exclude_op_types)),
        target=target,
        calib_data=calib_data,
        preprocess=preprocess,
        calib_samples=calib_samples,
        calib_cache=calib_cache,
        input_shapes=input_shapes,
        seed=seed,
        progress=progress,
    ).model


def transform(
    model: ModelLike,
    pipeline: Pipeline,
    *,
    target: str | Target | None = None,
    calib_data: object = None,
    preprocess: str | None = None,
    calib_samples: int | None = None,
    calib_cache: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> PipelineResult:
    """Run a pipeline on a model and return its result: the model, and a report for every pass."""
    with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
        source = open_source(model, input_shapes, Path(folder))
        machine = None if target is None else choose_target(target, None)
        data = calib_data, preprocess, calib_samples
        result, _ = run_passes(source, pipeline, machine, *data, seed, progress, calib_cache)
    return result


def mixed_recipe(
    model: ModelLike,
    pipeline: Pipeline,
    *,
    max_drop: float | None,
    evaluate: str | Evaluate | None = None,
    eval_data: object = None,
    search_time: float | None = None,
    calib_data: object = None,
    preprocess: str | None = None,
    calib_samples: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline with fewest multiply-accumulates in float within `max_drop`, and how it was found.

    Nothing is timed, for there is no target; arguments and errors as for `compile`.
    """
    request = make_request(max_drop, evaluate, eval_data, search_time, pipeline, None, {})
    if request is None:
        raise UsageError("give --max-drop, the points of the metric that may be lost")
    with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
        source = open_source(model, input_shapes, Path(folder))
        given = calib_data, preprocess, calib_samples
        found = search_mixed(request, pipeline, source.model, None, Path(folder), given, None, seed, progress)
    return found.pipeline, found.account


def dry_run(
    model: ModelLike,
    *,
    target: str | Target = "cpu",
    passes: PassesLike = None,
    calib_method: str | None = None,
    exclude_nodes: Sequence[str] = (),
    exclude_op_types: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int | None = None,
    fallback: str | None = None,
    precision_search: str | None = None,
    max_drop: float | None = None,
    evaluate: str | Evaluate | None = None,
    eval_data: object = None,
    search_time: float | None = None,
    cc: str | None = None,
) -> dict[str, Any]:
    """What `compile` would do with these arguments, and every issue of the preflight; writes nothing.

    Errors as for `compile`, except that operators that cannot be compiled are listed and not raised.
    """
    from optkit.compiler.preflight import preflight

    machine = choose_target(target, threads)
    passes = "int8" if passes is None and max_drop is not None else passes
    pipeline = choose_pipeline(passes, pass_options(calib_method, exclude_nodes, exclude_op_types))
    check_search(precision_search, pipeline, machine, fallback)
    others = {"--fallback": fallback, "--precision-search": precision_search}
    make_request(max_drop, evaluate, eval_data, search_time, pipeline, machine, others)
    linker = find_linker(cc, foreign_triple(machine))
    with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
        source = open_source(model, input_shapes, Path(folder))
    return {
        "target": machine.name,
        "runs_here": machine.runs_here() or "yes",
        "pipeline": str(pipeline),
        "linker": " ".join(linker),
        "preflight": [describe_issue(issue) for issue in preflight(source.model, machine)],
    }
