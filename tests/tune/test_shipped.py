"""The records that come with optkit: whole, in use, and behind the user's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from optkit.compiler.operator import Operator, Plan
from optkit.compiler.planning import candidates, default_plan, templates
from optkit.errors import DataError
from optkit.registry import find_target, target_family
from optkit.target import RecordedFamily, Target
from optkit.tune.records import Measurement, params_text, read_lines, target_key, write_lines
from optkit.tune.shipped import choose_records

SHIPPED = "znver5"
"""A target of the kind that records come for."""


def files() -> list[Path]:
    family = target_family("cpu")
    assert isinstance(family, RecordedFamily)
    return list(family.records())


def test_every_record_is_a_candidate_of_today() -> None:
    """Of the right template version, and a plan that is still proposed: a stale record would be dead weight."""
    target = find_target(SHIPPED)
    for file in files():
        found = read_lines(file)
        assert found, file
        for record in found:
            operator = Operator.parse(record.operator)
            assert record.target == target_key(target)
            assert target.templates()[record.template] == record.version
            allowed = (*templates(operator, 4), record.template)
            assert record.plan() in candidates(operator, target, tuple(dict.fromkeys(allowed)))
        assert len({(r.operator, r.machine, r.threads) for r in found}) == len(found)


def test_they_are_used_where_they_differ_from_the_default() -> None:
    target = find_target(SHIPPED)
    records = choose_records(None, target)
    assert records is not None
    differ = 0
    for file in files():
        for record in read_lines(file):
            operator = Operator.parse(record.operator)
            allowed = templates(operator, 4)
            differ += records.best(operator, target, allowed) != default_plan(operator, target, allowed)
    assert differ > 0
    assert choose_records("none", target) is None


def test_never_for_another_kind_of_machine() -> None:
    for name in ("x86-64-v3", "cortex-a76"):
        target = find_target(name)
        records = choose_records(None, target)
        assert records is not None
        operators = {record.operator for file in files() for record in read_lines(file)}
        for operator in map(Operator.parse, sorted(operators)):
            assert records.best(operator, target, templates(operator, 4)) is None


@pytest.fixture
def shipped() -> tuple[Target, Operator, Plan]:
    """A target, an operator that records come for, and their plan."""
    target = find_target(SHIPPED)
    record = next(r for file in files() for r in read_lines(file) if r.template == "pointwise")
    return target, Operator.parse(record.operator), record.plan()


def test_the_users_own_go_first(shipped: tuple[Target, Operator, Plan], tmp_path: Path) -> None:
    target, operator, plan = shipped
    other = next(p for p in candidates(operator, target, templates(operator)) if p != plan)
    path = tmp_path / "own.jsonl"
    own = Measurement(
        str(operator), target_key(target), other.template, target.templates()[other.template], params_text(other),
        "this one", 1, 2, 1.0,
    )  # fmt: skip
    write_lines(path, [own])
    records = choose_records(path, target)
    assert records is not None
    assert records.best(operator, target, templates(operator)) == other
    write_lines(path, [replace(own, version=own.version + 1)])
    records = choose_records(path, target)
    assert records is not None
    assert records.best(operator, target, templates(operator)) == plan
    with pytest.raises(DataError, match="no such file"):
        choose_records(tmp_path / "none", target)


def test_they_are_small() -> None:
    """What every installation carries."""
    assert 0 < sum(file.stat().st_size for file in files()) < 600_000
    assert all(json.loads(line)["seconds"] > 0 for file in files() for line in file.read_text().splitlines())
