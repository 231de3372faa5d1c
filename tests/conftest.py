"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long a machine with other work takes says nothing.
settings.register_profile("optkit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("optkit")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` beside the repository, with real models and data; skips where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no folder `shared` beside the repository (real models and data)")
    return folder
