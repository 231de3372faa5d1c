"""The pipeline's text form, its runner, and what it says when a pass goes wrong."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optkit import registry
from optkit.errors import DataError, PassError, UsageError
from optkit.pipeline import Pipeline
from optkit.pipeline_text import OptionInfo, describe_options, format_pass
from optkit.transform import Finding, Pass, PassContext, Result, option
from tests.graphs import build


@dataclass(frozen=True)
class Every(Pass):
    """Has an option of every type."""

    name: ClassVar[str] = "every"

    count: int = option(1, "a number")
    ratio: float = option(0.5, "a share")
    on: bool = option(False, "a switch")
    word: str = option("w", "a word")
    method: Literal["minmax", "entropy"] = option("minmax", "a choice")
    bits: Literal[4, 8] = option(8, "a numeric choice")
    limit: float | None = option(None, "a share, or none")
    tag: str | None = option(None, "a word, or none")
    names: tuple[str, ...] = option((), "words")
    scales: tuple[float, ...] = option((), "numbers")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        return Result(model, False, [Finding("note", "", "ran")])


@dataclass(frozen=True)
class Odd(Pass):
    """Does what its option says."""

    name: ClassVar[str] = "odd"

    what: str = option("nothing", "which mistake to make")

    def __post_init__(self) -> None:
        if self.what == "value":
            raise ValueError("what may not be 'value'")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        graph = model.graph
        match self.what:
            case "crash":
                raise ZeroDivisionError("division by zero")
            case "data":
                raise DataError("the data is empty")
            case "rename":
                graph.outputs[0].name = "other"
            case "type":
                graph[0].inputs[0].dtype = ir.DataType.INT64
            case "rank":
                graph[0].replace_input_with(1, graph.initializers["small"])
            case "attribute":
                graph[0].attributes["group"] = ir.AttrString("group", "no")
            case "unnamed":
                graph[0].name = ""
        return Result(model, True)


@dataclass(frozen=True)
class Named(Pipeline):
    """A named pipeline."""

    name: ClassVar[str] = "named"
    passes: tuple[Pass, ...] = (Every(count=7), Odd())


def get_named(name: str) -> Pipeline:
    """The one named pipeline there is."""
    if name != "named":
        raise UsageError(f"unknown pipeline {name!r}")
    return Named()


@pytest.fixture(autouse=True, scope="module")
def known() -> Any:
    """The classes above as if they were installed."""
    patch = pytest.MonkeyPatch()
    classes = {"every": Every, "odd": Odd}
    patch.setattr(registry, "pass_names", lambda: tuple(classes))
    patch.setattr(registry, "get_pass", classes.__getitem__)
    patch.setattr(registry, "pipeline_names", lambda: ("named",))
    patch.setattr(registry, "get_pipeline", get_named)
    yield
    patch.undo()


def test_golden_text() -> None:
    text = 'every{method=entropy,on=true,names=[Conv_0,"a b"]},odd{what=data}'
    pipeline = Pipeline.parse('  every { method = entropy , on=true, names=[ Conv_0 , "a b" ]} ,odd{what=data} ')
    assert pipeline == Pipeline((Every(method="entropy", on=True, names=("Conv_0", "a b")), Odd(what="data")))
    # Printed in the order of definition, whatever the order given.
    assert str(pipeline) == 'every{on=true,method=entropy,names=[Conv_0,"a b"]},odd{what=data}'
    assert Pipeline.parse(text) == pipeline


texts = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["none", "true", "1", "a,b", "[x]", '"', "\\", ""]
)
floats = st.floats(allow_nan=False)
every = st.builds(
    Every,
    count=st.integers(),
    ratio=floats,
    on=st.booleans(),
    word=texts,
    method=st.sampled_from(["minmax", "entropy"]),
    bits=st.sampled_from([4, 8]),
    limit=st.none() | floats,
    tag=st.none() | texts,
    names=st.lists(texts, max_size=3).map(tuple),
    scales=st.lists(floats, max_size=3).map(tuple),
)
plain = every | texts.filter(lambda t: t != "value").map(lambda t: Odd(what=t))
nested = st.lists(plain | st.just(Named()) | st.lists(plain, max_size=2).map(lambda p: Pipeline(tuple(p))), max_size=4)


@given(nested)
def test_text_round_trips(passes: list[Pass]) -> None:
    pipeline = Pipeline(tuple(passes))
    assert Pipeline.parse(str(pipeline)) == pipeline


@given(st.text(max_size=30) | st.text('every{}[]=,"on true', max_size=20))
def test_any_text_parses_or_is_a_usage_error(text: str) -> None:
    try:
        pipeline = Pipeline.parse(text)
    except UsageError as error:
        assert str(error)
    else:
        assert Pipeline.parse(str(pipeline)) == pipeline


def test_nested_pipelines_by_name() -> None:
    assert str(Named()) == "every{count=7},odd"
    assert Pipeline.parse("named,odd") == Pipeline.parse("@named,odd") == Pipeline((Named(), Odd()))
    assert str(Pipeline.parse("named,odd")) == "@named,odd"
    # Changed, it is no longer the pipeline of that name.
    assert str(Pipeline((dataclasses.replace(Named(), passes=(Odd(),)),))) == "odd"
    assert Pipeline.parse("").passes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evry", "unknown pass 'evry'; did you mean 'every'?"),
        ("zzz", "unknown pass 'zzz'; known: every, named, odd"),
        ("every{cuont=1}", "pass 'every' has no option 'cuont'; did you mean 'count'?"),
        ("every{count=x}", "pass 'every', option count: expected int, got 'x'"),
        ("every{count=1.5}", "option count: expected int, got '1.5'"),
        ('every{count="1"}', "option count: expected int, got '1'"),
        ("every{ratio=[1]}", "option ratio: expected float, got a list"),
        ("every{on=yes}", "option on: expected bool, got 'yes'"),
        ("every{method=entropie}", "'entropie' is not one of minmax, entropy; did you mean 'entropy'?"),
        ("every{bits=5}", "'5' is not one of 4, 8"),
        ("every{limit=x}", r"option limit: expected float \| none, got 'x'"),
        ("every{names=a}", r"option names: expected list of str, got 'a'; write \[a,b\]"),
        ("every{scales=[1,b]}", "option scales: expected float, got 'b'"),
        ("every{count=1,count=2}", "option 'count' is given twice"),
        ("odd{what=value}", "pass 'odd': what may not be 'value'"),
        ("@named{x=1}", "takes no options"),
        ("every,", "column 7: expected a pass, found the end"),
        ("every{", "expected an option, found the end"),
        ("every{count}", "column 12: expected '=', found '}'"),
        ("every{count=1", "expected ',' or '}', found the end"),
        ("every odd", "expected ',', found 'odd'"),
        ('every{word="a}', "expected a value"),
    ],
)
def test_what_cannot_be_parsed(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline.parse(text)


def test_options_are_described_by_their_definition() -> None:
    found = describe_options(Every)
    assert found[0] == OptionInfo("count", "int", "1", "a number")
    assert [info.type for info in found] == [
        "int",
        "float",
        "bool",
        "str",
        "minmax | entropy",
        "4 | 8",
        "float | none",
        "str | none",
        "list of str",
        "list of float",
    ]
    assert [info.default for info in found][-4:] == ["none", "none", "[]", "[]"]
    assert format_pass(Every()) == "every"


def test_with_options() -> None:
    changed = Pipeline((Named(), Odd())).with_options("every", count=9)
    assert str(changed) == "every{count=9},odd,odd"
    with pytest.raises(UsageError, match="has no pass 'fold'"):
        changed.with_options("fold", limit=1)
    with pytest.raises(UsageError, match="has no option 'cuont'"):
        changed.with_options("every", cuont=1)


def model() -> ir.Model:
    return build("a = Add(x, k)  y = Relu(a)", k=_ones(1, 3, 8, 8), small=_ones(5))


def _ones(*shape: int) -> Any:
    import numpy as np

    return np.ones(shape, np.float32)


def test_reports_unfold_nested_pipelines() -> None:
    steps: list[tuple[str, int, int | None]] = []
    context = PassContext(progress=lambda what, done, total: steps.append((what, done, total)))
    result = Pipeline.parse("named,every{on=true}").run(model(), context)
    assert [(r.name, r.text, r.modified) for r in result.reports] == [
        ("every", "every{count=7}", False),
        ("odd", "odd", True),
        ("every", "every{on=true}", False),
    ]
    assert result.modified and len(result.findings) == 2
    assert all(r.seconds >= 0 for r in result.reports)
    assert steps[0] == ("pass named", 0, 2) and steps[-1] == ("passes", 2, 2)


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("crash", PassError, r"pass odd\{what=crash\} \(after every\{on=true\}\): ZeroDivisionError: division by zero"),
        ("data", DataError, r"pass odd\{what=data\} \(after every\{on=true\}\): the data is empty"),
        ("rename", PassError, "changed the model's interface: output 'y' is not what it was"),
        ("type", PassError, "changed the model's interface: input 'x'"),
        ("rank", PassError, "left a broken model behind"),
        ("attribute", PassError, "left a broken model behind"),
    ],
)
def test_errors_name_the_pass_and_those_before(what: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        Pipeline((Every(on=True), Odd(what=what), Every())).run(model(), PassContext())
    assert "\n" not in str(caught.value)


def test_nodes_get_names_back() -> None:
    result = Pipeline((Odd(what="unnamed"),)).run(model(), PassContext())
    assert all(node.name for node in result.model.graph)


def test_an_error_inside_a_nested_pipeline_names_both() -> None:
    with pytest.raises(PassError, match=r"pass @named \(the first pass\): pass odd"):

        @dataclass(frozen=True)
        class Broken(Pipeline):
            """Fails."""

            name: ClassVar[str] = "named"
            passes: tuple[Pass, ...] = (Odd(what="crash"),)

        Pipeline((Broken(),)).run(model(), PassContext())
