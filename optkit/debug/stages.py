"""The model after every pass of a pipeline, and whether it still answers like the original."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from optkit.data import open_calibration
from optkit.debug.tensors import OpenSamples
from optkit.measure.reference import Reference
from optkit.measure.samples import choose_samples
from optkit.pipeline import Pipeline
from optkit.pipeline_text import format_pass
from optkit.source import Source
from optkit.transform import Pass, PassContext

ORIGINAL, LOADED, ARTIFACT = "original", "load", "artifact"
RANDOM_SAMPLES = 3


@dataclass(frozen=True)
class Stage:
    """The model at one point of the pipeline.

    Attributes:
        label: the pass's word, numbered where it runs more than once.
        text: the pass with its options.
        made_by: the pass; None for the model as it was loaded.
    """

    label: str
    text: str
    model: ir.Model
    modified: bool
    made_by: Pass | None = None


def passes_of(pipeline: Pipeline) -> Iterator[Pass]:
    """Passes in the order they run, named pipelines unfolded."""
    for p in pipeline.passes:
        if isinstance(p, Pipeline):
            yield from passes_of(p)
        else:
            yield p


def run_stages(source: Source, pipeline: Pipeline, context: PassContext) -> Iterator[Stage]:
    """The loaded model, then the model after each pass as it is run; every one a model of its own.

    `source.model` is not changed. Errors as the pipeline's own.
    """
    model = source.model.clone()
    yield Stage(LOADED, LOADED, model.clone(), True)
    words = [p.name for p in passes_of(pipeline)]
    for number, p in enumerate(passes_of(pipeline)):
        result = Pipeline((p,)).run(model, context)
        model = result.model
        context.ran = (*context.ran, *(report.text for report in result.reports))
        count = words[:number].count(p.name) + 1
        name = p.name if words.count(p.name) == 1 else f"{p.name}-{count}"
        yield Stage(name, format_pass(p), model.clone(), result.modified, p)


def choose_data(
    source: Source, data: object, preprocess: str | None, count: int | None, usual: int, seed: int
) -> OpenSamples:
    """Samples to compare on: `count` (or the usual number) of `data`, evenly spread; random ones where it is None."""
    if data is not None:
        inputs = source.model.graph.inputs
        return open_calibration(
            data, inputs, preprocess=preprocess, samples=usual if count is None else count, seed=seed
        )
    specs = Reference(source.model).inputs
    drawn = choose_samples(specs, None, RANDOM_SAMPLES if count is None else count, seed, {}, source.path)
    return lambda: iter(drawn)
