"""INT8 models by ONNX Runtime's own quantizer and by NNCF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Mapping[str, np.ndarray], batch: int) -> None:
        count = min(len(rows) for rows in samples.values()) // batch
        self.rows = iter([{k: v[i * batch : (i + 1) * batch] for k, v in samples.items()} for i in range(count)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rows, None)


def peer_quantized(
    source: Path, samples: Mapping[str, np.ndarray], path: Path, batch: int = 1, method: str = "minmax"
) -> Path:
    """The model as ONNX Runtime's quantizer makes it, at its documented best for this kind of CPU.

    Args:
        samples: calibration data by input, samples along the first axis, `batch` of them a run.
        path: the file that is written.
        method: minmax, percentile or entropy.
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
        calibrate_method=_METHODS[method],
    )
    prepared.unlink()
    part.replace(path)
    return path


def nncf_quantized(source: Path, samples: Mapping[str, np.ndarray], path: Path, transformer: bool = False) -> Path:
    """The model as NNCF quantizes it by default: channel alignment, fast bias correction.

    Args:
        samples: calibration data by input, samples along the first axis, one a run.
        path: the file that is written.
        transformer: with its settings for transformers (SmoothQuant, other placement).
    """
    import nncf
    import onnx

    count = min(len(rows) for rows in samples.values())
    data = nncf.Dataset([{name: rows[i : i + 1] for name, rows in samples.items()} for i in range(count)])
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    quantized = nncf.quantize(onnx.load(source), data, subset_size=count, model_type=kind)
    onnx.save(quantized, path)
    return path
