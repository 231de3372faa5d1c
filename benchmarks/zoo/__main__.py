"""`python -m benchmarks.zoo NAME -o x.onnx [--dynamic-batch] [--dynamic-size] [--dynamic-length]`.

Without a name, lists the zoo.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.zoo import ZOO, Entry, export_model
from optkit.errors import OptkitError


def _shapes(entry: Entry) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in entry.shapes.items())


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.zoo", description=__doc__)
    parser.add_argument("name", nargs="?", help="model to write")
    parser.add_argument("-o", "--output", help="ONNX file (default: NAME.onnx)")
    parser.add_argument("--dynamic-batch", action="store_true", help="name the batch axis 'batch'")
    parser.add_argument("--dynamic-size", action="store_true", help="name the axes of images 'height', 'width'")
    parser.add_argument("--dynamic-length", action="store_true", help="name the axis of tokens 'length'")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.name is None:
        print("\n".join(f"{name:20} {_shapes(entry)}" for name, entry in ZOO.items()))
        return 0
    try:
        path = export_model(
            options.name,
            options.output or f"{options.name}.onnx",
            dynamic_batch=options.dynamic_batch,
            dynamic_size=options.dynamic_size,
            dynamic_length=options.dynamic_length,
            seed=options.seed,
        )
    except OptkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
