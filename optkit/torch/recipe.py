"""What quantization-aware training quantizes, and how: readable from and to JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optkit.errors import UsageError, nearest

METHODS = ("lsq", "observer")
FIRST_LAST = ("same", "int8", "float")
WEIGHT_RANGES = ("max", "mse")


@dataclass(frozen=True)
class Recipe:
    """Options of `prepare`.

    Attributes:
        weight_bits: 2 to 8, symmetric, one scale an output channel.
        activation_bits: 8: activations are uint8, one scale and zero point a tensor.
        method: "lsq" learns the scales by gradient (Esser et al. 2020); "observer" follows the ranges that training
            sees (Jacob et al. 2018, section 3.1).
        exact: activation scales are powers of two and weight scales have few significant bits, in training already,
            so that every runtime computes the same integers (what the pass `quantize` calls exact).
        exclude: names of modules that stay float, with all they hold.
        first_last: the first and last layers: "same" as the others, "int8" (weights of 8 bits) or "float".
        activation_range: how the first activation ranges are chosen, a `method` of the pass `quantize`.
        weight_range: how the first weight scales are chosen: "max" keeps all, "mse" clips what costs less than it
            gains.
        calibration_batches: of the calibration loader, use at most so many.
        momentum: of an observer's running range: the share of the newest batch.
        freeze_bn_after: after so many training steps batch normalizations stop to follow the batches; None: never, 0:
            from the start.
        freeze_ranges_after: after so many training steps observers stop too; None: never.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    method: str = "lsq"
    exact: bool = True
    exclude: tuple[str, ...] = ()
    first_last: str = "same"
    activation_range: str = "minmax"
    weight_range: str = "mse"
    calibration_batches: int = 16
    momentum: float = 0.01
    freeze_bn_after: int | None = None
    freeze_ranges_after: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "exclude", tuple(self.exclude))
        if not 2 <= self.weight_bits <= 8:
            raise UsageError(f"recipe: weight_bits={self.weight_bits} is not between 2 and 8")
        if self.activation_bits != 8:
            raise UsageError(f"recipe: activation_bits={self.activation_bits}: activations are uint8, so 8")
        for name, known in (("method", METHODS), ("first_last", FIRST_LAST), ("weight_range", WEIGHT_RANGES)):
            value = getattr(self, name)
            if value not in known:
                raise UsageError(f"recipe: unknown {name} {value!r}; {nearest(str(value), known)}")
        if self.calibration_batches < 1:
            raise UsageError(f"recipe: calibration_batches={self.calibration_batches} is not at least 1")
        if not 0 < self.momentum <= 1:
            raise UsageError(f"recipe: momentum={self.momentum} is not above 0 and at most 1")
        for name in ("freeze_bn_after", "freeze_ranges_after"):
            steps = getattr(self, name)
            if steps is not None and steps < 0:
                raise UsageError(f"recipe: {name}={steps} is negative")

    def to_json(self) -> str:
        """Every option, as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @staticmethod
    def from_json(source: str | Path) -> Recipe:
        """The recipe of a JSON text, or of a file given as a Path.

        Raises:
            UsageError: it cannot be read, is no JSON object, or holds an unknown option or a value out of range.
        """
        where = f"recipe {source}" if isinstance(source, Path) else "recipe"
        try:
            found = json.loads(source.read_text() if isinstance(source, Path) else source)
        except (OSError, ValueError) as error:
            raise UsageError(f"{where}: cannot be read: {error}") from error
        if not isinstance(found, dict):
            raise UsageError(f"{where}: is not a JSON object")
        fields = {f.name: f for f in dataclasses.fields(Recipe)}
        for name, value in found.items():
            if name not in fields:
                raise UsageError(f"{where}: unknown option {name!r}; {nearest(name, fields)}")
            if not _fits(value, str(fields[name].type)):
                raise UsageError(f"{where}: {name}={json.dumps(value)} is not {_WORDS[str(fields[name].type)]}")
        return Recipe(**found)


_WORDS = {
    "int": "a whole number",
    "str": "a string",
    "bool": "true or false",
    "float": "a number",
    "int | None": "a whole number or null",
    "tuple[str, ...]": "a list of strings",
}


def _fits(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    match kind:
        case "tuple[str, ...]":
            return isinstance(value, list) and all(isinstance(v, str) for v in value)
        case "int | None":
            return value is None or isinstance(value, int)
        case "float":
            return isinstance(value, int | float)
        case _:
            return type(value).__name__ == kind
