"""Steps of optimizers, of domain ai.onnx.preview.training: Adagrad, Adam and Momentum.

Inputs are the rate R, the step T, and then all tensors to be trained, all gradients, and so on.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from optkit.bodies.text import Writer

DOMAIN = "ai.onnx.preview.training"


def _each(w: Writer, kinds: int, step: Callable[..., list[ir.Value]], made: int) -> ir.Function:
    """Apply `step` to each tensor with its gradient and its `kinds - 2` states; outputs are grouped the same way."""
    count = (len(w.inputs) - 2) // kinds
    results = [step(*[w.need(2 + k * count + i) for k in range(kinds)]) for i in range(count)]
    return w.finish(*[results[i][k] for k in range(made) for i in range(count)])


def _regularized(w: Writer, x: ir.Value, g: ir.Value) -> ir.Value:
    return w("Add", w("Mul", x, w.like(w.attribute("norm_coefficient", 0.0), x)), g)


def adagrad(node: ir.Node) -> ir.Function:
    """Duchi, Hazan and Singer, 2011: rates shrink with the sum of all squared gradients."""
    w = Writer(node)
    rate, step = w.need(0), w.need(1)
    late = w("Mul", w("CastLike", step, rate), w.like(w.attribute("decay_factor", 0.0), rate))
    rate = w("Div", rate, w("Add", late, w.like(1.0, rate)))

    def one(x: ir.Value, g: ir.Value, h: ir.Value) -> list[ir.Value]:
        slope = _regularized(w, x, g)
        total = w("Add", h, w("Mul", slope, slope))
        root = w("Add", w("Sqrt", total), w.like(w.attribute("epsilon", 0.0), x))
        return [w("Sub", x, w("Div", w("Mul", w("CastLike", rate, x), slope), root)), total]

    return _each(w, 3, one, 2)


def adam(node: ir.Node) -> ir.Function:
    """Kingma and Ba, 2014; the bias is corrected from the second step (T > 0) on."""
    w = Writer(node)
    rate, step = w.need(0), w.need(1)
    alpha, beta = float(w.attribute("alpha", 0.9)), float(w.attribute("beta", 0.999))
    one = w.like(1.0, rate)
    count = w("CastLike", step, rate)

    def remains(factor: float) -> ir.Value:
        return w("Sub", one, w("Pow", w.like(factor, rate), count))

    corrected = w("Div", w("Mul", rate, w("Sqrt", remains(beta))), remains(alpha))
    later = w("Greater", step, w("CastLike", w.constant(0), step))
    rate = w("Where", later, corrected, rate)

    def one_step(x: ir.Value, g: ir.Value, v: ir.Value, h: ir.Value) -> list[ir.Value]:
        slope = _regularized(w, x, g)
        mean = w("Add", w("Mul", v, w.like(alpha, x)), w("Mul", slope, w.like(1 - alpha, x)))
        square = w("Add", w("Mul", h, w.like(beta, x)), w("Mul", w("Mul", slope, slope), w.like(1 - beta, x)))
        root = w("Add", w("Sqrt", square), w.like(w.attribute("epsilon", 0.0), x))
        moved = w("Sub", x, w("Mul", w("CastLike", rate, x), w("Div", mean, root)))
        return [w("Mul", moved, w.like(1 - w.attribute("norm_coefficient_post", 0.0), x)), mean, square]

    return _each(w, 4, one_step, 3)


def momentum(node: ir.Node) -> ir.Function:
    """Standard momentum, or Nesterov's; the gradient counts fully at the first step (T = 0)."""
    w = Writer(node)
    rate, step = w.need(0), w.need(1)
    alpha, nesterov = w.attribute("alpha"), w.attribute("mode") == "nesterov"
    later = w("Greater", step, w("CastLike", w.constant(0), step))
    weight = w("Where", later, w.like(w.attribute("beta"), rate), w.like(1.0, rate))

    def one(x: ir.Value, g: ir.Value, v: ir.Value) -> list[ir.Value]:
        slope = _regularized(w, x, g)
        speed = w("Add", w("Mul", v, w.like(alpha, x)), w("Mul", w("CastLike", weight, x), slope))
        ahead = w("Add", slope, w("Mul", speed, w.like(alpha, x))) if nesterov else speed
        return [w("Sub", x, w("Mul", w("CastLike", rate, x), ahead)), speed]

    return _each(w, 3, one, 2)


BODIES = {(DOMAIN, "Adagrad"): adagrad, (DOMAIN, "Adam"): adam, (DOMAIN, "Momentum"): momentum}
