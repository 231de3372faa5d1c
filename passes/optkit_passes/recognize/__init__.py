"""Quantized models of other tools, brought to the form that `quantize` writes."""

from optkit_passes.recognize.recognize import Recognize

__all__ = ["Recognize"]
