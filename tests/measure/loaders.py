"""A contestant that is not optkit's."""

from __future__ import annotations

import time
from collections.abc import Mapping

from optkit.measure.worker import Feed, Loaded


def sleeper(path: str, threads: int, feed: Feed, options: Mapping[str, str]) -> Loaded:
    """Sleeps for as long as it is told."""
    return lambda: time.sleep(float(options["seconds"])), {"sleeper": "1"}
