"""What is installed: passes, targets and named pipelines, found by entry point and loaded when asked for."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from optkit.errors import UsageError, nearest

if TYPE_CHECKING:
    from optkit.pipeline import Pipeline
    from optkit.target import Target, TargetFamily
    from optkit.transform import Pass

_PASSES, _TARGETS, _PIPELINES = "optkit.passes", "optkit.targets", "optkit.pipelines"


@functools.cache
def _entries(group: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    """Entry points of a group by name, none of them loaded.

    Two distributions that claim one name are an error. The same line twice is not: stale metadata of
    an earlier install often lies beside the new one.
    """
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=group):
        other = found.get(entry.name)
        if other is not None and (other.value, _owner(other)) != (entry.value, _owner(entry)):
            raise UsageError(
                f"{_what(group)} {entry.name!r} is provided twice: "
                f"{other.value} by {_owner(other)} and {entry.value} by {_owner(entry)}; uninstall one"
            )
        found[entry.name] = entry
    return dict(sorted(found.items()))


def _owner(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown distribution"


def _what(group: str) -> str:
    return {_PASSES: "pass", _TARGETS: "target", _PIPELINES: "pipeline"}[group]


def refresh() -> None:
    """Forget what was found; the next question looks at the installed packages again."""
    _entries.cache_clear()
    _load.cache_clear()
    _family.cache_clear()


@functools.cache
def _load(group: str, name: str) -> type:
    entry = _entries(group)[name]
    where = f"{_what(group)} {name!r} ({entry.value} of {_owner(entry)})"
    try:
        loaded = entry.load()
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise UsageError(f"{where} cannot be loaded: {text}") from error
    if not isinstance(loaded, type) or getattr(loaded, "name", name if group == _TARGETS else None) != name:
        raise UsageError(f"{where} must be a class whose `name` is {name!r}")
    return loaded


def _known(group: str, name: str) -> None:
    if name not in _entries(group):
        raise UsageError(f"unknown {_what(group)} {name!r}; {nearest(name, _entries(group))}")


def pass_names() -> tuple[str, ...]:
    """Names of all passes, without loading them."""
    return tuple(_entries(_PASSES))


def pipeline_names() -> tuple[str, ...]:
    """Names of all named pipelines, without loading them."""
    return tuple(_entries(_PIPELINES))


def get_pass(name: str) -> type[Pass]:
    """The class of the pass called `name`; UsageError names the nearest where there is none."""
    _known(_PASSES, name)
    return cast("type[Pass]", _load(_PASSES, name))


def passes() -> dict[str, type[Pass]]:
    """Every pass by name."""
    return {name: get_pass(name) for name in pass_names()}


def get_pipeline(name: str) -> Pipeline:
    """The pipeline called `name`; UsageError names the nearest where there is none."""
    _known(_PIPELINES, name)
    return cast("Pipeline", _load(_PIPELINES, name)())


def pipelines() -> dict[str, Pipeline]:
    """Every named pipeline."""
    return {name: get_pipeline(name) for name in pipeline_names()}


def target_family(name: str, default: str | None = None) -> TargetFamily:
    """The target family called `name`, or the one called `default` where there is none."""
    if default is not None and name not in _entries(_TARGETS):
        name = default
    _known(_TARGETS, name)
    return cast("TargetFamily", _family(name))


@functools.cache
def _family(name: str) -> object:
    return _load(_TARGETS, name)()


def target_families() -> dict[str, TargetFamily]:
    """Every target family by name."""
    return {name: target_family(name) for name in _entries(_TARGETS)}


def find_target(name: str) -> Target:
    """The target called `name`: `family`, `family:detail`, or any name that a family lists.

    Raises UsageError with the nearest name where no family knows it, and where two families do.
    """
    head = name.split(":", 1)[0]
    if head in _entries(_TARGETS):
        return target_family(head).make(name)
    # A plug-in that cannot be loaded must not take the targets of others away.
    families: dict[str, TargetFamily] = {}
    broken: list[UsageError] = []
    for word in _entries(_TARGETS):
        try:
            families[word] = target_family(word)
        except UsageError as error:
            broken.append(error)
    listed = {word for family in families.values() for word in family.names()}
    owners = [word for word, family in families.items() if name in family.names()]
    if len(owners) > 1:
        raise UsageError(f"target {name!r} is claimed by {' and '.join(owners)}; write {owners[0]}:{name}")
    if not owners:
        if broken:
            raise broken[0]
        raise UsageError(f"unknown target {name!r}; {nearest(name, {*listed, *families})}")
    return families[owners[0]].make(name)
