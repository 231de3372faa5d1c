"""What a pass is: a frozen dataclass whose fields are its options, and what it reports back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from optkit.calibration_cache import CalibrationCache
    from optkit.target import Target

T = TypeVar("T")

Sample = Mapping[str, np.ndarray]
"""One calibration sample: input name to array, batch axis included."""


@dataclass(frozen=True)
class Finding:
    """One thing a pass did or refused to do.

    Attributes:
        action: "changed", "skipped" (left alone, `reason` says why), "warning" or "note".
        where: node or value name, or "" for the whole model.
        reason: one line of plain text.
    """

    action: Literal["changed", "skipped", "warning", "note"]
    where: str
    reason: str


@dataclass(frozen=True)
class GivenScales:
    """Quantization parameters that were found elsewhere, as in training, which `quantize` takes as they are.

    Attributes:
        activations: (scale, zero point) by tensor name, of every tensor that is quantized.
        weights: float32 scales, (channels,) or a scalar, by node name; a node without one gets its own choice.
    """

    activations: Mapping[str, tuple[float, int]]
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass
class PassContext:
    """Everything a pass may use that is no option of its own.

    Attributes:
        target: what the model is compiled for, or None where that is not decided.
        calibration: opens a fresh iterator over samples, or None; it may be called several times.
        reference: the source model before any pass, for passes that measure against it.
        unquantized: the float model as the last quantization found it, or None. Values and nodes that both hold have
            the same names there, so passes after `quantize` compare with it.
        calibration_cache: file that keeps what calibration measures, or None.
        ran: texts of the passes that have run before, nested pipelines unfolded; the pipeline keeps it.
        given: scales that quantization is to use in place of calibration, or None.
        progress: called as progress(description, done, total); total is None where it is unknown.
        measured: what earlier calibrations of the same float model on the same samples saw of its tensors; `quantize`
            looks there and adds what it finds. For searches that quantize one model over and over.
    """

    target: Target | None = None
    calibration: Callable[[], Iterator[Sample]] | None = None
    reference: ir.Model | None = None
    unquantized: ir.Model | None = None
    given: GivenScales | None = None
    progress: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None
    seed: int = 0
    calibration_cache: CalibrationCache | None = None
    ran: tuple[str, ...] = ()
    measured: dict[Hashable, Any] | None = None


class Result(ir.passes.PassResult):
    """onnx_ir's PassResult (`model`, `modified`) with the pass's findings."""

    def __init__(self, model: ir.Model, modified: bool, findings: Iterable[Finding] = ()) -> None:
        super().__init__(model, modified)
        self.findings = tuple(findings)


@dataclass(frozen=True)
class Pass:
    """One transformation of a model. Subclasses are frozen dataclasses; their fields are their options.

    `name` is the word used in the text form and on the command line; the first line of the class
    docstring is the one-line help. Every option has a default and, in `dataclasses.field(metadata=
    {"help": ...})`, a sentence that says what it does.
    """

    name: ClassVar[str]

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Transform `model`, in place or not; the caller uses only what is returned."""
        raise TypeError(f"{type(self).__name__} does not implement run()")

    def options(self) -> dict[str, object]:
        """Option names and values that differ from their defaults, in definition order."""
        changed = {}
        for f in dataclasses.fields(self):
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            value = getattr(self, f.name)
            if value != default:
                changed[f.name] = value
        return changed


def option(default: T, help: str) -> T:
    """A pass option with its help text: `bits: int = option(8, "bits of a weight")`."""
    if isinstance(default, (list, dict, set)):
        raise TypeError("options are immutable; use a tuple")
    declared: T = field(default=default, metadata={"help": help})
    return declared
