"""The order of the work that this process queues on GPUs.

TVM has one pool of memory a GPU: what one model gives back another may get, while kernels that were queued before still
use it. Work on another stream than the last is therefore queued behind it. And while one model's CUDA graph is captured
no other may ask for memory.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

_turn = threading.RLock()
_latest: dict[int, int] = {}


@contextlib.contextmanager
def in_order(gpu: int, stream: int, follow: Callable[[int, int], None]) -> Iterator[None]:
    """Queue the block's work on a stream, behind all that was queued before; one thread at a time.

    Args:
        gpu: its number.
        follow: lets the second stream wait for what was queued on the first.
    """
    with _turn:
        latest = _latest.get(gpu, 0)
        if latest != stream:
            follow(latest, stream)
        _latest[gpu] = stream
        yield


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """While no other thread queues work."""
    with _turn:
        yield
