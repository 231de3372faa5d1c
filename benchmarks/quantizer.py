"""INT8 models by ONNX Runtime's own quantizer, as the peers' second file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Mapping[str, np.ndarray], batch: int) -> None:
        count = min(len(rows) for rows in samples.values()) // batch
        self.rows = iter([{k: v[i * batch : (i + 1) * batch] for k, v in samples.items()} for i in range(count)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rows, None)


def peer_quantized(source: Path, samples: Mapping[str, np.ndarray], path: Path, batch: int = 1) -> Path:
    """The model as ONNX Runtime's quantizer makes it, at its documented best for this kind of CPU.

    Args:
        samples: calibration data by input, samples along the first axis, `batch` of them a run.
        path: the file that is written.
    """
    prepared, part = path.with_suffix(".prepared.onnx"), path.with_suffix(".part.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(part),
        _Rows(samples, batch),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()
    part.replace(path)
    return path
