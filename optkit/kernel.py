"""What a kernel rule is: given one fused operator and a target, the schedules it offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
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


class KernelRule(Protocol):
    """Offers choices for the operators it understands."""

    name: str

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """Choices for the unscheduled PrimFunc `func`, best guess first; None means "not mine"."""
        ...
