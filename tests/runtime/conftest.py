"""Fixtures shared by the tests of artifacts, the runtime and measurement."""

from tests.relax_models import mlp_artifact, mlp_payload

__all__ = ["mlp_artifact", "mlp_payload"]
