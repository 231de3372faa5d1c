"""Numeric precision: float16 as a rewrite of the model, bfloat16 as a compute type."""
