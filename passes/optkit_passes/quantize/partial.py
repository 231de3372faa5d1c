"""Running a model only as far as some of its tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from optkit.errors import DataError
from optkit.transform import Sample
from optkit_passes.graph import remove_unused
from optkit_passes.quantize.collect import exposed_session

Run = Callable[[Sample], dict[str, np.ndarray]]


@contextlib.contextmanager
def run_until(model: ir.Model, values: Sequence[ir.Value]) -> Iterator[Run]:
    """A function from a sample to the arrays of `values`, by name; what they do not need is not computed.

    Raises:
        DataError: when called, with a sample that the model does not take.
    """
    part = model.clone()
    own = {v.name: v for n in part.graph for v in n.outputs}
    wanted = [str(v.name) for v in values if not v.is_graph_input()]
    fed = [str(v.name) for v in values if v.is_graph_input()]
    part.graph.outputs.clear()
    part.graph.outputs.extend(own[name] for name in wanted)
    remove_unused(part)

    def run(sample: Sample) -> dict[str, np.ndarray]:
        found = {name: np.asarray(sample[name]) for name in fed}
        try:
            if wanted:
                found |= zip(wanted, session.run(wanted, {k: v for k, v in sample.items() if k in names}), strict=True)
        except Exception as error:  # ONNX Runtime's own exceptions share no base
            text = " ".join(str(error).split())[:300]
            raise DataError(f"calibration data: the model does not take a sample: {text}") from error
        return found

    if not wanted:
        yield run
        return
    with exposed_session(part, []) as session:
        names = {i.name for i in session.get_inputs()}
        yield run
