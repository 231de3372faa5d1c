"""Numeric precision: float16 as a rewrite of the model, bfloat16 and TF32 as compute types."""
