"""TFLite files as plain data: graphs of operations on tensors."""

import dataclasses
import inspect
import os
from typing import Any

import numpy as np

from uap_jax.bridges.checks import one_line

_DTYPES = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "FLOAT64": np.float64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "UINT32": np.uint32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "COMPLEX64": np.complex64,
}


@dataclasses.dataclass(frozen=True)
class Quantization:
    """real = scale (q - zero_point), one number or one for each index of an axis."""

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int

    def along_axis(self, values: np.ndarray, num_dims: int) -> np.ndarray:
        """Returns numbers of this quantization in a shape that broadcasts."""
        if values.size == 1:
            return values.reshape(())
        shape = [1] * num_dims
        shape[self.axis] = values.size
        return values.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor; `value` is None for one that is computed."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    quantization: Quantization | None
    value: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation; `inputs` has -1 for one that is left out."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Graph:
    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_graphs(path: str | os.PathLike[str]) -> tuple[Graph, ...]:
    """Returns the graphs in a file; the first one is the network.

    Raises:
        ImportError: The package tflite is not installed.
        OSError: The file cannot be read.
        ValueError: It is no TFLite file, is damaged, or has sparse weights or weights
            of a type that NumPy does not have.
    """
    try:
        import tflite  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise ImportError(
            "from_tflite needs the package tflite: pip install 'uap_jax[bridges]'"
        ) from error
    with open(path, "rb") as file:
        content = file.read()
    if content[4:8] != b"TFL3":
        raise ValueError(f"{path}: expected a TFLite file, got something else")
    try:
        model = tflite.Model.GetRootAsModel(content, 0)
        return tuple(
            _graph(tflite, model, model.Subgraphs(index))
            for index in range(model.SubgraphsLength())
        )
    except _UnsupportedError as error:
        raise ValueError(f"{path}: {error}") from error
    # What damage raises depends on where the offsets of the flat buffer point.
    except Exception as error:
        raise ValueError(
            f"{path}: expected a TFLite file, got a damaged one ({one_line(error)})"
        ) from error


class _UnsupportedError(ValueError):
    """The file is intact; the text says what of it is not supported."""


def _graph(tflite: Any, model: Any, graph: Any) -> Graph:
    names = _names(tflite.BuiltinOperator)
    operations = []
    for index in range(graph.OperatorsLength()):
        operation = graph.Operators(index)
        code = model.OperatorCodes(operation.OpcodeIndex())
        # Numbers above 127 are in the newer field, in early files only the older.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name, options = names[number], _options(tflite, operation)
        if name == "CUSTOM":
            name = code.CustomCode().decode()
            options = _custom_options(operation)
        operations.append(
            Operation(
                name,
                _indices(operation.InputsAsNumpy()),
                _indices(operation.OutputsAsNumpy()),
                options,
            )
        )
    return Graph(
        tuple(
            _tensor(tflite, model, graph.Tensors(index))
            for index in range(graph.TensorsLength())
        ),
        tuple(operations),
        _indices(graph.InputsAsNumpy()),
        _indices(graph.OutputsAsNumpy()),
    )


def _tensor(tflite: Any, model: Any, tensor: Any) -> Tensor:
    name = (tensor.Name() or b"").decode(errors="replace")
    type_name = _names(tflite.TensorType)[tensor.Type()]
    shape = _indices(tensor.ShapeAsNumpy())
    signature = _indices(tensor.ShapeSignatureAsNumpy())
    dtype = _DTYPES.get(type_name)
    content = model.Buffers(tensor.Buffer()).DataAsNumpy()
    value = None
    if isinstance(content, np.ndarray) and content.size:
        if tensor.Sparsity() is not None:
            raise _UnsupportedError(f"expected dense weights, got sparse ones ({name})")
        if dtype is not None:
            value = content.view(dtype).reshape(shape)
        elif type_name not in ("RESOURCE", "STRING", "VARIANT"):
            raise _UnsupportedError(
                f"expected weights of a type that NumPy has, got {type_name} ({name})"
            )
    return Tensor(
        name, signature or shape, dtype, _quantization(tensor.Quantization()), value
    )


def _quantization(parameters: Any) -> Quantization | None:
    if parameters is None or not parameters.ScaleLength():
        return None
    scale = np.asarray(parameters.ScaleAsNumpy(), np.float64)
    zero_point = np.zeros(scale.size)
    if parameters.ZeroPointLength():
        zero_point = np.asarray(parameters.ZeroPointAsNumpy(), np.float64)
    return Quantization(scale, zero_point, parameters.QuantizedDimension())


def _options(tflite: Any, operation: Any) -> dict[str, Any]:
    """Returns all fields of an operation's options by their names in the schema."""
    table = operation.BuiltinOptions()
    name = _names(tflite.BuiltinOptions)[operation.BuiltinOptionsType()]
    if table is None or name == "NONE":
        return {}
    options = getattr(tflite, name)()
    options.Init(table.Bytes, table.Pos)
    fields = {}
    for field, method in inspect.getmembers(type(options), inspect.isfunction):
        of_vector = field.endswith(("AsNumpy", "Length", "IsNone"))
        if of_vector or field.startswith("GetRootAs") or field == "Init":
            continue
        if hasattr(options, f"{field}AsNumpy"):
            fields[field] = getattr(options, f"{field}AsNumpy")()
        elif len(inspect.signature(method).parameters) == 1:
            fields[field] = method(options)
    return fields


def _custom_options(operation: Any) -> dict[str, Any]:
    from flatbuffers import flexbuffers  # pyrefly: ignore[missing-import]

    content = operation.CustomOptionsAsNumpy()
    if not isinstance(content, np.ndarray) or not content.size:
        return {}
    options = flexbuffers.Loads(content.tobytes())
    return options if isinstance(options, dict) else {}


def _names(enumeration: Any) -> dict[int, str]:
    return {v: k for k, v in vars(enumeration).items() if isinstance(v, int)}


def _indices(vector: Any) -> tuple[int, ...]:
    """Returns a vector of the file; one that is left out reads as 0."""
    return tuple(vector.tolist()) if isinstance(vector, np.ndarray) else ()
