"""Whether an advice helps: the pipeline is run with it, and the outputs and the layer compared again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from optkit.debug.account import Advice, Layer
from optkit.errors import OptkitError
from optkit.pipeline import Pipeline
from optkit.steps import Progress

Trial = Callable[[Pipeline, Sequence[str]], tuple[float | None, dict[str, float]]]
"""From a pipeline and names of layers to the outputs' SQNR and each layer's own, dB."""


def try_advice(trial: Trial, layers: Sequence[Layer], count: int, progress: Progress) -> list[Layer]:
    """The layers with figures for the advice of the first `count`, the best first; each pipeline runs once.

    What fails when tried (a pass that finds nothing to do it with) keeps no figure and goes last.
    """
    worst = [layer for layer in layers if layer.advice][:count]
    texts = list(dict.fromkeys(advice.pipeline for layer in worst for advice in layer.advice if _runs(advice)))
    results: dict[str, tuple[float | None, dict[str, float]]] = {}
    for number, text in enumerate(texts):
        progress("trying advice", number, len(texts))
        try:
            results[text] = trial(Pipeline.parse(text), [layer.name for layer in worst])
        except OptkitError:
            continue

    def tried(layer: Layer) -> Layer:
        found = []
        for advice in layer.advice:
            outputs, own = results.get(advice.pipeline, (None, {}))
            found.append(replace(advice, output_db=outputs, own_db=own.get(layer.name)))
        # excluding a layer gives up its speed: only where nothing else does as well
        found.sort(
            key=lambda a: -(a.output_db - (3 if "exclude" in a.option else 0)) if a.output_db is not None else 1e9
        )
        return layer.with_advice(tuple(found))

    names = {layer.name for layer in worst}
    return [tried(layer) if layer.name in names else layer for layer in layers]


def _runs(advice: Advice) -> bool:
    return not advice.option.startswith("optkit ")
