"""What a kernel rule is: given one fused operator and a target, the schedules it offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from optkit.compiler.operator import Operator, Plan
    from optkit.target import Target


@dataclass(frozen=True)
class Choice:
    """One way to schedule a fused operator.

    Attributes:
        rule: name of the rule that offers it.
        template: name of the template inside the rule, e.g. "direct_conv".
        version: raised whenever the template's code changes meaning; tuning records are bound to it.
        params: the parameters this choice stands for; by default the analytical model's.
        space: every parameter with the bounded tuple of values it may take.
        apply: apply(func, params) -> scheduled PrimFunc.
        ops: multiply-accumulates of one call where they are statically known, else 0.
        compute: arithmetic type of the inner loop, e.g. "int8", "float32", "bfloat16".
        layout: of the activations and, after a blank, of the weights, e.g. "NCHW16c OIHW16i16o".
        tunable: whether measured parameters replace `params` when it is scheduled; its rule then lists plans, see
            `TunableRule`. The others are planned before, when layouts are chosen.
    """

    rule: str
    template: str
    version: int
    params: Mapping[str, int]
    space: Mapping[str, tuple[int, ...]]
    apply: Callable[[Any, Mapping[str, int]], Any]
    ops: int = 0
    compute: str = ""
    layout: str = ""
    tunable: bool = False


@runtime_checkable
class TunableRule(Protocol):
    """A rule whose templates are tuned by their parameters alone.

    Attributes:
        templates: their versions by name.
    """

    templates: Mapping[str, int]

    def plans(self, operator: Operator, target: Target) -> list[Plan]:
        """Plans of these templates for an operator that fit the target, by modelled time; none for other operators."""
        ...


class KernelRule(Protocol):
    """Offers choices for the operators it understands."""

    name: str

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """Choices for the unscheduled PrimFunc `func`, best guess first; None means "not mine"."""
        ...
