"""How many threads kernels run on. TVM keeps one pool for every thread that calls it."""

from __future__ import annotations

import os
import threading
from typing import Any

from optkit.errors import UsageError

_SHARE_ALL_CORES = -3  # ThreadGroup::kSpecifyThreadShareAllCore
_local = threading.local()


def available_cores() -> list[int]:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def default_threads() -> int:
    """TVM_NUM_THREADS where it is set, else one thread for each processor of the process's affinity.

    Raises:
        UsageError: TVM_NUM_THREADS is no positive number.
    """
    text = os.environ.get("TVM_NUM_THREADS")
    if text is None:
        return len(available_cores())
    return checked(text, "TVM_NUM_THREADS")


def checked(threads: object, what: str = "threads") -> int:
    """A thread count as an int.

    Raises:
        UsageError: not a whole number of at least 1.
    """
    try:
        count = int(str(threads))
    except ValueError:
        count = 0
    if count < 1:
        raise UsageError(f"{what} must be a whole number of at least 1, not {threads!r}")
    return count


def configure(ffi: Any, threads: int) -> int:
    """Make parallel regions started from the calling thread use `threads` threads; returns how many they use.

    The pool's size is fixed when it is made, so the first call of a thread makes room for every processor,
    and the threads may move among all of them: TVM's default pins them, the calling thread too, which would
    slow down everything else in the application. A pool that other code made smaller before stays smaller.
    """
    if getattr(_local, "threads", None) != threads:
        cores = available_cores()
        places = [str(cores[i % len(cores)]) for i in range(max(threads, len(cores)))]
        ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, threads, places)
        _local.threads = threads
        _local.effective = int(ffi.get_global_func("runtime.NumThreads")())
    effective: int = _local.effective
    return effective
