"""Records: what is used where, and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from optkit.compiler.operator import Operator, Plan
from optkit.compiler.planning import candidates
from optkit.errors import DataError
from optkit.registry import find_target
from optkit.tune.records import (
    CHOSEN,
    SCREENED,
    Measurement,
    RecordStore,
    params_text,
    read_lines,
    read_records,
    target_key,
    write_lines,
)

OPERATOR = Operator("matmul", "float32", (64, 32, 48))
TARGET = find_target("x86-64-v3")
PLANS = candidates(OPERATOR, TARGET, ["packed"])
PLAN = PLANS[0]


def record(**changes: object) -> Measurement:
    plan = changes.pop("plan", PLAN)
    assert isinstance(plan, Plan)
    base = Measurement(
        str(OPERATOR), target_key(TARGET), plan.template, 1, params_text(plan), "here", 1, SCREENED, 1e-3
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "tuning.db", machine="here")


def other(number: int) -> Plan:
    """Another candidate."""
    return PLANS[number]


def test_the_fastest_is_used_and_the_chosen_before_it(store: RecordStore) -> None:
    assert store.best(OPERATOR, TARGET, ["packed"]) is None
    store.add([record(), record(plan=other(2), seconds=9e-4), record(plan=other(3), seconds=None, error="crashed")])
    assert store.best(OPERATOR, TARGET, ["packed"]) == other(2)
    store.add([record(plan=other(5), seconds=2e-3, stage=CHOSEN)])
    assert store.best(OPERATOR, TARGET, ["packed"]) == other(5)
    store.add([record(plan=other(6), seconds=1e-6, machine="there", stage=CHOSEN)])
    assert store.best(OPERATOR, TARGET, ["packed"]) == other(5)


def test_another_machine_of_the_kind_serves_where_this_one_was_not_measured(store: RecordStore) -> None:
    store.add([record(machine="there")])
    assert store.best(OPERATOR, TARGET, ["packed"]) == PLAN


@pytest.mark.parametrize(
    "change",
    [
        {"target": target_key(find_target("icelake-server"))},
        {"version": 99},
        {"template": "direct"},
        {"operator": str(Operator("matmul", "int8", (64, 32, 48)))},
        {"seconds": None, "error": "crashed"},
    ],
)
def test_never_for_another_machine_template_version_or_operator(store: RecordStore, change: dict) -> None:
    store.add([record(**change)])
    assert store.best(OPERATOR, TARGET, ["packed"]) is None


def test_a_template_that_is_not_allowed_is_passed_over(store: RecordStore) -> None:
    conv = Operator.parse(
        "conv2d float32 n=1 c=16 h=9 w=9 o=16 kh=3 kw=3 sh=1 sw=1 dh=1 dw=1 pt=1 pl=1 pb=1 pr=1 groups=1 b=8"
    )
    forms = ["direct", "winograd2x3", "winograd4x3"]
    plans = candidates(conv, TARGET, forms)
    fast, exact = (next(p for p in plans if p.template == name) for name in ("winograd4x3", "direct"))
    text = str(conv)
    store.add([record(operator=text, plan=fast, seconds=1e-6), record(operator=text, plan=exact)])
    assert store.best(conv, TARGET, forms) == fast
    assert store.best(conv, TARGET, ["direct", "winograd2x3"]) == exact


@pytest.mark.parametrize("params", ["{}", '{"rows":0,"blocks":1,"order":0}', '{"rows":4,"blocks":1,"order":9}'])
def test_a_plan_that_is_no_candidate_is_passed_over(store: RecordStore, params: str) -> None:
    store.add([record(params=params, seconds=1e-9), record()])
    assert store.best(OPERATOR, TARGET, ["packed"]) == PLAN


def test_lines_go_out_and_come_back(store: RecordStore, tmp_path: Path) -> None:
    store.add([record(), record(plan=other(2), seconds=9e-4), record(machine="there")])
    assert write_lines(tmp_path / "best.jsonl", store.winners()) == 2
    again = read_records(tmp_path / "best.jsonl")
    assert again.best(OPERATOR, TARGET, ["packed"]) == other(2)
    assert sorted(map(str, read_lines(tmp_path / "best.jsonl"))) == sorted(map(str, again.all()))


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"operator": 3}', "[1]"])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "best.jsonl"
    write_lines(path, [record()])
    path.write_text(path.read_text() + text + "\n")
    with pytest.raises(DataError, match=r"best.jsonl, line 2: not a tuning record"):
        read_records(path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tuning.db"
    path.write_text("not a database, but long enough to look at" * 9)
    with pytest.raises(DataError, match="not a database of tuning records"):
        RecordStore(path)
    with pytest.raises(DataError, match="line 1: not a tuning record"):
        read_records(path)
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "none.db")
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE things (name TEXT)")
    for opened in (RecordStore, read_records):
        with pytest.raises(DataError, match=r"something else|schema 0"):
            opened(foreign)
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version=7")
    for opened in (RecordStore, read_records):
        with pytest.raises(DataError, match="schema 7"):
            opened(newer)


def test_several_processes_make_one_database(tmp_path: Path) -> None:
    """Each sees what the others made whole, or makes it itself."""
    program = (
        "import pathlib, sys\n"
        "from optkit.tune.records import RecordStore\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    print(len(RecordStore(pathlib.Path(line.strip())).all()), flush=True)\n"
    )
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    assert [p.stdout.readline() for p in processes] == ["ready\n"] * 4
    for number in range(100):
        for process in processes:
            process.stdin.write(f"{tmp_path / f'{number}.db'}\n")
            process.stdin.flush()
        assert [p.stdout.readline() for p in processes] == ["0\n"] * 4
    for process in processes:
        process.communicate()


def test_reading_writes_nothing(store: RecordStore, tmp_path: Path) -> None:
    store.add([record()])
    store.close()
    folder = tmp_path / "mounted"
    folder.mkdir()
    shutil.copy(tmp_path / "tuning.db", folder / "any.name")
    before = sorted((p.name, p.stat().st_mtime_ns) for p in folder.iterdir())
    assert read_records(folder / "any.name").best(OPERATOR, TARGET, ["packed"]) == PLAN
    assert sorted((p.name, p.stat().st_mtime_ns) for p in folder.iterdir() if p.suffix == ".name") == before


def test_as_many_threads_as_the_target_has_go_first(store: RecordStore) -> None:
    store.add([record(), record(plan=other(2), threads=4, seconds=1e-6)])
    assert store.best(OPERATOR, dataclasses.replace(TARGET, cores=1), ["packed"]) == PLAN
    assert store.best(OPERATOR, dataclasses.replace(TARGET, cores=2), ["packed"]) == PLAN
    assert store.best(OPERATOR, dataclasses.replace(TARGET, cores=4), ["packed"]) == other(2)
    assert len(list(store.winners())) == 2
