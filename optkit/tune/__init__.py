"""Tuning: plans of a model's products are measured, and the fastest are kept as records."""

from optkit.tune.records import Measurement, RecordStore

__all__ = ["Measurement", "RecordStore"]
