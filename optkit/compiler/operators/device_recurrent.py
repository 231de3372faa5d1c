"""RNN, LSTM and GRU on GPUs: a cluster of thread blocks goes through time with a few examples of one direction.

Every block computes some of the units, whose weights its threads keep in registers where they are few enough, and tells
the others the new state through their shared memory (Diamos et al., "Persistent RNNs", ICML 2016). Both directions of a
layer are one kernel. The formulas are those of `recurrent`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.tirx import op

from optkit.compiler.operators.common import const
from optkit.compiler.operators.loops import T, cell, loops, when
from optkit.compiler.operators.recurrent import Cell, Others, bounded
from optkit.compiler.operators.recurrent_layout import Layout


def recur(
    made: Cell,
    layout: Layout,
    reverse: Sequence[bool],
    steps: te.Tensor,
    weights: te.Tensor,
    initial: Sequence[te.Tensor],
    others: Others,
) -> list[te.Tensor]:
    """All states (seq, directions, batch, hidden), and the last ones (directions, batch, hidden).

    Args:
        reverse: of each direction.
        steps: (seq, batch, directions * gates * width): input products with all biases that are added to them.
        weights: see `recurrent_layout.pack`.
        initial: the hidden state, and the LSTM's cell state, (directions, batch, hidden) each.
        others: as for `recurrent.recur`, but peepholes and bias have an axis of directions before the rest.
    """
    seq, batch = steps.shape[0], steps.shape[1]
    states = len(initial)

    def body(ins: list[Any], outs: list[Any]) -> None:
        given = others.of(ins[2 + states :])
        with contextlib.ExitStack() as threads:

            def bind(extent: Any, tag: str) -> Any:
                return threads.enter_context(T.thread_binding(tirx.const(0, "int32"), _int(extent), thread=tag))

            if layout.parts > 1:
                bind(layout.parts, "clusterCtaIdx.z")
            block = bind(layout.directions * layout.parts, "blockIdx.z")
            group = bind((batch + layout.examples - 1) // layout.examples, "blockIdx.x")
            thread = bind(layout.threads, "threadIdx.x")
            _Block(
                made, layout, reverse, (block, group, thread), (ins[0], ins[1]), ins[2 : 2 + states], given, outs
            ).run(seq, batch)

    last = (layout.directions, batch, made.hidden)
    shapes = [(seq, *last), *[last] * states]
    tensors = [steps, weights, *initial, *others.tensors]
    found: list[te.Tensor] = loops(shapes, ["float32"] * len(shapes), tensors, body, made.kind.lower())
    return found


class _Block:
    """What one thread does."""

    def __init__(
        self,
        made: Cell,
        layout: Layout,
        reverse: Sequence[bool],
        place: tuple[Any, Any, Any],
        operands: tuple[Any, Any],
        initial: Sequence[Any],
        given: Sequence[Any],
        outs: Sequence[Any],
    ) -> None:
        self.cell, self.layout, self.reverse, self.outs, self.initial = made, layout, reverse, outs, initial
        (self.block, self.group, self.thread), (self.steps, self.weights) = place, operands
        self.lengths, self.peepholes, self.bias = given
        self.direction = _int(self.block) // layout.parts
        self.part = _int(self.block) % layout.parts
        numbers = layout.columns, layout.terms, layout.slices, layout.threads, layout.examples, int(layout.holds)
        self.code = f"OptkitRecurrence<{', '.join(map(str, numbers))}>"
        held = 4 * layout.quads * layout.column_turns if layout.holds else 1
        self.held = _memory(held, "local")
        self.sums = _memory(layout.slices * layout.examples * layout.columns, "shared")
        self.state = _memory(2 * layout.examples * layout.terms, "shared")
        # Of the GRU, behind the reset gate.
        mixes = made.kind == "GRU" and not made.reset_after
        self.mixed = _memory(layout.examples * layout.terms, "shared") if mixes else None
        # The thread's own units: hidden and cell state, products with the input, and how many steps are valid.
        self.own = _memory(layout.unit_turns, "local")
        self.inner = _memory(layout.unit_turns, "local") if made.kind == "LSTM" else None
        self.entering = _memory(layout.unit_turns * layout.gates, "local")
        self.valid = [cell("int32", 0) for _ in range(layout.unit_turns)]

    def run(self, seq: Any, batch: Any) -> None:
        """All steps."""
        layout = self.layout
        self.seq, self.batch = _int(seq), _int(batch)
        whole = self.weights[_int(self.direction), self.part, 0, 0, 0]
        if layout.holds:
            _call(f"{self.code}::load", op.address_of(self.held[0]), op.address_of(whole))
        self._begin()
        with T.serial(0, self.seq) as i:
            self._enter(i)
            now, then = i % 2 * (layout.examples * layout.terms), (i + 1) % 2 * (layout.examples * layout.terms)
            {"RNN": self._rnn, "LSTM": self._lstm, "GRU": self._gru}[self.cell.kind](i, now, then, whole)
            self._meet()
            self._write(i)
        self._end()

    def _begin(self) -> None:
        """The first state, and zeros where nobody writes."""
        layout = self.layout
        size = layout.examples * layout.terms
        for memory, count in ((self.state, 2 * size), (self.mixed, size)):
            if memory is None:
                continue
            with T.serial(0, -(-count // layout.threads)) as turn:
                at = turn * layout.threads + _int(self.thread)

                def clear(at: Any = at, memory: Any = memory) -> None:
                    e, unit = at // layout.terms, at % layout.terms
                    memory[at] = const(0, "float32")
                    b = self._example(e)
                    if memory is self.state:
                        first = tirx.all(at < size, unit < self.cell.hidden, b < self.batch)
                        when(first, lambda: _store(memory, at, self.initial[0][self.direction, b, unit]))

                when(at < count, clear)
        for turn in range(layout.unit_turns):
            _, b, unit, active = self._place(turn)
            self.own[turn] = const(0, "float32")
            self.valid[turn][0] = self.seq
            if self.inner is not None:
                self.inner[turn] = const(0, "float32")

            def begin(turn: int = turn, b: Any = b, unit: Any = unit) -> None:
                self.own[turn] = self.initial[0][self.direction, b, unit]
                if self.inner is not None:
                    self.inner[turn] = self.initial[1][self.direction, b, unit]
                if self.lengths is not None:
                    self.valid[turn][0] = tirx.min(_int(self.lengths[b]), self.seq)

            when(active, begin)
        self._meet()

    def _end(self) -> None:
        for turn in range(self.layout.unit_turns):
            _, b, unit, active = self._place(turn)

            def end(turn: int = turn, b: Any = b, unit: Any = unit) -> None:
                self.outs[1][self.direction, b, unit] = self.own[turn]
                if self.inner is not None:
                    self.outs[2][self.direction, b, unit] = self.inner[turn]

            when(active, end)

    def _example(self, e: Any) -> Any:
        return _int(self.group) * self.layout.examples + e

    def _place(self, turn: int) -> tuple[Any, Any, Any, Any]:
        """Example of the block, example, unit, and whether there is such a one."""
        layout = self.layout
        item = _int(self.thread) + turn * layout.threads
        e, unit = item // layout.units, self.part * layout.units + item % layout.units
        b = self._example(e)
        return e, b, unit, tirx.all(item < layout.examples * layout.units, unit < self.cell.hidden, b < self.batch)

    def _time(self, turn: int, i: Any) -> Any:
        """The step in the order of time; of one that is not valid its own number."""
        valid = self.valid[turn][0]
        back = tirx.Select(i < valid, valid - 1 - i, i)
        if len(self.reverse) == 1 or self.reverse[0] == self.reverse[1]:
            return back if self.reverse[0] else i
        return tirx.Select(tirx.any(*(self.direction == d for d, r in enumerate(self.reverse) if r)), back, i)

    def _enter(self, i: Any) -> None:
        """Read the input products, which arrive while sums are made."""
        gates, width = self.layout.gates, self.cell.width
        for turn in range(self.layout.unit_turns):
            _, b, unit, active = self._place(turn)

            def read(turn: int = turn, b: Any = b, unit: Any = unit) -> None:
                for gate in range(gates):
                    at = (self.direction * gates + gate) * width + unit
                    self.entering[turn * gates + gate] = self.steps[self._time(turn, i), b, at]

            when(active, read)

    def _multiply(self, state: Any, weights: Any, first: int, last: int) -> None:
        units = self.layout.units
        places = (op.address_of(each) for each in (self.sums[0], state, self.held[0], weights))
        _call(f"{self.code}::sums", *places, tirx.const(first * units, "int32"), tirx.const(last * units, "int32"))

    def _sum(self, turn: int, gate: int) -> Any:
        layout = self.layout
        item = _int(self.thread) + turn * layout.threads
        e, column = item // layout.units, gate * layout.units + item % layout.units
        total = cell("float32", self.sums[e * layout.columns + column])
        for s in range(1, layout.slices):
            total[0] = total[0] + self.sums[(s * layout.examples + e) * layout.columns + column]
        return total[0]

    def _gate(self, turn: int, gate: int) -> Any:
        """What the gate's function is given: both products."""
        return self._sum(turn, gate) + self.entering[turn * self.layout.gates + gate]

    def _tell(self, memory: Any, at: Any, value: Any) -> None:
        _call(f"optkit_tell<{self.layout.parts}>", op.address_of(memory[at]), value)

    def _meet(self) -> None:
        _call(f"optkit_meet<{self.layout.parts}>")

    def _update(self, i: Any, then: Any, value: Any) -> None:
        """Every unit's new state, `value(turn, unit)`, where the step is valid."""
        for turn in range(self.layout.unit_turns):
            e, b, unit, active = self._place(turn)

            def update(turn: int = turn, e: Any = e, b: Any = b, unit: Any = unit) -> None:
                self.own[turn] = value(turn, unit)
                self._tell(self.state, then + e * self.layout.terms + unit, self.own[turn])

            when(active if self.lengths is None else tirx.all(active, i < self.valid[turn][0]), update)

    def _write(self, i: Any) -> None:
        """The step's output; zeros where it is not valid. Thread blocks that meet wait for what they wrote before."""
        for turn in range(self.layout.unit_turns):
            _, b, unit, active = self._place(turn)

            def write(turn: int = turn, b: Any = b, unit: Any = unit) -> None:
                value = self.own[turn]
                if self.lengths is not None:
                    value = tirx.Select(i < self.valid[turn][0], value, const(0, "float32"))
                self.outs[0][self._time(turn, i), self.direction, b, unit] = value

            when(active, write)

    def _rnn(self, i: Any, now: Any, then: Any, weights: Any) -> None:
        self._multiply(self.state[now], weights, 0, 1)
        (f,) = self.cell.functions
        self._update(i, then, lambda turn, _: f(bounded(self.cell, self._gate(turn, 0))))

    def _lstm(self, i: Any, now: Any, then: Any, weights: Any) -> None:
        made, one = self.cell, const(1, "float32")
        f, g, last = made.functions
        inner = self.inner
        assert inner is not None
        self._multiply(self.state[now], weights, 0, 4)

        def looked(turn: int, gate: int, unit: Any) -> Any:
            value = self._gate(turn, gate)
            if self.peepholes is not None:
                value = value + self.peepholes[self.direction, gate, unit] * inner[turn]
            return cell("float32", bounded(made, value))[0]

        def state(turn: int, unit: Any) -> Any:
            enter = cell("float32", f(looked(turn, 0, unit)))[0]
            keep = cell("float32", one - enter if made.coupled else f(looked(turn, 2, unit)))[0]
            candidate = cell("float32", bounded(made, self._gate(turn, 3)))[0]
            inner[turn] = keep * inner[turn] + enter * g(candidate)
            leave = cell("float32", f(looked(turn, 1, unit)))[0]
            return leave * last(inner[turn])

        self._update(i, then, state)

    def _gru(self, i: Any, now: Any, then: Any, weights: Any) -> None:
        made, one = self.cell, const(1, "float32")
        f, g = made.functions

        def gate(turn: int, number: int) -> Any:
            return cell("float32", f(cell("float32", bounded(made, self._gate(turn, number)))[0]))[0]

        if self.mixed is not None:
            self._multiply(self.state[now], weights, 0, 2)
            self._mix(self.mixed, gate)
            self._multiply(self.mixed[0], weights, 2, 3)
        else:
            self._multiply(self.state[now], weights, 0, 3)

        def state(turn: int, unit: Any) -> Any:
            update = gate(turn, 0)
            if self.mixed is not None:
                value = self._gate(turn, 2)
            else:
                product = self._sum(turn, 2)
                product = product if self.bias is None else product + self.bias[self.direction, unit]
                value = self.entering[turn * 3 + 2] + gate(turn, 1) * product
            candidate = cell("float32", bounded(made, value))[0]
            return (one - update) * g(candidate) + update * self.own[turn]

        self._update(i, then, state)

    def _mix(self, memory: Any, gate: Any) -> None:
        """The state behind the reset gate, told to all."""
        for turn in range(self.layout.unit_turns):
            e, _, unit, active = self._place(turn)

            def mix(turn: int = turn, e: Any = e, unit: Any = unit) -> None:
                self._tell(memory, e * self.layout.terms + unit, gate(turn, 1) * self.own[turn])

            when(active, mix)
        self._meet()


def _int(value: Any) -> Any:
    known = isinstance(value, (int, tirx.IntImm))
    return tirx.const(int(value), "int32") if known else tirx.Cast("int32", value)


def _call(name: str, *arguments: Any) -> None:
    T.evaluate(op.call_extern("int32", name, *arguments))


def _memory(count: int, scope: str) -> Any:
    """Memory for device code too: TVM gives no more than it sees used, so the last number is written."""
    memory = T.buffer_proxy(T.decl_buffer([count], "float32", scope=scope, align=16))
    memory[count - 1] = const(0, "float32")
    return memory


def _store(buffer: Any, at: Any, value: Any) -> None:
    buffer[at] = value


__all__ = ["recur"]
