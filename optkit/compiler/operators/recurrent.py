"""RNN, LSTM and GRU cells as one loop over time.

The products with the inputs are made before, for all steps at once. What is left of a step is a product of the
state with the recurrent weights, packed into vector-wide columns and summed in registers, and the gates'
element-wise arithmetic. Examples of a batch are independent and run in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te

from optkit.compiler.operators.activations import Activation
from optkit.compiler.operators.common import const
from optkit.compiler.operators.loops import T, loops

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
MOST_COLUMNS = 8
"""Vectors of running sums that are kept in registers."""


@dataclass(frozen=True)
class Cell:
    """One direction of a recurrent operator.

    Attributes:
        hidden, width: units, and units with padding to whole vectors.
        lanes: of a vector.
        functions: f, g and h of ONNX's formulas, as many as the operator has.
        clip: bound of what the functions are given, or None.
        reverse: whether time runs backwards.
        coupled: the forget gate is one minus the input gate (LSTM, `input_forget`).
        reset_after: the reset gate is applied behind the product (GRU, `linear_before_reset`).
    """

    kind: str
    hidden: int
    width: int
    lanes: int
    dtype: str
    functions: Sequence[Activation]
    clip: float | None
    reverse: bool
    coupled: bool = False
    reset_after: bool = False

    @property
    def tile(self) -> int:
        """Columns of one packed panel of recurrent weights; panels do not cross gates."""
        vectors = self.width // self.lanes
        return self.lanes * next(n for n in (MOST_COLUMNS, 4, 2, 1) if vectors % n == 0)


@dataclass(frozen=True)
class Others:
    """Operands that a layer may have.

    Attributes:
        lengths: valid steps of each example; the states beyond are zeros.
        peepholes: (3, width), of input, output and forget gate.
        bias: (width), added to the GRU's product behind which the reset gate comes.
    """

    lengths: te.Tensor | None
    peepholes: te.Tensor | None
    bias: te.Tensor | None

    @property
    def tensors(self) -> list[te.Tensor]:
        """Those that there are."""
        return [t for t in (self.lengths, self.peepholes, self.bias) if t is not None]

    def of(self, buffers: Sequence[Any]) -> list[Any]:
        """The buffers of all three, from those of `tensors`."""
        rest = iter(buffers)
        return [None if t is None else next(rest) for t in (self.lengths, self.peepholes, self.bias)]


def recur(
    cell: Cell,
    steps: te.Tensor,
    weights: te.Tensor,
    initial: Sequence[te.Tensor],
    others: Others,
) -> list[te.Tensor]:
    """All states of one direction (seq, batch, hidden), and the last ones.

    Args:
        steps: (seq, batch, gates * width): input products with all biases that are added to them.
        weights: (panels, hidden, tile), see `Cell.tile`.
        initial: the hidden state, and the LSTM's cell state, (batch, hidden) each.
    """
    seq, batch = steps.shape[0], steps.shape[1]
    states = len(initial)

    def body(ins: list[Any], outs: list[Any]) -> None:
        given = others.of(ins[2 + states :])
        with T.parallel(0, batch) as b:
            _example(cell, b, seq, ins[0], ins[1], ins[2 : 2 + states], given, outs)

    # The last tensor is scratch memory. Allocated inside the parallel loop, it would be one for all threads.
    shapes = [(seq, batch, cell.hidden), *[(batch, cell.hidden)] * states, (batch, 2 + GATES[cell.kind], cell.width)]
    tensors = [steps, weights, *initial, *others.tensors]
    return list(loops(shapes, [cell.dtype] * len(shapes), tensors, body, cell.kind.lower()))


def padded_gates(data: te.Tensor, gates: int, hidden: int, width: int) -> te.Tensor:
    """(gates * hidden, ...) to (gates * width, ...), zeros behind every gate's units."""
    shape = (gates * width, *data.shape[1:])

    def element(row: Any, *rest: Any) -> Any:
        unit = row % width
        return te.if_then_else(
            unit < hidden, data(row // width * hidden + te.min(unit, hidden - 1), *rest), const(0, str(data.dtype))
        )

    return te.compute(shape, element, name="padded_gates")


def panels(data: te.Tensor, hidden: int, tile: int) -> te.Tensor:
    """Recurrent weights (gates * width, hidden) to (panels, hidden, tile)."""
    rows = int(data.shape[0])
    return te.compute((rows // tile, hidden, tile), lambda p, k, j: data(p * tile + j, k), name="panels")


def _vectors(cell: Cell, store: Callable[[Any], None]) -> None:
    """Run `store(unit)` over all units, vector by vector."""
    with T.serial(0, cell.width // cell.lanes) as outer, T.vectorized(0, cell.lanes) as lane:
        store(outer * cell.lanes + lane)


def _units(cell: Cell, store: Callable[[Any], None]) -> None:
    """The same without the padding."""
    whole = cell.hidden // cell.lanes
    if whole:
        with T.serial(0, whole) as outer, T.vectorized(0, cell.lanes) as lane:
            store(outer * cell.lanes + lane)
    if cell.hidden % cell.lanes:
        with T.serial(0, cell.hidden % cell.lanes) as i:
            store(whole * cell.lanes + i)


def _example(
    cell: Cell,
    b: Any,
    seq: Any,
    steps: Any,
    weights: Any,
    initial: Sequence[Any],
    given: Sequence[Any],
    outs: Sequence[Any],
) -> None:
    lengths, peepholes, bias = given
    zero = const(0, cell.dtype)
    h, other = _Slice(outs[-1], b, 0, cell.width), _Slice(outs[-1], b, 1, cell.width)
    sums = _Slice(outs[-1], b, 2, cell.width)
    # `other` is the LSTM's cell state, or the GRU's state behind the reset gate.
    _vectors(cell, lambda u: _store(h, u, zero))
    _vectors(cell, lambda u: _store(other, u, zero))
    _units(cell, lambda u: _store(h, u, initial[0][b, u]))
    if cell.kind == "LSTM":
        _units(cell, lambda u: _store(other, u, initial[1][b, u]))
    count = seq if lengths is None else te.min(lengths[b].astype("int64"), seq)
    steppers: dict[str, Callable[..., None]] = {"RNN": _rnn, "LSTM": _lstm, "GRU": _gru}
    step = steppers[cell.kind]
    with T.serial(0, count) as i:
        t = count - 1 - i if cell.reverse else i
        step(cell, steps, weights, t, b, h, other, sums, peepholes, bias)
        _units(cell, lambda u: _store_at(outs[0], (t, b, u), h[u]))
    if lengths is not None:
        with T.serial(0, seq - count) as i:
            _units(cell, lambda u: _store_at(outs[0], (count + i, b, u), zero))
    _units(cell, lambda u: _store_at(outs[1], (b, u), h[u]))
    if cell.kind == "LSTM":
        _units(cell, lambda u: _store_at(outs[2], (b, u), other[u]))


class _Slice:
    """One example's rows of the scratch tensor (batch, rows, width), from one row on, as a vector."""

    def __init__(self, buffer: Any, b: Any, row: int, width: int) -> None:
        self.buffer, self.b, self.row, self.width = buffer, b, row, width

    def _at(self, index: Any) -> tuple[Any, Any, Any]:
        return self.b, self.row + index // self.width, index % self.width

    def __getitem__(self, index: Any) -> Any:
        return self.buffer[self._at(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.buffer[self._at(index)] = value


def _store(buffer: Any, at: Any, value: Any) -> None:
    buffer[at] = value


def _store_at(buffer: Any, at: tuple[Any, ...], value: Any) -> None:
    buffer[at] = value


def _product(
    cell: Cell, weights: Any, state: Any, first: int, gates: int, sums: Any, start: Callable[[Any], Any]
) -> None:
    """sums[first gate...] = start + state x weights, a panel of columns at a time."""
    tile, lanes = cell.tile, cell.lanes
    panels = cell.width // tile
    with T.serial(0, gates * panels) as p:
        panel = p + first * panels
        local = T.buffer_proxy(T.decl_buffer([tile], cell.dtype, scope="local"))
        with T.unroll(0, tile // lanes) as u, T.vectorized(0, lanes) as v:
            local[u * lanes + v] = start(panel * tile + u * lanes + v)
        with T.serial(0, cell.hidden) as k, T.unroll(0, tile // lanes) as u, T.vectorized(0, lanes) as v:
            at = u * lanes + v
            local[at] = local[at] + state[k] * weights[panel, k, at]
        with T.unroll(0, tile // lanes) as u, T.vectorized(0, lanes) as v:
            sums[panel * tile + u * lanes + v] = local[u * lanes + v]


def bounded(cell: Cell, value: Any) -> Any:
    """The value within the cell's clip."""
    if cell.clip is None:
        return value
    return te.min(te.max(value, const(-cell.clip, cell.dtype)), const(cell.clip, cell.dtype))


def _rnn(cell: Cell, steps: Any, weights: Any, t: Any, b: Any, h: Any, other: Any, sums: Any, *_: Any) -> None:
    """Ht = f(Xt*(Wi^T) + Ht-1*(Ri^T) + Wbi + Rbi)."""
    _product(cell, weights, h, 0, 1, sums, lambda j: steps[t, b, j])
    _vectors(cell, lambda u: _store(h, u, cell.functions[0](bounded(cell, sums[u]))))


def _lstm(
    cell: Cell, steps: Any, weights: Any, t: Any, b: Any, h: Any, c: Any, sums: Any, peepholes: Any, _: Any
) -> None:
    """Hochreiter and Schmidhuber, 1997, with forget gates and peepholes; ONNX's order of gates is i, o, f, c."""
    f, g, last = cell.functions
    width, one = cell.width, const(1, cell.dtype)

    def looked(u: Any, gate: int, state: Any) -> Any:
        value = sums[gate * width + u]
        return value if peepholes is None else value + peepholes[gate, u] * state

    def cell_state(u: Any) -> None:
        enter = sums[u]
        keep = one - enter if cell.coupled else f(bounded(cell, looked(u, 2, c[u])))
        c[u] = keep * c[u] + enter * g(bounded(cell, sums[3 * width + u]))

    _product(cell, weights, h, 0, 4, sums, lambda j: steps[t, b, j])
    # Stored, for it is read twice: an expression that stands twice would define its variables twice.
    _vectors(cell, lambda u: _store(sums, u, f(bounded(cell, looked(u, 0, c[u])))))
    _vectors(cell, cell_state)
    _vectors(cell, lambda u: _store(h, u, f(bounded(cell, looked(u, 1, c[u]))) * last(c[u])))


def _gru(
    cell: Cell, steps: Any, weights: Any, t: Any, b: Any, h: Any, reset: Any, sums: Any, _: Any, bias: Any
) -> None:
    """Cho et al., 2014; gates z, r, h. The reset gate comes before the product, or behind it (`reset_after`)."""
    f, g = cell.functions
    width, one = cell.width, const(1, cell.dtype)

    def gate(u: Any, number: int) -> Any:
        return f(bounded(cell, sums[number * width + u]))

    if cell.reset_after:
        _product(cell, weights, h, 0, 2, sums, lambda j: steps[t, b, j])
        _product(cell, weights, h, 2, 1, sums, lambda j: const(0, cell.dtype) if bias is None else bias[j - 2 * width])

        def candidate(u: Any) -> Any:
            return steps[t, b, 2 * width + u] + gate(u, 1) * sums[2 * width + u]
    else:
        _product(cell, weights, h, 0, 2, sums, lambda j: steps[t, b, j])
        _vectors(cell, lambda u: _store(reset, u, gate(u, 1) * h[u]))
        _product(cell, weights, reset, 2, 1, sums, lambda j: steps[t, b, j])

        def candidate(u: Any) -> Any:
            return sums[2 * width + u]

    def update(u: Any) -> None:
        h[u] = (one - sums[u]) * g(bounded(cell, candidate(u))) + sums[u] * h[u]

    _vectors(cell, lambda u: _store(sums, u, gate(u, 0)))
    _vectors(cell, update)


__all__ = ["GATES", "Cell", "Others", "bounded", "padded_gates", "panels", "recur"]
