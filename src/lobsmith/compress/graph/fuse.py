"""Fuses linear layers that read the same tensor: one wide product is a single call."""

from collections import defaultdict
from typing import Any

import numpy as np
from onnx import helper, numpy_helper


def fuse_linear(model: Any) -> None:
    """Fuse, in place, each group of linear layers (`MatMul` and `Add` with constants) with the same input.

    Weights are concatenated and the sum is split; no number is computed differently.
    """
    graph = model.graph
    constants = _constants(graph)
    groups: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    for product, add in _linear_layers(graph, constants):
        groups[product.input[0]].append((product, add))
    for source, layers in groups.items():
        if len(layers) > 1:
            _fuse(graph, constants, source, layers)
    drop_unused(graph)


def drop_unused(graph: Any) -> None:
    """Remove, in place, constants without a reader, and their aliases."""
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    nodes = [node for node in graph.node if node.op_type != "Identity" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _constants(graph: Any) -> dict[str, Any]:
    """Return constants by name, with their aliases: the exporter writes equal ones as `Identity` of another."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    return constants


def _linear_layers(graph: Any, constants: dict[str, Any]) -> list[tuple[Any, Any]]:
    consumers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    layers = []
    for node in graph.node:
        after = consumers[node.output[0]]
        if node.op_type != "MatMul" or len(after) != 1 or after[0].op_type != "Add":
            continue
        weight, bias = node.input[1], _bias(node, after[0])
        if weight in constants and bias in constants and (constants[weight].ndim, constants[bias].ndim) == (2, 1):
            layers.append((node, after[0]))
    return layers


def _bias(product: Any, add: Any) -> str:
    """Return the input of an `Add` that is not the product."""
    return str(add.input[1] if add.input[0] == product.output[0] else add.input[0])


def _fuse(graph: Any, constants: dict[str, Any], source: str, layers: list[tuple[Any, Any]]) -> None:
    prefix = f"{layers[0][1].output[0]}_merged"
    weights = [constants[product.input[1]] for product, _ in layers]
    values = {
        f"{prefix}_weight": np.concatenate(weights, axis=1),
        f"{prefix}_bias": np.concatenate([constants[_bias(product, add)] for product, add in layers]),
        f"{prefix}_widths": np.array([weight.shape[1] for weight in weights], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    weight, bias, widths = values
    product, total = f"{prefix}_product", f"{prefix}_sum"
    fused = [
        helper.make_node("MatMul", [source, weight], [product], name=product),
        helper.make_node("Add", [product, bias], [total], name=total),
        helper.make_node("Split", [total, widths], [add.output[0] for _, add in layers], name=prefix, axis=-1),
    ]
    first = layers[0][0].output[0]
    replaced = {node.output[0] for layer in layers for node in layer}
    nodes = []
    for node in graph.node:
        if node.output[0] == first:
            nodes += fused
        elif node.output[0] not in replaced:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
