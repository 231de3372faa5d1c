"""Passes in a row: what runs, in which order, with the model checked after each, and what each one did."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from optkit.errors import OptkitError, PassError, UsageError, nearest
from optkit.pipeline_text import format_pass, parse_items
from optkit.tidy import check_model, infer_shapes, name_nodes, one_line
from optkit.transform import Finding, Pass, PassContext, Result


@dataclass(frozen=True)
class PassReport:
    """What one pass of a pipeline did.

    Attributes:
        name: the pass's word.
        text: the pass with its options, as in the pipeline's text form.
        modified: whether the model changed.
        findings: what was done, refused, and why.
        seconds: wall time of the pass, without the check that follows it.
    """

    name: str
    text: str
    modified: bool
    findings: tuple[Finding, ...]
    seconds: float


class PipelineResult(Result):
    """A Result with one report a pass, in the order they ran; nested pipelines are unfolded."""

    def __init__(self, model: ir.Model, reports: Iterable[PassReport]) -> None:
        self.reports = tuple(reports)
        findings = [finding for report in self.reports for finding in report.findings]
        super().__init__(model, any(report.modified for report in self.reports), findings)


@dataclass(frozen=True)
class Pipeline(Pass):
    """Runs passes one after the other and checks the model after each.

    A pipeline is itself a pass. A named one is a subclass with a `name` and a default for `passes`; it is
    written `@name` inside another. Unnamed pipelines inside a pipeline dissolve into their passes.
    """

    name: ClassVar[str] = "pipeline"

    passes: tuple[Pass, ...] = ()

    def __post_init__(self) -> None:
        flat: list[Pass] = []
        for p in self.passes:
            flat.extend(p.passes if type(p) is Pipeline else (p,))
        object.__setattr__(self, "passes", tuple(flat))

    def __str__(self) -> str:
        return ",".join(_item_text(p) for p in self.passes)

    @staticmethod
    def parse(text: str) -> Pipeline:
        """The pipeline written as `text`, e.g. `fold,fuse,quantize{method=entropy,exclude=[Conv_0,"a b"]}`.

        A word is a pass, or a pipeline where no pass has the name; `@word` is always a pipeline.
        `Pipeline.parse(str(p)) == p`. Raises UsageError for unknown names, options and values.
        """
        from optkit import registry

        passes: list[Pass] = []
        for item in parse_items(text):
            known, named = registry.pass_names(), registry.pipeline_names()
            if item.word.startswith("@") or (item.word not in known and item.word in named):
                if item.options:
                    raise UsageError(f"pipeline {item.word!r} takes no options; give them to its passes")
                passes.append(registry.get_pipeline(item.word.removeprefix("@")))
            elif item.word not in known:
                hint = nearest(item.word, [*known, *named])
                raise UsageError(f"unknown pass {item.word!r}; {hint}")
            else:
                passes.append(item.build(registry.get_pass(item.word)))
        return Pipeline(tuple(passes))

    def with_options(self, pass_name: str, **changes: object) -> Pipeline:
        """This pipeline with options of every pass called `pass_name` replaced; nested ones included.

        Raises UsageError where the pipeline has no such pass, or the pass no such option.
        """
        found = False
        passes: list[Pass] = []
        for p in self.passes:
            if isinstance(p, Pipeline):
                if pass_name in p.pass_names():
                    found, p = True, p.with_options(pass_name, **changes)
            elif p.name == pass_name:
                options = [f.name for f in dataclasses.fields(p)]
                for key in changes:
                    if key not in options:
                        raise UsageError(f"pass {pass_name!r} has no option {key!r}; {nearest(key, options)}")
                found, p = True, dataclasses.replace(p, **changes)
            passes.append(p)
        if not found:
            raise UsageError(f"the pipeline {str(self)!r} has no pass {pass_name!r}")
        return Pipeline(tuple(passes))

    def joined(self, _other: Pipeline) -> Pipeline | None:
        """The pipeline that does what both are for; None where they exclude each other, as most do."""
        return None

    def pass_names(self) -> tuple[str, ...]:
        """Words of all passes in the order they run, nested pipelines unfolded."""
        names: list[str] = []
        for p in self.passes:
            names.extend(p.pass_names() if isinstance(p, Pipeline) else (p.name,))
        return tuple(names)

    def run(self, model: ir.Model, context: PassContext) -> PipelineResult:
        """Run all passes; an error names the pass it is about and those that ran before it."""
        reports: list[PassReport] = []
        interface = _interface(model)
        name_nodes(model)  # findings and options speak of nodes by name
        ran = context.ran
        for number, p in enumerate(self.passes):
            context.progress(f"pass {p.name}", number, len(self.passes))
            text = _item_text(p)
            context.ran = (*ran, *(r.text for r in reports))
            start = time.perf_counter()
            try:
                result = p.run(model, context)
                seconds = time.perf_counter() - start
                if not isinstance(p, Pipeline):
                    _check(result.model, interface, result.modified)
            except Exception as error:
                raise _named(error, text, [r.text for r in reports]) from error
            finally:
                context.ran = ran
            model = result.model
            if isinstance(result, PipelineResult):
                reports.extend(result.reports)
            else:
                reports.append(PassReport(p.name, text, result.modified, result.findings, seconds))
        context.progress("passes", len(self.passes), len(self.passes))
        return PipelineResult(model, reports)


def _item_text(p: Pass) -> str:
    """A pass as it is written inside a pipeline."""
    if isinstance(p, Pipeline):
        # With other passes than its own it is no longer the pipeline of that name.
        return f"@{p.name}" if type(p) is not Pipeline and p == type(p)() else str(p)
    return format_pass(p)


def _named(error: Exception, text: str, before: list[str]) -> OptkitError:
    """The error with the pass and those before it; optkit's own kinds keep their kind (and exit code)."""
    ran = f"after {', '.join(before)}" if before else "the first pass"
    kind = type(error) if isinstance(error, OptkitError) else PassError
    detail = str(error) if isinstance(error, OptkitError) else f"{type(error).__name__}: {one_line(error)}"
    return kind(f"pass {text} ({ran}): {detail}")


def _interface(model: ir.Model) -> list[tuple[str, str | None, str]]:
    """Names and element types of the model's inputs and outputs, which no pass may change."""
    return [
        (kind, value.name, str(value.dtype))
        for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs))
        for value in values
    ]


def _check(model: ir.Model, interface: list[tuple[str, str | None, str]], modified: bool) -> None:
    """PassError where a pass broke the model; one that it left alone is as good as it was."""
    name_nodes(model)
    now = _interface(model)
    if now != interface:
        changed = [old for old in interface if old not in now] or [new for new in now if new not in interface]
        what = f"{changed[0][0]} {changed[0][1]!r}" if changed else "the order of inputs or outputs"
        raise PassError(f"it changed the model's interface: {what} is not what it was")
    try:
        if modified:
            check_model(model)
    except OptkitError as error:
        raise PassError(f"it left a broken model behind: {error}") from error
    infer_shapes(model)
