"""Reads ONNX files as graphs of plain Python and NumPy."""

import dataclasses
import os
from typing import Any

import numpy as np

from uap_jax.bridges.checks import one_line

# What a domain of ONNX's own operations is called.
_STANDARD_DOMAINS = ("", "ai.onnx")


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: Its name in the file.
        shape: Sizes; a name or None where the file leaves one open. None: not stated.
        dtype: Of its numbers, in NumPy's terms.
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: The operation's name; with its domain, where that is not ONNX's.
        inputs: Names of values; empty where an optional one is left out.
        outputs: Names of values.
        attributes: Numbers, strings, tuples of them, NumPy arrays, graphs.
        version: The version of the operations that the file is written for (opset).
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    version: int


@dataclasses.dataclass(frozen=True)
class Graph:
    """A graph of an ONNX file, its nodes in the order in which they are computed.

    Attributes:
        nodes: Operations.
        inputs: What it gets.
        outputs: What it returns.
        constants: By name: shapes, axes, single numbers.
        weights: By name: its key in the weights of the file.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    constants: dict[str, np.ndarray]
    weights: dict[str, str]


def read_graph(path: str | os.PathLike[str]) -> tuple[Graph, dict[str, np.ndarray]]:
    """Returns the graph of an ONNX file and its weights: arrays of float32 by key.

    Half and double precision become float32.

    Raises:
        ImportError: onnx is not installed.
        OSError: The file cannot be read.
        ValueError: It is no ONNX file, or is damaged.
    """
    model = load_model(path)
    from onnx import inliner  # pyrefly: ignore[missing-import]

    if model.functions:
        model = inliner.inline_local_functions(model)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version = max(versions.get(domain, 1) for domain in _STANDARD_DOMAINS)
    weights: dict[str, np.ndarray] = {}
    return _graph_of(model.graph, version, weights), weights


def load_model(path: str | os.PathLike[str]) -> Any:
    """Returns the `onnx.ModelProto` in a file, checked.

    Raises:
        As `read_graph`.
    """
    try:
        import onnx  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise ImportError(
            f"from_onnx needs onnx: pip install 'uap_jax[onnx]' ({one_line(error)})"
        ) from error
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError:
        raise
    # Damage raises errors of protobuf or of onnx.
    except Exception as error:
        raise ValueError(
            f"{path}: expected an ONNX file, got {one_line(error)}"
        ) from error
    return model


def _graph_of(proto: Any, version: int, weights: dict[str, np.ndarray]) -> Graph:
    from onnx import numpy_helper  # pyrefly: ignore[missing-import]

    arrays = {t.name: numpy_helper.to_array(t) for t in proto.initializer}
    nodes = []
    for entry in proto.node:
        node = _node_of(entry, version, weights)
        if node.name == "Constant":
            (value,) = node.attributes.values()
            arrays[node.outputs[0]] = np.asarray(value)
        else:
            nodes.append(node)
    constants, keys = {}, {}
    for name, stored in arrays.items():
        array = _in_single_precision(stored)
        # Single numbers may be exponents or limits: best known when compiling.
        if array.dtype == np.float32 and array.size > 1:
            # Names in branches may repeat.
            key = name if name not in weights else f"{name}, {len(weights)}"
            weights[key], keys[name] = array, key
        else:
            constants[name] = array
    inputs = tuple(_port_of(port) for port in proto.input if port.name not in arrays)
    outputs = tuple(map(_port_of, proto.output))
    return Graph(tuple(nodes), inputs, outputs, constants, keys)


def _node_of(entry: Any, version: int, weights: dict[str, np.ndarray]) -> Node:
    is_standard = entry.domain in _STANDARD_DOMAINS
    name = entry.op_type if is_standard else f"{entry.domain}.{entry.op_type}"
    attributes = {a.name: _attribute_of(a, version, weights) for a in entry.attribute}
    return Node(name, tuple(entry.input), tuple(entry.output), attributes, version)


def _attribute_of(entry: Any, version: int, weights: dict[str, np.ndarray]) -> Any:
    import onnx  # pyrefly: ignore[missing-import]

    value = onnx.helper.get_attribute_value(entry)
    match value:
        case onnx.GraphProto():
            return _graph_of(value, version, weights)
        case onnx.TensorProto():
            return onnx.numpy_helper.to_array(value)
        case bytes():
            return value.decode()
        case list() | tuple():
            return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
        case float():
            # Else a constant would be of double precision.
            return np.float32(value) if entry.name == "value_float" else value
    return value


def _in_single_precision(array: np.ndarray) -> np.ndarray:
    # bfloat16 is not one of NumPy's.
    is_real = np.issubdtype(array.dtype, np.floating) or "float" in array.dtype.name
    return array.astype(np.float32) if is_real else array


def _port_of(entry: Any) -> Port:
    import onnx  # pyrefly: ignore[missing-import]

    tensor = entry.type.tensor_type
    dtype = np.dtype(object)
    if tensor.elem_type:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if not tensor.HasField("shape"):
        return Port(entry.name, None, dtype)
    sizes = [
        d.dim_value if d.HasField("dim_value") else d.dim_param or None
        for d in tensor.shape.dim
    ]
    return Port(entry.name, tuple(sizes), dtype)
