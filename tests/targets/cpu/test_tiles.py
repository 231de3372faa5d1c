"""Products in tile registers: on AMX where this machine has it, anywhere by an emulator that checks every operand."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import strategies as st
from optkit_targets.cpu import host
from optkit_targets.cpu.kernels import amx, tiles
from tvm import te

from optkit.artifact.link import find_linker
from optkit.compiler.build import build, tvm_target
from optkit.compiler.check import check_kernels
from optkit.compiler.host import host_variant
from optkit.compiler.matrix_tiles import (
    BYTES,
    COLUMNS,
    ROWS,
    SUMS,
    Depth,
    choose_matrix_tile,
    flat_positions,
    matrix_tiles,
)
from optkit.compiler.operator import CONV, Operator
from optkit.compiler.operators.layout import to_other_blocks
from optkit.compiler.planning import TILES, candidates, default_plan
from optkit.compiler.schedule import choose
from optkit.compiler.values import block_array
from optkit.errors import ArtifactError
from optkit.registry import find_target
from optkit.runtime import isa
from optkit.target import Target
from optkit.tune.records import target_key
from tests.compiler.bundle import Bundle, run
from tests.compiler.test_lower_half import marked
from tests.targets.cpu.geometry import Conv, Matmul, cases
from tests.targets.cpu.products import DIRECT_LIMIT, Drawn, Products, explore, misused
from tests.targets.cpu.test_scheduled_models import runnable

AMX = "sapphirerapids"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The instructions as functions of the process."""
    source = Path(__file__).with_name("tiles.c")
    path = tmp_path_factory.mktemp("tiles") / "tiles.so"
    subprocess.run([*find_linker(None, None), "-O2", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


@pytest.fixture(params=["emulated", "amx"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Target:
    """A target whose tiles run here."""
    if request.param == "amx":
        return runnable(AMX)
    request.getfixturevalue("emulator")
    monkeypatch.setattr(amx, "PREFIX", "optkit_emulated_")
    monkeypatch.setattr(amx, "ASK", amx.ASK.replace("%r = call", "; %r = call"))
    target = host_variant(find_target(AMX))
    return replace(target, features=target.features | {"tile_registers"})


def plain(case: Conv | Matmul) -> Conv | Matmul:
    """A case that tile registers take: of one group."""
    if isinstance(case, Matmul):
        return case
    return replace(case, groups=1, filters=max(2, case.filters))


FORMS = [(compute, form) for compute in ("int8", "bfloat16") for form in ("direct", "pointwise", "packed")]


@pytest.mark.parametrize(("compute", "form"), [*FORMS, ("bfloat16", "batch_matmul")])
def test_any_plan_of_any_geometry(machine: Target, compute: str, form: str) -> None:
    def check(data: st.DataObject) -> None:
        products = Products(compute, TILES)
        for case in data.draw(st.lists(cases(form).map(plain), min_size=5, max_size=5, unique=True)):
            products.add(case)
        drawn = Drawn(lambda plans: data.draw(st.sampled_from(plans)), TILES)
        built = build(products.marked(), machine, tuned=drawn)
        assert misused(drawn, built.kernels, lambda plan: compute) == []
        found = run(built, [products.feeds[i.name] for i in built.inputs])
        problems = products.problems(found, DIRECT_LIMIT)
        assert not problems, "\n".join(problems)

    explore(f"tiles {compute} {form}", check, examples=2)


def network() -> Bundle:
    """Pixels, lines of an image, all positions as one axis, strides, a depthwise layer between, and a classifier."""
    b = Bundle()
    x = b.input(1, 3, 40, 38)
    y = b.op("Relu", b.op("Conv", x, b.const(b.normal(32, 3, 7, 7)), strides=[2, 2], pads=[3, 3, 3, 3]))
    y = b.op("Relu", b.op("Conv", y, b.const(b.normal(64, 32, 3, 3)), pads=[1, 1, 1, 1]))
    z = b.op("Relu", b.op("Conv", y, b.const(b.normal(64, 1, 3, 3)), group=64, pads=[1, 1, 1, 1]))
    y = b.op("Add", b.op("Conv", z, b.const(b.normal(64, 64, 1, 1))), y)
    y = b.op("Relu", b.op("Conv", y, b.const(b.normal(96, 64, 3, 3)), strides=[2, 2], pads=[1, 1, 1, 1]))
    y = b.op("Conv", y, b.const(b.normal(24, 96, 1, 1)), strides=[2, 2])
    b.case(b.op("Gemm", b.op("Flatten", b.op("GlobalAveragePool", y)), b.const(b.normal(24, 10))), "classes")
    return b


def test_a_network_multiplies_in_tiles_and_by_the_instruction_of_its_type() -> None:
    built = build(marked(network()), find_target(AMX))
    kernels = [k for k in built.kernels if k.template == TILES]
    assert len(kernels) == 6 and {k.compute for k in kernels} == {"bfloat16"}
    assert all(not k.refused for k in built.kernels)
    text = built.assembly()
    assert re.search(r"\btdpbf16ps\b", text) and not re.search(r"\bvdpbf16ps\b", text)
    assert "optkit_amx_step" not in re.sub(r"#.*", "", text), "steps are inlined"
    # Every task that sets tiles gives them back.
    assert len(re.findall(r"\bldtilecfg\b", text)) <= len(re.findall(r"\btilerelease\b", text))


@pytest.mark.parametrize("name", [AMX, "cooperlake"])
def test_what_stands_in_for_the_target_has_its_plans(name: str) -> None:
    """And computes the same, by loops, where the machine has no tiles."""
    variant = host_variant(find_target(name))
    b = network()
    assert [str(m) for m in check_kernels(marked(b), variant)] == []
    assert (TILES in {k.template for k in build(marked(b), variant).kernels}) == (name == AMX)


def test_two_builds_are_the_same_bytes() -> None:
    target = find_target(AMX)
    assert len({build(marked(network()), target).assembly() for _ in range(2)}) == 1


@pytest.mark.parametrize("extent", [1, 2, 7, 16, 17, 49, 61, 197, 784])
@pytest.mark.parametrize("columns", [1, 3, 4, 63])
def test_tiles_fit_the_registers(extent: int, columns: int) -> None:
    chosen = choose_matrix_tile(extent, columns, Depth(1024, 1, 48 << 10))
    found = matrix_tiles(extent, columns)
    assert chosen in found
    for rows, tall, wide in found:
        assert 1 <= rows <= ROWS and tall * wide <= SUMS and columns % wide == 0 and tall <= extent
        steps = -(-extent // (rows * tall))
        assert (steps - 1) * rows * tall < extent, "no tile is in vain"


def test_every_plan_of_an_operator_can_be_measured() -> None:
    operator = Operator(CONV, "int8", (1, 64, 14, 14, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 64))
    target = find_target(AMX)
    plans = candidates(operator, target, (TILES,))
    assert plans[0] == default_plan(operator, target, (TILES,)) and len(plans) == len(set(plans)) > 10
    assert flat_positions((3, 3), (1, 1), (1, 1), operator.output()) == 13 * 16 + 14


def test_a_tile_is_described_within_its_limits() -> None:
    tiling = amx.Tiling("int8", 16, 64, (64, (0, 1024)), (64, (0, 1024)), (128, (0, 64, 2048, 2112)))
    text = amx.functions(tiling)
    raw = re.search(r'constant \[64 x i8\] c"([^"]*)"', text)
    assert raw is not None
    shape = bytes(int(part, 16) for part in raw[1].split("\\")[1:])
    assert len(shape) == 64 and shape[0] == 1
    assert set(shape[16:32:2]) == {BYTES} and set(shape[48:56]) == {16} and not any(shape[56:])
    assert set(shape[48:56]) == {COLUMNS}
    assert tiling.name != replace(tiling, rows=15).name


@pytest.mark.parametrize(("channels", "made", "wanted"), [(96, 32, 64), (128, 16, 64), (70, 16, 32), (96, 64, 16)])
def test_blocks_become_others_without_planes_between(channels: int, made: int, wanted: int) -> None:
    planes = np.random.default_rng(0).integers(1, 256, (2, channels, 3, 5)).astype("uint8")
    blocks, expected = block_array(planes, made), block_array(planes, wanted)
    x = te.placeholder(blocks.shape, "uint8", "x")
    func = te.create_prim_func([x, to_other_blocks(x, channels, wanted)]).with_attr("global_symbol", "main")
    target = find_target("cpu")
    chosen = choose(func, target)
    library = tvm.compile(tvm.IRModule({"main": chosen.apply(func, chosen.params)}), tvm_target(target))
    y = tvm.runtime.tensor(np.full(expected.shape, 7, "uint8"))
    library["main"](tvm.runtime.tensor(blocks), y)
    np.testing.assert_array_equal(y.numpy(), expected)


def test_no_other_template_takes_a_plan_for_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """What refuses a kernel leaves it to the last rule, which is right with any."""

    def refuse(*given: object) -> None:
        raise ValueError("no tiles today")

    b = network()
    target = runnable(AMX) if find_target(AMX).runs_here() is None else host_variant(find_target(AMX))
    monkeypatch.setattr(tiles, "tile_code", refuse)
    monkeypatch.setattr(tiles, "_inside", refuse)
    built = build(marked(b), target)
    refused = [k for k in built.kernels if k.refused]
    assert refused and {k.rule for k in refused} == {"cpu.fallback"}
    (found,) = run(built, [b.feeds[i.name] for i in built.inputs])
    (expected,) = b.reference()
    assert np.linalg.norm(found - expected) <= 2e-2 * np.linalg.norm(expected)


def test_records_of_other_templates_hold_with_and_without_tiles() -> None:
    with_tiles, without = find_target(AMX), find_target("cooperlake")
    assert target_key(with_tiles) == target_key(without)


def test_a_refusal_of_tiles_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    words = find_target(AMX).isa
    monkeypatch.setattr(isa, "features", lambda: frozenset(word.replace("_", "") for word in words))
    monkeypatch.setattr(isa, "architecture", lambda: "x86_64")
    monkeypatch.setattr(isa, "tiles_refused", lambda: "Operation not supported")
    with pytest.raises(ArtifactError, match=r"Linux keeps from this process .Operation not supported.*cooperlake") as e:
        isa.check_isa(words, "x.optk")
    assert "\n" not in str(e.value)


def test_a_machine_whose_tiles_are_refused_is_compiled_for_without(monkeypatch: pytest.MonkeyPatch) -> None:
    words = " ".join(find_target(AMX).isa[1:])
    answers: list[Callable[[], str]] = [lambda: "", lambda: "no"]
    found = []
    for answer in answers:
        monkeypatch.setattr(host, "tiles_refused", answer)
        monkeypatch.setattr(Path, "read_text", lambda self: f"flags : {words}\n")
        host.host_features.cache_clear()
        found.append({"amx_tile" in host.host_features(), host.host_chip().capabilities() >= {"int8_tiles"}})
    host.host_features.cache_clear()
    assert found == [{True}, {False}]


def test_what_a_softmax_masks_is_no_denormal() -> None:
    """Intel's processors take some hundred cycles for each; what is masked is 0 all the same."""
    b = Bundle()
    values = np.linspace(-120, 0, 64, dtype=np.float32).reshape(1, 64)
    y = b.op("Softmax", b.input(1, 64, values=values), axis=-1)
    b.case(y, "softmax")
    (found,) = run(build(b.model(), find_target("cpu")), [values])
    assert not found[(found > 0) & (found < np.finfo(np.float32).tiny)].size
    assert np.all(found[values < -87] == 0) and np.all(found[values >= -86] > 0)
