"""A sample of the mutants; `python -m tests.robustness.run` tries ten thousand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.robustness.corpus import corpus
from tests.robustness.mutate import mutant
from tests.robustness.run import valid

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


def test_mutants_are_compiled_or_refused_in_a_line() -> None:
    # In a process of its own: this one has threads, and a fork of it may wait for a lock for ever.
    command = [sys.executable, "-m", "tests.robustness.run", "--count", "24", "--jobs", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "0 problems" in done.stdout, done.stdout + done.stderr
