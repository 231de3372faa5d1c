"""What every layer alone costs in accuracy: all others in float, this one quantized."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optkit.mixed.candidates import Candidates, Precisions
from optkit.mixed.execute import onnx_runner
from optkit.mixed.score import Scores, cpu_threads, probe_noise
from optkit.steps import Progress


@dataclass
class Sensitivity:
    """One layer's.

    Attributes:
        noise: of the outputs over their signal with this layer alone in int8; infinite where it was not measured.
        bf16_noise: the same in bfloat16, None where the target has it not.
        metric: points with this layer alone in int8, None where time did not suffice.
    """

    layer: str
    noise: float = float("inf")
    bf16_noise: float | None = None
    metric: float | None = None


def measure_sensitivity(
    candidates: Candidates, layers: Sequence[str], scores: Scores, bf16: bool, enough: Callable[[], bool], say: Progress
) -> dict[str, Sensitivity]:
    """Noise of every layer alone on the probes; layers that time does not suffice for stay at infinity.

    Args:
        enough: whether the time is over.
    """
    everything = frozenset(layers)
    run = onnx_runner(candidates.make(Precisions(everything), whole=False), cpu_threads())
    wanted = [run(probe) for probe in scores.probes]
    found = {name: Sensitivity(name) for name in layers}
    for number, name in enumerate(layers):
        say("sensitivity of layers", number, len(layers))
        if enough():
            break
        alone = candidates.make(Precisions(everything - {name}), whole=False)
        found[name].noise = probe_noise(onnx_runner(alone, cpu_threads()), scores.probes, wanted)
        if bf16:
            short = candidates.make(Precisions(everything, frozenset({name})), whole=False)
            found[name].bf16_noise = probe_noise(onnx_runner(short, cpu_threads()), scores.probes, wanted)
    return found


def measure_metric(
    candidates: Candidates, found: dict[str, Sensitivity], scores: Scores, seconds: float, say: Progress
) -> None:
    """The metric with one layer alone in int8, the noisiest first, while the time lasts."""
    everything = frozenset(found)
    began, longest = time.monotonic(), 0.0
    order = sorted(found.values(), key=lambda row: (-row.noise, row.layer))
    for number, row in enumerate(order):
        start = time.monotonic()
        if start - began + longest > seconds:
            return
        say("metric of layers", number, len(order))
        row.metric = scores.of(Precisions(everything - {row.layer}), candidates, whole=False)
        longest = max(longest, time.monotonic() - start)
