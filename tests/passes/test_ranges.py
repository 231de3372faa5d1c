"""Ranges of tensors, measured by running the model."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import resource
import onnx_ir as ir
from onnx import TensorProto, helper
from optkit.transform import PassContext
from optkit_passes.precision.ranges import measure_ranges

def chain(count, side):
    nodes = [helper.make_node(("Sin", "Sigmoid")[i % 2], [f"x{i}"], [f"x{i + 1}"]) for i in range(count)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side]) for name in ("x0", f"x{count}")]
    model = ir.from_proto(helper.make_model(helper.make_graph(nodes, "chain", ends[:1], ends[1:])))
    for node in model.graph:
        node.outputs[0].dtype = ir.DataType.FLOAT
    return model

measure_ranges(chain(2, 4), PassContext(), 1)  # all libraries are there
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ranges, _, _ = measure_ranges(chain(40, 1024), PassContext(), 1)
assert len(ranges) == 41 and -1 <= ranges["x1"].low < 0 < ranges["x1"].high <= 1, ranges
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_does_not_grow_with_the_tensors() -> None:
    """40 tensors of 4 MB, of which few are needed at a time."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 80, "MB"
