"""The steps that compile and quantize are made of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from optkit import registry
from optkit.artifact.payload import Payload, describe_target
from optkit.artifact.spec import TensorSpec, Variant
from optkit.calibration_cache import CalibrationCache
from optkit.data import Samples, open_calibration
from optkit.errors import UsageError, nearest
from optkit.files import check_writable
from optkit.fingerprint import fingerprint
from optkit.pipeline import Pipeline, PipelineResult
from optkit.shape_ranges import ShapeRanges
from optkit.shapes import bind_shapes
from optkit.source import Source
from optkit.target import Target
from optkit.transform import PassContext

if TYPE_CHECKING:
    import onnx_ir as ir

    from optkit.compiler.build import Built
    from optkit.compiler.planning import Records

Variants = Sequence[Variant]
Progress = Callable[[str, int, int | None], None]
"""progress(what, done, total); total is None where it is unknown."""


def silent(_what: str, _done: int, _total: int | None) -> None:
    """Progress that nobody looks at."""


def choose_target(target: str | Target, threads: int | None) -> Target:
    """The target of that name, laid out for `threads` threads."""
    found = registry.find_target(target) if isinstance(target, str) else target
    if threads is None:
        return found
    if threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    return found.with_threads(threads)


def foreign_triple(target: Target) -> str | None:
    """The linker's name of the target's architecture, or None where it is this machine's."""
    from optkit.runtime.isa import architecture

    triple = str((target.tvm_host or target.tvm).get("mtriple", ""))
    if not triple or triple.split("-")[0] == architecture():
        return None
    return triple.replace("-unknown", "")


def pass_options(
    method: str | None, exclude_nodes: Sequence[str], exclude_op_types: Sequence[str]
) -> dict[str, object]:
    """The pass options behind compile's arguments; what was not given is left out."""
    return {
        "method": method,
        "exclude": tuple(exclude_nodes) or None,
        "exclude_op_types": tuple(exclude_op_types) or None,
    }


FALLBACKS = ("onnxruntime",)


def check_fallback(name: str | None, optimum: object) -> None:
    """UsageError where there is no such fallback, or it does not go with what else is asked."""
    if name is not None and name not in FALLBACKS:
        raise UsageError(f"no fallback {name!r}; {nearest(name, FALLBACKS)}")
    if name is not None and optimum:
        raise UsageError("--fallback and --opt-shape exclude each other; fix the shapes with --input-shape")


def run_passes(
    source: Source,
    pipeline: Pipeline,
    target: Target | None,
    calib_data: object,
    preprocess: str | None,
    calib_samples: int | None,
    seed: int,
    progress: Progress,
    calib_cache: str | os.PathLike[str] | None = None,
) -> tuple[PipelineResult, Samples | None]:
    """Run the pipeline on the source's model; also returns what opens the calibration samples."""
    context = pass_context(source, target, calib_data, preprocess, calib_samples, seed, progress, calib_cache)
    samples = context.calibration  # all: passes may hold some out from those behind them
    return pipeline.run(source.model, context), samples


def pass_context(
    source: Source,
    target: Target | None,
    calib_data: object,
    preprocess: str | None,
    calib_samples: int | None,
    seed: int,
    progress: Progress,
    calib_cache: str | os.PathLike[str] | None = None,
) -> PassContext:
    """What passes may use beside their options, before the first has run."""
    if calib_data is None and (preprocess is not None or calib_samples is not None):
        raise UsageError("--preprocess and --calib-samples need --calib-data")
    samples = None
    if calib_data is not None:
        samples = open_calibration(
            calib_data, source.model.graph.inputs, preprocess=preprocess, samples=calib_samples, seed=seed
        )
    cache = None
    if calib_cache is not None:
        data = None
        if samples is not None:
            data = {
                "fingerprint": fingerprint(calib_data, samples, calib_samples),
                "preprocess": preprocess,
                "samples": calib_samples,
                "seed": seed if "augment" in (preprocess or "") else None,
            }
        cache = CalibrationCache(check_writable(calib_cache), source.sha256, data)
    return PassContext(
        target=target,
        calibration=samples,
        reference=source.model.clone(),
        progress=progress,
        seed=seed,
        calibration_cache=cache,
    )


def build_model(
    model: ir.Model,
    target: Target,
    ranges: ShapeRanges | None = None,
    fallback: bool = False,
    tuned: Records | None = None,
) -> tuple[Built, Variants]:
    """Lower, schedule and generate code; for an optimum of open axes, code of its own besides."""
    from optkit.compiler.build import build  # TVM takes a second to import

    if fallback:
        from optkit.compiler.partitioned import build_with_fallback

        return build_with_fallback(model, target, tuned), ()
    if ranges is None or not ranges.optimum:
        return build(model, target, tuned), ()
    from optkit.compiler.variants import build_with_optimum

    fixed = bind_shapes(model.clone(), ranges.optimum)
    # What was arithmetic of open extents is constant now.
    Pipeline.parse("fold").run(fixed, PassContext(target=target))
    return build_with_optimum(model, fixed, target, ranges.optimum, tuned)


def make_payload(
    built: Built, library: Path, target: Target, variants: Variants = (), ranges: ShapeRanges | None = None
) -> Payload:
    """What the artifact writer packs."""
    return Payload(
        library=library,
        weights=built.weights,
        inputs=[TensorSpec(t.name, t.dtype, t.shape) for t in built.inputs],
        outputs=[TensorSpec(t.name, t.dtype, t.shape) for t in built.outputs],
        device=target.device,
        kernels=[kernel.as_dict() for kernel in built.kernels],
        target=describe_target(target),
        reads_values=built.reads_values,
        entry_weights=built.entry_weights,
        variants=variants,
        ranges={
            **{name: (least.extent, None) for name, least in built.least.items()},
            **(ranges.limits if ranges else {}),
        },
        partitions=built.partitions,
        members=built.members,
    )


class Clock:
    """Seconds by phase: `with clock("load"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
