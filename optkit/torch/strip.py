"""Takes out of an exported model what the exporter noted about itself and its machine."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator


def strip_metadata(model: ir.Model) -> None:
    """Remove doc strings and metadata everywhere: stack traces with file paths, class names, FX nodes.

    Names of inputs, outputs, nodes, values and axes stay, as they are what findings and reports point at.
    The producer is the exporter's name and version, without local build tags.
    """
    model.doc_string = None
    model.metadata_props.clear()
    model.meta.clear()
    if model.producer_version:
        model.producer_version = model.producer_version.split("+")[0]
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        _strip_graph(graph)
        for node in RecursiveGraphIterator(graph):
            node.doc_string = None
            node.metadata_props.clear()
            node.meta.clear()
            for value in node.outputs:
                _strip_value(value)
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    _strip_graph(attribute.as_graph())
                elif attribute.type == ir.AttributeType.GRAPHS:
                    for subgraph in attribute.as_graphs():
                        _strip_graph(subgraph)
    for function in model.functions.values():
        function.doc_string = None
        function.metadata_props.clear()


def _strip_graph(graph: ir.Graph) -> None:
    graph.doc_string = None
    graph.metadata_props.clear()
    graph.meta.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        _strip_value(value)
    for value in graph.initializers.values():
        if value.const_value is not None:
            value.const_value.doc_string = None
            value.const_value.metadata_props.clear()


def _strip_value(value: ir.Value) -> None:
    value.doc_string = None
    value.metadata_props.clear()
    value.meta.clear()
