"""Which passes run: from a name, a text or a pipeline, with single options replaced."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from optkit import registry
from optkit.errors import UsageError
from optkit.pipeline import Pipeline
from optkit.transform import Pass

PassesLike = str | Pass | None
"""None for the default; a pipeline's name ("int8") or text ("fold,fuse"); a pass or pipeline."""


def choose_pipeline(passes: PassesLike, options: Mapping[str, object] | None = None) -> Pipeline:
    """The pipeline to run.

    Args:
        passes: a text that is exactly the name of a pipeline means that pipeline, even where a pass has
            the same name.
        options: pass options to replace, by name, in every pass of the pipeline that has such an option;
            values of None are left out.

    Raises:
        UsageError: an unknown pass, pipeline or option; no pass of the pipeline has one of the `options`.
    """
    if passes is None:
        pipeline = registry.get_pipeline("default")
    elif isinstance(passes, str):
        known = passes in registry.pipeline_names()
        pipeline = registry.get_pipeline(passes) if known else Pipeline.parse(passes)
    else:
        pipeline = passes if isinstance(passes, Pipeline) else Pipeline((passes,))
    for name, value in (options or {}).items():
        if value is not None:
            pipeline = _with_option(pipeline, name, value)
    return pipeline


def _with_option(pipeline: Pipeline, name: str, value: object) -> Pipeline:
    owners = [word for word in dict.fromkeys(pipeline.pass_names()) if _has_option(word, name)]
    if not owners:
        raise UsageError(
            f"no pass of the pipeline {str(pipeline)!r} has the option {name!r}; "
            "choose another pipeline, or leave it out"
        )
    text = ",".join(f"{word}{{{name}=...}}" for word in owners)
    for word in owners:
        try:
            pipeline = pipeline.with_options(word, **{name: value})
        except (TypeError, ValueError) as error:
            raise UsageError(f"{text}: {error}") from error
    return pipeline


def _has_option(word: str, name: str) -> bool:
    return any(field.name == name for field in dataclasses.fields(registry.get_pass(word)))
