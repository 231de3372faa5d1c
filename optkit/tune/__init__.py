"""Tuning: plans of a model's products are measured, and the fastest are kept as records."""

from optkit.tune.records import Measurement, RecordStore
from optkit.tune.session import Tuned, tune

__all__ = ["Measurement", "RecordStore", "Tuned", "tune"]
