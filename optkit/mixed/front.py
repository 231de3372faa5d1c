"""The assignments that no other beats in both time and noise, by models of both: a sweep of minimum cuts.

Time is that of every layer in its precision, and of conversions between unlike neighbours; noise is the sum of what
each layer adds to the outputs alone. Both are additive, so that for a price of noise the best assignment is a minimum
cut, and the prices at which it changes are found by bisection (Everett, "Generalized Lagrange Multiplier Method",
Operations Research 1963; Eisner and Severance, "Mathematical techniques for efficient record segmentation", 1976, for
the order in which prices are asked).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from optkit.latency.mincut import cheapest
from optkit.mixed.candidates import Precisions

T = TypeVar("T")

_CUTS = 96
"""Minimum cuts at most; a network's hull has fewer corners than layers."""
_SECONDS = 1e3
"""More than any layer takes: what a layer costs that must not be int8."""


@dataclass(frozen=True)
class Layer:
    """One layer's costs.

    Attributes:
        int8, fp32: seconds, or what stands for them.
        noise: that it adds to the outputs in int8, alone, over the signal; infinite where it must stay float.
        bf16: seconds in bfloat16, None where the target has it not.
        bf16_noise: that it adds in bfloat16.
    """

    int8: float
    fp32: float
    noise: float
    bf16: float | None = None
    bf16_noise: float = 0.0


@dataclass(frozen=True)
class Costs:
    """What an assignment costs, by the models.

    Attributes:
        between: seconds of conversions; see `optkit.latency.bench.prices`.
    """

    layers: Mapping[str, Layer]
    between: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def best(self, price: float) -> Precisions:
        """The assignment with the least time + price x noise."""
        integers, floats, short = {}, {}, set()
        for name, layer in self.layers.items():
            integers[name] = min(_SECONDS, layer.int8 + (price * layer.noise if layer.noise > 0 else 0.0))
            floats[name] = layer.fp32
            if layer.bf16 is not None and layer.bf16 + price * layer.bf16_noise < layer.fp32:
                floats[name] = layer.bf16 + price * layer.bf16_noise
                short.add(name)
            if layer.noise == float("inf"):
                integers[name] = _SECONDS
        kept = frozenset(cheapest(integers, floats, self.between))
        return Precisions(kept, frozenset(kept & short))

    def seconds(self, precisions: Precisions) -> float:
        """Modelled time of a run, less what belongs to no layer."""
        total = sum(
            (layer.bf16 or 0.0) if name in precisions.bf16 else layer.fp32 if name in precisions.kept else layer.int8
            for name, layer in self.layers.items()
        )
        for (a, b), (forth, back) in self.between.items():
            if (a in precisions.kept) != (b in precisions.kept):
                total += back if a in precisions.kept else forth
        return total

    def noise(self, precisions: Precisions) -> float:
        """Modelled noise of the outputs over their signal."""
        total = 0.0
        for name, layer in self.layers.items():
            if name in precisions.bf16:
                total += layer.bf16_noise
            elif name not in precisions.kept:
                total += layer.noise
        return total


def hull(costs: Costs) -> list[Precisions]:
    """Assignments on the convex hull of time and noise, the fastest first, the last without any noise."""
    first, last = costs.best(0.0), Precisions(frozenset(costs.layers))
    found: dict[Precisions, None] = {first: None, last: None}
    open_pairs, cuts = [(first, last)], 0
    while open_pairs and cuts < _CUTS:
        fast, clean = open_pairs.pop(0)
        slower = costs.seconds(clean) - costs.seconds(fast)
        cleaner = costs.noise(fast) - costs.noise(clean)
        if not (slower > 0 and cleaner > 0) or cleaner == float("inf"):
            continue
        between = costs.best(slower / cleaner)
        cuts += 1
        if between not in found:
            found[between] = None
            open_pairs += [(fast, between), (between, clean)]
    return not_beaten(found, costs.seconds, costs.noise)


def not_beaten(points: Iterable[T], seconds: Callable[[T], float], loss: Callable[[T], float]) -> list[T]:
    """Those that no other is at least as fast as at less loss: the fastest first, losing less from one to the next."""
    best: list[T] = []
    for point in sorted(points, key=lambda p: (seconds(p), loss(p))):
        if not best or loss(point) < loss(best[-1]):
            best.append(point)
    return best


def steps_between(fast: Precisions, clean: Precisions, costs: Costs) -> list[Precisions]:
    """From `fast` towards `clean`, one layer more at a time, first those with most noise a second; ends left out.

    Empty where `clean` has not all the layers that `fast` keeps.
    """
    more = clean.kept - fast.kept
    if not fast.kept <= clean.kept or fast.bf16 - clean.bf16:
        return []

    def worth(name: str) -> float:
        layer = costs.layers[name]
        return layer.noise / max(layer.fp32 - layer.int8, 1e-9)

    order = sorted(more, key=lambda name: (-worth(name), name))
    found = []
    for count in range(1, len(order)):
        kept = fast.kept | set(order[:count])
        found.append(Precisions(kept, fast.bf16 | (clean.bf16 & kept)))
    return found
