"""Moves between plain (N, C, *spatial) and blocked (N, C/b, *spatial, b) activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te

from optkit.compiler.operators.common import OP, const, static


def to_blocked(data: te.Tensor, b: int) -> te.Tensor:
    """(N, C, *S) -> (N, C/b, *S, b); lanes past the last channel are zero."""
    n, c, *space = static(data.shape)
    blocks = -(-c // b)

    def element(*i: Any) -> Any:
        channel = i[1] * b + i[-1]
        read = data(i[0], channel, *i[2:-1])
        return read if c % b == 0 else te.if_then_else(channel < c, read, const(0, str(data.dtype)))

    return te.compute((n, blocks, *space, b), element, name="to_blocked", attrs={OP: "to_blocked"})


def to_plain(data: te.Tensor, channels: int) -> te.Tensor:
    """(N, C/b, *S, b) -> (N, C, *S)."""
    n, _, *space, b = static(data.shape)

    def element(*i: Any) -> Any:
        return data(i[0], i[1] // b, *i[2:], i[1] % b)

    return te.compute((n, channels, *space), element, name="to_plain", attrs={OP: "to_plain"})


def to_other_blocks(data: te.Tensor, channels: int, b: int) -> te.Tensor:
    """(N, C/c, *S, c) -> (N, C/b, *S, b), one a multiple of the other; lanes past the last block are zero."""
    n, blocks, *space, c = static(data.shape)
    parts = max(b // c, 1)

    def element(*i: Any) -> Any:
        if b < c:
            return data(i[0], i[1] // (c // b), *i[2:-1], i[1] % (c // b) * b + i[-1])
        block = i[1] * parts + i[-1] // c
        read = data(i[0], te.min(block, blocks - 1), *i[2:-1], i[-1] % c)
        return read if blocks % parts == 0 else te.if_then_else(block < blocks, read, const(0, str(data.dtype)))

    return te.compute((n, -(-channels // b), *space, b), element, name="to_other_blocks")


def take_blocks(data: te.Tensor, first: int, count: int) -> te.Tensor:
    """(N, C/b, *S, b) -> (N, count, *S, b), from block `first` on."""
    n, _, *rest = static(data.shape)
    return te.compute((n, count, *rest), lambda *i: data(i[0], i[1] + first, *i[2:]), name="split")


def take_channels(data: te.Tensor, first: int, count: int) -> te.Tensor:
    """(N, C/b, *S, b) -> (N, count/b, *S, b), from channel `first` on; lanes past the last channel are zero."""
    return _channels(data, count, lambda channel: channel + first, "take_channels")


def shuffle_blocks(data: te.Tensor, channels: int, groups: int) -> te.Tensor:
    """(N, C/b, *S, b) with the first channels of all groups first, then the second ones; zero past the last."""
    each = channels // groups
    return _channels(data, channels, lambda channel: channel % groups * each + channel // groups, "shuffle")


def _channels(data: te.Tensor, count: int, source: Callable[[Any], Any], name: str) -> te.Tensor:
    """`count` channels, each the one of `data` that `source` says."""
    n, _, *space, b = static(data.shape)

    def element(*i: Any) -> Any:
        channel = i[1] * b + i[-1]
        at = source(channel)
        read = data(i[0], at // b, *i[2:-1], at % b)
        return read if count % b == 0 else te.if_then_else(channel < count, read, const(0, str(data.dtype)))

    return te.compute((n, -(-count // b), *space, b), element, name=name, attrs={OP: "channels"})


def concat_blocked(parts: Sequence[te.Tensor], channels: Sequence[int]) -> te.Tensor:
    """Concatenation along channels of blocked parts, whole blocks or not."""
    n, _, *space, b = static(parts[0].shape)
    total = sum(channels)
    starts = [sum(channels[:i]) for i in range(len(channels))]
    whole = all(c % b == 0 for c in channels[:-1])

    def element(*i: Any) -> Any:
        at = i[1] if whole else i[1] * b + i[-1]
        unit = b if whole else 1

        def read(part: te.Tensor, start: int) -> Any:
            if whole:
                return part(i[0], i[1] - start // b, *i[2:])
            channel = at - start
            return part(i[0], channel // b, *i[2:-1], channel % b)

        last = te.const(0, str(parts[0].dtype)) if total % b and not whole else None
        value = read(parts[-1], starts[-1])
        if last is not None:
            value = te.if_then_else(at < total, value, last)
        for part, start, size in reversed(list(zip(parts[:-1], starts[:-1], channels[:-1], strict=True))):
            value = te.if_then_else(at < (start + size) // unit, read(part, start), value)
        return value

    attrs = {} if whole else {OP: "channels"}
    return te.compute((n, -(-total // b), *space, b), element, name="concat", attrs=attrs)
