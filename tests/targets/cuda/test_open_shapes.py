"""Artifacts of open extents on an emulated GPU, verified at both ends of their ranges."""

from __future__ import annotations

from typing import Any

import pytest

from tests.targets.cuda import emulator
from tests.targets.cuda.host import EMULATED
from tests.targets.cuda.test_emulated import session

pytestmark = EMULATED
PRODUCTS = {"images": 6, "places": 5, "samples": 3, "narrower": 4}
"""How many are on tensor cores, but for a depthwise one."""
CASES = (
    *(f"{name}:{pipeline}" for name in PRODUCTS for pipeline in ("fp16", "tf32")),
    *("images:int8", "places:int8"),
    *("images:bf16", "images:fp16:sm_80", "images:int8:sm_80", "samples:int8"),
    *("images:default", "places:default", "samples:default", "narrower:default", "narrower:int8"),
)
OTHERS = ("tall:default", "lines:default", "lines:fp16", "strangers:fp16")
ONES = "patches:fp16", "patches:int8-fp16", "cached:fp16"
ATTENTION = "sentences:fp16", "sentences:int8-fp16", "sentences:fp16:sm_80"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All cases, compiled and verified; by case."""
    environment = emulator.environment(tmp_path_factory.mktemp("emulator"))
    said = session(environment, "ranges", tmp_path_factory.mktemp("compiled"), *CASES, *ATTENTION, *ONES, *OTHERS)
    return {each["case"]: each for each in said}


@pytest.mark.parametrize("case", ATTENTION)
def test_any_number_of_tokens_is_attended_to_in_one_kernel(case: str, found: dict[str, Any]) -> None:
    """Whose operands' products are one, and whose masks may have a row or all of them."""
    assert found[case]["verification"]["status"] == "passed"
    assert found[case]["rules"].count("cuda.tensor_attention") == 2
    # Three products, a query's and one of keys and values.
    assert found[case]["rules"].count("cuda.tensor_matmul") == 3
    assert set(found[case]["rules"]) <= {"cuda.tensor_attention", "cuda.tensor_matmul", "cuda.injective"}


@pytest.mark.parametrize("case", ONES)
def test_tokens_that_are_counted_by_a_sum_are_attended_to_in_one_kernel(case: str, found: dict[str, Any]) -> None:
    """A token more than an image has patches, those so far and those now."""
    assert found[case]["verification"]["status"] == "passed"
    assert found[case]["rules"].count("cuda.tensor_attention") == 1
    assert set(found[case]["rules"]) <= {
        *("cuda.tensor_attention", "cuda.tensor_matmul", "cuda.tensor_conv", "cuda.injective")
    }


@pytest.mark.parametrize("case", CASES)
def test_any_extents_are_computed_on_tensor_cores(case: str, found: dict[str, Any]) -> None:
    """Without an option, on the ordinary ones; none by a generic schedule."""
    name, pipeline, *_ = case.split(":")
    assert found[case]["verification"]["status"] == "passed"
    rules = found[case]["rules"]
    assert set(rules) <= {"cuda.tensor_conv", "cuda.conv", "cuda.depthwise", "cuda.pool", "cuda.injective"} | (
        {"cuda.reduce"} if case == "places:int8" else set()  # the mean of dequantized images
    )
    products = "cuda.conv" if pipeline == "default" else "cuda.tensor_conv"
    assert rules.count(products) == PRODUCTS[name] - (name in ("images", "narrower"))
    assert not {"cuda.conv", "cuda.tensor_conv"} - {products} & set(rules)


@pytest.mark.parametrize("case", OTHERS)
def test_extents_of_any_kind_are_computed(case: str, found: dict[str, Any]) -> None:
    assert found[case]["verification"]["status"] == "passed"


@pytest.mark.parametrize("pipeline", ["fp16", "int8", "tf32"])
def test_parts_of_images_of_any_size_lie_in_larger_ones(pipeline: str, found: dict[str, Any]) -> None:
    kernels = found[f"places:{pipeline}"]["kernels"]
    assert not [name for name in kernels if "concat" in name or "split" in name]
