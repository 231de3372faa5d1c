"""Records that come with a target family: what its kinds of machine were tuned for before anyone asks."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from optkit.compiler.operator import Operator, Plan
from optkit.compiler.planning import Records
from optkit.registry import target_family
from optkit.target import RecordedFamily, Target
from optkit.tune.records import RecordStore, read_lines, read_records

NONE = "none"
"""Instead of a file: no records at all, the analytical model decides."""


@dataclass(frozen=True)
class InOrder:
    """Several sources of records, the first that knows an operator decides."""

    sources: Sequence[Records]

    def best(self, operator: Operator, target: Target, templates: Collection[str]) -> Plan | None:
        """The first source's plan, or None where none knows the operator."""
        for source in self.sources:
            found = source.best(operator, target, templates)
            if found is not None:
                return found
        return None


def choose_records(tuning_db: str | os.PathLike[str] | None, target: Target) -> Records | None:
    """The records a build uses: the user's, then those that come with the target's family.

    Args:
        tuning_db: a database or JSON lines; None: those of the family alone; "none": no records.

    Raises:
        DataError: there is no such file, or it holds no records.
    """
    if tuning_db is not None and os.fspath(tuning_db) == NONE:
        return None
    own = [] if tuning_db is None else [read_records(Path(tuning_db))]
    return InOrder([*own, *shipped(target)])


def shipped(target: Target) -> list[RecordStore]:
    """Records of the target's family; empty where it has none."""
    family = target_family(target.name.split(":")[0], default="cpu")
    files = family.records() if isinstance(family, RecordedFamily) else []
    if not files:
        return []
    store = RecordStore(None)
    for file in files:
        store.add(read_lines(file))
    return [store]
