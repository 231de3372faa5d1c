"""RNN, LSTM and GRU: the input products as one matrix product, the recurrence as one kernel a direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler.converters import device_recurrent
from optkit.compiler.converters.matmul import matmul
from optkit.compiler.converters.rows import reshape
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import recurrent as define
from optkit.compiler.operators.activations import KNOWN, activation
from optkit.compiler.values import PLAIN, Value, dims
from optkit.errors import UnsupportedError

_FUNCTIONS = {"RNN": ["Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
op = relax.op


def recurrent(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    """RNN, LSTM or GRU in all its variants; refuses unknown sizes of the hidden state."""
    return Layer(low, node, inputs).convert()


class Layer:
    """One node while it is converted; everything is computed in float32, or in float64 where it comes so."""

    def __init__(self, low: Lowering, node: Node, inputs: list[Value | None]) -> None:
        self.low, self.node = low, node
        padded = [*inputs, *[None] * (8 - len(inputs))]
        x, w, r = padded[:3]
        assert x is not None and w is not None and r is not None
        self.x, self.w, self.r = x, w, r
        self.b, self.lengths, self.h, self.c, self.p = padded[3:8]
        self.dtype = "float64" if x.dtype == "float64" else "float32"
        self.batch_first = bool(node.get("layout", 0))
        hidden, inner = r.shape[2], w.shape[2]
        if not isinstance(hidden, int) or not isinstance(inner, int):
            raise self._refusal("the sizes of its weights are not known", "fix them with --input-shape")
        self.hidden, self.inner, self.lanes = hidden, inner, low.target.lanes
        self.width = -(-hidden // self.lanes) * self.lanes
        self.gates = define.GATES[node.op_type]

    def convert(self) -> list[Value]:
        """Every output: all states (seq, directions, batch, hidden), and the last ones of each direction."""
        low, x = self.low, self.real(self.x)
        if self.batch_first:
            x = low.bind(op.permute_dims(x, [1, 0, 2]))
        directions = _DIRECTIONS.get(self.node.get("direction", "forward"))
        if directions is None:
            raise self._refusal(f"direction {self.node.get('direction')!r} is unknown", "use forward or bidirectional")
        if low.target.device == "cuda" and (together := device_recurrent.convert(self, x, directions)) is not None:
            return together
        found = [self._direction(x, d, reverse) for d, reverse in enumerate(directions)]
        results = []
        for number, states in enumerate(zip(*found, strict=True)):
            axis = (2 if self.batch_first else 1) if number == 0 else (1 if self.batch_first else 0)
            if number == 0 and self.batch_first:
                states = tuple(low.bind(op.permute_dims(s, [1, 0, 2])) for s in states)
            expanded = [low.bind(op.expand_dims(s, [axis])) for s in states]
            joined = expanded[0] if len(expanded) == 1 else low.bind(op.concat(expanded, axis=axis))
            if self.dtype != self.x.dtype:
                joined = low.bind(op.astype(joined, self.x.dtype))
            results.append(low.wrap(joined))
        return results

    def _refusal(self, why: str, what: str) -> UnsupportedError:
        return UnsupportedError(f"node {self.node.name!r} ({self.node.op_type}): {why}; {what}")

    def real(self, value: Value) -> Any:
        """In the type that is computed in."""
        expr = value.plain()
        return expr if value.dtype == self.dtype else self.low.bind(op.astype(expr, self.dtype))

    def _part(self, value: Value, at: int) -> Value:
        """One direction of a tensor whose first axis are directions."""
        if value.const is not None:
            array = value.const[at].astype(self.dtype)
            return Value(self.low, array.shape, self.dtype, const=array)
        expr = self.low.bind(op.squeeze(op.strided_slice(self.real(value), [0], [at], [at + 1]), [0]))
        return self.low.wrap(expr)

    def _pad(self, value: Value, gates: int) -> Value:
        """(gates * hidden, ...) with every gate widened to whole vectors."""
        if value.const is not None:
            split = value.const.reshape(gates, self.hidden, *value.const.shape[1:])
            missing = [(0, 0), (0, self.width - self.hidden), *[(0, 0)] * (split.ndim - 2)]
            array = np.pad(split, missing).reshape(gates * self.width, *value.const.shape[1:])
            return Value(self.low, array.shape, self.dtype, const=array)
        expr = self.low.emit(define.padded_gates, value.plain(), gates, self.hidden, self.width, name="pad_gates")
        return self.low.wrap(expr)

    def cell(self, at: int, reverse: bool) -> define.Cell:
        """What direction `at` computes."""
        node = self.node
        count = len(_FUNCTIONS[node.op_type])
        names = [str(n) for n in node.get("activations", [])][at * count : (at + 1) * count]
        names = names or _FUNCTIONS[node.op_type]
        by_word = {known.lower(): known for known in KNOWN}
        unknown = [n for n in names if n.lower() not in by_word]
        if unknown or len(names) != count:
            raise self._refusal(f"activations {names} are not {count} of {sorted(KNOWN)}", "export with known ones")
        # Parameters are listed for those functions that take some, in order; the others have none.
        functions = []
        alphas, betas = self.parameters("activation_alpha"), self.parameters("activation_beta")
        every = [str(n) for n in node.get("activations", [])] or names * (at + 1)
        for i, name in enumerate(names):
            place = at * count + i
            alpha = alphas[place] if len(alphas) == len(every) else _nth(alphas, every, place, _WITH_ALPHA)
            beta = betas[place] if len(betas) == len(every) else _nth(betas, every, place, _WITH_BETA)
            functions.append(activation(by_word[name.lower()], alpha, beta, self.dtype))
        clip = node.get("clip")
        return define.Cell(
            kind=node.op_type,
            hidden=self.hidden,
            width=self.width,
            lanes=self.lanes,
            dtype=self.dtype,
            functions=functions,
            clip=None if clip is None else float(clip),
            reverse=reverse,
            coupled=bool(node.get("input_forget", 0)),
            reset_after=bool(node.get("linear_before_reset", 0)),
        )

    def parameters(self, name: str) -> list[float]:
        """Numbers of an attribute."""
        return [float(v) for v in self.node.get(name, [])]

    def _direction(self, x: Any, at: int, reverse: bool) -> list[Any]:
        low, gates, width, hidden = self.low, self.gates, self.width, self.hidden
        cell = self.cell(at, reverse)
        seq, batch = dims(x.ty.shape.values[:2])
        weights = self._pad(self._part(self.w, at), gates)
        flat = low.blocked((seq * batch, self.inner), self.dtype, PLAIN, reshape(low, x, [seq * batch, self.inner]))
        steps = reshape(low, self.product(flat, weights), [seq, batch, gates * width])
        late = None
        if self.b is not None:
            early, late = self._biases(self._part(self.b, at), cell.reset_after)
            steps = low.bind(op.add(steps, early))
        packed = self._part(self.r, at)
        recurrence = low.emit(
            define.panels, self._pad(packed, gates).plain(), hidden, cell.tile, name="pack_recurrence"
        )
        peepholes = None
        if self.p is not None:
            peepholes = reshape(low, self._pad(self._part(self.p, at), 3).plain(), [3, width])
        states = [self._initial(v, at, batch) for v in (self.h, self.c)[: 2 if cell.kind == "LSTM" else 1]]
        lengths = None if self.lengths is None else self.lengths.plain()

        def kernel(steps_: Any, weights_: Any, *rest: Any) -> Any:
            given = iter(rest)
            initial = [next(given) for _ in states]
            optional = [next(given) if e is not None else None for e in (lengths, peepholes, late)]
            return define.recur(cell, steps_, weights_, initial, define.Others(*optional))

        extra = [e for e in (lengths, peepholes, late) if e is not None]
        out = low.emit(kernel, steps, recurrence, *states, *extra, name=cell.kind.lower())
        return [low.bind(relax.TupleGetItem(out, i)) for i in range(1 + len(states))]

    def product(self, x: Value, weights: Value) -> Any:
        """(rows, inner) by (columns, inner), transposed."""
        low = self.low
        if weights.const is not None:
            columns = Value(low, weights.shape[::-1], self.dtype, const=np.ascontiguousarray(weights.const.T))
        else:
            columns = low.wrap(low.bind(op.permute_dims(weights.plain(), [1, 0])))
        known = matmul(low, self.node, [x, columns]) if self.dtype == "float32" else None
        return known.plain() if known is not None else low.bind(op.matmul(x.plain(), columns.plain()))

    def _biases(self, bias: Value, reset_after: bool) -> tuple[Any, Any]:
        """What is added to the input products, and what the GRU's reset gate multiplies."""
        low, gates, width = self.low, self.gates, self.width
        size = gates * self.hidden
        halves = op.split(bias.plain(), [size])
        both = [low.wrap(low.bind(relax.TupleGetItem(low.bind(halves), i))) for i in (0, 1)]
        w, r = (self._pad(v, gates).plain() for v in both)
        if not (reset_after and self.node.op_type == "GRU"):
            return low.bind(op.add(w, r)), None
        keep = np.repeat(np.array([1, 1, 0], self.dtype), width)
        early = low.bind(op.add(w, low.bind(op.multiply(r, relax.const(keep)))))
        return early, low.bind(op.strided_slice(r, [0], [2 * width], [3 * width]))

    def _initial(self, value: Value | None, at: int, batch: Any) -> Any:
        low = self.low
        if value is None:
            zero = relax.const(0, self.dtype)
            return low.bind(op.broadcast_to(zero, relax.ShapeExpr([batch, self.hidden])))
        if self.batch_first:
            moved = low.wrap(low.bind(op.permute_dims(value.plain(), [1, 0, 2])))
            return self._part(moved, at).plain()
        return self._part(value, at).plain()


_WITH_ALPHA = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
_WITH_BETA = {"affine", "scaledtanh", "hardsigmoid"}


def _nth(values: list[float], names: list[str], at: int, takers: set[str]) -> float | None:
    """The parameter of function `at` in a list that has one for each function that takes it."""
    if names[at].lower() not in takers:
        return None
    place = sum(n.lower() in takers for n in names[:at])
    return values[place] if place < len(values) else None


CONVERTERS: dict[str, Converter] = {"RNN": recurrent, "LSTM": recurrent, "GRU": recurrent}
"""ONNX RNN, LSTM and GRU of opsets 7 to 22."""
