"""NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss."""

from __future__ import annotations

from collections.abc import Sequence

from optkit.compiler.converters.rows import real, row_kind, row_lanes, rows_of
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import losses as define
from optkit.compiler.operators import rows
from optkit.compiler.values import Value


def negative_log_likelihood(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """NegativeLogLikelihoodLoss of log-probabilities (N, C, ...), with class weights and an ignored class."""
    logs = inputs[0]
    return None if logs is None or not real(logs) else _loss(low, node, logs, inputs)


def softmax_cross_entropy(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value] | None:
    """SoftmaxCrossEntropyLoss of scores (N, C, ...): the loss of their log-softmax, and that itself."""
    scores = inputs[0]
    if scores is None or not real(scores):
        return None
    given = rows_of(low, scores, [1])
    logs = given.restore(low.emit(rows.log_softmax, given.expr, row_lanes(low), name="log_softmax", kind=row_kind(low)))
    return [_loss(low, node, logs, inputs), logs]


def _loss(low: Lowering, node: Node, logs: Value, inputs: list[Value | None]) -> Value:
    target, weight = inputs[1], inputs[2] if len(inputs) > 2 else None
    assert target is not None
    ignored = node.get("ignore_index")
    factor = None if weight is None else weight.plain()
    args = (logs.plain(), target.plain(), factor, None if ignored is None else int(ignored))
    reduction = node.get("reduction", "mean")
    if reduction == "none":
        return low.wrap(low.emit(define.loss, *args, logs.dtype, name="loss"))
    mean = reduction == "mean"
    return low.wrap(low.emit(define.reduced_loss, *args, mean, low.target.lanes, logs.dtype, name="loss"))


CONVERTERS: dict[str, Converter] = {
    "NegativeLogLikelihoodLoss": negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy,
}
