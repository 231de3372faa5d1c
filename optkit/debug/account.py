"""What `optkit debug accuracy` found, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optkit.measure.compare import Figures

SCHEMA = 1


@dataclass(frozen=True)
class Parts:
    """A layer's own error: what comes out when it alone is quantized and is given the float model's inputs.

    All in dB of SQNR at the layer's output, `None` where the layer has no such part or it cannot be known.

    Attributes:
        own: everything of the layer quantized.
        weights, activations, bias: only that.
        clipping: share, 0 to 1, of the activations' error energy from values outside the quantized range; the rest
            is rounding inside it.
        clipped: share of the values that lie outside.
        codes: share of the integers within which 99.9 % of the values fall; a small one is a long tail.
        channels: largest over median absolute maximum of the input's channels.
    """

    own: float
    weights: float | None = None
    activations: float | None = None
    bias: float | None = None
    clipping: float | None = None
    clipped: float | None = None
    codes: float | None = None
    channels: float | None = None


@dataclass(frozen=True)
class Advice:
    """A change that may repair a layer.

    Attributes:
        option: as it is written on the command line, or the pass with its option.
        pipeline: the whole pipeline with the change, as `--passes` takes it.
        reason: why.
        output_db: SQNR of the model's outputs with it, where it was tried.
        own_db: the layer's own SQNR with it, where it was tried and the layer is still quantized.
    """

    option: str
    pipeline: str
    reason: str
    output_db: float | None = None
    own_db: float | None = None


@dataclass(frozen=True)
class Layer:
    """One layer, compared stage by stage.

    Attributes:
        name, op_type: of the node.
        depth: its place among the layers.
        tensor: what the next layers read of it, on which `stages` are.
        stages: SQNR, dB, of that tensor after each stage that has it, by the stage's label.
        step: label of the stage in which it fell most.
        parts: its own error, where it is quantized.
        effect: SQNR, dB, of the model's outputs if this layer alone were quantized.
        gain: dB that the outputs' SQNR would rise if this layer alone were float; negative where its error makes up
            for another's.
        accumulated: SQNR, dB, of its output in the quantized model, whose earlier layers are quantized too.
        kernel: SQNR, dB, of the artifact's tensor against ONNX Runtime's on the same model.
        kernel_steps: largest distance, in integers, between both; None where the tensor is float.
        cause: "weights", "clipping", "rounding", "bias", "kernel", "inherited" (what came in was as bad) or "".
        advice: what may repair it, most promising first.
    """

    name: str
    op_type: str
    depth: int
    tensor: str
    stages: Mapping[str, float] = field(default_factory=dict)
    step: str = ""
    parts: Parts | None = None
    effect: float | None = None
    gain: float | None = None
    accumulated: float | None = None
    kernel: float | None = None
    kernel_steps: int | None = None
    cause: str = ""
    advice: tuple[Advice, ...] = ()

    def with_advice(self, advice: tuple[Advice, ...]) -> Layer:
        """The layer with other advice."""
        return replace(self, advice=advice)


@dataclass(frozen=True)
class StageReport:
    """One stage: the model as loaded, after a pass, or compiled.

    Attributes:
        label: unique among the stages.
        text: the pass with its options.
        modified: whether the pass changed the model.
        precision: of the model.
        outputs: against the original, by name.
        output_db: SQNR, dB, of the worst floating-point output.
        within: whether they keep the precision's tolerance.
        reason: why not.
        compared, changed: tensors of the same name before and after, and how many of them differ.
        worst: name and SQNR, dB, of the one that differs most.
    """

    label: str
    text: str
    modified: bool
    precision: str
    outputs: Mapping[str, Figures]
    output_db: float | None = None
    within: bool = True
    reason: str = ""
    compared: int = 0
    changed: int = 0
    worst: tuple[str, float] | None = None


@dataclass(frozen=True)
class Report:
    """Layers, worst first, and stages in order.

    Attributes:
        samples: how many were compared.
        source: what they are: "calibration data", a path, or "random".
        reference: what a layer's error is measured against.
        notes: what could not be compared, and why.
    """

    model: str
    pipeline: str
    target: str
    samples: int
    source: str
    reference: str
    stages: tuple[StageReport, ...]
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()

    @property
    def first_outside(self) -> StageReport | None:
        """The first stage whose outputs leave the tolerance."""
        return next((stage for stage in self.stages if not stage.within), None)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        first = self.first_outside
        return {
            "schema": SCHEMA,
            "model": self.model,
            "pipeline": self.pipeline,
            "target": self.target,
            "samples": self.samples,
            "data": self.source,
            "reference": self.reference,
            "first_outside": None if first is None else first.label,
            "stages": [_stage(stage) for stage in self.stages],
            "layers": [_layer(layer) for layer in self.layers],
            "notes": list(self.notes),
        }


def _stage(stage: StageReport) -> dict[str, Any]:
    return {
        "label": stage.label,
        "text": stage.text,
        "modified": stage.modified,
        "precision": stage.precision,
        "output_sqnr_db": stage.output_db,
        "within_tolerance": stage.within,
        "reason": stage.reason,
        "outputs": {name: figures.as_dict() for name, figures in stage.outputs.items()},
        "tensors_compared": stage.compared,
        "tensors_changed": stage.changed,
        "worst_tensor": None if stage.worst is None else {"name": stage.worst[0], "sqnr_db": stage.worst[1]},
    }


def _layer(layer: Layer) -> dict[str, Any]:
    parts = layer.parts
    return {
        "layer": layer.name,
        "op_type": layer.op_type,
        "depth": layer.depth,
        "tensor": layer.tensor,
        "cause": layer.cause,
        "step": layer.step,
        "stages_sqnr_db": dict(layer.stages),
        "output_sqnr_db_alone": layer.effect,
        "output_gain_db_if_float": layer.gain,
        "accumulated_sqnr_db": layer.accumulated,
        "own": None
        if parts is None
        else {
            "sqnr_db": parts.own,
            "weights_sqnr_db": parts.weights,
            "activations_sqnr_db": parts.activations,
            "bias_sqnr_db": parts.bias,
            "clipping_share": parts.clipping,
            "rounding_share": None if parts.clipping is None else 1 - parts.clipping,
            "clipped_values": parts.clipped,
            "codes_in_use": parts.codes,
            "channel_spread": parts.channels,
        },
        "kernel_sqnr_db": layer.kernel,
        "kernel_max_steps": layer.kernel_steps,
        "advice": [
            {
                "option": advice.option,
                "pipeline": advice.pipeline,
                "reason": advice.reason,
                "output_sqnr_db": advice.output_db,
                "own_sqnr_db": advice.own_db,
            }
            for advice in layer.advice
        ],
    }
