"""Products of one tensor for one attention become one product: X [W_q W_k W_v] = [Q K V], weights side by side.

For devices where every kernel is a launch that has to fill all of them, and whose attention reads heads where they lie
(`optkit.compiler.converters.attention`), so that nothing copies the parts. What lies between a product and its
division into heads goes along, a bias and a conversion; where only some have a bias, the others get zeros.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from optkit.compiler.lowering import Lowering
from optkit.compiler.product_writer import Product, constant, operand, write

_SPLIT_BY_TENSOR = 13
"""The first opset whose Split takes sizes as a tensor, and whose DequantizeLinear has an axis."""
_QUERY, _KEY = [0, 2, 1, 3], [0, 2, 3, 1]
"""Axes of (batch, rows, heads, depth) in the order that scores are computed of."""


@dataclass(frozen=True)
class _Found:
    """A product, what it multiplies, and all else that products must agree in to be one."""

    product: Product
    alike: Hashable


def merge_products(low: Lowering, model: ir.Model) -> ir.Model:
    """The model with such products merged; itself where there are none, or the target gains nothing."""
    if not low.target.has("half_attention") or low.opset < _SPLIT_BY_TENSOR or not any(_groups(low, model.graph)):
        return model
    merged = model.clone()
    for group in list(_groups(low, merged.graph)):
        write(merged.graph, group)
    common.RemoveUnusedNodesPass()(merged)
    return merged


def _groups(low: Lowering, graph: ir.Graph) -> Iterator[list[Product]]:
    """Products that can be one, two or three of every attention."""
    from optkit.compiler.converters.attention_sites import find_attention

    for match in find_attention(low, graph).values():
        groups: dict[Hashable, list[Product]] = {}
        for value, order in ((match.query, _QUERY), (match.key, _KEY), (match.value, _QUERY)):
            found = _find(value, order)
            if found is not None:
                groups.setdefault(found.alike, []).append(found.product)
        yield from (group for group in groups.values() if len(group) > 1)


def _find(value: ir.Value, order: list[int]) -> _Found | None:
    """The product that an operand of attention is the heads of; None where anything else reads what lies between."""
    reshape = _division(value, order)
    if reshape is None:
        return None
    cast, bias, node = None, None, _sole(reshape.inputs[0])
    if node is not None and node.op_type == "Cast":
        cast, node = node, _sole(node.inputs[0])
    if node is not None and node.op_type == "Add":
        place = 0 if constant(node.inputs[0]) is not None else 1
        bias, node = node, _sole(node.inputs[1 - place])
    if node is None or node.op_type not in ("MatMul", "Gemm") or None in node.inputs:
        return None
    product = Product(node, bias, cast)
    forms = [_form(operand(node, i), product.axis if i == 1 else 0) for i in range(1, len(node.inputs))]
    *_, heads, depth = _extents(reshape.outputs[0])[-2:]
    if node.attributes.get_int("transA", 0) or None in forms or not _fits(product, heads * depth):
        return None
    marks = tuple(sorted(node.metadata_props.items()))
    to = None if cast is None else cast.attributes.get_int("to", 0)
    # Of one depth: then the heads of all parts are heads of the whole.
    return _Found(product, (_identity(operand(node, 0)), node.op_type, *_attributes(node), marks, *forms, to, depth))


def _division(value: ir.Value, order: list[int]) -> ir.Node | None:
    """The Reshape of rows to (batch, rows, heads, depth) whose axes come in this order."""
    node, axes = _sole(value), list(range(len(order)))
    while node is not None and node.op_type == "Transpose" and len(node.outputs[0].shape or ()) == len(axes):
        axes = [node.attributes.get_ints("perm", (3, 2, 1, 0))[axis] for axis in axes]
        node = _sole(node.inputs[0])
    if node is None or node.op_type != "Reshape" or axes != order:
        return None
    extents = tuple(node.outputs[0].shape or ())
    return node if len(extents) == len(order) and all(isinstance(extent, int) for extent in extents[-2:]) else None


def _fits(product: Product, columns: int) -> bool:
    """Whether the weights are a matrix of so many columns, and what is added is one number a column."""
    if len(_extents(product.weight)) != 2 or product.columns != columns:
        return False
    if len(product.node.inputs) > 2 and _extents(operand(product.node, 2)) != [columns]:
        return False
    return product.bias is None or (product.addend is not None and product.addend.shape == (columns,))


def _extents(value: ir.Value) -> list[int]:
    """Those that are known."""
    return [extent for extent in value.shape or () if isinstance(extent, int)]


def _sole(value: ir.Value | None) -> ir.Node | None:
    """The node of ONNX's own that makes a value, where one node alone reads it."""
    maker = None if value is None or value.is_graph_output() or len(value.uses()) != 1 else value.producer()
    return maker if maker is not None and maker.domain == "" else None


def _identity(value: ir.Value) -> Hashable:
    """Equal for equal values: every reader has a DequantizeLinear of its own."""
    maker = _dequantizer(value)
    if maker is None:
        return value
    return (*maker.inputs, *_attributes(maker))


def _dequantizer(value: ir.Value) -> ir.Node | None:
    maker = value.producer()
    return maker if maker is not None and maker.op_type == "DequantizeLinear" and not maker.domain else None


def _attributes(node: ir.Node, but: str = "") -> tuple[tuple[str, str], ...]:
    return tuple(sorted((a.name, str(a.value)) for a in node.attributes.values() if a.name != but))


def _form(value: ir.Value, axis: int) -> Hashable | None:
    """What constants, or integers with one scale or one a column, must agree in to be joined; None for others."""
    if constant(value) is not None:
        return value.dtype
    maker = _dequantizer(value)
    if maker is None or maker.attributes.get_int("block_size"):
        return None
    arrays = [constant(v) for v in maker.inputs]
    integers, scale = arrays[:2]
    if integers is None or scale is None or any(array is None for array in arrays):
        return None
    if scale.size > 1 and maker.attributes.get_int("axis", 1) % integers.ndim != axis:
        return None
    return (*(v.dtype for v in maker.inputs if v is not None), *_attributes(maker, but="axis"))
