"""The search: candidates by the analytical model, then around the best, then the best in turn with each other."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from optkit.compiler.operator import Operator, Plan
from optkit.compiler.planning import candidates
from optkit.target import Target
from optkit.tune.measurer import TOO_LONG, Built, CandidateError, Measurer
from optkit.tune.records import CHOSEN, FINAL, SCREENED, Measurement, RecordStore, params_text, target_key

Report = Callable[[str, int, int | None], None]

FINALISTS, ROUNDS = 4, 6
"""So many of the fastest, and the default, are timed again in turn; in so many rounds."""
MARGIN = 0.01
"""What a plan must be faster by than the default to replace it: less is noise."""


@dataclass
class Job:
    """One operator to be tuned.

    Attributes:
        templates: those that may compute it.
        count: how often the models have it.
    """

    operator: Operator
    templates: tuple[str, ...]
    count: int = 1


@dataclass(frozen=True)
class Outcome:
    """What tuning an operator has come to.

    Attributes:
        default, best: seconds of the default plan, None where it failed, and of the best one.
        measured: candidates of this session.
        known: candidates that were measured in an earlier one.
        failed: candidates that did not compile or run.
    """

    job: Job
    plan: Plan
    default: float | None
    best: float
    measured: int
    known: int
    failed: int


@dataclass
class _State:
    """What is known of an operator's candidates."""

    job: Job
    plans: list[Plan]
    seconds: dict[Plan, float] = field(default_factory=dict)
    failed: dict[Plan, str] = field(default_factory=dict)
    chosen: Plan | None = None
    pool: int = 0
    measured: int = 0
    known: int = 0

    def tried(self, plan: Plan) -> bool:
        return plan in self.seconds or plan in self.failed

    def ranking(self) -> list[Plan]:
        return sorted(self.seconds, key=lambda plan: self.seconds[plan])


class Tuner:
    """Tunes operators one after the other; every measurement is kept at once.

    Args:
        trials: candidates an operator.
    """

    def __init__(self, measurer: Measurer, store: RecordStore, target: Target, trials: int) -> None:
        self.measurer, self.store, self.target, self.trials = measurer, store, target, trials
        self._versions = target.templates()

    def tune(self, job: Job, report: Callable[[int], None] = lambda _done: None) -> Outcome:
        """Measure an operator's candidates, but for those the store knows, and choose.

        Raises:
            CandidateError: no candidate works.
        """
        state = self._load(job)
        half = max(1, self.trials // 2)
        self._screen(state, state.plans[:half], report)
        while (left := self.trials - len(state.seconds) - len(state.failed)) > 0:
            around = self._neighbours(state)[: min(left, max(4, self.measurer.ahead))]
            if not around:
                break
            self._screen(state, around, report)
        if not state.seconds:
            words = next(iter(state.failed.values()), "it has none")
            raise CandidateError(f"no candidate of {job.operator} works: {words}")
        decided = state.chosen is not None and state.pool >= len(state.seconds)
        best = state.chosen if decided and state.chosen is not None else self._decide(state)
        default = state.seconds.get(state.plans[0])
        return Outcome(job, best, default, state.seconds[best], state.measured, state.known, len(state.failed))

    def _load(self, job: Job) -> _State:
        plans = [p for p in candidates(job.operator, self.target, job.templates) if p.template in self._versions]
        state = _State(job, plans)
        there = set(plans)
        for found in self.store.of(job.operator, self.target):
            plan = found.plan()
            current = self._versions.get(plan.template) == found.version and plan in there
            if not current or found.machine != self.store.machine or found.threads != self.measurer.threads:
                continue
            if found.seconds is None:
                if _deserves_another_try(found.error, self.measurer.timeout):
                    continue
                state.failed[plan] = found.error
            else:
                state.seconds[plan] = found.seconds
                if found.stage == CHOSEN:
                    state.chosen, state.pool = plan, found.pool
            state.known += 1
        return state

    def _screen(self, state: _State, plans: Sequence[Plan], report: Callable[[int], None]) -> None:
        """Measure each plan once; while one is timed, the next are built, where there are cores for that."""
        todo = deque(plan for plan in plans if not state.tried(plan))
        under_way: deque[tuple[Plan, Callable[[], Built]]] = deque()

        def begin(most: int) -> None:
            while todo and len(under_way) < most:
                plan = todo.popleft()
                under_way.append((plan, self._begin(state, plan)))

        while todo or under_way:
            begin(max(1, self.measurer.ahead))
            plan, begun = under_way.popleft()
            built, error = self._built(begun)
            begin(self.measurer.ahead)
            seconds: float | None = None
            if built is not None:
                try:
                    (seconds,) = self.measurer.time([built])
                except CandidateError as failure:
                    error = str(failure)
            self._keep(state, plan, SCREENED, seconds, error)
            state.measured += 1
            report(len(state.seconds) + len(state.failed))

    def _begin(self, state: _State, plan: Plan) -> Callable[[], Built]:
        out = self.measurer.start_build(state.job.operator, plan)
        return lambda: self.measurer.finish_build(out)

    @staticmethod
    def _built(begun: Callable[[], Built]) -> tuple[Built | None, str]:
        try:
            return begun(), ""
        except CandidateError as failure:
            return None, str(failure)

    def _neighbours(self, state: _State) -> list[Plan]:
        """Plans that are nearest to the best ones and were not tried; by distance, then by prediction."""
        best = state.ranking()[:2]
        order = {plan: i for i, plan in enumerate(state.plans)}
        open_ = [plan for plan in state.plans if not state.tried(plan)]
        return sorted(open_, key=lambda p: (min((_distance(p, b) for b in best), default=0.0), order[p]))

    def _decide(self, state: _State) -> Plan:
        """Time the fastest and the default in turn, and choose."""
        default = state.plans[0]
        plans = [plan for plan in state.ranking() if plan != default][:FINALISTS]
        extra = (state.chosen, default)
        plans += [plan for plan in extra if plan in state.seconds and plan not in plans]
        built: dict[Plan, Built] = {}
        for plan in plans:
            found, _ = self._built(self._begin(state, plan))
            if found is not None:
                built[plan] = found
        try:
            times = self.measurer.time(list(built.values()), ROUNDS, 0.03) if built else []
        except CandidateError:
            times = []
        # Without a final the first measurement stands.
        seconds = dict(zip(built, times, strict=True)) if times else {plan: state.seconds[plan] for plan in plans}
        best = min(seconds, key=lambda plan: seconds[plan])
        if default in seconds and seconds[default] * (1 - MARGIN) <= seconds[best]:
            best = default
        for plan, value in seconds.items():
            self._keep(state, plan, CHOSEN if plan == best else FINAL, value, "")
        return best

    def _keep(self, state: _State, plan: Plan, stage: int, seconds: float | None, error: str) -> None:
        operator, version = str(state.job.operator), self._versions[plan.template]
        key, threads = target_key(self.target), self.measurer.threads
        params, machine = params_text(plan), self.store.machine
        pool = len(state.seconds) if stage == CHOSEN else 0
        made = (operator, key, plan.template, version, params, machine, threads, stage, seconds, error, pool)
        self.store.add([Measurement(*made)])
        if seconds is None:
            state.failed[plan] = error
        else:
            state.seconds[plan] = seconds


def _distance(a: Plan, b: Plan) -> float:
    """How far two plans are apart: a template counts most, a parameter by the logarithm of its ratio."""
    if a.template != b.template:
        return 10.0
    return sum(abs(math.log2((a.params[name] + 1) / (b.params.get(name, 0) + 1))) for name in a.params)


def _deserves_another_try(error: str, timeout: float) -> bool:
    """Whether a candidate failed for want of time, and has more of it now."""
    found = re.fullmatch(TOO_LONG.format(r"([\d.]+)"), error)
    return found is not None and float(found[1]) < timeout


def tune_all(tuner: Tuner, jobs: Sequence[Job], report: Report) -> tuple[list[Outcome], list[str]]:
    """Tune every job, the ones with most work first; progress counts candidates and says how long is left.

    Returns:
        the outcomes, and why there is none of some operators.
    """
    ordered = sorted(jobs, key=lambda job: (-job.operator.macs() * job.count, str(job.operator)))
    outcomes: list[Outcome] = []
    problems: list[str] = []
    total = len(ordered) * tuner.trials
    begin = time.monotonic()
    for number, job in enumerate(ordered):

        def inner(done: int, number: int = number, job: Job = job) -> None:
            share = (number + min(1.0, done / tuner.trials)) / len(ordered)
            spent = time.monotonic() - begin
            left = f", {spent / share - spent:.0f} s left" if share > 0.02 else ""
            report(f"{job.operator.kind} {job.operator.compute}{left}", number * tuner.trials + done, total)

        inner(0)
        try:
            outcomes.append(tuner.tune(job, inner))
        except CandidateError as error:
            problems.append(str(error))
    return outcomes, problems
