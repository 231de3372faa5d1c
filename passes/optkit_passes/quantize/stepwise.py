"""Running a model a stretch at a time over all samples, so that what lies ahead may still be changed.

After each stretch the tensors that later ones read lie on disk, a file a sample, so every node runs once and memory
holds one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import onnx_ir as ir

from optkit.errors import DataError
from optkit.transform import Sample
from optkit_passes.quantize.collect import exposed_session


class Stepwise:
    """One model under way.

    Args:
        folder: for the tensors between two stretches; its own.
        open_samples: opened once a stretch that reads inputs of the model.
        samples: use at most so many.
    """

    def __init__(
        self, model: ir.Model, folder: Path, open_samples: Callable[[], Iterator[Sample]], samples: int | None = None
    ) -> None:
        self.model, self.folder = model, folder
        self._open, self._limit = open_samples, samples
        self._done: set[ir.Node] = set()
        self._alive: list[ir.Value] = []
        folder.mkdir(parents=True, exist_ok=True)

    def advance(self, values: Collection[ir.Value]) -> Iterator[dict[ir.Value, np.ndarray]]:
        """Run on until `values` are known; yields their arrays, sample by sample.

        The iterator has to be read to its end before the next stretch begins.

        Raises:
            DataError: there are no samples, or the model does not take one.
        """
        stretch = self._stretch(values)
        self._done |= {node for node in stretch if node.op_type != "Constant"}
        made = [v for node in self.model.graph if node in stretch for v in node.outputs]
        read = {v for node in stretch for v in _inputs(node, self.model.graph)}
        fed = [v for v in (*self.model.graph.inputs, *self._alive) if v in read or v in values]
        stored = [v for v in made if v.producer() in self._done and self._awaited(v)]
        wanted = list(dict.fromkeys([v for v in made if v in set(values)] + stored))
        run = self._runner([v for v in fed if v in read], wanted)
        count = 0
        for count, sample in enumerate(self._samples(fed), start=1):
            found = dict(zip(wanted, run([sample[v] for v in fed if v in read]), strict=True))
            for value in stored:
                np.save(self._file(value, count - 1), found[value])
            yield {v: found[v] if v in found else sample[v] for v in values}
        if count == 0:
            raise DataError("calibration data is empty")
        kept = [v for v in self._alive if self._awaited(v)]
        for value in set(self._alive) - set(kept):
            for index in range(count):
                self._file(value, index).unlink()
        self._alive = kept + stored

    def _stretch(self, values: Collection[ir.Value]) -> set[ir.Node]:
        """Nodes that have to run for `values` and have not. Constants count as never run: they cost nothing."""
        found: set[ir.Node] = set()
        todo = [v.producer() for v in values]
        while todo:
            node = todo.pop()
            if node is None or node in self._done or node in found:
                continue
            found.add(node)
            todo += [v.producer() for v in _inputs(node, self.model.graph)]
        return found

    def _awaited(self, value: ir.Value) -> bool:
        return any(user not in self._done for user, _ in value.uses())

    def _samples(self, fed: Sequence[ir.Value]) -> Iterator[dict[ir.Value, np.ndarray]]:
        """Every sample's arrays of `fed`."""
        for index, sample in enumerate(islice(self._open(), self._limit)):
            yield {
                v: np.asarray(sample[v.name or ""]) if v.is_graph_input() else np.load(self._file(v, index))
                for v in fed
            }

    def _file(self, value: ir.Value, index: int) -> Path:
        return self.folder / f"{id(value):x}-{index}.npy"

    def _runner(
        self, fed: Sequence[ir.Value], wanted: Sequence[ir.Value]
    ) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
        if not wanted:
            return lambda _arrays: []
        graph = ir.convenience.extract(self.model.graph, [str(v.name) for v in fed], [str(v.name) for v in wanted])
        part = ir.Model(graph, ir_version=self.model.ir_version, functions=list(self.model.functions.values()))
        with exposed_session(part, []) as session:
            names = [str(v.name) for v in fed]

            def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
                try:
                    return list(session.run(None, dict(zip(names, arrays, strict=True))))
                except Exception as error:  # ONNX Runtime's own exceptions share no base
                    text = " ".join(str(error).split())[:300]
                    raise DataError(f"calibration data: the model does not take a sample: {text}") from error

            return run


def _inputs(node: ir.Node, graph: ir.Graph) -> list[ir.Value]:
    """What a node reads, its bodies included."""
    found = [v for v in node.inputs if v is not None]
    bodies: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            bodies.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies += attribute.as_graphs()
    for body in bodies:
        inner = ir.traversal.RecursiveGraphIterator(body)
        found += [v for n in inner for v in n.inputs if v is not None and v.graph is graph]
    return found
