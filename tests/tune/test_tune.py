"""Tuning itself, on this machine: kept at once, gone on with, and used."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from optkit.compiler.operator import Operator, Plan
from optkit.compiler.planning import candidates, templates
from optkit.registry import find_target
from optkit.tune.measurer import Built, CandidateError, Measurer
from optkit.tune.records import CHOSEN, SCREENED, RecordStore, params_text, read_records
from tests.cli.conftest import Optkit, optkit
from tests.graphs import proto, weights

__all__ = ["optkit"]
MATMUL = Operator("matmul", "float32", (24, 32, 48))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two convolutions and a product."""
    made = proto(
        """c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu (c)
        d = Conv <group = 32, pads = [1, 1, 1, 1]> (r, v)
        f = Flatten (d)
        y = MatMul (f, m)""",
        inputs="float[1,3,8,8] x",
        outputs="float[1,10] y",
        w=weights(32, 3, 3, 3),
        b=weights(32, seed=1),
        v=weights(32, 1, 3, 3, seed=2),
        m=weights(2048, 10, seed=3),
    )
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_tune_then_compile(optkit: Optkit, model: Path) -> None:
    done = optkit("tune", model, "--trials", 3, "--tuning-db", "t.db", "--export", "best.jsonl", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert sorted(o["operator"].split()[0] for o in found["operators"]) == ["conv2d", "depthwise", "matmul"]
    assert sorted(o["measured"] for o in found["operators"]) == [1, 3, 3]  # the product has no other plan
    assert all(o["failed"] == 0 and o["best_seconds"] > 0 for o in found["operators"])
    assert found["speedup"] >= 0.99
    again = json.loads(optkit("tune", model, "--trials", 3, "--tuning-db", "t.db", "--json").out)
    assert [(o["measured"], o["known"]) for o in again["operators"]] == [(0, o["measured"]) for o in found["operators"]]
    assert [o["params"] for o in again["operators"]] == [o["params"] for o in found["operators"]]
    more = json.loads(optkit("tune", model, "--trials", 4, "--tuning-db", "t.db", "--json").out)
    assert all(o["measured"] <= 1 for o in more["operators"])
    fresh = json.loads(optkit("tune", model, "--trials", 2, "--tuning-db", "t.db", "--no-resume", "--json").out)
    assert sorted((o["measured"], o["known"]) for o in fresh["operators"]) == [(1, 0), (2, 0), (2, 0)]

    for records in ("t.db", "best.jsonl"):
        assert optkit("compile", model, "-o", "m.optk", "--tuning-db", records).code == 0
        report = json.loads(Path("m.report.json").read_text())
        assert report["verification"]["status"] == "passed"
        shown = json.loads(optkit("inspect", "m.optk", "--json").out)
        used = {r["operator"]: r["params"] for r in shown["tuning_records"]}
        assert {k["operator"]: k["params"] for k in shown["kernels"] if k["operator"]} == used and len(used) == 3
    first = Path("m.optk").read_bytes()
    assert optkit("compile", model, "-o", "m.optk", "--tuning-db", "best.jsonl").code == 0
    assert Path("m.optk").read_bytes() == first


def test_inspect_times_every_layer(optkit: Optkit, model: Path) -> None:
    assert optkit("compile", model, "-o", "m.optk").code == 0
    found = json.loads(optkit("inspect", "m.optk", "--kernels", "--json").out)
    products = [layer for layer in found["layers"] if layer["operator"]]
    assert len(products) == 3
    assert all(layer["seconds"] > 0 and layer["predicted_seconds"] > 0 for layer in products)
    assert all(0 < layer["peak_share"] < 4 for layer in products)
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    assert set(found["peaks"]) == {"float32"} and found["peaks"]["float32"] > 1e9
    table = optkit("inspect", "m.optk", "--kernels").out
    assert "cpu.depthwise/depthwise" in table and "% of peak" in table


def test_a_final_that_was_cut_off_is_made_up_for(optkit: Optkit, model: Path) -> None:
    """New measurements beside an old choice: the next call chooses again."""
    assert optkit("tune", model, "--trials", 2, "--tuning-db", "t.db").code == 0
    store = RecordStore(Path("t.db"))
    chosen = next(r for r in store.all() if r.stage == CHOSEN and r.operator.startswith("conv2d"))
    plan = params_text(candidates(Operator.parse(chosen.operator), find_target("cpu"), ["direct"])[-1])
    made = dataclasses.replace(chosen, params=plan, stage=SCREENED, seconds=1e-12, pool=0, template="direct")
    store.add([made, dataclasses.replace(chosen, stage=CHOSEN, pool=1)])
    optkit("tune", model, "--trials", 2, "--tuning-db", "t.db")
    again = [r for r in store.all() if r.operator == chosen.operator and r.params == plan]
    assert again[0].stage > SCREENED and again[0].seconds > 1e-9


def test_what_took_too_long_is_tried_again_with_more_time(optkit: Optkit, model: Path) -> None:
    done = optkit("tune", model, "--trials", 1, "--tuning-db", "t.db", "--timeout", 0.001, "--json")
    assert done.code == 0 and len(json.loads(done.out)["problems"]) == 3
    assert all(r.seconds is None and r.error == "not done in 0.001 s" for r in RecordStore(Path("t.db")).all())
    found = json.loads(optkit("tune", model, "--trials", 1, "--tuning-db", "t.db", "--json").out)
    assert found["problems"] == [] and [o["measured"] for o in found["operators"]] == [1, 1, 1]


def test_branches_and_loops_are_timed_by_their_kernels(optkit: Optkit, tmp_path: Path) -> None:
    made = proto(
        """s = ReduceSum <keepdims = 0> (x)
        zero = Constant <value = float {0}> ()
        up = Greater (s, zero)
        c = If (up) <
            then_branch = yes () => (float[n,32] t) { h = MatMul (x, w) t = Relu (h) },
            else_branch = no () => (float[n,32] e) { e = MatMul (x, w) }
        >
        y = Add (c, b)""",
        inputs="float[4,2048] x",
        outputs="float[4,32] y",
        w=weights(2048, 32),
        b=weights(32, seed=1),
    )
    onnx.save(made, tmp_path / "if.onnx")
    assert optkit("compile", "if.onnx", "-o", "m.optk").code == 0
    layers = json.loads(optkit("inspect", "m.optk", "--kernels", "--json").out)["layers"]
    products = [layer for layer in layers if layer["operator"]]
    assert len(products) == 1 and products[0]["share"] > 0.2
    assert all(layer["template"] != "?/?" for layer in layers)


def test_killed_at_any_moment_it_goes_on(model: Path, tmp_path: Path) -> None:
    """What was measured when it was killed is not measured again, and nothing is lost."""
    database = tmp_path / "t.db"
    command = [
        sys.executable,
        "-c",
        "from optkit.cli import main; main()",
        "tune",
        str(model),
        "--trials",
        "12",
        "--tuning-db",
        str(database),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if database.exists() and len(RecordStore(database).all()) >= 5:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {(r.operator, r.params): r.seconds for r in RecordStore(database).all()}
    assert len(before) >= 5
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["operators"]
    assert sum(o["known"] for o in found) == len(before)
    assert {(r.operator, r.params) for r in RecordStore(database).all()} >= set(before)
    for o in found:
        operator = Operator.parse(o["operator"])
        side = 4 if "kh=3" in o["operator"] and operator.kind == "conv2d" else 0
        there = len(candidates(operator, find_target("cpu"), templates(operator, side)))
        assert o["measured"] + o["known"] == min(12, there)


def test_a_candidate_that_hangs_or_crashes_is_left_and_the_next_one_runs(tmp_path: Path) -> None:
    plan = Plan("packed", {"rows": 4, "blocks": 3, "order": 0})
    with Measurer(find_target("cpu"), 1, 30.0) as measurer:
        good = measurer.finish_build(measurer.start_build(MATMUL, plan))
        source = tmp_path / "bad.c"
        for body, words in (("for (;;) {}", "not done in 1 s"), ("*(volatile int *)0 = 1; return 0;", "ended with")):
            source.write_text(f"int __tvm_ffi_candidate(void *a, void *b, int n, void *r) {{ {body} }}")
            library = tmp_path / f"bad{len(body)}.so"
            subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
            measurer.timeout = 1.0 if "for" in body else 30.0
            with pytest.raises(CandidateError, match=words):
                measurer.time([Built(library, good.arguments)])
            measurer.timeout = 30.0
            (seconds,) = measurer.time([good])
            assert 0 < seconds < 1
        with pytest.raises(CandidateError):
            measurer.finish_build(measurer.start_build(MATMUL, Plan("direct", plan.params)))


def test_wrong_requests_are_one_line(optkit: Optkit, model: Path) -> None:
    assert "cannot be done here" in optkit("tune", model, "--target", "cortex-a72").error
    Path("t.db").write_text("no database at all, whatever it is called" * 9)
    assert "not a database of tuning records" in optkit("tune", model, "--tuning-db", "t.db").error
    assert "no such file of tuning records" in optkit("compile", model, "--tuning-db", "none.db").error
    assert not Path("m.optk").exists()


def test_options_of_the_timed_run_need_it(optkit: Optkit, model: Path) -> None:
    """None is taken and ignored; a model is no artifact."""
    for options in (["--threads", 2], ["--input-shape", "x:1x3x8x8"], ["--kernels", "--target", "cpu"]):
        done = optkit("inspect", model, *options)
        assert done.code == 2 and "--kernels" in done.error
    done = optkit("inspect", model, "--kernels")
    assert done.code == 1 and "m.onnx" in done.error


def test_records_of_another_machine_are_not_used(optkit: Optkit, model: Path) -> None:
    """The same database, another instruction set: nothing of it."""
    assert optkit("tune", model, "--trials", 1, "--tuning-db", "t.db").code == 0
    assert optkit("compile", model, "-o", "m.optk", "--target", "x86-64-v3", "--tuning-db", "t.db").code == 0
    assert json.loads(optkit("inspect", "m.optk", "--json").out)["tuning_records"] == []
    assert len(read_records(Path("t.db")).all()) == 3
