"""What calibration has measured, kept in a file: JSON, bound to the model, the passes before it and the data.

Document: `format`, `version`; what it is bound to (`model`: sha256 of the source, `passes`: text of the pipeline up to
the pass that calibrates, `graph`: sha256 of the model as that pass finds it, `data`: fingerprint, preprocess,
samples); `method` and its options, for the reader; `count`: samples that were run; `tensors`: by name, the statistic
that was accumulated; `checksum`: sha256 of all else. Statistics and not ranges are kept, so that another method that
needs the same ones is answered too, and other nodes may be excluded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from optkit.errors import DataError
from optkit.files import write_whole

FORMAT, VERSION = "optkit calibration", 1

_WHAT = {
    "version": "another version of the format",
    "model": "another source model",
    "passes": "other passes before quantization",
    "graph": "another graph after those passes",
    "data.fingerprint": "other calibration data",
    "data.preprocess": "another preprocessing",
    "data.samples": "another number of samples to use",
    "data.seed": "another seed of the images' augmentation",
}


@dataclass(frozen=True)
class CalibrationCache:
    """The file, and what of its binding is known before any pass runs.

    Attributes:
        path: the file; it need not exist yet.
        model: sha256 of the source model.
        data: of the calibration data, "fingerprint", "preprocess", "samples" and "seed"; None where none is given. Then
            whatever data the file was made from will do.
    """

    path: Path
    model: str
    data: Mapping[str, Any] | None

    def read(self) -> dict[str, Any] | None:
        """The document; None where there is no file. Raises DataError for a file that is damaged, or no such cache."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"calibration cache {self.path} cannot be read: {error.strerror or error}") from error
        try:
            document = json.loads(text)
        except ValueError:
            raise DataError(self.damaged("it is not JSON")) from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise DataError(f"{self.path} is no calibration cache; name another file")
        if document.pop("checksum", None) != _checksum(document):
            raise DataError(self.damaged("its checksum does not fit"))
        return document

    def damaged(self, how: str) -> str:
        """The line for a file that cannot be used, whatever it was made for."""
        return f"calibration cache {self.path} is damaged ({how}); delete it, and it is made again"

    def binding(self, passes: str, graph: str) -> dict[str, Any]:
        """What a document is bound to, as it is now."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "passes": passes,
            "graph": graph,
            "data": None if self.data is None else dict(self.data),
        }

    def difference(self, document: Mapping[str, Any], binding: Mapping[str, Any]) -> str | None:
        """What of the binding the document does not fit, in words; None where all fits."""
        for key, what in _WHAT.items():
            outer, _, inner = key.partition(".")
            have, want = document.get(outer), binding[outer]
            if inner:
                if want is None:
                    continue
                have, want = (have or {}).get(inner), want[inner]
            if have != want:
                shown = all(isinstance(v, (int, str, type(None))) and len(str(v)) < 60 for v in (have, want))
                return what + (f" ({have!r}, now {want!r})" if shown else "")
        return None

    def write(self, document: Mapping[str, Any]) -> None:
        """Write the file, whole or not at all. Raises OptkitError where it cannot be written."""
        whole = {**document, "checksum": _checksum(document)}
        write_whole(self.path, json.dumps(whole, indent=1, ensure_ascii=False).encode() + b"\n")


def _checksum(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def graph_sha256(model: ir.Model) -> str:
    """Of everything that determines what the main graph's tensors hold: nodes, names, attributes and weights."""
    digest = hashlib.sha256()
    for opset, version in sorted(model.graph.opset_imports.items()):
        digest.update(f"{opset}:{version};".encode())
    for value in model.graph.inputs:
        digest.update(f"{value.name}:{value.type}:{value.shape};".encode())
    for name, value in sorted(model.graph.initializers.items()):
        if (tensor := value.const_value) is not None:
            digest.update(f"{name}:{tensor.dtype}:{tensor.shape};".encode())
            digest.update(tensor.tobytes())
    for node in model.graph:
        digest.update(ir.to_proto(node).SerializeToString(deterministic=True))
    for function in model.functions.values():
        digest.update(ir.to_proto(function).SerializeToString(deterministic=True))
    return digest.hexdigest()
