"""The cheapest way to give every layer one of two labels, where unlike neighbours pay.

With costs of labels and costs between neighbours of unlike labels the least total is a minimum cut (Greig, Porteous
and Seheult, "Exact Maximum A Posteriori Estimation for Binary Images", 1989, section 2), found here by augmenting
shortest paths (Edmonds and Karp, "Theoretical Improvements in Algorithmic Efficiency for Network Flow Problems", 1972).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping

_SOURCE, _SINK = "\0source", "\0sink"
_UNIT = 1e-10
"""Seconds of one unit of capacity: whole numbers make the search end."""


def cheapest(
    first: Mapping[str, float], second: Mapping[str, float], between: Mapping[tuple[str, str], tuple[float, float]]
) -> set[str]:
    """The nodes that take the second label.

    Args:
        first, second: seconds of every node with either label.
        between: for a pair (a, b), what is paid where a has the first label and b the second, and the other way round.

    >>> sorted(cheapest({"a": 3, "b": 2, "c": 9}, {"a": 9, "b": 1, "c": 2}, {("a", "b"): (2, 2), ("b", "c"): (2, 2)}))
    ['b', 'c']
    >>> sorted(cheapest({"a": 3, "b": 2}, {"a": 9, "b": 1}, {("a", "b"): (2, 2)}))
    []
    """
    room: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def widen(tail: str, head: str, seconds: float) -> None:
        room[tail][head] += max(0, round(seconds / _UNIT))
        room[head][tail] += 0

    for node, seconds in first.items():
        widen(node, _SINK, seconds)
        widen(_SOURCE, node, second[node])
    for (a, b), (forth, back) in between.items():
        widen(a, b, forth)
        widen(b, a, back)
    while True:
        came = _reach(room)
        if _SINK not in came:
            return {node for node in first if node not in came}
        path, node = [], _SINK
        while node != _SOURCE:
            path.append((came[node], node))
            node = came[node]
        least = min(room[tail][head] for tail, head in path)
        for tail, head in path:
            room[tail][head] -= least
            room[head][tail] += least


def _reach(room: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """Every node that can be reached from the source, with the one before it; stops at the sink."""
    came, queue = {_SOURCE: ""}, deque([_SOURCE])
    while queue:
        tail = queue.popleft()
        for head, left in room[tail].items():
            if left > 0 and head not in came:
                came[head] = tail
                if head == _SINK:
                    return came
                queue.append(head)
    return came
