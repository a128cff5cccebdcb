"""Runs a graph of an ONNX file, differentiably.

What does not depend on the clips, shapes above all, is computed with NumPy while the
function is traced. Convolutions and pooling have their channels last, the file's arrays
second; what is elementwise between them takes arrays as they come, so that they are not
turned around from layer to layer.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.bridges.onnx.files import Graph, Node
from uap_jax.bridges.onnx.operations import ELEMENTWISE, LAYERS, OPERATIONS

Weights = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class _ChannelsLast:
    """An array whose second axis has been moved to the end."""

    array: jax.Array


def unknown_operations(graph: Graph) -> list[str]:
    """Returns the names of all operations that are not supported."""
    names = set()
    for node in graph.nodes:
        names.add(node.name)
        for attribute in node.attributes.values():
            if isinstance(attribute, Graph):
                names.update(unknown_operations(attribute))
    known = {"If"} | OPERATIONS.keys() | ELEMENTWISE.keys() | LAYERS.keys()
    return sorted(names - known)


def run_graph(
    graph: Graph,
    weights: Weights,
    inputs: Mapping[str, Any],
    wanted: Sequence[str],
) -> list[Any]:
    """Returns the values `wanted` of a graph.

    Args:
        graph: That of the file.
        weights: By key, as `files.read_graph` returns them.
        inputs: By name. A NumPy array is known when compiling.
        wanted: Names of values.

    Raises:
        ValueError: A shape or a branch depends on the clips' values.
    """
    # Files broadcast and mix types as NumPy does, whatever JAX was told.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        values = _values_of(graph, weights, dict(inputs), wanted)
        return [_channels_second(values[name]) for name in wanted]


def _values_of(
    graph: Graph, weights: Weights, values: dict[str, Any], wanted: Sequence[str]
) -> dict[str, Any]:
    values |= graph.constants
    values |= {name: weights[key] for name, key in graph.weights.items()}
    for node in _needed(graph, wanted):
        try:
            results = _apply(node, weights, values)
        # What does not fit in shape raises what NumPy or JAX raise.
        except (TypeError, ValueError, IndexError, NotImplementedError) as error:
            if isinstance(error, NodeError):
                raise
            raise NodeError(f"{node.name} ({node.outputs[0]}): {error}") from error
        for name, value in zip(node.outputs, results, strict=False):
            # NumPy makes numbers of arrays without axes.
            is_number = isinstance(value, np.generic)
            values[name] = np.asarray(value) if is_number else value
    return values


class NodeError(ValueError):
    """An operation fails; the text says which and why."""


def _needed(graph: Graph, wanted: Sequence[str]) -> list[Node]:
    """Returns the nodes that some values depend on, in their order."""
    names, nodes = set(wanted), []
    for node in reversed(graph.nodes):
        if names & set(node.outputs):
            nodes.append(node)
            names |= _inputs_of(node)
    return nodes[::-1]


def _inputs_of(node: Node) -> set[str]:
    """Returns all names that a node reads, those in its branches too."""
    names = set(node.inputs)
    for attribute in node.attributes.values():
        if isinstance(attribute, Graph):
            names |= {port.name for port in attribute.outputs}
            names |= set().union(*map(_inputs_of, attribute.nodes))
    return names


def _apply(node: Node, weights: Weights, values: dict[str, Any]) -> Sequence[Any]:
    inputs = [values[name] if name else None for name in node.inputs]
    if node.name == "If":
        return _branch(node, weights, values, inputs[0])
    if node.name in LAYERS:
        turned = [_channels_last(inputs[0]), *map(_channels_second, inputs[1:])]
        return [_ChannelsLast(LAYERS[node.name](node, *turned))]
    if node.name in ELEMENTWISE:
        return [_elementwise(node, inputs)]
    result = OPERATIONS[node.name](node, *map(_channels_second, inputs))
    return result if isinstance(result, list | tuple) else [result]


def _branch(
    node: Node, weights: Weights, values: dict[str, Any], condition: Any
) -> Sequence[Any]:
    if not isinstance(condition, np.ndarray):
        raise ValueError("expected a condition that does not depend on the clips")
    graph = node.attributes["then_branch" if condition.item() else "else_branch"]
    wanted = [port.name for port in graph.outputs]
    inner = _values_of(graph, weights, dict(values), wanted)
    return [inner[name] for name in wanted]


def _elementwise(node: Node, inputs: list[Any]) -> Any:
    function = ELEMENTWISE[node.name]
    turned = [value for value in inputs if isinstance(value, _ChannelsLast)]
    others = [
        value
        for value in inputs
        if value is not None and not isinstance(value, _ChannelsLast)
    ]
    if turned and all(_is_scalar(value) for value in others):
        ranks = {value.array.ndim for value in turned}
        if len(ranks) == 1:
            arrays = [v.array if isinstance(v, _ChannelsLast) else v for v in inputs]
            return _ChannelsLast(function(node, *arrays))
    return function(node, *map(_channels_second, inputs))


def _is_scalar(value: Any) -> bool:
    return np.size(value) == 1 and np.ndim(value) <= 1


def _channels_last(value: Any) -> jax.Array:
    if isinstance(value, _ChannelsLast):
        return value.array
    return jnp.moveaxis(value, 1, -1)


def _channels_second(value: Any) -> Any:
    if isinstance(value, _ChannelsLast):
        return jnp.moveaxis(value.array, -1, 1)
    return value
