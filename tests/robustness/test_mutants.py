"""A sample of the mutants; `python -m tests.robustness.run` tries ten thousand."""

from __future__ import annotations

import pytest

from tests.robustness.corpus import corpus
from tests.robustness.mutate import mutant
from tests.robustness.run import try_mutant, valid

SEEDS = range(24)
MODELS = corpus()


def test_a_number_gives_the_same_mutant() -> None:
    assert [mutant(seed, MODELS) for seed in SEEDS] == [mutant(seed, MODELS) for seed in SEEDS]
    assert len({mutant(seed, MODELS) for seed in SEEDS}) == len(SEEDS)


def test_mutants_differ_from_what_they_are_made_of() -> None:
    originals = {model.SerializeToString() for model in MODELS}
    assert sum(mutant(seed, MODELS) in originals for seed in range(200)) < 20


def test_a_fifth_is_still_valid() -> None:
    assert sum(valid(seed, MODELS) for seed in range(200)) >= 40


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutant_is_compiled_or_refused_in_a_line(seed: int) -> None:
    outcome = try_mutant(seed, MODELS)
    assert not outcome.problem, outcome
