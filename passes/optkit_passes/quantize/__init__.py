"""Post-training quantization to INT8, written as standard ONNX with Q/DQ nodes."""

from optkit_passes.quantize.binarize import Binarize
from optkit_passes.quantize.quantize import Quantize
from optkit_passes.quantize.weight_only import WeightOnly

__all__ = ["Binarize", "Quantize", "WeightOnly"]
