"""Recipes: to JSON and back, and what is wrong with one in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from optkit.errors import UsageError
from optkit.torch import Recipe


def test_round_trip(tmp_path: Path) -> None:
    recipe = Recipe(weight_bits=3, exclude=("fc", "stem.0"), freeze_bn_after=100, exact=False, method="observer")
    assert Recipe.from_json(recipe.to_json()) == recipe
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    assert Recipe.from_json(path) == recipe


def test_an_empty_object_is_the_default() -> None:
    assert Recipe.from_json("{}") == Recipe()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"weight_bit": 4}', "did you mean 'weight_bits'?"),
        ('{"weight_bits": 9}', "weight_bits=9 is not between 2 and 8"),
        ('{"weight_bits": 4.5}', "weight_bits=4.5 is not a whole number"),
        ('{"weight_bits": true}', "weight_bits=true is not a whole number"),
        ('{"exact": 1}', "exact=1 is not true or false"),
        ('{"activation_bits": 4}', "activations are uint8"),
        ('{"method": "lsg"}', "did you mean 'lsq'?"),
        ('{"first_last": "int4"}', "unknown first_last"),
        ('{"exclude": "fc"}', "is not a list of strings"),
        ('{"momentum": 0}', "momentum=0"),
        ('{"freeze_bn_after": -1}', "freeze_bn_after=-1 is negative"),
        ("[]", "is not a JSON object"),
        ("{", "cannot be read"),
    ],
)
def test_errors(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe.from_json(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
