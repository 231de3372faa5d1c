"""Tuning a model: its products after the passes, each measured."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from optkit.compiler.operator import Operator
from optkit.errors import UsageError
from optkit.plan import PassesLike, choose_pipeline
from optkit.runtime.gpu import device_name
from optkit.source import ModelLike, open_source
from optkit.steps import Progress, choose_target, pass_options, run_passes, silent
from optkit.target import Target
from optkit.tune.measurer import Measurer
from optkit.tune.records import RecordStore
from optkit.tune.search import Job, Outcome, Tuner, tune_all

TRIALS, TIMEOUT = 24, 20.0
DATABASE = "tuning.db"


@dataclass(frozen=True)
class Tuned:
    """What tuning a model has come to.

    Attributes:
        path: the database that holds the records.
        outcomes: one an operator, those with most work first.
        threads: that the kernels ran on.
        problems: operators of which no candidate works, and why.
    """

    path: Path
    target: Target
    outcomes: tuple[Outcome, ...]
    threads: int
    problems: tuple[str, ...] = ()

    def speedup(self) -> float:
        """Time of all products by the defaults over that by the best plans; 1 where there are none."""
        known = [o for o in self.outcomes if o.default is not None]
        best = sum(o.best * o.job.count for o in known)
        return sum((o.default or 0.0) * o.job.count for o in known) / best if best else 1.0


def tune(
    model: ModelLike,
    *,
    target: str = "cpu",
    passes: PassesLike = None,
    tuning_db: str | os.PathLike[str] = DATABASE,
    trials: int = TRIALS,
    timeout: float = TIMEOUT,
    threads: int = 1,
    resume: bool = True,
    calib_data: object = None,
    preprocess: str | None = None,
    calib_method: str | None = None,
    calib_samples: int | None = None,
    calib_cache: str | os.PathLike[str] | None = None,
    exclude_nodes: Sequence[str] = (),
    exclude_op_types: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Tuned:
    """Measure the candidates of every product of a model, on this machine, and keep them as records.

    Args:
        target: name of one that this machine runs.
        tuning_db: the database; made on demand.
        trials: candidates an operator.
        timeout: seconds that building or timing one candidate may take.
        threads: that the kernels run on; records are used for any number.
        resume: do not measure again what the database knows of this machine.
        model, passes and what follows: as for `optkit.compile`, whose products are tuned.

    Raises:
        UsageError: the target does not run here.
        DataError: the database is none.
        OptkitError: what `optkit.compile` raises.
    """
    machine = choose_target(target, threads)
    reason = machine.runs_here()
    if reason is not None:
        raise UsageError(f"tuning measures on the target itself, which cannot be done here: {reason}")
    pipeline = choose_pipeline(passes, pass_options(calib_method, exclude_nodes, exclude_op_types))
    store = RecordStore(Path(tuning_db), None if machine.device == "cpu" else device_name())
    try:
        with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
            source = open_source(model, input_shapes, Path(folder))
            data = calib_data, preprocess, calib_samples
            outcome, _ = run_passes(source, pipeline, machine, *data, seed, progress, calib_cache)
            jobs = _jobs(outcome.model, machine)
        if not resume:
            store.forget([job.operator for job in jobs], machine, threads)
        with Measurer(machine.with_threads(threads), threads, timeout) as measurer:
            outcomes, problems = tune_all(Tuner(measurer, store, machine, trials), jobs, progress)
    finally:
        store.close()
    return Tuned(Path(tuning_db), machine, tuple(outcomes), threads, tuple(problems))


def _jobs(model: ir.Model, machine: Target) -> list[Job]:
    """The products of a model that tuning can compute in several ways."""
    from optkit.compiler.build import prepare, tvm_target
    from optkit.compiler.lower import lower
    from optkit.compiler.schedule import schedule_module

    if machine.device == "cpu":
        operators = lower(model, machine).operators
        return [Job(operator, sites.templates, len(sites.nodes)) for operator, sites in operators.items()]
    ready = prepare(model, machine)
    with tvm_target(machine):
        _, kernels = schedule_module(ready.module, machine, ready.labels)
    found: dict[str, Job] = {}
    versions = machine.templates()
    for kernel in kernels:
        if kernel.operator and kernel.template in versions:
            job = found.setdefault(kernel.operator, Job(Operator.parse(kernel.operator), (kernel.template,), 0))
            job.count += len(kernel.calls)
    return list(found.values())
